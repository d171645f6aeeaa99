#include "trap/seat.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "core/cycles.h"
#include "hostio/calls.h"

namespace rf::trap {
void Seat::on_kick_signal() noexcept {
  kicked_.store(true, std::memory_order_relaxed);
  // If the worker is about to sleep, the changed word keeps it from it.
  if (u32* word = word_.load(std::memory_order_relaxed)) {
    u32 expected = kSentryWaits;
    std::atomic_ref(*word).compare_exchange_strong(expected, kRunning, std::memory_order_seq_cst);
  }
}

u32 Seat::wait(u32& word, Patience& patience, bool same_core, Nanos deadline) {
  const u64 begin = cycles();
  const u32 s = wait_from(begin, word, patience.cycles(), same_core ? kGlanceCycles : kLookCycles, deadline);
  patience.waited(cycles() - begin);
  return s;
}

// Between looks the worker yields: the thread that it waits for may be on this very core.
u32 Seat::wait_from(u64 begin, u32& word, u64 spin_cycles, u64 look_cycles, Nanos deadline) {
  std::atomic_ref<u32> state(word);
  for (u64 now = begin;;) {
    const u64 yield_at = now + look_cycles;
    do {
      const u32 s = state.load(std::memory_order_acquire);
      if (s != kRunning) return s;
      if (kicked()) return kRunning;
      __builtin_ia32_pause();
      now = cycles();
    } while (now < yield_at);
    if (now - begin >= spin_cycles || crowd_.is_here(now)) break;
    (void)hostio::host_call(SYS_sched_yield);
    const u64 yielded = now;
    now = cycles();
    if (now - yielded > kLongYieldCycles) crowd_.seen(now);
  }

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
