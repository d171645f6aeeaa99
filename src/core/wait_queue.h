// Wait queues: how fibers wait for a condition, and how poll, select and epoll watch many of them.
//
// The pattern is: register, then check, then park; a notify after the check finds the registration.
#pragma once

#include "core/fiber.h"
#include "core/list.h"
#include "core/spinlock.h"

namespace rf {

// Linux poll bits (POLLIN ...), as in poll(2). Non-poll users (futex, child exit) use kWaitAny.
using EventMask = u32;
inline constexpr EventMask kWaitAny = ~0u;

class WaitQueue;

// One registration. notify() runs on the notifier's thread with the queue's lock held: it must be short, must
// not suspend and must not touch the same queue.
class Waiter : public ListNode<> {
 public:
  explicit Waiter(EventMask mask = kWaitAny) : mask_(mask) {}
  EventMask mask() const { return mask_; }
  void set_mask(EventMask mask) { mask_ = mask; }

 protected:
  virtual ~Waiter() = default;
  virtual void notify(EventMask events) = 0;

 private:
  friend class WaitQueue;
  EventMask mask_;
};

// Unparks the fiber that made it.
class FiberWaiter final : public Waiter {
 public:
  explicit FiberWaiter(EventMask mask = kWaitAny) : Waiter(mask), fiber_(Fiber::current()) {}
  ~FiberWaiter() override = default;

 private:
  void notify(EventMask) override { fiber_.unpark(); }
  Fiber& fiber_;
};

class WaitQueue {
 public:
  void add(Waiter& w);
  void remove(Waiter& w);  // no notify() runs after it returns; harmless when not queued
  // Notifies every waiter whose mask meets `events`. Any thread, no locks of higher order held.
  void notify(EventMask events = kWaitAny);
  // Notifies at most `n`, in order of registration, and moves them to the end. Returns how many.
  size_t notify_some(size_t n, EventMask events = kWaitAny);
  bool empty() const { return count_.load(std::memory_order_seq_cst) == 0; }

 private:
  SpinLock lock_;
  List<Waiter> waiters_;
  std::atomic<u32> count_{0};
};

// Registers for the life of the object.
class ScopedWaiter {
 public:
  ScopedWaiter(WaitQueue& q, EventMask mask = kWaitAny) : q_(q), w_(mask) { q_.add(w_); }
  ~ScopedWaiter() { q_.remove(w_); }
  ScopedWaiter(const ScopedWaiter&) = delete;
  ScopedWaiter& operator=(const ScopedWaiter&) = delete;

 private:
  WaitQueue& q_;
  FiberWaiter w_;
};

// Suspends until condition() holds: kWoken; or kInterrupted/kTimeout with the condition false. The condition
// runs with no lock held, at least once, and is checked before the fiber parks at all. Suspends.
template <class Condition>
WakeReason wait_until(WaitQueue& q, Condition&& condition, Interruptible interruptible = Interruptible::kYes,
                      Nanos deadline = kNever, EventMask mask = kWaitAny) {
  if (condition()) return WakeReason::kWoken;
  ScopedWaiter registered(q, mask);
  for (;;) {
    if (condition()) return WakeReason::kWoken;
    WakeReason r = park(interruptible, deadline);
    if (r != WakeReason::kWoken) return condition() ? WakeReason::kWoken : r;
  }
}

}  // namespace rf
