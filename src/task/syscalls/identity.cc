// Who a task is: user and group ids, capabilities.
#include <asm/unistd_64.h>
#include <linux/capability.h>
#include <linux/securebits.h>

#include <algorithm>
#include <array>
#include <shared_mutex>

#include "task/call_helpers.h"
#include "task/credentials.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

constexpr u32 kNoChange = ~u32{0};

// --- Ids ------------------------------------------------------------------------------------------

SysResult sys_getuid(Task& t, const SyscallArgs&) { return u64{t.creds->uid}; }
SysResult sys_geteuid(Task& t, const SyscallArgs&) { return u64{t.creds->euid}; }
SysResult sys_getgid(Task& t, const SyscallArgs&) { return u64{t.creds->gid}; }
SysResult sys_getegid(Task& t, const SyscallArgs&) { return u64{t.creds->egid}; }

SysResult sys_getresuid(Task& t, const SyscallArgs& a) {
  TRY(a.ptr<u32>(0).write(*t.mm, t.creds->uid));
  TRY(a.ptr<u32>(1).write(*t.mm, t.creds->euid));
  return a.ptr<u32>(2).write(*t.mm, t.creds->suid);
}
SysResult sys_getresgid(Task& t, const SyscallArgs& a) {
  TRY(a.ptr<u32>(0).write(*t.mm, t.creds->gid));
  TRY(a.ptr<u32>(1).write(*t.mm, t.creds->egid));
  return a.ptr<u32>(2).write(*t.mm, t.creds->sgid);
}

SysResult sys_setuid(Task& t, const SyscallArgs& a) {
  const u32 uid = a.u32_(0);
  if (uid == kNoChange) return err(EINVAL);
  Ref<fs::Credentials> c = t.creds->copy();
  if (c->capable(CAP_SETUID))
    c->uid = c->suid = uid;
  else if (uid != c->uid && uid != c->suid)
    return err(EPERM);
  c->euid = c->fsuid = uid;
  change_ids(t, std::move(c));
  return 0;
}

SysResult sys_setgid(Task& t, const SyscallArgs& a) {
  const u32 gid = a.u32_(0);
  if (gid == kNoChange) return err(EINVAL);
  Ref<fs::Credentials> c = t.creds->copy();
  if (c->capable(CAP_SETGID))
    c->gid = c->sgid = gid;
  else if (gid != c->gid && gid != c->sgid)
    return err(EPERM);
  c->egid = c->fsgid = gid;
  change_ids(t, std::move(c));
  return 0;
}

SysResult sys_setreuid(Task& t, const SyscallArgs& a) {
  const u32 ruid = a.u32_(0), euid = a.u32_(1);
  const fs::Credentials& old = *t.creds;
  const bool any = old.capable(CAP_SETUID);
  if (ruid != kNoChange && !any && ruid != old.uid && ruid != old.euid) return err(EPERM);
  if (euid != kNoChange && !any && euid != old.uid && euid != old.euid && euid != old.suid) return err(EPERM);
  Ref<fs::Credentials> c = old.copy();
  if (ruid != kNoChange) c->uid = ruid;
  if (euid != kNoChange) c->euid = euid;
  if (ruid != kNoChange || (euid != kNoChange && euid != old.uid)) c->suid = c->euid;
  c->fsuid = c->euid;
  change_ids(t, std::move(c));
  return 0;
}

SysResult sys_setregid(Task& t, const SyscallArgs& a) {
  const u32 rgid = a.u32_(0), egid = a.u32_(1);
  const fs::Credentials& old = *t.creds;
  const bool any = old.capable(CAP_SETGID);
  if (rgid != kNoChange && !any && rgid != old.gid && rgid != old.egid) return err(EPERM);
  if (egid != kNoChange && !any && egid != old.gid && egid != old.egid && egid != old.sgid) return err(EPERM);
  Ref<fs::Credentials> c = old.copy();
  if (rgid != kNoChange) c->gid = rgid;
  if (egid != kNoChange) c->egid = egid;
  if (rgid != kNoChange || (egid != kNoChange && egid != old.gid)) c->sgid = c->egid;
  c->fsgid = c->egid;
  change_ids(t, std::move(c));
  return 0;
}

// setresuid and setresgid: each new id must be one of the old three unless `any`.
Result<void> check_three(const SyscallArgs& a, std::array<u32, 3> old, bool any) {
  for (int i = 0; i < 3; i++)
    if (a.u32_(i) != kNoChange && !any && std::ranges::find(old, a.u32_(i)) == old.end()) return err(EPERM);
  return {};
}

SysResult sys_setresuid(Task& t, const SyscallArgs& a) {
  Ref<fs::Credentials> c = t.creds->copy();
  TRY(check_three(a, {c->uid, c->euid, c->suid}, c->capable(CAP_SETUID)));
  if (a.u32_(0) != kNoChange) c->uid = a.u32_(0);
  if (a.u32_(1) != kNoChange) c->euid = a.u32_(1);
  if (a.u32_(2) != kNoChange) c->suid = a.u32_(2);
  c->fsuid = c->euid;
  change_ids(t, std::move(c));
  return 0;
}

SysResult sys_setresgid(Task& t, const SyscallArgs& a) {
  Ref<fs::Credentials> c = t.creds->copy();
  TRY(check_three(a, {c->gid, c->egid, c->sgid}, c->capable(CAP_SETGID)));
  if (a.u32_(0) != kNoChange) c->gid = a.u32_(0);
  if (a.u32_(1) != kNoChange) c->egid = a.u32_(1);
  if (a.u32_(2) != kNoChange) c->sgid = a.u32_(2);
  c->fsgid = c->egid;
  change_ids(t, std::move(c));
  return 0;
}

// setfsuid(2) cannot fail: it returns the id as it was.
SysResult sys_setfsuid(Task& t, const SyscallArgs& a) {
  const u32 uid = a.u32_(0), old = t.creds->fsuid;
  const fs::Credentials& c = *t.creds;
  if (uid == kNoChange || uid == old) return u64{old};
  if (uid != c.uid && uid != c.euid && uid != c.suid && !c.capable(CAP_SETUID)) return u64{old};
  Ref<fs::Credentials> changed = c.copy();
  changed->fsuid = uid;
  change_ids(t, std::move(changed));
  return u64{old};
}

SysResult sys_setfsgid(Task& t, const SyscallArgs& a) {
  const u32 gid = a.u32_(0), old = t.creds->fsgid;
  const fs::Credentials& c = *t.creds;
  if (gid == kNoChange || gid == old) return u64{old};
  if (gid != c.gid && gid != c.egid && gid != c.sgid && !c.capable(CAP_SETGID)) return u64{old};
  Ref<fs::Credentials> changed = c.copy();
  changed->fsgid = gid;
  change_ids(t, std::move(changed));
  return u64{old};
}

SysResult sys_getgroups(Task& t, const SyscallArgs& a) {
  const std::vector<u32>& groups = t.creds->groups;
  if (a.i(0) < 0) return err(EINVAL);
  if (a.i(0) == 0) return u64{groups.size()};
  if (static_cast<size_t>(a.i(0)) < groups.size()) return err(EINVAL);
  TRY(a.ptr<u32>(1).write_array(*t.mm, groups));
  return u64{groups.size()};
}

SysResult sys_setgroups(Task& t, const SyscallArgs& a) {
  constexpr u32 kMaxGroups = 65536;
  if (!t.creds->capable(CAP_SETGID)) return err(EPERM);
  if (a.u32_(0) > kMaxGroups) return err(EINVAL);
  std::vector<u32> groups(a.u32_(0));
  TRY(a.ptr<u32>(1).read_array(*t.mm, groups));
  std::ranges::sort(groups);
  Ref<fs::Credentials> c = t.creds->copy();
  c->groups = std::move(groups);
  set_credentials(t, std::move(c));
  return 0;
}

// --- Capabilities ---------------------------------------------------------------------------------

// How many 32-bit words of each set the header's version has; EINVAL after telling the version we have.
Result<u32> capability_words(Task& t, const SyscallArgs& a, __user_cap_header_struct& header) {
  const auto p = a.ptr<__user_cap_header_struct>(0);
  header = TRY(p.read(*t.mm));
  switch (header.version) {
    case _LINUX_CAPABILITY_VERSION_1:
      return _LINUX_CAPABILITY_U32S_1;
    case _LINUX_CAPABILITY_VERSION_2:
    case _LINUX_CAPABILITY_VERSION_3:
      return _LINUX_CAPABILITY_U32S_3;
    default:
      TRY(a.ptr<u32>(0).write(*t.mm, _LINUX_CAPABILITY_VERSION_3));
      return err(EINVAL);
  }
}

using CapData = std::array<__user_cap_data_struct, 2>;

SysResult sys_capget(Task& t, const SyscallArgs& a) {
  __user_cap_header_struct header;
  const Result<u32> words = capability_words(t, a, header);
  if (!words) return a.addr(1) == 0 && words.error() == Errno{EINVAL} ? SysResult(u64{0}) : err(words.error());
  if (a.addr(1) == 0) return 0;
  if (header.pid < 0) return err(EINVAL);
  Ref<fs::Credentials> c = t.creds;
  if (header.pid != 0 && header.pid != t.tid) {
    std::shared_lock guard(t.kernel.tree_lock);
    Task* other = t.kernel.find_task(header.pid);
    if (!other) return err(ESRCH);
    SpinGuard signal_guard(other->group->signal_lock);
    c = other->creds;
  }
  CapData data{};
  for (u32 i = 0; i < *words; i++)
    data[i] = {.effective = static_cast<u32>(c->effective >> (32 * i)),
               .permitted = static_cast<u32>(c->permitted >> (32 * i)),
               .inheritable = static_cast<u32>(c->inheritable >> (32 * i))};
  return a.ptr<__user_cap_data_struct>(1).write_array(*t.mm, std::span(data).first(*words));
}

SysResult sys_capset(Task& t, const SyscallArgs& a) {
  __user_cap_header_struct header;
  const u32 words = TRY(capability_words(t, a, header));
  if (header.pid != 0 && header.pid != t.tid) return err(EPERM);
  CapData data{};
  TRY(a.ptr<__user_cap_data_struct>(1).read_array(*t.mm, std::span(data).first(words)));
  const u64 effective = data[0].effective | u64{data[1].effective} << 32;
  const u64 permitted = (data[0].permitted | u64{data[1].permitted} << 32) & fs::kAllCapabilities;
  const u64 inheritable = (data[0].inheritable | u64{data[1].inheritable} << 32) & fs::kAllCapabilities;
  const fs::Credentials& old = *t.creds;
  if ((permitted & ~old.permitted) != 0 || (effective & fs::kAllCapabilities & ~permitted) != 0) return err(EPERM);
  if (!old.capable(CAP_SETPCAP) && (inheritable & ~(old.inheritable | old.permitted)) != 0) return err(EPERM);
  if ((inheritable & ~(old.inheritable | old.bounding)) != 0) return err(EPERM);
  Ref<fs::Credentials> c = old.copy();
  c->effective = effective & fs::kAllCapabilities;
  c->permitted = permitted;
  c->inheritable = inheritable;
  c->ambient &= permitted & inheritable;
  set_credentials(t, std::move(c));
  return 0;
}

constexpr SyscallEntry kEntries[] = {
    {__NR_getuid, "getuid", sys_getuid, Support::kFull, "", {}},
    {__NR_geteuid, "geteuid", sys_geteuid, Support::kFull, "", {}},
    {__NR_getgid, "getgid", sys_getgid, Support::kFull, "", {}},
    {__NR_getegid, "getegid", sys_getegid, Support::kFull, "", {}},
    {__NR_getresuid, "getresuid", sys_getresuid, Support::kFull, "", {Arg::kAddr, Arg::kAddr, Arg::kAddr}},
    {__NR_getresgid, "getresgid", sys_getresgid, Support::kFull, "", {Arg::kAddr, Arg::kAddr, Arg::kAddr}},
    {__NR_setuid, "setuid", sys_setuid, Support::kFull, "", {Arg::kInt}},
    {__NR_setgid, "setgid", sys_setgid, Support::kFull, "", {Arg::kInt}},
    {__NR_setreuid, "setreuid", sys_setreuid, Support::kFull, "", {Arg::kInt, Arg::kInt}},
    {__NR_setregid, "setregid", sys_setregid, Support::kFull, "", {Arg::kInt, Arg::kInt}},
    {__NR_setresuid, "setresuid", sys_setresuid, Support::kFull, "", {Arg::kInt, Arg::kInt, Arg::kInt}},
    {__NR_setresgid, "setresgid", sys_setresgid, Support::kFull, "", {Arg::kInt, Arg::kInt, Arg::kInt}},
    {__NR_setfsuid, "setfsuid", sys_setfsuid, Support::kFull, "", {Arg::kInt}},
    {__NR_setfsgid, "setfsgid", sys_setfsgid, Support::kFull, "", {Arg::kInt}},
    {__NR_getgroups, "getgroups", sys_getgroups, Support::kFull, "", {Arg::kInt, Arg::kAddr}},
    {__NR_setgroups, "setgroups", sys_setgroups, Support::kFull, "", {Arg::kInt, Arg::kAddr}},
    {__NR_capget, "capget", sys_capget, Support::kFull, "", {Arg::kAddr, Arg::kAddr}},
    {__NR_capset, "capset", sys_capset, Support::kFull, "", {Arg::kAddr, Arg::kAddr}},
};

}  // namespace

Family identity_family() { return kEntries; }

}  // namespace rf::task
