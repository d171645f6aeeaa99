// The dentry cache and mounts. Internal to the VFS and to /proc's need of paths.
#pragma once

#include <memory>
#include <string>

#include "core/spinlock.h"
#include "fs/inode.h"

namespace rf::fs {

// A name in a directory, cached. The tree lock (one spin lock for names and parents; see dentry.cc) guards what may
// change: parent, name, children, inode (null: a negative entry), whether it is unlinked.
class Dentry final : public RefCounted {
 public:
  // The root of a file system.
  static Ref<Dentry> make_root(Ref<Inode> inode);
  // An entry that is in no directory: pipes, sockets, anonymous inodes, unlinked temporary files. `name` is what
  // readlink of /proc/self/fd shows: "pipe:[12]".
  static Ref<Dentry> make_detached(std::string name, Ref<Inode> inode);

  Ref<Inode> inode() const;
  std::string name() const;
  Ref<Dentry> parent() const;  // itself for a root
  bool is_root() const;
  bool unlinked() const;
  bool detached() const { return detached_; }

  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  Dentry();
  ~Dentry() override;
  bool detached_ = false;
  std::unique_ptr<Impl> impl_;
};

// One mount of a file system at a place.
class Mount final : public RefCounted {
 public:
  Ref<FileSystem> fs;
  Ref<Dentry> root;
  // Where it is mounted; null for the root of the mount tree.
  Ref<Mount> parent;
  Ref<Dentry> point;
  u64 flags = 0;  // MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
  std::string source;
  u32 id = 0;
};

}  // namespace rf::fs
