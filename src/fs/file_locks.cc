// flock(2) and fcntl(2) record locks.
//
// All locks of an inode hang on Inode::file_locks, made on first use. Locks: FileLocks::mutex_ > the list of blocked
// owners. Whoever is refused waits on one queue per inode and looks again.
#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <vector>

#include "fs/special_files.h"

namespace rf::fs {

namespace {

// Records are the sentry's memory; Linux has no limit but memory either.
constexpr size_t kMaxRecords = 16384;    // per inode
constexpr u32 kMaxAllRecords = 1 << 18;  // in the sandbox
std::atomic<u32> g_records{0};

struct Record {
  const void* owner;  // a descriptor table, or the description for OFD locks
  bool ofd;
  bool write;
  s32 pid;
  u64 start, end;  // inclusive

  bool overlaps(u64 s, u64 e) const { return start <= e && s <= end; }
  bool touches(u64 s, u64 e) const {
    return overlaps(s, e) || (end != ~u64{0} && end + 1 == s) || (e != ~u64{0} && e + 1 == start);
  }
};

struct Flock {
  const File* owner;
  bool write;
};

// --- Who waits for whom -----------------------------------------------------------------------------

// A process that waits for a record lock, and the one it waits for. OFD locks are not looked at: their owner is not a
// process that could be waiting.
struct Blocked : ListNode<> {
  const void* owner;
  const void* blocker;
};

constexpr int kMaxChain = 10;  // as Linux's MAX_DEADLK_ITERATIONS: longer cycles are not found
SpinLock g_blocked_lock;
List<Blocked> g_blocked;

// Adds the entry, unless that would close a circle.
bool block(Blocked& entry) {
  SpinGuard guard(g_blocked_lock);
  const void* next = entry.blocker;
  for (int i = 0; i < kMaxChain && next; i++) {
    if (next == entry.owner) return false;
    auto it = std::find_if(g_blocked.begin(), g_blocked.end(), [next](Blocked& b) { return b.owner == next; });
    next = it == g_blocked.end() ? nullptr : it->blocker;
  }
  g_blocked.push_back(entry);
  return true;
}

void unblock(Blocked& entry) {
  SpinGuard guard(g_blocked_lock);
  if (entry.linked()) entry.unlink();
}

// --- The locks of an inode --------------------------------------------------------------------------

class FileLocks final : public RefCounted {
 public:
  Result<void> set(const Record& wanted, bool wait);
  void clear(const void* owner, u64 start, u64 end);
  Result<RecordLock> conflict_with(const Record& wanted);
  Result<void> flock(const File& owner, bool write, bool wait);
  void unflock(const File& owner);

 private:
  ~FileLocks() override { g_records.fetch_sub(static_cast<u32>(records_.size())); }

  const Record* find_conflict(const Record& wanted) const;
  bool remove_range(const void* owner, u64 start, u64 end);
  void insert(Record r);
  bool flock_conflict(const File& owner, bool write) const;
  void add(const Record& r);
  void erase(size_t i);

  FiberMutex mutex_;
  std::vector<Record> records_;  // by start; those of one owner neither overlap nor, with the same type, touch
  std::vector<Flock> flocks_;
  WaitQueue released_;
};

void FileLocks::add(const Record& r) {
  auto at = std::ranges::upper_bound(records_, r.start, {}, &Record::start);
  records_.insert(at, r);
  g_records.fetch_add(1);
}

void FileLocks::erase(size_t i) {
  records_.erase(records_.begin() + static_cast<s64>(i));
  g_records.fetch_sub(1);
}

const Record* FileLocks::find_conflict(const Record& wanted) const {
  for (const Record& r : records_) {
    if (r.start > wanted.end) break;
    if (r.owner != wanted.owner && (r.write || wanted.write) && r.overlaps(wanted.start, wanted.end)) return &r;
  }
  return nullptr;
}

// Takes [start, end] out of the owner's locks. Whether there was anything.
bool FileLocks::remove_range(const void* owner, u64 start, u64 end) {
  std::vector<Record> rest;
  bool any = false;
  for (size_t i = 0; i < records_.size() && records_[i].start <= end;) {
    Record r = records_[i];
    if (r.owner != owner || !r.overlaps(start, end)) {
      i++;
      continue;
    }
    any = true;
    erase(i);
    if (r.start < start) {
      rest.push_back(r);
      rest.back().end = start - 1;
    }
    if (r.end > end) {
      rest.push_back(r);
      rest.back().start = end + 1;
    }
  }
  for (const Record& r : rest) add(r);
  return any;
}

// Adds a lock whose range the owner holds nothing of, joined with equal neighbours.
void FileLocks::insert(Record wanted) {
  for (size_t i = 0; i < records_.size();) {
    const Record& r = records_[i];
    if (r.owner != wanted.owner || r.write != wanted.write || !r.touches(wanted.start, wanted.end)) {
      i++;
      continue;
    }
    wanted.start = std::min(wanted.start, r.start);
    wanted.end = std::max(wanted.end, r.end);
    erase(i);
  }
  add(wanted);
}

Result<void> FileLocks::set(const Record& wanted, bool wait) {
  for (;;) {
    std::unique_lock<FiberMutex> lock(mutex_);
    const Record* conflict = find_conflict(wanted);
    if (!conflict) {
      if (records_.size() >= kMaxRecords || g_records.load() >= kMaxAllRecords) return err(ENOLCK);
      bool replaced = remove_range(wanted.owner, wanted.start, wanted.end);
      insert(wanted);
      lock.unlock();
      if (replaced) released_.notify();  // it may have been a stronger one
      return {};
    }
    if (!wait) return err(EAGAIN);
    Blocked entry;
    entry.owner = wanted.owner;
    entry.blocker = conflict->owner;
    if (!wanted.ofd && !conflict->ofd && !block(entry)) return err(EDEADLK);
    WakeReason reason;
    {
      ScopedWaiter waiting(released_);
      lock.unlock();
      reason = park(Interruptible::kYes);
    }
    unblock(entry);
    if (reason == WakeReason::kInterrupted) return err(kERESTARTSYS);
  }
}

void FileLocks::clear(const void* owner, u64 start, u64 end) {
  {
    FiberGuard guard(mutex_);
    if (!remove_range(owner, start, end)) return;
  }
  released_.notify();
}

Result<RecordLock> FileLocks::conflict_with(const Record& wanted) {
  FiberGuard guard(mutex_);
  const Record* r = find_conflict(wanted);
  if (!r) return RecordLock{.type = F_UNLCK, .start = wanted.start, .end = wanted.end};
  return RecordLock{static_cast<short>(r->write ? F_WRLCK : F_RDLCK), r->start, r->end, r->ofd ? -1 : r->pid};
}

bool FileLocks::flock_conflict(const File& owner, bool write) const {
  return std::ranges::any_of(flocks_, [&](const Flock& f) { return f.owner != &owner && (f.write || write); });
}

Result<void> FileLocks::flock(const File& owner, bool write, bool wait) {
  {
    FiberGuard guard(mutex_);
    for (const Flock& f : flocks_)
      if (f.owner == &owner && f.write == write) return {};
  }
  unflock(owner);  // a change of type is not atomic
  for (;;) {
    std::unique_lock<FiberMutex> lock(mutex_);
    if (!flock_conflict(owner, write)) {
      std::erase_if(flocks_, [&](const Flock& f) { return f.owner == &owner; });
      flocks_.push_back({&owner, write});
      return {};
    }
    if (!wait) return err(EWOULDBLOCK);
    ScopedWaiter waiting(released_);
    lock.unlock();
    if (park(Interruptible::kYes) == WakeReason::kInterrupted) return err(kERESTARTSYS);
  }
}

void FileLocks::unflock(const File& owner) {
  {
    FiberGuard guard(mutex_);
    if (std::erase_if(flocks_, [&](const Flock& f) { return f.owner == &owner; }) == 0) return;
  }
  released_.notify();
}

// Null if there are none.
Ref<FileLocks> existing_locks(Inode& inode) {
  SpinGuard guard(inode.attached_lock);
  return Ref<FileLocks>(static_cast<FileLocks*>(inode.file_locks.get()));
}

Ref<FileLocks> locks_of(Inode& inode) {
  if (auto locks = existing_locks(inode)) return locks;
  Ref<FileLocks> fresh = make_ref<FileLocks>();
  SpinGuard guard(inode.attached_lock);
  if (!inode.file_locks) inode.file_locks = fresh;
  return Ref<FileLocks>(static_cast<FileLocks*>(inode.file_locks.get()));
}

Record to_record(const File& f, const void* owner, s32 pid, const RecordLock& lock) {
  return {owner, owner == &f, lock.type == F_WRLCK, pid, lock.start, lock.end};
}

}  // namespace

Result<void> flock_file(File& f, int operation) {
  const bool wait = (operation & LOCK_NB) == 0;
  switch (operation & ~LOCK_NB) {
    case LOCK_SH:
      return locks_of(f.inode())->flock(f, false, wait);
    case LOCK_EX:
      return locks_of(f.inode())->flock(f, true, wait);
    case LOCK_UN:
      release_flock(f);
      return {};
    default:
      return err(EINVAL);
  }
}

Result<void> set_record_lock(File& f, const void* owner, s32 pid, const RecordLock& lock, bool wait) {
  if (lock.end < lock.start) return err(EINVAL);
  switch (lock.type) {
    case F_RDLCK:
      if (!f.readable()) return err(EBADF);
      break;
    case F_WRLCK:
      if (!f.writable()) return err(EBADF);
      break;
    case F_UNLCK:
      if (auto locks = existing_locks(f.inode())) locks->clear(owner, lock.start, lock.end);
      return {};
    default:
      return err(EINVAL);
  }
  return locks_of(f.inode())->set(to_record(f, owner, pid, lock), wait);
}

Result<RecordLock> get_record_lock(File& f, const void* owner, const RecordLock& lock) {
  if ((lock.type != F_RDLCK && lock.type != F_WRLCK) || lock.end < lock.start) return err(EINVAL);
  auto locks = existing_locks(f.inode());
  if (!locks) return RecordLock{.type = F_UNLCK, .start = lock.start, .end = lock.end};
  return locks->conflict_with(to_record(f, owner, 0, lock));
}

void release_record_locks(Inode& inode, const void* owner) {
  if (auto locks = existing_locks(inode)) locks->clear(owner, 0, ~u64{0});
}

void release_flock(File& f) {
  if (auto locks = existing_locks(f.inode())) locks->unflock(f);
}

}  // namespace rf::fs
