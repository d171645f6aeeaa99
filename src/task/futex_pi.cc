// Priority-inheritance futexes. Tasks have no priorities here, so what is left is the protocol: the word holds the
// owner's tid, waiters queue in order, and unlocking hands the lock over.
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "task/futex_impl.h"
#include "task/kernel.h"

namespace rf::task {
namespace {

FutexWaiter* first_pi_waiter(FutexBucket& bucket, const FutexKey& key, const FutexWaiter* but = nullptr) {
  for (FutexWaiter& w : bucket.waiters)
    if (w.pi_tid != 0 && !w.requeue_target && w.key == key && &w != but) return &w;
  return nullptr;
}

// Takes a free lock for `tid`: true; false if it has an owner, and then the word says that there are waiters. EFAULT as
// the try_ functions; EDEADLK.
Result<bool> take_or_mark(mm::MemoryManager& mm, FutexBucket& bucket, const FutexKey& key, mm::UserAddr addr, u32 tid,
                          bool mark, u32& owner) {
  u32 value = TRY(mm.try_load_u32(addr));
  for (;;) {
    owner = value & FUTEX_TID_MASK;
    if (owner == tid) return err(EDEADLK);
    const bool is_free = owner == 0;
    u32 next = value | FUTEX_WAITERS;
    if (is_free) next = tid | (value & FUTEX_OWNER_DIED) | (first_pi_waiter(bucket, key) ? FUTEX_WAITERS : 0);
    if (!is_free && (!mark || next == value)) return false;
    if (TRY(mm.try_compare_exchange_u32(addr, value, next))) return is_free;
  }
}

// Gives the lock at `addr`, whose word is `value`, to its first waiter or makes it free. `flags` are added to the word.
Result<void> hand_over(mm::MemoryManager& mm, FutexBucket& bucket, const FutexKey& key, mm::UserAddr addr, u32 value,
                       u32 flags) {
  FutexWaiter* heir = first_pi_waiter(bucket, key);
  u32 next = flags;
  if (heir) next |= heir->pi_tid | (first_pi_waiter(bucket, key, heir) ? FUTEX_WAITERS : 0);
  if (!TRY(mm.try_compare_exchange_u32(addr, value, next))) return err(EAGAIN);
  if (heir) futex_wake(*heir);
  return {};
}

bool task_exists(Kernel& kernel, u32 tid) {
  std::shared_lock guard(kernel.tree_lock);
  return kernel.find_task(static_cast<Pid>(tid)) != nullptr;
}

}  // namespace

Result<void> FutexTable::lock_pi(Task& task, mm::UserAddr addr, bool shared, Nanos deadline, bool try_only) {
  mm::MemoryManager& mm = *task.mm;
  FutexWaiter waiter(TRY(mm.futex_key(addr, shared)), ~u32{0});
  waiter.pi_tid = static_cast<u32>(task.tid);
  FutexBucket& bucket = impl_->bucket_of(waiter.key);
  u32 owner = 0;
  {
    std::unique_lock lock(bucket.lock);
    const bool taken = TRY(futex_retry(mm, 0, addr, lock, [&] {
      return take_or_mark(mm, bucket, waiter.key, addr, waiter.pi_tid, !try_only, owner);
    }));
    if (taken) return {};
    if (try_only) return err(EAGAIN);
    futex_enqueue(bucket, waiter);
  }
  // An owner who is gone, or never was, would be waited for in vain. One who exits later hands over what is in its
  // robust list.
  if (!task_exists(task.kernel, owner) && futex_dequeue(waiter)) return err(ESRCH);
  return futex_sleep(waiter, deadline);
}

Result<void> FutexTable::unlock_pi(Task& task, mm::UserAddr addr, bool shared) {
  mm::MemoryManager& mm = *task.mm;
  const FutexKey key = TRY(mm.futex_key(addr, shared));
  FutexBucket& bucket = impl_->bucket_of(key);
  for (;;) {
    std::unique_lock lock(bucket.lock);
    const Result<void> done = futex_retry(mm, 0, addr, lock, [&]() -> Result<void> {
      const u32 value = TRY(mm.try_load_u32(addr));
      if ((value & FUTEX_TID_MASK) != static_cast<u32>(task.tid)) return err(EPERM);
      return hand_over(mm, bucket, key, addr, value, 0);
    });
    if (done || done.error() != Errno{EAGAIN}) return done;
  }
}

Result<void> FutexTable::wait_requeue_pi(Task& task, mm::UserAddr addr, bool shared, u32 expected, u32 bitset,
                                         Nanos deadline, mm::UserAddr addr2) {
  if (bitset == 0 || addr == addr2) return err(EINVAL);
  mm::MemoryManager& mm = *task.mm;
  const FutexKey target = TRY(mm.futex_key(addr2, shared));
  FutexWaiter waiter(TRY(mm.futex_key(addr, shared)), bitset);
  waiter.pi_tid = static_cast<u32>(task.tid);
  waiter.requeue_target = &target;
  FutexBucket& bucket = impl_->bucket_of(waiter.key);
  {
    std::unique_lock lock(bucket.lock);
    TRY(futex_retry(mm, addr, 0, lock, [&]() -> Result<void> {
      if (TRY(mm.try_load_u32(addr)) != expected) return err(EAGAIN);
      futex_enqueue(bucket, waiter);
      return {};
    }));
  }
  return futex_sleep(waiter, deadline);
}

Result<u64> FutexTable::cmp_requeue_pi(Task& task, mm::UserAddr addr, bool shared, mm::UserAddr addr2,
                                       u32 requeue_count, u32 expected) {
  if (addr == addr2) return err(EINVAL);
  mm::MemoryManager& mm = *task.mm;
  const FutexKey key = TRY(mm.futex_key(addr, shared)), key2 = TRY(mm.futex_key(addr2, shared));
  FutexBucket &from = impl_->bucket_of(key), &to = impl_->bucket_of(key2);
  std::vector<FutexKey> garbage;
  FutexPairLock lock(from, to);
  u64 done = 0;
  return futex_retry(mm, addr, addr2, lock, [&]() -> Result<u64> {
    if (done == 0 && TRY(mm.try_load_u32(addr)) != expected) return err(EAGAIN);
    for (auto it = from.waiters.begin(); it != from.waiters.end() && done <= requeue_count;) {
      FutexWaiter& w = *it++;
      if (!(w.key == key)) continue;
      if (!w.requeue_target || !(*w.requeue_target == key2)) return err(EINVAL);
      u32 owner;
      const bool taken = TRY(take_or_mark(mm, to, key2, addr2, w.pi_tid, true, owner));
      done++;
      w.requeue_target = nullptr;
      if (taken) {
        futex_wake(w);
        continue;
      }
      w.unlink();
      if (w.key.hold) garbage.push_back(w.key);
      w.key = key2;
      futex_enqueue(to, w);
    }
    return done;
  });
}

// --- The end of a thread --------------------------------------------------------------------------

namespace {

constexpr u32 kRobustLimit = 2048;  // ROBUST_LIST_LIMIT

// handle_futex_death() of Linux: marks the lock as its dead owner's last and wakes a waiter.
Result<void> release_dead(FutexTable& table, FutexBucket& bucket, const FutexKey& key, Task& task, mm::UserAddr addr,
                          bool pi, bool pending_op) {
  mm::MemoryManager& mm = *task.mm;
  bool wake = false;
  for (;;) {
    std::unique_lock lock(bucket.lock);
    const Result<void> done = futex_retry(mm, 0, addr, lock, [&]() -> Result<void> {
      u32 value = TRY(mm.try_load_u32(addr));
      const u32 owner = value & FUTEX_TID_MASK;
      // It died between unlocking and waking.
      if (pending_op && !pi && owner == 0) {
        wake = true;
        return {};
      }
      if (owner != static_cast<u32>(task.tid)) return {};
      if (pi) return hand_over(mm, bucket, key, addr, value, FUTEX_OWNER_DIED);
      const u32 next = (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
      if (!TRY(mm.try_compare_exchange_u32(addr, value, next))) return err(EAGAIN);
      wake = (next & FUTEX_WAITERS) != 0;
      return {};
    });
    if (!done && done.error() == Errno{EAGAIN}) continue;
    TRY(done);
    break;
  }
  if (wake) TRY(table.wake(task, addr, true, ~u32{0}, 1));
  return {};
}

}  // namespace

Result<void> FutexTable::walk_robust_list(Task& task) {
  mm::MemoryManager& mm = *task.mm;
  struct Head {
    u64 next;
    s64 offset;
    u64 pending;
  };
  const Head head = TRY(mm::UserPtr<Head>(task.robust_list).read(mm));
  auto release = [&](u64 entry, bool pending_op) -> Result<void> {
    const mm::UserAddr addr = (entry & ~u64{1}) + static_cast<u64>(head.offset);
    const FutexKey key = TRY(mm.futex_key(addr, true));
    return release_dead(*this, impl_->bucket_of(key), key, task, addr, (entry & 1) != 0, pending_op);
  };
  u64 entry = head.next;
  for (u32 n = 0; (entry & ~u64{1}) != task.robust_list && n < kRobustLimit; n++) {
    // The next one first: the waiter may free the entry as soon as it is woken.
    const Result<u64> next = mm::UserPtr<u64>(entry & ~u64{1}).read(mm);
    if ((entry & ~u64{1}) != (head.pending & ~u64{1})) TRY(release(entry, false));
    entry = TRY(next);
  }
  if (head.pending != 0) TRY(release(head.pending, true));
  return {};
}

void FutexTable::exit_robust_list(Task& task) {
  // A guest's broken list ends the walk; there is nobody to tell.
  if (task.robust_list != 0) (void)walk_robust_list(task);
  task.robust_list = 0;
  const mm::UserAddr tid_addr = std::exchange(task.clear_child_tid, 0);
  // As Linux: nobody is left to look when this is the memory's only user.
  if (tid_addr == 0 || task.mm->ref_count() <= 1) return;
  if (mm::UserPtr<u32>(tid_addr).write(*task.mm, 0)) (void)wake(task, tid_addr, true, ~u32{0}, 1);
}

}  // namespace rf::task
