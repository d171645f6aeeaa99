#include "core/wait_queue.h"

namespace rf {

// The pattern "change the condition, then notify" against "register, then check the condition" needs each side's first
// step to be visible before its second. Here that is count_: add() increments it and notify() reads it, both by
// sequentially consistent read-modify-writes, which are full barriers on x86.

void WaitQueue::add(Waiter& w) {
  SpinGuard guard(lock_);
  waiters_.push_back(w);
  count_.fetch_add(1, std::memory_order_seq_cst);
}

void WaitQueue::remove(Waiter& w) {
  SpinGuard guard(lock_);
  if (!w.linked()) return;
  w.unlink();
  count_.fetch_sub(1, std::memory_order_seq_cst);
}

void WaitQueue::notify(EventMask events) {
  if (count_.fetch_add(0, std::memory_order_seq_cst) == 0) return;
  SpinGuard guard(lock_);
  for (Waiter& w : waiters_)
    if (w.mask() & events) w.notify(events);
}

size_t WaitQueue::notify_some(size_t n, EventMask events) {
  if (n == 0 || count_.fetch_add(0, std::memory_order_seq_cst) == 0) return 0;
  SpinGuard guard(lock_);
  size_t notified = 0;
  // Those that were there at the start, each once: the notified ones move behind them.
  u32 remaining = count_.load(std::memory_order_relaxed);
  for (auto it = waiters_.begin(); remaining > 0 && notified < n; remaining--) {
    Waiter& w = *it++;
    if (!(w.mask() & events)) continue;
    w.unlink();
    waiters_.push_back(w);
    w.notify(events);
    notified++;
  }
  return notified;
}

}  // namespace rf
