// A place in the tree of mounts: what a path walk ends at.
#pragma once

#include "core/ref.h"

namespace rf::fs {

class Mount;
class Dentry;

struct Path {
  Ref<Mount> mount;
  Ref<Dentry> dentry;
  Path();
  Path(Ref<Mount> m, Ref<Dentry> d);
  Path(const Path&);
  Path(Path&&) noexcept;
  Path& operator=(const Path&);
  Path& operator=(Path&&) noexcept;
  ~Path();
  explicit operator bool() const { return static_cast<bool>(dentry); }
  bool operator==(const Path&) const = default;
};

}  // namespace rf::fs
