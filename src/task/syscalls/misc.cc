// The machine and the sandbox as a whole: names, memory, random numbers; and what is refused for them.
#include <asm/unistd_64.h>
#include <sys/random.h>
#include <sys/sysinfo.h>

#include <array>
#include <cstring>
#include <shared_mutex>

#include "task/call_helpers.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

SysResult sys_uname(Task& t, const SyscallArgs& a) { return a.ptr<utsname>(0).write(*t.mm, t.kernel.uname()); }

// sethostname and setdomainname.
SysResult set_name(Task& t, const SyscallArgs& a, std::string Kernel::*name) {
  constexpr s32 kMaxName = 64;
  if (!t.creds->capable(CAP_SYS_ADMIN)) return err(EPERM);
  if (a.i(1) < 0 || a.i(1) > kMaxName) return err(EINVAL);
  std::string value(static_cast<size_t>(a.i(1)), '\0');
  if (t.mm->copy_in(value.data(), a.addr(0), value.size()) != value.size()) return err(EFAULT);
  value.resize(strnlen(value.data(), value.size()));
  SpinGuard guard(t.kernel.uts_lock);
  std::swap(t.kernel.*name, value);
  return 0;
}

SysResult sys_sethostname(Task& t, const SyscallArgs& a) { return set_name(t, a, &Kernel::hostname); }
SysResult sys_setdomainname(Task& t, const SyscallArgs& a) { return set_name(t, a, &Kernel::domainname); }

SysResult sys_sysinfo(Task& t, const SyscallArgs& a) {
  struct sysinfo info {};
  info.uptime = TRY(t.kernel.now(CLOCK_BOOTTIME, &t)) / kNanosPerSecond;
  info.totalram = t.kernel.frames.limit();
  info.freeram = info.totalram - std::min<u64>(info.totalram, t.kernel.frames.used());
  info.mem_unit = 1;
  {
    std::shared_lock guard(t.kernel.tree_lock);
    info.procs = static_cast<u16>(std::min<size_t>(t.kernel.task_count(), 0xffff));
  }
  return a.ptr<struct sysinfo>(0).write(*t.mm, info);
}

SysResult sys_getrandom(Task& t, const SyscallArgs& a) {
  constexpr u32 kInsecure = 4;  // GRND_INSECURE
  constexpr u64 kMost = 0x1ff'ffff;
  const u32 flags = a.u32_(2);
  if ((flags & ~(GRND_NONBLOCK | GRND_RANDOM | kInsecure)) != 0) return err(EINVAL);
  if ((flags & GRND_RANDOM) != 0 && (flags & kInsecure) != 0) return err(EINVAL);
  const u64 len = std::min(a.u(1), kMost);
  std::array<std::byte, 1024> chunk;
  u64 done = 0;
  while (done < len) {
    const size_t n = std::min<u64>(chunk.size(), len - done);
    if (getrandom(chunk.data(), n, 0) != static_cast<ssize_t>(n)) return err(EAGAIN);
    const size_t put = t.mm->copy_out(a.addr(0) + done, chunk.data(), n);
    done += put;
    if (put != n) return done != 0 ? SysResult(done) : err(EFAULT);
    if (t.has_work() && done < len) return done;
  }
  return done;
}

SysResult sys_refused(Task&, const SyscallArgs&) { return err(EPERM); }
SysResult sys_invalid(Task&, const SyscallArgs&) { return err(EINVAL); }
SysResult sys_absent(Task&, const SyscallArgs&) { return err(ENOSYS); }

constexpr SyscallEntry kEntries[] = {
    {__NR_uname, "uname", sys_uname, Support::kFull, "", {Arg::kAddr}},
    {__NR_sethostname, "sethostname", sys_sethostname, Support::kFull, "", {Arg::kString, Arg::kSize}},
    {__NR_setdomainname, "setdomainname", sys_setdomainname, Support::kFull, "", {Arg::kString, Arg::kSize}},
    {__NR_sysinfo, "sysinfo", sys_sysinfo, Support::kPartial, "no load averages", {Arg::kAddr}},
    {__NR_getrandom, "getrandom", sys_getrandom, Support::kFull, "", {Arg::kBufOut, Arg::kSize, Arg::kHex}},
    {__NR_syslog, "syslog", sys_refused, Support::kPartial, "always EPERM", {Arg::kInt, Arg::kAddr, Arg::kSize}},
    {__NR_reboot, "reboot", sys_refused, Support::kPartial, "always EPERM", {Arg::kHex, Arg::kHex, Arg::kInt}},
    {__NR_seccomp,
     "seccomp",
     sys_invalid,
     Support::kPartial,
     "filters come later: always EINVAL",
     {Arg::kInt, Arg::kHex, Arg::kAddr}},
    {__NR_rseq,
     "rseq",
     sys_absent,
     Support::kNone,
     "libc does without it",
     {Arg::kAddr, Arg::kSize, Arg::kHex, Arg::kHex}},
};

}  // namespace

Family misc_family() { return kEntries; }

}  // namespace rf::task
