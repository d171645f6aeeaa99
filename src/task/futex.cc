#include "task/futex_impl.h"

#include <memory>
#include <mutex>
#include <vector>

#include "task/task.h"

namespace rf::task {

FutexTable::FutexTable() : impl_(std::make_unique<Impl>()) {}
// Waiters that were abandoned with their fibers stay in their lists.
FutexTable::~FutexTable() {
  for (FutexBucket& b : impl_->buckets)
    while (b.waiters.pop_front()) {
    }
}

void futex_enqueue(FutexBucket& bucket, FutexWaiter& waiter) {
  bucket.waiters.push_back(waiter);
  waiter.bucket.store(&bucket, std::memory_order_relaxed);
}

void futex_wake(FutexWaiter& waiter) {
  waiter.unlink();
  const Ref<Fiber> fiber(&waiter.fiber);
  waiter.woken.store(true, std::memory_order_release);
  fiber->unpark();
}

bool futex_dequeue(FutexWaiter& waiter) {
  for (;;) {
    if (waiter.woken.load(std::memory_order_acquire)) return false;
    FutexBucket* bucket = waiter.bucket.load(std::memory_order_relaxed);
    SpinGuard guard(bucket->lock);
    if (waiter.bucket.load(std::memory_order_relaxed) != bucket) continue;  // requeued meanwhile
    if (!waiter.linked()) return false;
    waiter.unlink();
    return true;
  }
}

Result<void> futex_sleep(FutexWaiter& waiter, Nanos deadline) {
  for (;;) {
    if (waiter.woken.load(std::memory_order_acquire)) return {};
    const WakeReason reason = park(Interruptible::kYes, deadline);
    if (reason == WakeReason::kWoken) continue;
    if (futex_dequeue(waiter)) return err(reason == WakeReason::kTimeout ? ETIMEDOUT : EINTR);
    // Being woken: the waker has still to set `woken`.
    while (!waiter.woken.load(std::memory_order_acquire)) __builtin_ia32_pause();
    return {};
  }
}

namespace {

// EAGAIN unless *addr == expected; then the waiter is queued.
Result<void> enqueue_if_equal(mm::MemoryManager& mm, FutexBucket& bucket, FutexWaiter& waiter, mm::UserAddr addr,
                              u32 expected) {
  std::unique_lock lock(bucket.lock);
  return futex_retry(mm, addr, 0, lock, [&]() -> Result<void> {
    if (TRY(mm.try_load_u32(addr)) != expected) return err(EAGAIN);
    futex_enqueue(bucket, waiter);
    return {};
  });
}

u64 wake_in(FutexBucket& bucket, const FutexKey& key, u32 bitset, u32 count) {
  u64 woken = 0;
  for (auto it = bucket.waiters.begin(); it != bucket.waiters.end() && woken < count;) {
    FutexWaiter& w = *it++;
    // Waiters for a priority-inheritance lock are woken by its unlocking only.
    if (w.pi_tid != 0 || (w.bitset & bitset) == 0 || !(w.key == key)) continue;
    futex_wake(w);
    woken++;
  }
  return woken;
}

}  // namespace

Result<void> FutexTable::wait(Task& task, mm::UserAddr addr, bool shared, u32 expected, u32 bitset, Nanos deadline) {
  if (bitset == 0) return err(EINVAL);
  FutexWaiter waiter(TRY(task.mm->futex_key(addr, shared)), bitset);
  TRY(enqueue_if_equal(*task.mm, impl_->bucket_of(waiter.key), waiter, addr, expected));
  return futex_sleep(waiter, deadline);
}

Result<u64> FutexTable::wake(Task& task, mm::UserAddr addr, bool shared, u32 bitset, u32 count) {
  if (bitset == 0) return err(EINVAL);
  const FutexKey key = TRY(task.mm->futex_key(addr, shared));
  FutexBucket& bucket = impl_->bucket_of(key);
  SpinGuard guard(bucket.lock);
  return wake_in(bucket, key, bitset, count);
}

Result<u64> FutexTable::requeue(Task& task, mm::UserAddr addr, bool shared, u32 wake_count, mm::UserAddr addr2,
                                u32 requeue_count, bool compare, u32 expected) {
  mm::MemoryManager& mm = *task.mm;
  const FutexKey key = TRY(mm.futex_key(addr, shared)), key2 = TRY(mm.futex_key(addr2, shared));
  FutexBucket &from = impl_->bucket_of(key), &to = impl_->bucket_of(key2);
  // References of keys that are replaced are dropped last, without the locks.
  std::vector<FutexKey> garbage;
  FutexPairLock lock(from, to);
  return futex_retry(mm, addr, 0, lock, [&]() -> Result<u64> {
    if (compare && TRY(mm.try_load_u32(addr)) != expected) return err(EAGAIN);
    u64 done = wake_in(from, key, ~u32{0}, wake_count);
    if (key == key2) return done;
    u32 moved = 0;
    for (auto it = from.waiters.begin(); it != from.waiters.end() && moved < requeue_count;) {
      FutexWaiter& w = *it++;
      if (w.pi_tid != 0 || !(w.key == key)) continue;
      w.unlink();
      if (w.key.hold) garbage.push_back(w.key);
      w.key = key2;
      futex_enqueue(to, w);
      moved++;
    }
    // FUTEX_REQUEUE tells how many were woken, CMP_REQUEUE counts the moved ones too; Linux does so for both.
    return done + moved;
  });
}

namespace {

// FUTEX_WAKE_OP's operation on `value`; EINVAL for an unknown one.
Result<u32> apply_wake_op(u32 op, u32 value) {
  u32 arg = op >> 12 & 0xfff;
  if ((arg & 0x800) != 0) arg |= 0xffff'f000;  // sign-extended
  if ((op >> 28 & FUTEX_OP_OPARG_SHIFT) != 0) arg = u32{1} << (arg & 31);
  switch (op >> 28 & 7) {
    case FUTEX_OP_SET:
      return arg;
    case FUTEX_OP_ADD:
      return value + arg;
    case FUTEX_OP_OR:
      return value | arg;
    case FUTEX_OP_ANDN:
      return value & ~arg;
    case FUTEX_OP_XOR:
      return value ^ arg;
    default:
      return err(ENOSYS);
  }
}

Result<bool> compare_wake_op(u32 op, u32 old_value) {
  s32 arg = static_cast<s32>(op & 0xfff);
  if ((arg & 0x800) != 0) arg |= static_cast<s32>(0xffff'f000);
  const s32 value = static_cast<s32>(old_value);
  switch (op >> 24 & 0xf) {
    case FUTEX_OP_CMP_EQ:
      return value == arg;
    case FUTEX_OP_CMP_NE:
      return value != arg;
    case FUTEX_OP_CMP_LT:
      return value < arg;
    case FUTEX_OP_CMP_GE:
      return value >= arg;
    case FUTEX_OP_CMP_LE:
      return value <= arg;
    case FUTEX_OP_CMP_GT:
      return value > arg;
    default:
      return err(ENOSYS);
  }
}

}  // namespace

Result<u64> FutexTable::wake_op(Task& task, mm::UserAddr addr, bool shared, u32 wake_count, mm::UserAddr addr2,
                                u32 wake_count2, u32 op) {
  mm::MemoryManager& mm = *task.mm;
  const FutexKey key = TRY(mm.futex_key(addr, shared)), key2 = TRY(mm.futex_key(addr2, shared));
  FutexBucket &first = impl_->bucket_of(key), &second = impl_->bucket_of(key2);
  FutexPairLock lock(first, second);
  return futex_retry(mm, 0, addr2, lock, [&]() -> Result<u64> {
    u32 value = TRY(mm.try_load_u32(addr2));
    for (;;) {
      const u32 next = TRY(apply_wake_op(op, value));
      if (TRY(mm.try_compare_exchange_u32(addr2, value, next))) break;
    }
    u64 woken = wake_in(first, key, ~u32{0}, wake_count);
    if (TRY(compare_wake_op(op, value))) woken += wake_in(second, key2, ~u32{0}, wake_count2);
    return woken;
  });
}

Result<u64> FutexTable::waitv(Task& task, std::span<const WaitvEntry> entries, Nanos deadline) {
  std::vector<std::unique_ptr<FutexWaiter>> waiters;
  waiters.reserve(entries.size());
  // Takes all out again; the index of the first that was woken, if one was.
  auto leave = [&]() -> Result<u64> {
    Result<u64> woken = err(EAGAIN);
    for (size_t i = 0; i < waiters.size(); i++) {
      if (futex_dequeue(*waiters[i])) continue;
      while (!waiters[i]->woken.load(std::memory_order_acquire)) __builtin_ia32_pause();
      if (!woken) woken = i;
    }
    return woken;
  };
  for (const WaitvEntry& e : entries) {
    Result<FutexKey> key = task.mm->futex_key(e.addr, e.shared);
    Result<void> queued = err(EFAULT);
    if (key) {
      auto waiter = std::make_unique<FutexWaiter>(*std::move(key), ~u32{0});
      queued = enqueue_if_equal(*task.mm, impl_->bucket_of(waiter->key), *waiter, e.addr, e.expected);
      if (queued) waiters.push_back(std::move(waiter));
    } else {
      queued = err(key.error());
    }
    if (!queued) {
      const Result<u64> woken = leave();
      return woken ? woken : err(queued.error());
    }
  }
  WakeReason reason = WakeReason::kWoken;
  auto any_woken = [&] {
    for (const auto& w : waiters)
      if (w->woken.load(std::memory_order_acquire)) return true;
    return false;
  };
  while (reason == WakeReason::kWoken && !any_woken()) reason = park(Interruptible::kYes, deadline);
  const Result<u64> woken = leave();
  if (woken) return woken;
  return err(reason == WakeReason::kTimeout ? ETIMEDOUT : EINTR);
}

}  // namespace rf::task
