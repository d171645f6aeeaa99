#include "trap/seat.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "core/cycles.h"
#include "hostio/calls.h"
#include "trap/layout.h"

namespace rf::trap {
namespace {

// How long to look for an answer before going to sleep. Waking a sleeping thread on another core costs about as much.
constexpr u64 kSpinCycles = 150'000;

}  // namespace

void Seat::on_kick_signal() noexcept {
  kicked_.store(true, std::memory_order_relaxed);
  // If the worker is about to sleep, the changed word keeps it from it.
  if (u32* word = word_.load(std::memory_order_relaxed)) {
    u32 expected = kSentryWaits;
    std::atomic_ref(*word).compare_exchange_strong(expected, kRunning, std::memory_order_seq_cst);
  }
}

u32 Seat::wait(u32& word, Nanos deadline) {
  std::atomic_ref<u32> state(word);
  const u64 until = cycles() + kSpinCycles;
  do {
    const u32 s = state.load(std::memory_order_acquire);
    if (s != kRunning) return s;
    if (kicked()) return kRunning;
    __builtin_ia32_pause();
  } while (cycles() < until);

  word_.store(&word, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  u32 s = kRunning;
  while (!kicked()) {
    s = kRunning;
    if (!state.compare_exchange_strong(s, kSentryWaits, std::memory_order_seq_cst) && s != kSentryWaits) break;
    timespec until_time{deadline / kNanosPerSecond, deadline % kNanosPerSecond};
    (void)hostio::host_call(SYS_futex, &word, FUTEX_WAIT_BITSET, kSentryWaits,
                            deadline == kNever ? nullptr : &until_time, nullptr, FUTEX_BITSET_MATCH_ANY);
    s = state.load(std::memory_order_acquire);
    if (s != kRunning && s != kSentryWaits) break;
    if (deadline != kNever && monotonic_now() >= deadline) break;
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
  word_.store(nullptr, std::memory_order_relaxed);
  s = kSentryWaits;
  if (state.compare_exchange_strong(s, kRunning, std::memory_order_seq_cst)) return kRunning;
  return s;
}

}  // namespace rf::trap
