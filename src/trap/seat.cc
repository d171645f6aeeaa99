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
  if (u32* word = word_.load(std::memory_order_relaxed)) std::atomic_ref(*word).store(0, std::memory_order_seq_cst);
}

u32 Seat::wait(Area& area, Patience& patience, u64 begin, bool same_core, Nanos deadline) {
  const u32 s = wait_from(begin, area, patience.cycles(), same_core ? kGlanceCycles : kLookCycles, deadline);
  patience.waited(looked_at_ - begin);
  return s;
}

// Between looks the worker yields: the thread that it waits for may be on this very core.
u32 Seat::wait_from(u64 begin, Area& area, u64 spin_cycles, u64 look_cycles, Nanos deadline) {
  std::atomic_ref<u32> state(area.state);
  for (u64 now = begin;;) {
    const u64 yield_at = now + look_cycles;
    do {
      const u32 s = state.load(std::memory_order_acquire);
      looked_at_ = now;
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

  std::atomic_ref<u32> sleeps(area.sentry_sleeps);
  word_.store(&area.sentry_sleeps, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  while (!kicked()) {
    sleeps.store(1, std::memory_order_seq_cst);
    if (state.load(std::memory_order_seq_cst) != kRunning || kicked()) break;
    timespec until_time{deadline / kNanosPerSecond, deadline % kNanosPerSecond};
    (void)hostio::host_call(SYS_futex, &area.sentry_sleeps, FUTEX_WAIT_BITSET, 1,
                            deadline == kNever ? nullptr : &until_time, nullptr, FUTEX_BITSET_MATCH_ANY);
    if (state.load(std::memory_order_acquire) != kRunning) break;
    if (deadline != kNever && monotonic_now() >= deadline) break;
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
  word_.store(nullptr, std::memory_order_relaxed);
  sleeps.store(0, std::memory_order_relaxed);
  looked_at_ = cycles();
  return state.load(std::memory_order_acquire);
}

}  // namespace rf::trap
