#include "core/kick_timer.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "core/check.h"

namespace rf {

int kick_signal() { return SIGRTMIN; }

Setup<void> KickTimer::create() {
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = kick_signal();
  event._sigev_un._tid = gettid();
  if (timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) {
    int e = errno;
    return setup_error("cannot create a worker's timer: " + errno_text(e) +
                       (e == EAGAIN ? "; raise the limit on pending signals (ulimit -i)" : ""));
  }
  created_ = true;
  return {};
}

void KickTimer::destroy() {
  if (created_) timer_delete(timer_);
  created_ = false;
}

void KickTimer::ensure(Nanos deadline, Nanos now) {
  if (pending() != 0 && armed_ > now && armed_ <= deadline) return;
  if (deadline <= 0) deadline = 1;  // 0 would disarm
  // Before the alarm is set, for it may go off at once.
  pending_.store(deadline, std::memory_order_relaxed);
  itimerspec spec{};
  spec.it_value = {deadline / kNanosPerSecond, deadline % kNanosPerSecond};
  int r = timer_settime(timer_, TIMER_ABSTIME, &spec, nullptr);
  RF_CHECK(r == 0, "timer_settime");
  armed_ = deadline;
}

}  // namespace rf
