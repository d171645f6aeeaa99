#include "core/run_queue.h"

namespace rf {

u32 RunQueue::push_woken(Fiber& f) {
  SpinGuard guard(lock_);
  woken_.push_back(f);
  return woken_count_.fetch_add(1, std::memory_order_seq_cst) + 1 + ready_count_.load(std::memory_order_relaxed);
}

u32 RunQueue::push_ready(Fiber& f, Nanos now) {
  SpinGuard guard(lock_);
  f.impl_->ready_since = now;
  if (ready_.empty()) ready_since_.store(now, std::memory_order_relaxed);
  ready_.push_back(f);
  return ready_count_.fetch_add(1, std::memory_order_seq_cst) + 1 + woken_count_.load(std::memory_order_relaxed);
}

Fiber* RunQueue::take_woken() {
  Fiber* f = woken_.pop_front();
  if (f) woken_count_.fetch_sub(1, std::memory_order_seq_cst);
  return f;
}

Fiber* RunQueue::take_ready() {
  Fiber* f = ready_.pop_front();
  if (!f) return nullptr;
  ready_count_.fetch_sub(1, std::memory_order_seq_cst);
  if (!ready_.empty()) ready_since_.store(ready_.front().impl_->ready_since, std::memory_order_relaxed);
  return f;
}

Fiber* RunQueue::pop() {
  if (size() == 0) return nullptr;
  SpinGuard guard(lock_);
  if (woken_in_a_row_ < kWokenInARow || ready_.empty()) {
    if (Fiber* f = take_woken()) {
      woken_in_a_row_++;
      return f;
    }
  }
  woken_in_a_row_ = 0;
  if (Fiber* f = take_ready()) return f;
  return take_woken();
}

Fiber* RunQueue::pop_woken() {
  if (woken() == 0) return nullptr;
  SpinGuard guard(lock_);
  return take_woken();
}

Fiber* RunQueue::pop_ready() {
  if (ready() == 0) return nullptr;
  SpinGuard guard(lock_);
  return take_ready();
}

Fiber* RunQueue::steal() {
  if (size() == 0) return nullptr;
  // A worker with nothing to do does not queue up for a busy one's lock.
  if (!lock_.try_lock()) return nullptr;
  SpinGuard guard(lock_, std::adopt_lock);
  if (Fiber* f = take_ready()) return f;
  return take_woken();
}

}  // namespace rf
