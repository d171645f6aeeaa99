// Attributes and extended attributes that live in memory: of tmpfs inodes, and of files that an overlay changed.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/spinlock.h"
#include "fs/inode.h"

namespace rf::fs {

class MemSpace;

// Thread-safe; nothing suspends. Every change that Linux notes in ctime notes it here, at the caller's word.
class MemAttributes {
 public:
  MemAttributes(MemSpace& space, const Attributes& initial) : space_(space), attr_(initial) {}
  ~MemAttributes();

  Attributes get() const;
  u16 mode() const;
  u64 ino() const { return attr_.ino; }  // never changes
  u32 nlink() const;

  // All but kSize.
  void apply(const AttributeChange& change);
  // mtime and ctime: contents of a file or directory changed.
  void touch_contents();
  void touch_ctime();
  // A change of the link count, noted in ctime. Returns the new one.
  u32 add_links(int delta);
  void set_size(u64 size);
  void set_device(u32 major, u32 minor);

  // The effect of a read on atime, with relatime: once a day, or when older than a change.
  void touch_atime();
  // The effect of a write by `ctx`: times, and set-user-ID bits go (file_remove_privs).
  void note_write(const Context& ctx);

  Result<std::string> getxattr(const std::string& name) const;                        // ENODATA
  Result<void> setxattr(const std::string& name, std::string_view value, int flags);  // EEXIST, ENODATA, ENOSPC
  Result<void> removexattr(const std::string& name);                                  // ENODATA
  std::vector<std::string> listxattr() const;

 private:
  using Xattrs = std::map<std::string, std::string>;
  MemSpace& space_;
  mutable SpinLock lock_;
  Attributes attr_;
  std::unique_ptr<Xattrs> xattrs_;
  u64 xattr_bytes_ = 0;
};

// inode_init_owner(): the owner, group and mode of what `ctx` makes in a directory with attributes `dir`: set-group-ID
// directories hand on their group. `mode` has the type.
Attributes new_inode_attributes(const Context& ctx, const Attributes& dir, u16 mode);

}  // namespace rf::fs
