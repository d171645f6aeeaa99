#include "hostio/lockdown.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "core/fault.h"
#include "core/types.h"

namespace rf::hostio {
namespace {

// Every host call of the running sentry, by what it is for.
constexpr int kAllowed[] = {
    // I/O on open descriptors
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
    SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(ioctl),
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(fcntl), SCMP_SYS(dup), SCMP_SYS(close), SCMP_SYS(fstat),
    SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(fadvise64),
    SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register), SCMP_SYS(eventfd2),
    // Host files beneath the roots that are open
    SCMP_SYS(openat2), SCMP_SYS(statx), SCMP_SYS(newfstatat), SCMP_SYS(readlinkat), SCMP_SYS(getdents64),
    SCMP_SYS(fstatfs), SCMP_SYS(fgetxattr), SCMP_SYS(flistxattr), SCMP_SYS(getxattr), SCMP_SYS(listxattr),
    SCMP_SYS(lgetxattr), SCMP_SYS(llistxattr),
    // Memory (mmap and mprotect: see below), time, threads' own affairs
    SCMP_SYS(munmap), SCMP_SYS(madvise), SCMP_SYS(mremap), SCMP_SYS(brk), SCMP_SYS(msync), SCMP_SYS(mincore),
    SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(clock_getres), SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep), SCMP_SYS(timer_settime), SCMP_SYS(timer_gettime), SCMP_SYS(timer_delete),
    SCMP_SYS(futex), SCMP_SYS(sched_yield), SCMP_SYS(getrandom), SCMP_SYS(getcpu), SCMP_SYS(membarrier),
    SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(tgkill), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall), SCMP_SYS(set_robust_list), SCMP_SYS(rseq),
    SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(getrusage), SCMP_SYS(sysinfo), SCMP_SYS(sched_getaffinity)};

// Changes to writable volumes.
constexpr int kAllowedWritable[] = {
    SCMP_SYS(mkdirat),   SCMP_SYS(mknodat),      SCMP_SYS(unlinkat), SCMP_SYS(renameat2),
    SCMP_SYS(renameat),  SCMP_SYS(symlinkat),    SCMP_SYS(linkat),   SCMP_SYS(fchmod),
    SCMP_SYS(fchmodat),  SCMP_SYS(fchown),       SCMP_SYS(fchownat), SCMP_SYS(utimensat),
    SCMP_SYS(fsetxattr), SCMP_SYS(fremovexattr), SCMP_SYS(setxattr), SCMP_SYS(removexattr),
    SCMP_SYS(lsetxattr), SCMP_SYS(lremovexattr), SCMP_SYS(syncfs),   SCMP_SYS(copy_file_range)};

// Names the host call that the filter stopped; async-signal-safe.
void report_violation(int, siginfo_t* info, void*) {
  char text[96] = "ringfence: internal error: the sentry made a host call that is not allowed: number ";
  size_t n = std::strlen(text);
  char digits[8];
  int count = 0;
  for (int v = info->si_syscall; count == 0 || (v > 0 && count < 7); v /= 10)
    digits[count++] = static_cast<char>('0' + v % 10);
  while (count > 0) text[n++] = digits[--count];
  text[n++] = '\n';
  (void)!::write(STDERR_FILENO, text, n);
  ::_exit(kInternalErrorStatus);
}

Setup<void> drop_capabilities(bool writable) {
  // Reading any file of the host's tree as the one who started the sandbox could is what the sandbox is for.
  u64 keep = u64{1} << CAP_DAC_READ_SEARCH | u64{1} << CAP_DAC_OVERRIDE;
  if (writable) keep |= u64{1} << CAP_CHOWN | u64{1} << CAP_FOWNER | u64{1} << CAP_FSETID | u64{1} << CAP_MKNOD;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) != 0) return setup_error(fmt::format("capget: {}", errno_text(errno)));
  for (int i = 0; i < 2; ++i) {
    const u32 mask = static_cast<u32>(keep >> (32 * i));
    data[i].permitted &= mask;
    data[i].effective &= mask;
    data[i].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, data) != 0)
    return setup_error(fmt::format("cannot drop capabilities: {}", errno_text(errno)));
  return {};
}

Setup<void> install_filter(bool writable) {
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
  int rc = filter == nullptr ? -ENOMEM : 0;
  const auto allow = [&](int call) {
    if (rc == 0) rc = seccomp_rule_add_exact(filter, SCMP_ACT_ALLOW, call, 0);
  };
  for (int call : kAllowed) allow(call);
  if (writable)
    for (int call : kAllowedWritable) allow(call);
  // Memory may never become executable.
  for (int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)})
    if (rc == 0)
      rc = seccomp_rule_add_exact(filter, SCMP_ACT_ALLOW, call, 1, SCMP_A2_64(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  if (rc == 0) rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
  // A binary search over the calls: the filter runs on every host call.
  if (rc == 0) rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  if (rc == 0) rc = seccomp_load(filter);
  seccomp_release(filter);
  if (rc != 0)
    return setup_error(fmt::format(
        "cannot install the sentry's seccomp filter: {}; is seccomp in the host's kernel (CONFIG_SECCOMP_FILTER)?",
        errno_text(-rc)));
  return {};
}

}  // namespace

Setup<void> lock_down(const LockdownOptions& options) {
  struct sigaction action {};
  action.sa_sigaction = report_violation;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaction(SIGSYS, &action, nullptr);
  TRY(drop_capabilities(options.writable_host_files));
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return setup_error(fmt::format("cannot set no_new_privs: {}", errno_text(errno)));
  return install_filter(options.writable_host_files);
}

}  // namespace rf::hostio
