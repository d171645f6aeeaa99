#include "core/fiber.h"

#include "core/check.h"
#include "core/cycles.h"
#include "core/fiber_impl.h"
#include "core/worker_impl.h"

namespace rf {

Fiber* Fiber::current_or_null() {
  Worker* w = Worker::current();
  return w ? w->impl_->current : nullptr;
}

Fiber& Fiber::current() {
  Fiber* f = current_or_null();
  RF_CHECK(f, "this must be called on a fiber");
  return *f;
}

StackBounds current_fiber_stack() {
  Fiber* f = Fiber::current_or_null();
  if (!f) return {};
  const Stack& s = f->impl_->stack;
  return {reinterpret_cast<u64>(s.low), reinterpret_cast<u64>(s.high())};
}

// noexcept: an exception that leaves the body ends the sentry with the fiber's name in the report.
void Fiber::Impl::main() noexcept {
  body();
  body = nullptr;  // what it holds may suspend as it goes
  Worker::current()->impl_->end_fiber();
}

Fiber::~Fiber() { delete impl_; }

// Every unpark() is a read-modify-write, also when the mark is there already: park() acquires what all of them
// released. Never inlined: where GCC 12 does, after a Ref's test for null, it warns of a write through null.
[[gnu::noinline]] void Fiber::unpark() {
  if (state_.exchange(kFiberNotified, std::memory_order_acq_rel) == kFiberParked)
    impl_->scheduler.impl_->make_runnable(*this, true);
}

void Fiber::poke() {
  u32 state = state_.load(std::memory_order_relaxed);
  while (!state_.compare_exchange_weak(state, state == kFiberNotified ? kFiberNotified : kFiberPoked,
                                       std::memory_order_acq_rel)) {
  }
  if (state == kFiberParked) impl_->scheduler.impl_->make_runnable(*this, true);
}

void Fiber::interrupt() {
  interrupted_.store(true, std::memory_order_release);
  poke();
}

size_t Fiber::stack_high_water() const { return impl_->stack.size ? StackPool::touched(impl_->stack) : 0; }

u64 Fiber::run_cycles() const {
  // The finished turns are read first: a turn that ends in between is missed once, never counted twice.
  const u64 done = run_cycles_.load(std::memory_order_acquire);
  const u64 since = running_since_.load(std::memory_order_acquire);
  return since == 0 ? done : done + (cycles() - since);
}

WakeReason park(Interruptible interruptible, Nanos deadline) {
  Fiber& f = Fiber::current();
  bool timer_armed = false;
  WakeReason reason;
  for (;;) {
    if (f.state_.exchange(kFiberRunning, std::memory_order_acq_rel) == kFiberNotified) {
      reason = WakeReason::kWoken;
      break;
    }
    if (interruptible == Interruptible::kYes && f.interrupted()) {
      reason = WakeReason::kInterrupted;
      break;
    }
    if (deadline != kNever) {
      if (monotonic_now() >= deadline) {
        reason = WakeReason::kTimeout;
        break;
      }
      if (!timer_armed) f.impl_->park_timer.arm(Worker::current()->impl_->alarm_for(deadline));
      timer_armed = true;
    }
    Worker::current()->impl_->switch_out(Worker::Impl::Action::kPark);
  }
  if (timer_armed) f.impl_->park_timer.cancel();
  return reason;
}

void yield() {
  RF_CHECK(Fiber::current_or_null(), "this must be called on a fiber");
  Worker::Impl& w = *Worker::current()->impl_;
  // A fiber that yields in a loop until something happens must let completions and timers happen.
  if (w.queue.size() == 0) w.reap();
  if (w.queue.size() == 0 && w.outside == nullptr && !w.scheduler.stopping.load(std::memory_order_relaxed)) return;
  w.switch_out(Worker::Impl::Action::kYield);
}

WakeReason sleep_until(Nanos deadline, Interruptible interruptible) {
  for (;;) {
    WakeReason r = park(interruptible, deadline);
    if (r != WakeReason::kWoken) return r;
  }
}

}  // namespace rf
