// One-shot timers, kept in a heap per worker: arming one costs no host call unless it becomes the
// earliest while its worker is about to idle or to run guest code.
#pragma once

#include <atomic>

#include "core/spinlock.h"
#include "core/time.h"

namespace rf {

class TimerHeap;

// Derive, or use TimerFunction. expire() runs on some worker thread, outside any fiber and with no lock
// held: it must be short and must not suspend; it may arm the timer again.
class Timer {
 public:
  Timer() = default;
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // (Re-)arms for `deadline`, absolute monotonic. From any fiber or timer callback of the scheduler.
  void arm(Nanos deadline);
  // After it returns expire() is not running and will not run (unless called from expire() itself).
  // True when the timer was armed.
  bool cancel();
  bool armed() const;

 protected:
  virtual ~Timer();  // checked: a derived class cancels in its own destructor, before expire() is gone
  virtual void expire() = 0;

 private:
  friend class TimerHeap;
  SpinLock lock_;                // held by arm() and cancel(); taken before the heap's lock
  TimerHeap* heap_ = nullptr;    // the heap it is, or was last, in
  Nanos deadline_ = kNever;      // guarded by the heap's lock, as is:
  std::atomic<u32> index_{~0u};  // place in the heap
};

template <class F>
class TimerFunction final : public Timer {
 public:
  explicit TimerFunction(F f) : f_(std::move(f)) {}
  ~TimerFunction() override { cancel(); }

 private:
  void expire() override { f_(); }
  F f_;
};

}  // namespace rf
