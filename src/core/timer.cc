#include "core/timer.h"

#include "core/check.h"
#include "core/timer_heap.h"
#include "core/worker_impl.h"

namespace rf {

namespace {
constexpr u32 kNotQueued = ~0u;
constexpr u32 kArity = 4;
}  // namespace

// --- TimerHeap ------------------------------------------------------------------------------------

TimerHeap::~TimerHeap() {
  for (Timer* t : heap_) {
    t->index_.store(kNotQueued, std::memory_order_relaxed);
    t->heap_ = nullptr;
  }
}

void TimerHeap::place(u32 index, Timer* t) {
  heap_[index] = t;
  t->index_.store(index, std::memory_order_relaxed);
}

void TimerHeap::sift_up(u32 index) {
  Timer* t = heap_[index];
  while (index > 0) {
    u32 parent = (index - 1) / kArity;
    if (heap_[parent]->deadline_ <= t->deadline_) break;
    place(index, heap_[parent]);
    index = parent;
  }
  place(index, t);
}

void TimerHeap::sift_down(u32 index) {
  Timer* t = heap_[index];
  u32 size = static_cast<u32>(heap_.size());
  for (;;) {
    u32 first = index * kArity + 1, best = index;
    Nanos best_deadline = t->deadline_;
    for (u32 child = first; child < size && child < first + kArity; child++)
      if (heap_[child]->deadline_ < best_deadline) best = child, best_deadline = heap_[child]->deadline_;
    if (best == index) break;
    place(index, heap_[best]);
    index = best;
  }
  place(index, t);
}

void TimerHeap::publish_earliest() {
  earliest_.store(heap_.empty() ? kNever : heap_.front()->deadline_, std::memory_order_release);
}

void TimerHeap::insert(Timer& t, Nanos deadline) {
  t.deadline_ = deadline;
  heap_.push_back(&t);
  sift_up(static_cast<u32>(heap_.size() - 1));
  publish_earliest();
}

void TimerHeap::erase(Timer& t) {
  u32 index = t.index_.load(std::memory_order_relaxed);
  Timer* last = heap_.back();
  heap_.pop_back();
  t.index_.store(kNotQueued, std::memory_order_relaxed);
  if (last != &t) {
    place(index, last);
    sift_down(index);
    sift_up(last->index_.load(std::memory_order_relaxed));
  }
  publish_earliest();
}

bool TimerHeap::expire(Nanos now) {
  bool any = false;
  SpinGuard run(run_lock_);
  lock_.lock();
  while (!heap_.empty() && heap_.front()->deadline_ <= now) {
    Timer* t = heap_.front();
    erase(*t);
    running_ = t;
    lock_.unlock();
    t->expire();  // may arm itself again; may be destroyed as soon as running_ is cleared
    any = true;
    lock_.lock();
    running_ = nullptr;
  }
  lock_.unlock();
  return any;
}

// --- Timer ----------------------------------------------------------------------------------------

Timer::~Timer() { RF_CHECK(!armed(), "a timer must be cancelled by the destructor of its own class"); }

bool Timer::armed() const { return index_.load(std::memory_order_relaxed) != kNotQueued; }

void Timer::arm(Nanos deadline) {
  Worker* worker = Worker::current();
  RF_CHECK(worker, "a timer armed outside the scheduler's threads");
  TimerHeap& own = worker->impl_->timers;
  SpinGuard guard(lock_);
  if (heap_) {
    SpinGuard heap_guard(heap_->lock_);
    if (armed()) heap_->erase(*this);
    // While expire() runs the timer stays with that heap: it must not run in two places at once.
    if (heap_ == &own || heap_->running_ == this) {
      heap_->insert(*this, deadline);
      return;
    }
  }
  heap_ = &own;
  SpinGuard heap_guard(own.lock_);
  own.insert(*this, deadline);
}

bool Timer::cancel() {
  bool was_armed = false;
  for (;;) {
    TimerHeap* busy = nullptr;
    {
      SpinGuard guard(lock_);
      if (!heap_) return was_armed;
      SpinGuard heap_guard(heap_->lock_);
      if (armed()) {
        heap_->erase(*this);
        was_armed = true;
      }
      if (heap_->running_ == this) busy = heap_;
    }
    if (!busy) return was_armed;
    // On the owner's own thread this is expire() cancelling itself: nothing else runs there meanwhile.
    if (Worker* worker = Worker::current(); worker == &busy->owner_) return was_armed;
    SpinGuard wait(busy->run_lock_);
    // It may have armed itself again: look once more.
  }
}

}  // namespace rf
