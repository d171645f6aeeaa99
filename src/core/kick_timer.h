// A worker thread's alarm: a POSIX timer that sends the kick signal to that thread. Internal to core.
#pragma once

#include <time.h>

#include <atomic>

#include "core/result.h"
#include "core/time.h"

namespace rf {

// The signal that stops guest code, whether sent by a timer or by another thread.
int kick_signal();

class KickTimer {
 public:
  KickTimer() = default;
  ~KickTimer() { destroy(); }
  KickTimer(const KickTimer&) = delete;
  KickTimer& operator=(const KickTimer&) = delete;

  // Makes the timer of the calling thread.
  Setup<void> create();
  void destroy();
  // Sees to it that the signal comes at `deadline` (absolute monotonic, past ones at once) or somewhat earlier. A host
  // call only if what is armed already comes too late, or may have gone off: has before `now`, or a kick has come
  // since. (By the clock alone it would not be told: the host's may be a little ahead of the one that `now` was read
  // from.)
  void ensure(Nanos deadline, Nanos now);
  // When the alarm that was set last goes off; 0 when it has, or another kick came since. Not 0, it tells without a
  // look at the clock that it is earlier yet.
  Nanos pending() const { return pending_.load(std::memory_order_relaxed); }
  // A kick signal came, perhaps this timer's. In its handler, on the timer's thread.
  void went_off() { pending_.store(0, std::memory_order_relaxed); }

 private:
  timer_t timer_{};
  bool created_ = false;
  Nanos armed_ = 0;  // the last expiry set
  std::atomic<Nanos> pending_{0};
};

}  // namespace rf
