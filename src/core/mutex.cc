#include "core/mutex.h"

namespace rf {

// FiberMutex. The fast paths are in the header: 0 -> 1 and 1 -> 0. Whoever has to wait makes the state 2, so that
// the holder comes to unlock_slow(). That lets the lock go and wakes the first waiter; a third fiber may be quicker
// (good for throughput), but a waiter that has been overtaken once gets the lock handed over.

void FiberMutex::lock_slow() {
  Waiting self{Fiber::current()};
  {
    SpinGuard guard(lock_);
    // Under lock_, so that the holder's unlock_slow() finds the entry.
    if (state_.exchange(2, std::memory_order_acquire) == 0) return;
    waiters_.push_back(self);
  }
  for (;;) {
    park(Interruptible::kNo);
    SpinGuard guard(lock_);
    if (self.granted) return;
    if (state_.exchange(2, std::memory_order_acquire) == 0) {
      self.unlink();
      return;
    }
    self.overtaken = true;
  }
}

void FiberMutex::unlock_slow() {
  SpinGuard guard(lock_);
  if (waiters_.empty()) {
    state_.store(0, std::memory_order_release);
    return;
  }
  Waiting& first = waiters_.front();
  if (first.overtaken) {
    first.granted = true;  // state_ stays 2: it is held, and others may wait
    first.unlink();
  } else {
    state_.store(0, std::memory_order_release);
  }
  first.fiber.unpark();  // under lock_, without which the entry and its fiber do not go away
}

// FiberRwMutex is phase-fair: a writer that leaves lets in the readers that wait by then, the last of those lets in
// the next writer; readers that come while a writer waits queue up.

void FiberRwMutex::wait(List<Waiting>& queue, SpinLock& lock) {
  Waiting self{Fiber::current()};
  queue.push_back(self);
  do {
    lock.unlock();
    park(Interruptible::kNo);
    lock.lock();
  } while (!self.granted);
}

void FiberRwMutex::grant_writer() {
  Waiting* w = write_waiters_.pop_front();
  writer_ = true;
  w->granted = true;
  w->fiber.unpark();
}

void FiberRwMutex::lock() {
  SpinGuard guard(lock_);
  if (!writer_ && readers_ == 0)
    writer_ = true;
  else
    wait(write_waiters_, lock_);
}

void FiberRwMutex::unlock() {
  SpinGuard guard(lock_);
  writer_ = false;
  while (Waiting* w = read_waiters_.pop_front()) {
    readers_++;
    w->granted = true;
    w->fiber.unpark();
  }
  if (readers_ == 0 && !write_waiters_.empty()) grant_writer();
}

void FiberRwMutex::lock_shared() {
  SpinGuard guard(lock_);
  if (!writer_ && write_waiters_.empty())
    readers_++;
  else
    wait(read_waiters_, lock_);
}

bool FiberRwMutex::try_lock_shared() {
  SpinGuard guard(lock_);
  if (writer_ || !write_waiters_.empty()) return false;
  readers_++;
  return true;
}

void FiberRwMutex::unlock_shared() {
  SpinGuard guard(lock_);
  if (--readers_ == 0 && !write_waiters_.empty()) grant_writer();
}

}  // namespace rf
