// prctl(2) and arch_prctl(2).
#include <asm/prctl.h>
#include <asm/unistd_64.h>
#include <linux/prctl.h>
#include <linux/securebits.h>

#include <cstring>
#include <mutex>

#include "task/call_helpers.h"
#include "task/credentials.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

constexpr size_t kNameSize = 16;

Result<void> set_name(Task& t, mm::UserAddr addr) {
  // Read up to the NUL or 15 bytes, as Linux: what follows need not be there.
  char name[kNameSize] = {};
  const Result<size_t> n = t.mm->copy_in_string(name, addr, kNameSize - 1);
  if (!n && n.error() == Errno{EFAULT}) return err(EFAULT);
  t.set_name(std::string_view(name, strnlen(name, kNameSize - 1)));
  return {};
}

Result<void> get_name(Task& t, mm::UserAddr addr) {
  char name[kNameSize] = {};
  const std::string s = t.name();
  s.copy(name, kNameSize - 1);
  return t.mm->copy_out(addr, name, sizeof name) == sizeof name ? Result<void>() : err(EFAULT);
}

bool valid_cap(u64 cap) { return cap <= CAP_LAST_CAP; }

Result<void> drop_bounding(Task& t, u64 cap) {
  if (!t.creds->capable(CAP_SETPCAP)) return err(EPERM);
  if (!valid_cap(cap)) return err(EINVAL);
  Ref<fs::Credentials> c = t.creds->copy();
  c->bounding &= ~(u64{1} << cap);
  set_credentials(t, std::move(c));
  return {};
}

SysResult ambient(Task& t, const SyscallArgs& a) {
  if (a.u(3) != 0 || a.u(4) != 0) return err(EINVAL);
  Ref<fs::Credentials> c = t.creds->copy();
  if (a.u(1) == PR_CAP_AMBIENT_CLEAR_ALL) {
    if (a.u(2) != 0) return err(EINVAL);
    c->ambient = 0;
    set_credentials(t, std::move(c));
    return 0;
  }
  if (!valid_cap(a.u(2))) return err(EINVAL);
  const u64 bit = u64{1} << a.u(2);
  switch (a.u(1)) {
    case PR_CAP_AMBIENT_IS_SET:
      return u64{(c->ambient & bit) != 0};
    case PR_CAP_AMBIENT_RAISE:
      if ((c->permitted & c->inheritable & bit) == 0 || (c->securebits & SECBIT_NO_CAP_AMBIENT_RAISE) != 0)
        return err(EPERM);
      c->ambient |= bit;
      break;
    case PR_CAP_AMBIENT_LOWER:
      c->ambient &= ~bit;
      break;
    default:
      return err(EINVAL);
  }
  set_credentials(t, std::move(c));
  return 0;
}

Result<void> set_securebits(Task& t, u64 bits) {
  const u32 old = t.creds->securebits;
  const u64 locked = (old & SECURE_ALL_LOCKS) >> 1;
  if ((locked & (bits ^ old)) != 0 || (old & SECURE_ALL_LOCKS & ~bits) != 0 ||
      (bits & ~u64{SECURE_ALL_LOCKS | SECURE_ALL_BITS}) != 0 || !t.creds->capable(CAP_SETPCAP))
    return err(EPERM);
  Ref<fs::Credentials> c = t.creds->copy();
  c->securebits = static_cast<u32>(bits);
  set_credentials(t, std::move(c));
  return {};
}

Result<void> set_keep_capabilities(Task& t, u64 on) {
  if (on > 1) return err(EINVAL);
  if ((t.creds->securebits & SECBIT_KEEP_CAPS_LOCKED) != 0) return err(EPERM);
  Ref<fs::Credentials> c = t.creds->copy();
  c->securebits = on ? c->securebits | SECBIT_KEEP_CAPS : c->securebits & ~u32{SECBIT_KEEP_CAPS};
  set_credentials(t, std::move(c));
  return {};
}

Result<void> set_no_new_privs(Task& t, const SyscallArgs& a) {
  if (a.u(1) != 1 || a.u(2) != 0 || a.u(3) != 0 || a.u(4) != 0) return err(EINVAL);
  Ref<fs::Credentials> c = t.creds->copy();
  c->no_new_privs = true;
  set_credentials(t, std::move(c));
  return {};
}

SysResult prctl_credentials(Task& t, const SyscallArgs& a) {
  switch (a.i(0)) {
    case PR_CAPBSET_READ:
      if (!valid_cap(a.u(1))) return err(EINVAL);
      return t.creds->bounding >> a.u(1) & 1;
    case PR_CAPBSET_DROP:
      return drop_bounding(t, a.u(1));
    case PR_CAP_AMBIENT:
      return ambient(t, a);
    case PR_GET_SECUREBITS:
      return u64{t.creds->securebits};
    case PR_SET_SECUREBITS:
      return set_securebits(t, a.u(1));
    case PR_GET_KEEPCAPS:
      return u64{(t.creds->securebits & SECBIT_KEEP_CAPS) != 0};
    case PR_SET_KEEPCAPS:
      return set_keep_capabilities(t, a.u(1));
    case PR_SET_NO_NEW_PRIVS:
      return set_no_new_privs(t, a);
    case PR_GET_NO_NEW_PRIVS:
      if (a.u(1) != 0 || a.u(2) != 0 || a.u(3) != 0 || a.u(4) != 0) return err(EINVAL);
      return u64{t.creds->no_new_privs};
    default:
      return err(EINVAL);
  }
}

SysResult set_subreaper(Task& t, bool on) {
  std::lock_guard guard(t.kernel.tree_lock);
  t.group->child_subreaper = on;
  return 0;
}

SysResult sys_prctl(Task& t, const SyscallArgs& a) {
  constexpr int kSetVma = 0x53564d41;  // PR_SET_VMA, PR_SET_VMA_ANON_NAME 0
  switch (a.i(0)) {
    case PR_SET_NAME:
      return set_name(t, a.addr(1));
    case PR_GET_NAME:
      return get_name(t, a.addr(1));
    case PR_SET_PDEATHSIG:
      if (a.u(1) > kSignalMax) return err(EINVAL);
      t.parent_death_signal = a.i(1);
      return 0;
    case PR_GET_PDEATHSIG:
      return a.ptr<int>(1).write(*t.mm, t.parent_death_signal);
    case PR_GET_DUMPABLE:
      return static_cast<u64>(t.group->dumpable.load());
    case PR_SET_DUMPABLE:
      if (a.u(1) > 1) return err(EINVAL);
      t.group->dumpable.store(a.i(1));
      return 0;
    case PR_SET_CHILD_SUBREAPER:
      return set_subreaper(t, a.u(1) != 0);
    case PR_GET_CHILD_SUBREAPER:
      return a.ptr<int>(1).write(*t.mm, t.group->child_subreaper ? 1 : 0);
    case PR_GET_TIMERSLACK:
      return t.timer_slack;
    case PR_SET_TIMERSLACK:
      t.timer_slack = a.s(1) <= 0 ? 50'000 : a.u(1);
      return 0;
    case PR_GET_TID_ADDRESS:
      return a.ptr<u64>(1).write(*t.mm, t.clear_child_tid);
    case PR_SET_THP_DISABLE:
      if (a.u(2) != 0 || a.u(3) != 0 || a.u(4) != 0) return err(EINVAL);
      t.thp_disabled = a.u(1) != 0;
      return 0;
    case PR_GET_THP_DISABLE:
      return u64{t.thp_disabled};
    case PR_GET_TSC:
      return a.ptr<int>(1).write(*t.mm, PR_TSC_ENABLE);
    case PR_GET_TIMING:
      return PR_TIMING_STATISTICAL;
    case PR_GET_SECCOMP:
      return 0;
    case PR_MCE_KILL_GET:
      return PR_MCE_KILL_DEFAULT;
    case kSetVma:
      return a.u(1) == 0 ? SysResult(u64{0}) : err(EINVAL);
    default:
      return prctl_credentials(t, a);
  }
}

SysResult sys_arch_prctl(Task& t, const SyscallArgs& a) {
  switch (a.i(0)) {
    case ARCH_SET_FS:
      if (a.u(1) >= platform::kGuestAddressLimit) return err(EPERM);
      t.regs.fs_base = a.u(1);
      return 0;
    case ARCH_GET_FS:
      return a.ptr<u64>(1).write(*t.mm, t.regs.fs_base);
    case ARCH_SET_GS:
      if (a.u(1) >= platform::kGuestAddressLimit) return err(EPERM);
      t.regs.gs_base = a.u(1);
      return 0;
    case ARCH_GET_GS:
      return a.ptr<u64>(1).write(*t.mm, t.regs.gs_base);
    default:
      return err(EINVAL);
  }
}

constexpr SyscallEntry kEntries[] = {
    {__NR_prctl,
     "prctl",
     sys_prctl,
     Support::kPartial,
     "names, death signals, capabilities, no_new_privs, subreapers and the like; no seccomp, no speculation control",
     {Arg::kPrctl, Arg::kHex, Arg::kHex, Arg::kHex, Arg::kHex}},
    {__NR_arch_prctl, "arch_prctl", sys_arch_prctl, Support::kPartial, "FS and GS base", {Arg::kArchPrctl, Arg::kHex}},
};

}  // namespace

Family prctl_family() { return kEntries; }

}  // namespace rf::task
