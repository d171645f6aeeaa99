// Futexes, futex(2): wait queues found by what a guest word is, in a hash table of buckets.
#pragma once

#include <memory>
#include <span>

#include "core/result.h"
#include "core/time.h"
#include "mm/memory_manager.h"

namespace rf::task {

class Task;

class FutexTable {
 public:
  FutexTable();
  ~FutexTable();

  // Waits while *addr == expected, for a wake whose bitset meets `bitset`. EAGAIN if the value differs, ETIMEDOUT,
  // EINTR (the caller maps it to a restart), EFAULT. Suspends.
  Result<void> wait(Task& task, mm::UserAddr addr, bool shared, u32 expected, u32 bitset, Nanos deadline);
  Result<u64> wake(Task& task, mm::UserAddr addr, bool shared, u32 bitset, u32 count);
  // FUTEX_REQUEUE, or CMP_REQUEUE when `compare`.
  Result<u64> requeue(Task& task, mm::UserAddr addr, bool shared, u32 wake_count, mm::UserAddr addr2, u32 requeue_count,
                      bool compare, u32 expected);
  Result<u64> wake_op(Task& task, mm::UserAddr addr, bool shared, u32 wake_count, mm::UserAddr addr2, u32 wake_count2,
                      u32 op);
  // Priority inheritance futexes, without priorities: owner in the word, FUTEX_WAITERS, OWNER_DIED.
  Result<void> lock_pi(Task& task, mm::UserAddr addr, bool shared, Nanos deadline, bool try_only);
  Result<void> unlock_pi(Task& task, mm::UserAddr addr, bool shared);
  Result<void> wait_requeue_pi(Task& task, mm::UserAddr addr, bool shared, u32 expected, u32 bitset, Nanos deadline,
                               mm::UserAddr addr2);
  Result<u64> cmp_requeue_pi(Task& task, mm::UserAddr addr, bool shared, mm::UserAddr addr2, u32 requeue_count,
                             u32 expected);
  // futex_waitv(2) entries are waited on together; returns the index that was woken.
  struct WaitvEntry {
    mm::UserAddr addr;
    u32 expected;
    bool shared;
  };
  Result<u64> waitv(Task& task, std::span<const WaitvEntry> entries, Nanos deadline);

  // At thread exit: walks the robust list (bounded), marks and wakes what the thread held; then clears and wakes
  // clear_child_tid. Suspends on faults.
  void exit_robust_list(Task& task);

 private:
  struct Impl;
  Result<void> walk_robust_list(Task& task);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rf::task
