// The tree of mounts. Internal to the VFS. The tree lock (fs/dentry_cache.h) guards it.
#pragma once

#include <sys/mount.h>

#include <unordered_map>
#include <vector>

#include "fs/dentry_cache.h"

namespace rf::fs {

class MountTable {
 public:
  explicit MountTable(Ref<Mount> root) : root_(std::move(root)) {}
  ~MountTable();

  const Ref<Mount>& root() const { return root_; }

  // --- With the tree lock held ---
  // What is mounted at this place; null. (Several mounts at one place lie on each other's roots.)
  Mount* at(const Mount* mount, const Dentry* point) const;
  // Replaces a place by the root of what is mounted there, and of what is mounted on that.
  void cross(Mount*& mount, Dentry*& dentry) const;

  // --- Taking it ---
  Path crossed(Path path) const;
  // Mounts on `point`, or on what is mounted there already. ENOENT when it was removed meanwhile.
  Result<void> add(Ref<Mount> mount, const Path& point);
  // Takes a mount out. EBUSY while there are mounts or (unless `detach`) paths in it; EINVAL for the root and for what
  // is not in the table.
  Result<void> remove(Mount& mount, bool detach);
  std::vector<Ref<Mount>> all() const;

 private:
  struct Key {
    const Mount* mount;
    const Dentry* point;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& k) const {
      return (reinterpret_cast<uintptr_t>(k.mount) * 31 + reinterpret_cast<uintptr_t>(k.point)) >> 4;
    }
  };
  bool has_children(const Mount& mount) const;
  Ref<Mount> take(Mount& mount, Path& place);

  Ref<Mount> root_;
  std::unordered_map<Key, Ref<Mount>, KeyHash> mounts_;
};

// Whether changes may be made through this mount: EROFS.
Result<void> want_write(const Path& path);

}  // namespace rf::fs
