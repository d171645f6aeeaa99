// The dentry cache: names looked up lately, found by (parent, name) without asking the file system.
//
// One per process, under one lock, the tree lock (a spin rw-lock): path walks hold it shared over all components that
// the cache answers, so that these cost neither a reference count nor an allocation each. What it guards besides the
// cache is said in fs/dentry.h, and the mount table.
//
// A cached dentry is held by the cache. When there are more than the limit, those that nobody else holds go, the ones
// not used for longest first (a clock). A child holds its parent, so a directory outlives its cached entries.
//
// Lock order of the VFS:
//   rename mutex > Inode::lock of directories (a parent before its children; two unrelated ones by address) >
//   Inode::lock of other inodes > an overlay's copy-up locks > Inode::lock of its lower file system > tree lock
// References that may be the last are never dropped under the tree lock.
#pragma once

#include <shared_mutex>
#include <string_view>
#include <vector>

#include "fs/dentry.h"

namespace rf::fs {

class DentryCache {
 public:
  static DentryCache& get();

  SpinRwLock& lock() { return lock_; }  // the tree lock

  // --- With the tree lock held (shared at least) ---
  Dentry* find(const Dentry& parent, std::string_view name) const;
  static Dentry* parent_of(const Dentry& d) { return d.parent_.get(); }
  static const std::string& name_of(const Dentry& d) { return d.name_; }
  static bool unlinked(const Dentry& d) { return d.unlinked_; }
  static bool is_mount_point(const Dentry& d) { return d.mounts_ != 0; }
  static u16 type_of(const Dentry& d) { return d.type_; }
  static bool revalidated(const Dentry& d) { return d.revalidate_; }
  // Whether such an entry was found to hold later than at `horizon`.
  static bool held_after(const Dentry& d, Nanos horizon) {
    return d.held_at_.load(std::memory_order_relaxed) > horizon;
  }
  static void note_held(Dentry& d, Nanos when) { d.held_at_.store(when, std::memory_order_relaxed); }
  static void mark_used(Dentry& d) {
    if (!d.used_.load(std::memory_order_relaxed)) d.used_.store(true, std::memory_order_relaxed);
  }
  // With the tree lock held exclusively: counts mounts on `d`.
  static void add_mount(Dentry& d, int delta) { d.mounts_ += delta; }
  // Whether `d` is `ancestor` or below it.
  static bool is_below(const Dentry* d, const Dentry* ancestor);

  // --- Taking the tree lock ---
  // Null when not cached.
  Ref<Dentry> lookup(const Dentry& parent, std::string_view name);
  // The entry for `name`, which is `inode` (null: known not to be there). Kept in the cache where the file system
  // allows. An entry that says the same is returned instead; one that says otherwise goes.
  Ref<Dentry> insert(const Ref<Dentry>& parent, std::string_view name, Ref<Inode> inode);
  // Makes sure that `d` is found by look-ups, which a mount point must be even where nothing is cached.
  void pin(const Ref<Dentry>& d);
  // The name is gone, or means another file now.
  void remove(Dentry& d);
  // rename(2): `d` becomes `name` in `parent`, in the place of `replaced` (may be null).
  void move(Dentry& d, const Ref<Dentry>& parent, std::string_view name, Dentry* replaced);
  void exchange(Dentry& a, Dentry& b);
  // Forgets every entry of a file system that nobody holds.
  void drop(FileSystem& fs);

  // For tests: entries, and how many may be kept unused.
  size_t size() const;
  void set_limit(size_t limit);

 private:
  DentryCache();
  u32 hash(const Dentry* parent, std::string_view name) const;
  // Into and out of table and list; the cache's reference is the caller's to take or drop.
  void link(Dentry& d);
  void unlink(Dentry& d);
  void grow();
  void evict(std::vector<Dentry*>& dropped);
  Ref<Dentry> drop_unused(Dentry& d);

  mutable SpinRwLock lock_;
  std::vector<Dentry*> table_;  // chains; a power of two of them
  List<Dentry, LruTag> lru_;    // the next to be looked at for eviction first
  size_t count_ = 0;
  size_t limit_;
  u64 seed_;
};

using TreeReadLock = std::shared_lock<SpinRwLock>;
using TreeWriteLock = std::lock_guard<SpinRwLock>;

}  // namespace rf::fs
