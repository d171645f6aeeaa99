// A one-word lock for short sections that never suspend: spins briefly, then sleeps on a host futex (the
// holder may have lost its host CPU). Usable from fibers and from plain threads. Satisfies Lockable, so
// std::lock_guard and std::unique_lock apply. A fiber must not suspend while it holds one: it might resume
// on another thread, and every other thread would stall meanwhile.
#pragma once

#include <atomic>
#include <mutex>

#include "core/types.h"

namespace rf {

class SpinLock {
 public:
  void lock() {
    u32 expected = 0;
    if (!word_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) [[unlikely]]
      lock_slow();
  }
  bool try_lock() {
    u32 expected = 0;
    return word_.compare_exchange_strong(expected, 1, std::memory_order_acquire);
  }
  void unlock() {
    if (word_.exchange(0, std::memory_order_release) == 2) [[unlikely]]
      unlock_slow();
  }

 private:
  void lock_slow();
  void unlock_slow();
  std::atomic<u32> word_{0};  // 0 free, 1 held, 2 held and somebody sleeps
};

using SpinGuard = std::lock_guard<SpinLock>;

// Many readers or one writer; same rules as SpinLock. Writers are preferred.
class SpinRwLock {
 public:
  void lock();
  void unlock();
  void lock_shared() {
    u32 v = word_.load(std::memory_order_relaxed);
    if ((v & (kWriter | kWriterWaits)) != 0 || !word_.compare_exchange_strong(v, v + 1, std::memory_order_acquire))
        [[unlikely]]
      lock_shared_slow();
  }
  void unlock_shared() {
    u32 v = word_.fetch_sub(1, std::memory_order_release) - 1;
    if (v == kWriterWaits) [[unlikely]]
      wake();
  }

 private:
  static constexpr u32 kWriter = 1u << 31;
  static constexpr u32 kWriterWaits = 1u << 30;
  void lock_shared_slow();
  void wake();
  std::atomic<u32> word_{0};
};

}  // namespace rf
