#include "platform/guest_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <span>

#include "core/check.h"
#include "core/spinlock.h"
#include "hostio/calls.h"

namespace rf::platform {

namespace {
// Host huge pages and large guest mappings need the range aligned as the memory file's offsets are.
constexpr u64 kAlign = u64{1} << 30;
}  // namespace

// Which chunks of the window are taken, and by what. The lock covers the maps only; mmap runs outside it.
struct GuestMemory::Window {
  struct Mapped {
    hostio::HostFd fd;
    u64 offset;
    u64 len;   // bytes mapped
    u64 span;  // bytes of the window taken: whole chunks
    bool writable;
  };
  mutable SpinLock lock;
  std::map<Phys, u64> free{{kWindowBase, kWindowEnd - kWindowBase}};  // start -> bytes
  std::map<Phys, Mapped> mapped;
  u64 file_size = 0;

  Phys take(u64 span) {
    for (auto it = free.begin(); it != free.end(); ++it) {
      if (it->second < span) continue;
      Phys at = it->first;
      u64 rest = it->second - span;
      free.erase(it);
      if (rest != 0) free.emplace(at + span, rest);
      return at;
    }
    return kNoPhys;
  }

  void give_back(Phys at, u64 span) {
    auto next = free.lower_bound(at);
    if (next != free.end() && at + span == next->first) {
      span += next->second;
      next = free.erase(next);
    }
    if (next != free.begin()) {
      auto prev = std::prev(next);
      if (prev->first + prev->second == at) {
        prev->second += span;
        return;
      }
    }
    free.emplace(at, span);
  }
};

Setup<std::unique_ptr<GuestMemory>> GuestMemory::create() {
  std::unique_ptr<GuestMemory> m(new GuestMemory);
  m->window_ = std::make_unique<Window>();
  m->memory_file_ = hostio::HostFd(memfd_create("ringfence-memory", MFD_CLOEXEC));
  if (!m->memory_file_.valid())
    return setup_error(fmt::format("memfd_create for the sandbox's memory: {}", errno_text(errno)));
  void* p = mmap(nullptr, kSize + kAlign, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    return setup_error(
        fmt::format("cannot reserve {} GiB of address space for the sandbox's memory: {}; is there a "
                    "limit on it (ulimit -v)?",
                    kSize >> 30, errno_text(errno)));
  m->reserved_ = static_cast<std::byte*>(p);
  auto start = reinterpret_cast<u64>(p);
  m->base_ = m->reserved_ + (((start + kAlign - 1) & ~(kAlign - 1)) - start);
  // The whole file part at once, though the file is empty yet: extend() then only has to grow the file.
  if (mmap(m->base_, kWindowBase, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, m->memory_file_.get(),
           0) == MAP_FAILED)
    return setup_error(fmt::format("cannot map the sandbox's memory file: {}", errno_text(errno)));
  madvise(m->base_, kWindowBase, MADV_DONTDUMP);
  return m;
}

GuestMemory::~GuestMemory() {
  if (reserved_) munmap(reserved_, kSize + kAlign);
}

u64 GuestMemory::copy_pages(Phys to, Phys from, u64 len) const {
  constexpr size_t kCopyBuffer = 16 * kPageSize;
  // Not in the thread's own block of memory, which is cleared at its start.
  static thread_local const auto memory = std::make_unique_for_overwrite<std::byte[]>(kCopyBuffer);
  const std::span buffer{memory.get(), kCopyBuffer};
  u64 done = 0;
  while (done < len) {
    const Backing source = backing(from + done);
    iovec piece{buffer.data(), std::min({buffer.size(), len - done, source.len})};
    const auto n = hostio::host_call(SYS_preadv2, source.fd, &piece, 1, source.offset, 0, 0);
    if (!n || *n == 0) break;
    // What a mapping shows of a file's last page ends in zeros.
    piece.iov_len = page_up(*n);
    std::memset(buffer.data() + *n, 0, piece.iov_len - *n);
    const auto written = hostio::host_call(SYS_pwritev2, memory_file(), &piece, 1, to + done, 0, 0);
    if (!written || *written != piece.iov_len) break;
    done += piece.iov_len;
  }
  return done;
}

Backing GuestMemory::backing(Phys p) const {
  SpinGuard guard(window_->lock);
  if (!in_window(p)) return {memory_file_.get(), p, kWindowBase - p, true};
  auto it = window_->mapped.upper_bound(p);
  RF_CHECK(it != window_->mapped.begin(), "backing() of window space that is not mapped");
  --it;
  u64 at = p - it->first;
  RF_CHECK(at < it->second.len, "backing() of window space that is not mapped");
  return {it->second.fd.get(), it->second.offset + at, it->second.len - at, it->second.writable};
}

Result<void> GuestMemory::extend(u64 size) {
  if (size > kWindowBase) return err(ENOMEM);
  SpinGuard guard(window_->lock);
  if (size <= window_->file_size) return {};
  TRY(host_result(ftruncate(memory_file_.get(), static_cast<off_t>(size))));
  window_->file_size = size;
  return {};
}

void GuestMemory::decommit(Phys p, u64 len) {
  int r = fallocate(memory_file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(p),
                    static_cast<off_t>(len));
  RF_CHECK(r == 0, "punching a hole in the memory file failed");
}

Result<Phys> GuestMemory::map_window(int fd, u64 offset, u64 len, bool writable) {
  if (len == 0 || !page_aligned(offset) || len > kWindowEnd - kWindowBase) return err(EINVAL);
  Window::Mapped mapped{hostio::HostFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)), offset, page_up(len), 0, writable};
  if (!mapped.fd.valid()) return err(errno);
  mapped.span = (len + kWindowChunk - 1) & ~(kWindowChunk - 1);
  u64 span = mapped.span;
  Phys at;
  {
    SpinGuard guard(window_->lock);
    at = window_->take(span);
  }
  if (at == kNoPhys) return err(ENOMEM);
  // Shared even when read-only, so that the guest sees what others write to the file.
  void* p = mmap(host_ptr(at), mapped.len, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED,
                 mapped.fd.get(), static_cast<off_t>(offset));
  int mmap_errno = errno;
  SpinGuard guard(window_->lock);
  if (p == MAP_FAILED) {
    window_->give_back(at, span);
    return err(mmap_errno);
  }
  window_->mapped.emplace(at, std::move(mapped));
  return at;
}

void GuestMemory::unmap_window(Phys p, u64 len) {
  Window::Mapped mapped;
  {
    SpinGuard guard(window_->lock);
    auto it = window_->mapped.find(p);
    RF_CHECK(it != window_->mapped.end() && it->second.len == page_up(len), "unmap_window() of what was not mapped");
    mapped = std::move(it->second);
    window_->mapped.erase(it);
  }
  void* r = mmap(host_ptr(p), mapped.span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  RF_CHECK(r != MAP_FAILED, "cannot take a window mapping down");
  SpinGuard guard(window_->lock);
  window_->give_back(p, mapped.span);
}

}  // namespace rf::platform
