#include <linux/securebits.h>
#include <sys/stat.h>

#include "task/exec.h"

namespace rf::task {

ExecCredentials exec_credentials(const fs::Credentials& old, const fs::Attributes& file, bool nosuid) {
  Ref<fs::Credentials> c = old.copy();
  if (!nosuid && !old.no_new_privs) {
    if ((file.mode & S_ISUID) != 0) c->euid = file.uid;
    // Without group execute permission the bit means mandatory locking.
    if ((file.mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) c->egid = file.gid;
  }
  const bool set_id = c->euid != old.uid || c->egid != old.gid;
  c->suid = c->fsuid = c->euid;
  c->sgid = c->fsgid = c->egid;

  // Capabilities: files have none of their own here; for root they count as having all.
  u64 file_permitted = 0, file_inheritable = 0;
  bool file_effective = false;
  if ((old.securebits & SECBIT_NOROOT) == 0) {
    if (c->euid == 0 || c->uid == 0) file_permitted = file_inheritable = fs::kAllCapabilities;
    file_effective = c->euid == 0;
  }
  if (set_id) c->ambient = 0;
  c->permitted = (old.inheritable & file_inheritable) | (file_permitted & old.bounding) | c->ambient;
  if (old.no_new_privs) c->permitted &= old.permitted;
  c->effective = file_effective ? c->permitted : c->ambient;
  c->securebits &= ~u32{SECBIT_KEEP_CAPS};

  ExecCredentials result;
  result.secure = set_id || (c->uid != 0 && (file_effective || (c->permitted & ~c->ambient) != 0));
  result.privileges_changed = c->euid != old.euid || c->egid != old.egid;
  result.creds = std::move(c);
  return result;
}

}  // namespace rf::task
