// Signals: actions, masks, sending and waiting.
#include <asm/unistd_64.h>
#include <sys/signalfd.h>

#include <mutex>
#include <shared_mutex>

#include "fs/special_files.h"
#include "task/call_helpers.h"
#include "task/signal_frame.h"
#include "task/signal_send.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

// --- Actions and masks ----------------------------------------------------------------------------

// What Linux keeps of sa_flags (UAPI_SA_FLAGS), so that programs can find out what is known.
constexpr u64 kKnownFlags = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER |
                            u32{SA_RESETHAND} | 0x800 /* SA_EXPOSE_TAGBITS */ | 0x0400'0000 /* SA_RESTORER */;

SysResult sys_rt_sigaction(Task& t, const SyscallArgs& a) {
  const int sig = a.i(0);
  if (a.u(3) != sizeof(SignalSet) || sig < 1 || sig > kSignalMax) return err(EINVAL);
  ThreadGroup& group = *t.group;
  if (a.addr(1) == 0) {
    if (a.addr(2) == 0) return 0;
    return a.ptr<KernelSigaction>(2).write(*t.mm, group.handlers->get(sig));
  }
  KernelSigaction action = TRY(a.ptr<KernelSigaction>(1).read(*t.mm));
  if ((kUnblockable & signal_bit(sig)) != 0) return err(EINVAL);
  action.flags &= kKnownFlags;
  action.mask &= ~kUnblockable;
  KernelSigaction old;
  {
    SpinGuard guard(group.signal_lock);
    old = group.handlers->set(sig, action);
    // POSIX: what is ignored now does not stay pending, blocked or not.
    if (group.handlers->ignores(sig)) {
      group.pending.discard(signal_bit(sig));
      for (Task* task : group.tasks) task->pending.discard(signal_bit(sig));
    }
  }
  if (a.addr(2) != 0) TRY(a.ptr<KernelSigaction>(2).write(*t.mm, old));
  return 0;
}

SysResult sys_rt_sigprocmask(Task& t, const SyscallArgs& a) {
  if (a.u(3) != sizeof(SignalSet)) return err(EINVAL);
  const SignalSet old = t.mask;
  if (a.addr(1) != 0) {
    const SignalSet set = TRY(a.ptr<SignalSet>(1).read(*t.mm));
    switch (a.i(0)) {
      case SIG_BLOCK:
        t.set_mask(old | set);
        break;
      case SIG_UNBLOCK:
        t.set_mask(old & ~set);
        break;
      case SIG_SETMASK:
        t.set_mask(set);
        break;
      default:
        return err(EINVAL);
    }
  }
  if (a.addr(2) != 0) TRY(a.ptr<SignalSet>(2).write(*t.mm, old));
  return 0;
}

SysResult sys_rt_sigpending(Task& t, const SyscallArgs& a) {
  const u64 size = a.u(1);
  if (size > sizeof(SignalSet)) return err(EINVAL);
  SignalSet set;
  {
    SpinGuard guard(t.group->signal_lock);
    set = (t.pending.pending() | t.group->pending.pending()) & t.mask;
  }
  return t.mm->copy_out(a.addr(0), &set, size) == size ? SysResult(u64{0}) : err(EFAULT);
}

SysResult sys_sigaltstack(Task& t, const SyscallArgs& a) {
  struct KernelStack {
    u64 sp;
    int flags;
    int padding;
    u64 size;
  };
  const KernelStack old{.sp = t.altstack.sp,
                        .flags = altstack_state(t, t.regs.rsp) | (t.altstack.flags & kAutodisarm),
                        .padding = 0,
                        .size = t.altstack.size};
  if (a.addr(0) != 0) {
    const KernelStack wanted = TRY(a.ptr<KernelStack>(0).read(*t.mm));
    TRY(set_altstack(t, wanted.sp, wanted.flags, wanted.size));
  }
  if (a.addr(1) != 0) TRY(a.ptr<KernelStack>(1).write(*t.mm, old));
  return 0;
}

SysResult sys_rt_sigreturn(Task& t, const SyscallArgs&) {
  if (!pop_signal_frame(t)) t.force_signal(kernel_siginfo(SIGSEGV));
  // The call that the signal interrupted is settled; what restart_syscall(2) would go on with is void.
  if (t.restart.function) t.restart = {};
  return SysResult::go_to(kSyscallExit);
}

SysResult sys_restart_syscall(Task& t, const SyscallArgs&) {
  if (!t.restart.function) return err(EINTR);
  auto function = std::move(t.restart.function);
  t.restart = {};
  return function(t);
}

// --- Waiting --------------------------------------------------------------------------------------

SysResult sys_pause(Task& t, const SyscallArgs&) {
  while (!t.has_work()) (void)park(Interruptible::kYes);
  return err(kERESTARTNOHAND);
}

SysResult sys_rt_sigsuspend(Task& t, const SyscallArgs& a) {
  if (a.u(1) != sizeof(SignalSet)) return err(EINVAL);
  if (a.addr(0) == 0) return err(EFAULT);
  TRY(set_temporary_mask(t, a.addr(0), a.u(1)));
  while (!t.has_work()) (void)park(Interruptible::kYes);
  return err(kERESTARTNOHAND);
}

std::unique_ptr<PendingSignal> wait_for_signal(Task& t, SignalSet set, Nanos deadline) {
  ThreadGroup& group = *t.group;
  std::unique_lock lock(group.signal_lock);
  for (;;) {
    std::unique_ptr<PendingSignal> taken = take_signal(t, set);
    t.recompute_pending();
    if (taken || monotonic_now() >= deadline || t.has_work()) return taken;
    t.sigwait_mask = set;
    t.recompute_pending();
    lock.unlock();
    (void)park(Interruptible::kYes, deadline);
    lock.lock();
    t.sigwait_mask = 0;
    taken = take_signal(t, set);
    t.recompute_pending();
    if (taken) return taken;
  }
}

SysResult sys_rt_sigtimedwait(Task& t, const SyscallArgs& a) {
  if (a.u(3) != sizeof(SignalSet)) return err(EINVAL);
  const SignalSet set = TRY(a.ptr<SignalSet>(0).read(*t.mm)) & ~kUnblockable;
  const Nanos deadline = TRY(read_timeout(t, a.ptr<__kernel_timespec>(2)));
  const std::unique_ptr<PendingSignal> taken = wait_for_signal(t, set, deadline);
  if (!taken) return err(monotonic_now() >= deadline ? EAGAIN : EINTR);
  if (a.addr(1) != 0) TRY(a.ptr<siginfo_t>(1).write(*t.mm, taken->info));
  return static_cast<u64>(taken->info.si_signo);
}

// --- Sending --------------------------------------------------------------------------------------

// tree_lock is held.
Result<void> send_checked(Task& from, ThreadGroup& to, Task* thread, const siginfo_t& info) {
  TRY(check_kill_permission(from, to, info.si_signo));
  if (info.si_signo == 0) return {};
  return send_signal(to, thread, info);
}

// Signals every process of the list. As Linux: success if one got it, else the last error. tree_lock is held.
template <class Groups>
Result<void> send_to_each(Task& t, const Groups& groups, const siginfo_t& info) {
  Result<void> result = err(ESRCH);
  bool sent = false;
  for (ThreadGroup* group : groups) {
    if (group->live_threads == 0 && info.si_signo != 0) {
      sent = true;  // zombies take signals and do nothing
      continue;
    }
    result = send_checked(t, *group, nullptr, info);
    sent = sent || result;
  }
  return sent ? Result<void>() : result;
}

SysResult sys_kill(Task& t, const SyscallArgs& a) {
  const Pid pid = a.i(0);
  const int sig = a.i(1);
  if (sig < 0 || sig > kSignalMax) return err(EINVAL);
  if (pid == std::numeric_limits<Pid>::min()) return err(ESRCH);
  const siginfo_t info = user_siginfo(sig, SI_USER, t);
  std::shared_lock guard(t.kernel.tree_lock);
  if (pid > 0) {
    Task* target = t.kernel.find_task(pid);
    if (!target) return err(ESRCH);
    return send_checked(t, *target->group, nullptr, info);
  }
  if (pid == -1) {
    std::vector<ThreadGroup*> groups;
    t.kernel.for_each_group([&](ThreadGroup& g) {
      if (g.pid > 1 && &g != t.group.get()) groups.push_back(&g);
    });
    return send_to_each(t, groups, info);
  }
  const ProcessGroup* pg = pid == 0 ? t.group->process_group.get() : t.kernel.find_process_group(-pid);
  if (!pg) return err(ESRCH);
  return send_to_each(t, pg->members, info);
}

// tgkill(2) and kin: `tgid` -1 takes any.
Result<void> send_to_thread(Task& t, Pid tgid, Pid tid, const siginfo_t& info) {
  if (tid <= 0 || (tgid <= 0 && tgid != -1) || info.si_signo < 0 || info.si_signo > kSignalMax) return err(EINVAL);
  std::shared_lock guard(t.kernel.tree_lock);
  Task* target = t.kernel.find_task(tid);
  if (!target || (tgid != -1 && target->group->pid != tgid)) return err(ESRCH);
  if (target->exited) return {};
  return send_checked(t, *target->group, target, info);
}

SysResult sys_tkill(Task& t, const SyscallArgs& a) {
  return send_to_thread(t, -1, a.i(0), user_siginfo(a.i(1), SI_TKILL, t));
}
SysResult sys_tgkill(Task& t, const SyscallArgs& a) {
  if (a.i(0) <= 0) return err(EINVAL);
  return send_to_thread(t, a.i(0), a.i(1), user_siginfo(a.i(2), SI_TKILL, t));
}

// A siginfo that the guest made up: only to itself may it claim to be the kernel, kill(2) or tkill(2).
Result<siginfo_t> read_siginfo(Task& t, mm::UserPtr<siginfo_t> p, int sig, Pid to) {
  siginfo_t info = TRY(p.read(*t.mm));
  info.si_signo = sig;
  if ((info.si_code >= 0 || info.si_code == SI_TKILL) && to != t.pid()) return err(EPERM);
  if (sig < 0 || sig > kSignalMax) return err(EINVAL);
  return info;
}

SysResult sys_rt_sigqueueinfo(Task& t, const SyscallArgs& a) {
  const siginfo_t info = TRY(read_siginfo(t, a.ptr<siginfo_t>(2), a.i(1), a.i(0)));
  std::shared_lock guard(t.kernel.tree_lock);
  Task* target = a.i(0) > 0 ? t.kernel.find_task(a.i(0)) : nullptr;
  if (!target) return err(ESRCH);
  return send_checked(t, *target->group, nullptr, info);
}

SysResult sys_rt_tgsigqueueinfo(Task& t, const SyscallArgs& a) {
  if (a.i(0) <= 0 || a.i(1) <= 0) return err(EINVAL);
  const siginfo_t info = TRY(read_siginfo(t, a.ptr<siginfo_t>(3), a.i(2), a.i(0)));
  return send_to_thread(t, a.i(0), a.i(1), info);
}

// --- signalfd -------------------------------------------------------------------------------------

class GroupSignals final : public fs::SignalSource {
 public:
  explicit GroupSignals(Ref<ThreadGroup> group) : group_(std::move(group)) {}
  bool take(const fs::Context& ctx, u64 mask, siginfo_t& info) override {
    Task& t = Task::of(ctx);
    SpinGuard guard(t.group->signal_lock);
    const std::unique_ptr<PendingSignal> taken = take_signal(t, mask);
    if (!taken) return false;
    info = taken->info;
    t.recompute_pending();
    return true;
  }
  bool pending(void* task, u64 mask) override {
    const Task& t = *static_cast<Task*>(task);
    SpinGuard guard(t.group->signal_lock);
    return ((t.pending.pending() | t.group->pending.pending()) & mask) != 0;
  }
  WaitQueue& queue() override { return group_->signal_events; }

 private:
  const Ref<ThreadGroup> group_;
};

SysResult signalfd(Task& t, int fd, mm::UserAddr mask_addr, u64 size, int flags) {
  if (size != sizeof(SignalSet) || (flags & ~(SFD_CLOEXEC | SFD_NONBLOCK)) != 0) return err(EINVAL);
  const SignalSet mask = TRY(mm::UserPtr<SignalSet>(mask_addr).read(*t.mm)) & ~kUnblockable;
  if (fd != -1) {
    const Ref<fs::File> file = TRY(t.file(fd));
    TRY(fs::signalfd_set_mask(*file, mask));
    return static_cast<u64>(fd);
  }
  Ref<fs::File> file = TRY(fs::make_signalfd(make_ref<GroupSignals>(t.group), mask, flags & SFD_NONBLOCK));
  return t.files->install(std::move(file), (flags & SFD_CLOEXEC) != 0, 0, t.group->open_files_limit);
}

SysResult sys_signalfd(Task& t, const SyscallArgs& a) { return signalfd(t, a.fd(0), a.addr(1), a.u(2), 0); }
SysResult sys_signalfd4(Task& t, const SyscallArgs& a) { return signalfd(t, a.fd(0), a.addr(1), a.u(2), a.i(3)); }

constexpr SyscallEntry kEntries[] = {
    {__NR_rt_sigaction,
     "rt_sigaction",
     sys_rt_sigaction,
     Support::kFull,
     "",
     {Arg::kSignal, Arg::kAddr, Arg::kAddr, Arg::kSize}},
    {__NR_rt_sigprocmask,
     "rt_sigprocmask",
     sys_rt_sigprocmask,
     Support::kFull,
     "",
     {Arg::kInt, Arg::kSigset, Arg::kAddr, Arg::kSize}},
    {__NR_rt_sigpending, "rt_sigpending", sys_rt_sigpending, Support::kFull, "", {Arg::kAddr, Arg::kSize}},
    {__NR_rt_sigreturn, "rt_sigreturn", sys_rt_sigreturn, Support::kFull, "", {}},
    {__NR_restart_syscall, "restart_syscall", sys_restart_syscall, Support::kFull, "", {}},
    {__NR_sigaltstack, "sigaltstack", sys_sigaltstack, Support::kFull, "", {Arg::kAddr, Arg::kAddr}},
    {__NR_pause, "pause", sys_pause, Support::kFull, "", {}},
    {__NR_rt_sigsuspend, "rt_sigsuspend", sys_rt_sigsuspend, Support::kFull, "", {Arg::kSigset, Arg::kSize}},
    {__NR_rt_sigtimedwait,
     "rt_sigtimedwait",
     sys_rt_sigtimedwait,
     Support::kFull,
     "",
     {Arg::kSigset, Arg::kAddr, Arg::kTimespec, Arg::kSize}},
    {__NR_kill, "kill", sys_kill, Support::kFull, "", {Arg::kPid, Arg::kSignal}},
    {__NR_tkill, "tkill", sys_tkill, Support::kFull, "", {Arg::kPid, Arg::kSignal}},
    {__NR_tgkill, "tgkill", sys_tgkill, Support::kFull, "", {Arg::kPid, Arg::kPid, Arg::kSignal}},
    {__NR_rt_sigqueueinfo,
     "rt_sigqueueinfo",
     sys_rt_sigqueueinfo,
     Support::kFull,
     "",
     {Arg::kPid, Arg::kSignal, Arg::kAddr}},
    {__NR_rt_tgsigqueueinfo,
     "rt_tgsigqueueinfo",
     sys_rt_tgsigqueueinfo,
     Support::kFull,
     "",
     {Arg::kPid, Arg::kPid, Arg::kSignal, Arg::kAddr}},
    {__NR_signalfd, "signalfd", sys_signalfd, Support::kFull, "", {Arg::kFd, Arg::kSigset, Arg::kSize}},
    {__NR_signalfd4, "signalfd4", sys_signalfd4, Support::kFull, "", {Arg::kFd, Arg::kSigset, Arg::kSize, Arg::kHex}},
};

}  // namespace

Family signal_family() { return kEntries; }

}  // namespace rf::task
