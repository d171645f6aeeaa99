#include "hostio/call_filter.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/io_uring.h>
#include <linux/membarrier.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "core/fault.h"
#include "core/sanitizer.h"
#include "core/types.h"

namespace rf::hostio {
namespace {

// What may be called with any arguments, by what it is for.
constexpr int kAllowed[] = {
    // Open descriptors
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(poll),
    SCMP_SYS(close), SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(fadvise64), SCMP_SYS(io_uring_enter),
    // Host files: Landlock says which
    SCMP_SYS(openat2), SCMP_SYS(statx), SCMP_SYS(readlinkat), SCMP_SYS(getdents64), SCMP_SYS(fstatfs),
    SCMP_SYS(fgetxattr), SCMP_SYS(flistxattr),
    // Memory (mmap and mprotect: see below)
    SCMP_SYS(munmap), SCMP_SYS(madvise), SCMP_SYS(mremap), SCMP_SYS(mincore), SCMP_SYS(getrandom),
    // Time and threads
    SCMP_SYS(clock_gettime), SCMP_SYS(timer_settime), SCMP_SYS(timer_delete), SCMP_SYS(futex), SCMP_SYS(futex_waitv),
    SCMP_SYS(sched_yield), SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(restart_syscall), SCMP_SYS(waitid), SCMP_SYS(exit),
    SCMP_SYS(exit_group)};

// Changes to writable volumes.
constexpr int kAllowedWritable[] = {SCMP_SYS(mkdirat),   SCMP_SYS(mknodat),      SCMP_SYS(unlinkat),
                                    SCMP_SYS(renameat2), SCMP_SYS(symlinkat),    SCMP_SYS(linkat),
                                    SCMP_SYS(fchmod),    SCMP_SYS(fchownat),     SCMP_SYS(utimensat),
                                    SCMP_SYS(fsetxattr), SCMP_SYS(fremovexattr), SCMP_SYS(syncfs)};

// Streams that are sockets.
constexpr int kAllowedSockets[] = {SCMP_SYS(recvmsg), SCMP_SYS(sendmsg)};

constexpr u64 kFcntlCommands[] = {F_GETFL, F_DUPFD_CLOEXEC};

// On any stream.
constexpr u64 kStreamRequests[] = {FIONREAD};
// On the host's terminal. Not TIOCSTI and TIOCLINUX, which type commands into the shell outside.
constexpr u64 kTerminalRequests[] = {TCGETS, TCGETS2, TIOCGWINSZ, TIOCOUTQ, TIOCGETD,
                                     TCSETS, TCSETS2, TIOCSWINSZ, TCFLSH,   TCXONC};

// Says what the filter stopped, first by number: finding the name allocates memory, and the call may have come from
// the allocator.
void report_violation(int, siginfo_t* info, void* context) {
  const greg_t* r = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
  char text[128];
  int n = std::snprintf(text, sizeof text,
                        "ringfence: internal error: the sentry made a host call that is not allowed: number %d",
                        info->si_syscall);
  (void)!::write(STDERR_FILENO, text, static_cast<size_t>(n));
  const char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, info->si_syscall);
  n = std::snprintf(text, sizeof text, " (%s 0x%llx 0x%llx 0x%llx 0x%llx)\n", name ? name : "no name known", r[REG_RDI],
                    r[REG_RSI], r[REG_RDX], r[REG_R10]);
  (void)!::write(STDERR_FILENO, text, static_cast<size_t>(n));
  write_backtrace_here(STDERR_FILENO);
  run_crash_reports(STDERR_FILENO);
  ::_exit(kInternalErrorStatus);
}

class Filter {
 public:
  Filter() : context_(seccomp_init(SCMP_ACT_TRAP)), rc_(context_ == nullptr ? -ENOMEM : 0) {}
  ~Filter() { seccomp_release(context_); }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;

  void allow(int call) {
    if (rc_ == 0) rc_ = seccomp_rule_add_exact(context_, SCMP_ACT_ALLOW, call, 0);
  }
  // Only when (argument & mask) is `value`.
  void allow_if(int call, u32 argument, u64 mask, u64 value) {
    if (rc_ == 0)
      rc_ = seccomp_rule_add_exact(context_, SCMP_ACT_ALLOW, call, 1,
                                   SCMP_CMP64(argument, SCMP_CMP_MASKED_EQ, mask, value));
  }
  // The kernel looks at the lower half of what is an int in the call's prototype.
  void allow_int(int call, u32 argument, u64 value) { allow_if(call, argument, 0xffffffff, value & 0xffffffff); }

  // Makes the call fail when two of its arguments are these.
  void refuse_if(int call, int error, u32 first, u64 first_value, u32 second, u64 second_value) {
    if (rc_ == 0)
      rc_ = seccomp_rule_add_exact(context_, SCMP_ACT_ERRNO(static_cast<u32>(error)), call, 2,
                                   SCMP_CMP64(first, SCMP_CMP_MASKED_EQ, 0xffffffff, first_value & 0xffffffff),
                                   SCMP_CMP64(second, SCMP_CMP_MASKED_EQ, 0xffffffff, second_value & 0xffffffff));
  }

  // Returns 0 or -errno.
  int load() {
    if (rc_ == 0) rc_ = seccomp_attr_set(context_, SCMP_FLTATR_CTL_TSYNC, 1);
    // A binary search over the calls: the filter runs on every host call.
    if (rc_ == 0) rc_ = seccomp_attr_set(context_, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (rc_ == 0) rc_ = seccomp_load(context_);
    return rc_;
  }

 private:
  scmp_filter_ctx context_;
  int rc_;
};

int load_filter(const LockdownOptions& options) {
  Filter filter;
  for (int call : kAllowed) filter.allow(call);
  bool writable = false;
  for (const HostTree& tree : options.trees) writable = writable || tree.writable;
  if (writable)
    for (int call : kAllowedWritable) filter.allow(call);
  if (options.sockets)
    for (int call : kAllowedSockets) filter.allow(call);
  for (u64 command : kFcntlCommands) filter.allow_int(SCMP_SYS(fcntl), 1, command);
  for (u64 request : options.platform_ioctls) filter.allow_int(SCMP_SYS(ioctl), 1, request);
  for (u64 request : kStreamRequests) filter.allow_int(SCMP_SYS(ioctl), 1, request);
  if (options.terminal)
    for (u64 request : kTerminalRequests) filter.allow_int(SCMP_SYS(ioctl), 1, request);
  // Memory may never become executable.
  filter.allow_if(SCMP_SYS(mmap), 2, PROT_EXEC, 0);
  filter.allow_if(SCMP_SYS(mprotect), 2, PROT_EXEC, 0);
  // libc's fstat.
  filter.allow_if(SCMP_SYS(newfstatat), 3, AT_EMPTY_PATH, AT_EMPTY_PATH);
  filter.allow_int(SCMP_SYS(io_uring_register), 1, IORING_REGISTER_SYNC_CANCEL);
  // libc's allocator asks /proc/sys/vm/overcommit_memory once whether to unmap what it frees; no answer is an answer.
  filter.refuse_if(SCMP_SYS(openat), EACCES, 0, static_cast<u64>(AT_FDCWD), 2, O_RDONLY | O_CLOEXEC);
  // Kicks, and abort(): within this process.
  filter.allow_int(SCMP_SYS(tgkill), 0, static_cast<u64>(::getpid()));
  // The kvm platform reads the instruction that a guest stopped at, which may be unmapped meanwhile.
  filter.allow_int(SCMP_SYS(process_vm_readv), 0, static_cast<u64>(::getpid()));
  // Undoing the pinning of the main thread at the end.
  filter.allow_int(SCMP_SYS(sched_setaffinity), 0, 0);
  filter.allow_int(SCMP_SYS(membarrier), 0, MEMBARRIER_CMD_PRIVATE_EXPEDITED);
  return filter.load();
}

}  // namespace

Setup<void> install_call_filter(const LockdownOptions& options) {
  // Their run-time makes calls of its own.
  if (RF_ASAN || RF_TSAN) return {};
  struct sigaction action {};
  action.sa_sigaction = report_violation;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaction(SIGSYS, &action, nullptr);
  if (int rc = load_filter(options); rc != 0)
    return setup_error(
        fmt::format("cannot install the sentry's seccomp filter: {}; is seccomp in the host's kernel "
                    "(CONFIG_SECCOMP_FILTER)?",
                    errno_text(-rc)));
  return {};
}

}  // namespace rf::hostio
