// Locks that a fiber may hold across suspension. All are FIFO enough that no waiter starves.
#pragma once

#include <atomic>
#include <mutex>
#include <shared_mutex>

#include "core/wait_queue.h"

namespace rf {

// Lockable; uncontended lock and unlock are one atomic each. lock() may suspend. Fibers only.
class FiberMutex {
 public:
  void lock() {
    u32 expected = 0;
    if (!state_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) [[unlikely]]
      lock_slow();
  }
  bool try_lock() {
    u32 expected = 0;
    return state_.compare_exchange_strong(expected, 1, std::memory_order_acquire);
  }
  void unlock() {
    u32 expected = 1;
    if (!state_.compare_exchange_strong(expected, 0, std::memory_order_release)) [[unlikely]]
      unlock_slow();
  }
  bool locked() const { return state_.load(std::memory_order_relaxed) != 0; }

 private:
  struct Waiting : ListNode<> {
    explicit Waiting(Fiber& f) : fiber(f) {}
    Fiber& fiber;
    bool overtaken = false;  // woken, and found the lock taken again
    bool granted = false;
  };
  void lock_slow();
  void unlock_slow();
  std::atomic<u32> state_{0};  // 0 free, 1 held, 2 held and there may be waiters
  SpinLock lock_;
  List<Waiting> waiters_;
};

using FiberGuard = std::lock_guard<FiberMutex>;

// SharedLockable; writers are preferred. lock() and lock_shared() may suspend. Fibers only.
class FiberRwMutex {
 public:
  void lock();
  void unlock();
  void lock_shared();
  bool try_lock_shared();
  void unlock_shared();

 private:
  struct Waiting : ListNode<> {
    explicit Waiting(Fiber& f) : fiber(f) {}
    Fiber& fiber;
    bool granted = false;
  };
  static void wait(List<Waiting>& queue, SpinLock& lock);
  void grant_writer();
  SpinLock lock_;
  u32 readers_ = 0;
  bool writer_ = false;
  List<Waiting> read_waiters_, write_waiters_;
};

}  // namespace rf
