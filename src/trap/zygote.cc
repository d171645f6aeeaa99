#include "trap/zygote.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/rseq.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "core/check.h"
#include "hostio/calls.h"
#include "trap/stub_code.h"

extern "C" const char __data_start[], _end[];  // by the linker

namespace rf::trap {
namespace {

using hostio::detail::raw_call;

// The kernel's struct sigaction.
struct KernelSigaction {
  u64 handler, flags, restorer, mask;
};

constexpr int kSignals[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, kKickSignal};
constexpr u64 kSaRestorer = 0x04000000;

// What the child of the sentry needs from it: by the time it is used the sentry's memory may not be looked at any more
// by anything that takes locks, so no libc from here on.
struct Plan {
  int control;
  u64 command_offset, area;
  u64 handler, entry;
  u64 rseq;  // the calling thread's, or 0
  sock_fprog filter;
};

u64 address(const void* p) { return reinterpret_cast<u64>(p); }

s64 call(long number, u64 a = 0, u64 b = 0, u64 c = 0, u64 d = 0, u64 e = 0, u64 f = 0) {
  return raw_call(number, a, b, c, d, e, f);
}

void map(const Plan& plan, u64 va, u64 len, u64 offset, u64 prot) {
  const s64 r = call(SYS_mmap, va, len, prot, MAP_SHARED | MAP_FIXED_NOREPLACE, static_cast<u64>(plan.control), offset);
  if (r != static_cast<s64>(va)) call(SYS_exit_group, 2);
}

void set_signals(const Plan& plan) {
  const u64 all = ~u64{0};
  call(SYS_rt_sigprocmask, SIG_SETMASK, address(&all), 0, sizeof all);
  for (int sig : kSignals) {
    // No mask and SA_NODEFER: the handler does not return by sigreturn, so nothing would restore a mask.
    const KernelSigaction action{plan.handler, SA_SIGINFO | SA_ONSTACK | SA_NODEFER | kSaRestorer, plan.handler, 0};
    call(SYS_rt_sigaction, static_cast<u64>(sig), address(&action), 0, sizeof action.mask);
  }
}

void drop_privilege() {
  call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2]{};
  call(SYS_capset, address(&header), address(none));
  const rlimit64 no_core{};
  call(SYS_prlimit64, 0, RLIMIT_CORE, address(&no_core), 0);
}

[[noreturn]] void become_zygote(const Plan& plan) {
  // A session of its own: the terminal's signals are not for it.
  call(SYS_setsid);
  call(SYS_prctl, PR_SET_NAME, address("ringfence-stub"));
  if (plan.rseq != 0) call(SYS_rseq, plan.rseq, sizeof(struct rseq), RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
  set_signals(plan);
  map(plan, kText, kTextSize, Control::offset_of(kText), PROT_READ | PROT_EXEC);
  map(plan, kConst, kPageSize, Control::offset_of(kConst), PROT_READ);
  map(plan, kWake, u64{kMaxThreads} * sizeof(u32), Control::offset_of(kWake), PROT_READ);
  map(plan, kCommand, kPageSize, plan.command_offset, PROT_READ);
  map(plan, plan.area, kAreaSize, Control::offset_of(plan.area), PROT_READ | PROT_WRITE);
  drop_privilege();
  if (call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, address(&plan.filter)) != 0) call(SYS_exit_group, 3);
  asm volatile("jmp *%0" : : "r"(plan.entry));
  __builtin_unreachable();
}

// Variables and malloc's memory, which the zygote has no use for. What it does not get need not be copied when the
// sentry next writes to it.
void keep_from_fork(bool keep) {
#ifdef __SANITIZE_ADDRESS__
  return;  // whose code looks at variables of its own
#endif
  const auto pages = [&](u64 start, u64 end) {
    start = page_up(start), end = page_down(end);
    if (start < end) (void)::madvise(reinterpret_cast<void*>(start), end - start, keep ? MADV_DONTFORK : MADV_DOFORK);
  };
  pages(address(__data_start), address(_end));
  // The main thread's own block comes first in the heap of a static executable, and is used by the kernel (rseq).
  constexpr u64 kThreadBlock = 4096;
  pages(address(__builtin_thread_pointer()) + kThreadBlock, address(::sbrk(0)));
}

}  // namespace

Setup<pid_t> spawn_zygote(Control& control, u32 stub, u32 thread, const FilterProgram& filter) {
  std::array<sock_filter, 128> on_stack;
  RF_CHECK(filter.size() <= on_stack.size(), "the manager's filter is longer than expected");
  std::ranges::copy(filter, on_stack.begin());
  Plan plan{control.fd(),
            Control::command_offset(stub),
            Control::area_address(thread),
            in_stub(reinterpret_cast<const void*>(&rf_trap_signal)),
            in_stub(rf_trap_zygote),
            __rseq_size == 0 ? 0 : address(__builtin_thread_pointer()) + static_cast<u64>(__rseq_offset),
            {static_cast<unsigned short>(filter.size()), on_stack.data()}};
  keep_from_fork(true);
  const s64 pid = call(SYS_clone, CLONE_FILES | SIGCHLD);
  if (pid == 0) become_zygote(plan);
  keep_from_fork(false);
  if (pid < 0)
    return setup_error(
        fmt::format("cannot make a process for guest code: {}; is there a limit on processes "
                    "(ulimit -u)?",
                    errno_text(static_cast<int>(-pid))));
  return static_cast<pid_t>(pid);
}

}  // namespace rf::trap
