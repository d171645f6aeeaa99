// Credentials, credentials(7) and capabilities(7). Immutable once shared: a change makes a copy.
#pragma once

#include <linux/capability.h>

#include <vector>

#include "core/ref.h"
#include "core/types.h"

namespace rf::fs {

inline constexpr u64 kAllCapabilities = (u64{1} << (CAP_LAST_CAP + 1)) - 1;

struct Credentials final : public RefCounted {
  u32 uid = 0, euid = 0, suid = 0, fsuid = 0;
  u32 gid = 0, egid = 0, sgid = 0, fsgid = 0;
  std::vector<u32> groups;
  u64 permitted = kAllCapabilities, effective = kAllCapabilities, inheritable = 0;
  u64 bounding = kAllCapabilities, ambient = 0;
  u32 securebits = 0;
  bool no_new_privs = false;

  Credentials() = default;
  Ref<Credentials> copy() const;  // with a count of its own
  bool capable(int cap) const { return (effective >> cap & 1) != 0; }
  bool in_group(u32 g) const;  // fsgid or a supplementary group
};

}  // namespace rf::fs
