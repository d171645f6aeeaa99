// The dentry cache's entries, and mounts. The cache itself is internal to the VFS (fs/dentry_cache.h).
#pragma once

#include <sys/mount.h>

#include <memory>
#include <string>

#include "core/list.h"
#include "core/spinlock.h"
#include "core/time.h"
#include "fs/inode.h"

namespace rf::fs {

struct LruTag;

// A name in a directory. Its inode never changes: a name that comes to mean another file gets another dentry. The tree
// lock (one spin lock for names and parents; see dentry_cache.h) guards what may change: parent, name, whether it
// is cached, unlinked or mounted on.
class Dentry final : public RefCounted, public ListNode<LruTag> {
 public:
  // The root of a file system.
  static Ref<Dentry> make_root(Ref<Inode> inode);
  // An entry that is in no directory: pipes, sockets, anonymous inodes, unlinked temporary files. `name` is what
  // readlink of /proc/self/fd shows: "pipe:[12]".
  static Ref<Dentry> make_detached(std::string name, Ref<Inode> inode);

  const Ref<Inode>& inode() const { return inode_; }  // null: a negative entry
  std::string name() const;
  Ref<Dentry> parent() const;  // itself for a root
  bool is_root() const;
  bool unlinked() const;
  bool detached() const { return detached_; }

 private:
  friend class DentryCache;
  Dentry(Ref<Dentry> parent, std::string name, Ref<Inode> inode);
  ~Dentry() override;
  void last_unref() override;

  const Ref<Inode> inode_;
  // What inode_ says, at hand for path walks.
  const u16 type_;  // 0 when negative
  bool revalidate_ = false;
  // Where names are revalidated: the monotonic time at which the file system was last asked about this one. 0: never.
  std::atomic<Nanos> held_at_{0};
  bool detached_ = false;
  // Guarded by the tree lock.
  bool cached_ = false;            // in the hash table and the LRU list, which hold a reference
  bool unlinked_ = false;          // the name is gone
  u32 mounts_ = 0;                 // mounted on it
  std::atomic<bool> used_{false};  // since eviction last looked
  u32 hash_ = 0;
  Dentry* hash_next_ = nullptr;
  Ref<Dentry> parent_;  // null for roots and detached entries
  std::string name_;
};

// One mount of a file system at a place.
class Mount final : public RefCounted {
 public:
  Mount(Ref<FileSystem> fs, Ref<Dentry> root);

  const Ref<FileSystem> fs;
  const Ref<Dentry> root;
  // Where it is mounted; null for the root of the mount tree. Guarded by the tree lock.
  Ref<Mount> parent;
  Ref<Dentry> point;
  std::atomic<u64> flags{0};  // MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
  std::string source;
  u32 id = 0;

 private:
  ~Mount() override;
};

}  // namespace rf::fs
