#include "fs/dentry_cache.h"

#include <sys/random.h>

#include <cstring>

namespace rf::fs {
namespace {

constexpr size_t kFirstTableSize = 1024;
// Unused entries cost a few hundred bytes each with their inodes; a large build has some ten thousand files.
constexpr size_t kDefaultLimit = 64 << 10;
// Entries looked at for each one inserted over the limit: enough to fall back to the limit, and bounded.
constexpr int kEvictionScan = 8;

void drop_all(std::vector<Dentry*>& dropped) {
  for (Dentry* d : dropped) d->unref();
  dropped.clear();
}

}  // namespace

DentryCache& DentryCache::get() {
  // Never destroyed: mounts may outlive static destruction.
  static DentryCache& cache = *new DentryCache;
  return cache;
}

DentryCache::DentryCache() : table_(kFirstTableSize), limit_(kDefaultLimit) {
  // Guests choose names; what chains they make must not be foreseeable.
  if (getrandom(&seed_, sizeof seed_, GRND_NONBLOCK) != sizeof seed_) seed_ = static_cast<u64>(monotonic_now());
}

u32 DentryCache::hash(const Dentry* parent, std::string_view name) const {
  constexpr u64 kMul = 0x9e3779b97f4a7c15;
  u64 h = (seed_ ^ reinterpret_cast<uintptr_t>(parent)) * kMul;
  const char* p = name.data();
  size_t n = name.size();
  for (; n >= 8; p += 8, n -= 8) {
    u64 w;
    memcpy(&w, p, 8);
    h = (h ^ w) * kMul;
    h ^= h >> 29;
  }
  u64 w = name.size();
  for (; n != 0; ++p, --n) w = w << 8 | static_cast<u8>(*p);
  h = (h ^ w) * kMul;
  return static_cast<u32>(h >> 32);
}

Dentry* DentryCache::find(const Dentry& parent, std::string_view name) const {
  u32 h = hash(&parent, name);
  for (Dentry* d = table_[h & (table_.size() - 1)]; d; d = d->hash_next_)
    if (d->hash_ == h && d->parent_.get() == &parent && d->name_ == name) return d;
  return nullptr;
}

bool DentryCache::is_below(const Dentry* d, const Dentry* ancestor) {
  for (; d; d = d->parent_.get())
    if (d == ancestor) return true;
  return false;
}

Ref<Dentry> DentryCache::lookup(const Dentry& parent, std::string_view name) {
  TreeReadLock guard(lock_);
  Dentry* d = find(parent, name);
  if (!d) return nullptr;
  mark_used(*d);
  return Ref<Dentry>(d);
}

void DentryCache::link(Dentry& d) {
  if (count_ >= table_.size()) grow();
  d.hash_ = hash(d.parent_.get(), d.name_);
  Dentry*& head = table_[d.hash_ & (table_.size() - 1)];
  d.hash_next_ = head;
  head = &d;
  lru_.push_back(d);
  d.cached_ = true;
  ++count_;
}

void DentryCache::unlink(Dentry& d) {
  Dentry** p = &table_[d.hash_ & (table_.size() - 1)];
  while (*p != &d) p = &(*p)->hash_next_;
  *p = d.hash_next_;
  d.hash_next_ = nullptr;
  lru_.remove(d);
  d.cached_ = false;
  --count_;
}

void DentryCache::grow() {
  std::vector<Dentry*> bigger(table_.size() * 2);
  for (Dentry* chain : table_) {
    while (chain) {
      Dentry* d = chain;
      chain = d->hash_next_;
      Dentry*& head = bigger[d->hash_ & (bigger.size() - 1)];
      d->hash_next_ = head;
      head = d;
    }
  }
  table_.swap(bigger);
}

void DentryCache::evict(std::vector<Dentry*>& dropped) {
  for (int i = 0; i < kEvictionScan && count_ > limit_; ++i) {
    Dentry& d = lru_.front();
    // With the lock held exclusively nobody gains a reference through the cache: 1 is the cache's own.
    if (d.ref_count() > 1 || d.used_.exchange(false, std::memory_order_relaxed)) {
      lru_.remove(d);
      lru_.push_back(d);
      continue;
    }
    unlink(d);
    dropped.push_back(&d);
  }
}

Ref<Dentry> DentryCache::insert(const Ref<Dentry>& parent, std::string_view name, Ref<Inode> inode) {
  bool cacheable = parent->inode_->fs().cacheable();
  // Made before the lock is taken; wasted in the rare case that somebody was quicker.
  auto fresh = Ref<Dentry>::adopt(new Dentry(parent, std::string(name), std::move(inode)));
  if (!cacheable) return fresh;
  std::vector<Dentry*> dropped;
  Ref<Dentry> existing;
  {
    TreeWriteLock guard(lock_);
    if (Dentry* d = find(*parent, name)) {
      if (d->inode_ == fresh->inode_) {
        existing = Ref<Dentry>(d);
      } else {
        d->unlinked_ = true;
        unlink(*d);
        dropped.push_back(d);
      }
    }
    if (!existing) {
      fresh->ref();
      link(*fresh);
      if (count_ > limit_) evict(dropped);
    }
  }
  drop_all(dropped);
  return existing ? existing : fresh;
}

void DentryCache::pin(const Ref<Dentry>& d) {
  TreeWriteLock guard(lock_);
  if (!d->cached_ && d->parent_ && !d->unlinked_ && !find(*d->parent_, d->name_)) {
    d->ref();
    link(*d);
  }
}

void DentryCache::remove(Dentry& d) {
  {
    TreeWriteLock guard(lock_);
    d.unlinked_ = true;
    if (!d.cached_) return;
    unlink(d);
  }
  d.unref();
}

void DentryCache::move(Dentry& d, const Ref<Dentry>& parent, std::string_view name, Dentry* replaced) {
  std::vector<Dentry*> dropped;
  Ref<Dentry> old_parent = parent;
  std::string new_name(name);
  {
    TreeWriteLock guard(lock_);
    auto drop_entry = [&](Dentry& gone) {
      gone.unlinked_ = true;
      if (!gone.cached_) return;
      unlink(gone);
      dropped.push_back(&gone);
    };
    if (replaced) drop_entry(*replaced);
    // A negative entry for the new name, too.
    if (Dentry* stale = find(*parent, name); stale && stale != &d) drop_entry(*stale);
    bool cached = d.cached_;
    if (cached) unlink(d);
    std::swap(d.parent_, old_parent);
    d.name_.swap(new_name);
    if (cached) link(d);
  }
  drop_all(dropped);
}

void DentryCache::exchange(Dentry& a, Dentry& b) {
  TreeWriteLock guard(lock_);
  bool a_cached = a.cached_, b_cached = b.cached_;
  if (a_cached) unlink(a);
  if (b_cached) unlink(b);
  std::swap(a.parent_, b.parent_);
  a.name_.swap(b.name_);
  if (a_cached) link(a);
  if (b_cached) link(b);
}

// Unlinks `d` if the cache and one caller alone hold it; returns its parent, to be looked at next.
Ref<Dentry> DentryCache::drop_unused(Dentry& d) {
  Ref<Dentry> parent;
  {
    TreeWriteLock guard(lock_);
    if (!d.cached_ || d.ref_count() > 2) return nullptr;
    unlink(d);
    parent = d.parent_;
  }
  d.unref();
  return parent;
}

void DentryCache::drop(FileSystem& fs) {
  std::vector<Ref<Dentry>> leaves;
  {
    TreeReadLock guard(lock_);
    for (Dentry& d : lru_) {
      const Dentry& owner = d.inode_ ? d : *d.parent_;
      if (&owner.inode_->fs() == &fs && d.ref_count() == 1) leaves.emplace_back(&d);
    }
  }
  // A directory is unused once its children have gone.
  for (Ref<Dentry>& leaf : leaves)
    for (Ref<Dentry> d = std::move(leaf); d;) d = drop_unused(*d);
}

size_t DentryCache::size() const {
  TreeReadLock guard(lock_);
  return count_;
}

void DentryCache::set_limit(size_t limit) {
  std::vector<Dentry*> dropped;
  {
    TreeWriteLock guard(lock_);
    limit_ = limit;
    for (size_t n = count_ * 2; n > 0 && count_ > limit_; --n) evict(dropped);
  }
  drop_all(dropped);
}

}  // namespace rf::fs
