#include "hostio/random.h"

#include <string.h>
#include <sys/syscall.h>

#include <array>

#include "core/check.h"
#include "core/scheduler.h"
#include "core/spinlock.h"
#include "hostio/calls.h"

namespace rf::hostio {
namespace {

constexpr size_t kBufferSize = 4096;
constexpr size_t kDirect = 512;  // from here on a host call of its own costs little beside the work

// One per worker, shared beyond kBuffers of them; the lock is for those and for fibers that move.
struct alignas(64) Buffer {
  SpinLock lock;
  size_t left = 0;  // at the end
  std::array<std::byte, kBufferSize> bytes;
};
constexpr u32 kBuffers = 16;
constinit std::array<Buffer, kBuffers> g_buffers{};  // zeros, so that nothing is touched before its use

void fill(std::span<std::byte> out) {
  while (!out.empty()) {
    auto n = host_call(SYS_getrandom, out.data(), out.size(), 0);
    if (!n) {
      RF_CHECK(n.error() == Errno{EINTR}, "getrandom failed");
      continue;
    }
    out = out.subspan(*n);
  }
}

}  // namespace

void random_bytes(std::span<std::byte> out) {
  if (out.size() >= kDirect) return fill(out);
  Worker* worker = Worker::current();
  Buffer& buffer = g_buffers[worker ? worker->index() % kBuffers : 0];
  SpinGuard guard(buffer.lock);
  if (buffer.left < out.size()) {
    fill(buffer.bytes);
    buffer.left = kBufferSize;
  }
  std::byte* const next = buffer.bytes.end() - buffer.left;
  memcpy(out.data(), next, out.size());
  explicit_bzero(next, out.size());
  buffer.left -= out.size();
}

}  // namespace rf::hostio
