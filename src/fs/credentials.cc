#include "fs/credentials.h"

#include <algorithm>

namespace rf::fs {

Ref<Credentials> Credentials::copy() const {
  auto c = make_ref<Credentials>();
  c->uid = uid, c->euid = euid, c->suid = suid, c->fsuid = fsuid;
  c->gid = gid, c->egid = egid, c->sgid = sgid, c->fsgid = fsgid;
  c->groups = groups;
  c->permitted = permitted, c->effective = effective, c->inheritable = inheritable;
  c->bounding = bounding, c->ambient = ambient;
  c->securebits = securebits;
  c->no_new_privs = no_new_privs;
  return c;
}

bool Credentials::in_group(u32 g) const { return g == fsgid || std::ranges::find(groups, g) != groups.end(); }

}  // namespace rf::fs
