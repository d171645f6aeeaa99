// The futex hash table. Internal to futex*.cc.
//
// A bucket's lock is held over a look at the guest's word and what follows from it; the word is then read without
// faulting (MemoryManager::try_*), and a miss is resolved with the lock dropped. Lock order: buckets by address > mm's
// page lock.
#pragma once

#include <linux/futex.h>

#include <array>
#include <atomic>

#include "core/fiber.h"
#include "core/list.h"
#include "core/spinlock.h"
#include "task/futex.h"

namespace rf::task {

using FutexKey = mm::MemoryManager::FutexKey;

struct FutexBucket;

// One fiber waiting for one word; on its stack. Whoever takes it out of its bucket with the intent to wake it touches
// it last by setting `woken`.
struct FutexWaiter : ListNode<> {
  FutexWaiter(FutexKey key, u32 bitset) : key(std::move(key)), bitset(bitset), fiber(Fiber::current()) {}

  FutexKey key;  // changes with a requeue; guarded by the bucket's lock
  const u32 bitset;
  Fiber& fiber;
  std::atomic<FutexBucket*> bucket{nullptr};
  std::atomic<bool> woken{false};
  // Priority inheritance: the tid to hand the lock to (0: an ordinary waiter), and while it still waits for the first
  // word of wait_requeue_pi, the key of the second.
  u32 pi_tid = 0;
  const FutexKey* requeue_target = nullptr;
};

struct FutexBucket {
  SpinLock lock;
  List<FutexWaiter> waiters;
};

struct FutexTable::Impl {
  static constexpr size_t kBuckets = 256;
  std::array<FutexBucket, kBuckets> buckets;

  FutexBucket& bucket_of(const FutexKey& key) {
    const u64 h =
        (reinterpret_cast<u64>(key.object) >> 4) * 0x9e37'79b9'7f4a'7c15 + (key.offset >> 2) * 0xc2b2'ae3d'27d4'eb4f;
    return buckets[(h >> 40) % kBuckets];
  }
};

// Both buckets' locks, in order.
class FutexPairLock {
 public:
  FutexPairLock(FutexBucket& a, FutexBucket& b) : first_(&a < &b ? a : b), second_(&a < &b ? b : a) { lock(); }
  ~FutexPairLock() { unlock(); }
  FutexPairLock(const FutexPairLock&) = delete;
  FutexPairLock& operator=(const FutexPairLock&) = delete;
  void lock() {
    first_.lock.lock();
    if (&second_ != &first_) second_.lock.lock();
  }
  void unlock() {
    if (&second_ != &first_) second_.lock.unlock();
    first_.lock.unlock();
  }

 private:
  FutexBucket& first_;
  FutexBucket& second_;
};

// Puts the waiter into a bucket, whose lock is held.
void futex_enqueue(FutexBucket& bucket, FutexWaiter& waiter);
// Takes it out and wakes it; its bucket's lock is held.
void futex_wake(FutexWaiter& waiter);
// Takes a waiter out wherever it is by now; false if it has been woken.
bool futex_dequeue(FutexWaiter& waiter);
// Sleeps until the waiter is woken; ETIMEDOUT or EINTR otherwise, and then it is out of its bucket. Suspends.
Result<void> futex_sleep(FutexWaiter& waiter, Nanos deadline);

// Calls body(), with `lock` held, until it gives something other than EFAULT; between tries the lock is dropped and the
// words at the addresses (0: none) are faulted in: the first for reading, the second for writing. Suspends.
template <class Lock, class Body>
auto futex_retry(mm::MemoryManager& mm, mm::UserAddr read_addr, mm::UserAddr write_addr, Lock& lock, Body&& body)
    -> decltype(body()) {
  for (;;) {
    auto result = body();
    if (result || result.error() != Errno{EFAULT}) return result;
    lock.unlock();
    const Result<void> there = [&]() -> Result<void> {
      if (read_addr != 0) TRY(mm.load_u32(read_addr));
      if (write_addr != 0) {
        u32 value = TRY(mm.load_u32(write_addr));
        TRY(mm.compare_exchange_u32(write_addr, value, value));
      }
      return {};
    }();
    lock.lock();
    if (!there) return err(there.error());
  }
}

}  // namespace rf::task
