// A worker thread's alarm: a POSIX timer that sends the kick signal to that thread. Internal to core.
#pragma once

#include <time.h>

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
  // call only if what is armed already comes too late or has gone off before `now`.
  void ensure(Nanos deadline, Nanos now);

 private:
  timer_t timer_{};
  bool created_ = false;
  Nanos armed_ = 0;  // the last expiry set
};

}  // namespace rf
