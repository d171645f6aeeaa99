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

namespace {

// Sleeps until somebody wakes those who sleep on `word`, or it is not 1; or until something completes, if `reactor` is
// not null. The host posts a completion by interrupting the sleep, and then takes it up again, unless one of the words
// has changed.
void sleep_on(u32& word, Nanos deadline, const Reactor* reactor) {
  timespec until_time{deadline / kNanosPerSecond, deadline % kNanosPerSecond};
  timespec* const until = deadline == kNever ? nullptr : &until_time;
  if (reactor) {
    futex_waitv words[2] = {};
    words[0] = {.val = 1, .uaddr = reinterpret_cast<u64>(&word), .flags = FUTEX_32, .__reserved = 0};
    words[1] = {.val = reactor->arrivals_taken(),
                .uaddr = reinterpret_cast<u64>(reactor->arrivals()),
                .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG,
                .__reserved = 0};
    const auto r = hostio::host_call(SYS_futex_waitv, words, std::size(words), 0, until, CLOCK_MONOTONIC);
    if (r || r.error() != Errno{ENOSYS}) return;
  }
  (void)hostio::host_call(SYS_futex, &word, FUTEX_WAIT_BITSET, 1, until, nullptr, FUTEX_BITSET_MATCH_ANY);
}

}  // namespace

u32 Seat::wait(Area& area, Patience& patience, u64 begin, bool same_core, Nanos deadline, const Reactor* reactor) {
  const u32 s = wait_from(begin, area, patience.cycles(), same_core ? kGlanceCycles : kLookCycles, deadline, reactor);
  patience.waited(looked_at_ - begin);
  return s;
}

// Between looks the worker yields: the thread that it waits for may be on this very core.
u32 Seat::wait_from(u64 begin, Area& area, u64 spin_cycles, u64 look_cycles, Nanos deadline, const Reactor* reactor) {
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
    if (reactor && !reactor->quiet()) break;
    sleep_on(area.sentry_sleeps, deadline, reactor);
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
