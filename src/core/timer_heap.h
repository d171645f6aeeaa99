// A worker's timers: a 4-ary heap on the deadline. Internal to core.
//
// Lock order: a Timer's own lock > the heap's lock. expire() runs with neither, under run_lock_, which a canceller
// takes to wait for a callback that is under way.
#pragma once

#include <atomic>
#include <vector>

#include "core/spinlock.h"
#include "core/timer.h"

namespace rf {

class Worker;

class TimerHeap {
 public:
  explicit TimerHeap(Worker& owner) : owner_(owner) {}
  ~TimerHeap();  // forgets timers that are still armed

  // The earliest deadline, kNever when none is armed. Any thread; may be stale by the time it returns.
  Nanos earliest() const { return earliest_.load(std::memory_order_acquire); }
  // Runs what is due. Own worker only. Returns whether anything was.
  bool expire(Nanos now);

 private:
  friend class Timer;
  void insert(Timer& t, Nanos deadline);  // lock_ held; t not in the heap
  void erase(Timer& t);                   // lock_ held; t in the heap
  void place(u32 index, Timer* t);
  void sift_up(u32 index);
  void sift_down(u32 index);
  void publish_earliest();

  Worker& owner_;
  SpinLock lock_;
  std::vector<Timer*> heap_;
  Timer* running_ = nullptr;  // whose expire() runs now; lock_
  SpinLock run_lock_;
  std::atomic<Nanos> earliest_{kNever};
};

}  // namespace rf
