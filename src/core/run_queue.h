// A worker's run queue. Fibers that were woken go first, those that are ready because they were preempted,
// yielded or were just made come after; a bound on how often in a row keeps the latter from starving.
#pragma once

#include <atomic>

#include "core/fiber_impl.h"
#include "core/spinlock.h"

namespace rf {

class RunQueue {
 public:
  // Any thread. Each returns how many fibers are queued then.
  u32 push_woken(Fiber& f);
  u32 push_ready(Fiber& f, Nanos now);

  // The fiber to run next, null when empty. Own worker only.
  Fiber* pop();
  // The same among the woken, or the ready, alone.
  Fiber* pop_woken();
  Fiber* pop_ready();
  // For another worker: the one that has waited longest among the ready, else among the woken.
  Fiber* steal();

  // Lock-free and sequentially consistent: a worker publishes that it idles or runs guest code and then looks here;
  // a waker pushes and then looks at the worker's state. One of the two sees the other.
  u32 size() const { return woken() + ready(); }
  u32 woken() const { return woken_count_.load(std::memory_order_seq_cst); }
  u32 ready() const { return ready_count_.load(std::memory_order_seq_cst); }
  // When the first of the ready was queued; meaningless when there is none.
  Nanos ready_since() const { return ready_since_.load(std::memory_order_relaxed); }

 private:
  static constexpr u32 kWokenInARow = 32;

  Fiber* take_woken();
  Fiber* take_ready();

  SpinLock lock_;
  List<Fiber, RunQueueTag> woken_;
  List<Fiber, RunQueueTag> ready_;
  std::atomic<u32> woken_count_{0};
  std::atomic<u32> ready_count_{0};
  std::atomic<Nanos> ready_since_{0};
  u32 woken_in_a_row_ = 0;
};

}  // namespace rf
