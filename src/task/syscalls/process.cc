// The life of processes and threads: clone(2), execve(2), exit(2), wait4(2) and who is who.
#include <asm/unistd_64.h>
#include <linux/sched.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "task/call_helpers.h"
#include "task/clone.h"
#include "task/exec.h"
#include "task/pidfd.h"
#include "task/signal_send.h"
#include "task/syscalls/families.h"
#include "task/wait.h"

namespace rf::task {
namespace {

// --- clone ----------------------------------------------------------------------------------------

SysResult sys_clone(Task& t, const SyscallArgs& a) {
  const u64 flags = a.u32_(0) & ~u32{CSIGNAL};
  CloneRequest r{.flags = flags, .exit_signal = a.i(0) & CSIGNAL, .stack = a.u(1), .tls = a.u(4)};
  r.parent_tid = a.addr(2);
  r.child_tid = a.addr(3);
  if ((flags & CLONE_PIDFD) != 0) {
    if ((flags & CLONE_PARENT_SETTID) != 0) return err(EINVAL);
    r.pidfd = a.addr(2);
  }
  if (r.exit_signal > kSignalMax) return err(EINVAL);
  return clone_task(t, r);
}

SysResult sys_clone3(Task& t, const SyscallArgs& a) {
  const u64 size = a.u(1);
  if (size < CLONE_ARGS_SIZE_VER0) return err(EINVAL);
  if (size > kPageSize) return err(E2BIG);
  std::vector<std::byte> bytes(std::max<u64>(size, sizeof(clone_args)));
  if (t.mm->copy_in(bytes.data(), a.addr(0), size) != size) return err(EFAULT);
  if (std::any_of(bytes.begin() + sizeof(clone_args), bytes.end(), [](std::byte b) { return b != std::byte{0}; }))
    return err(E2BIG);
  clone_args c;
  std::memcpy(&c, bytes.data(), sizeof c);

  constexpr u64 kKnown = 0xffff'ffff | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP;
  if ((c.flags & ~kKnown) != 0 || (c.flags & (CLONE_DETACHED | (CSIGNAL & ~CLONE_NEWTIME))) != 0) return err(EINVAL);
  if ((c.flags & (CLONE_THREAD | CLONE_PARENT)) != 0 && c.exit_signal != 0) return err(EINVAL);
  if (c.exit_signal > kSignalMax) return err(EINVAL);
  if ((c.stack == 0) != (c.stack_size == 0)) return err(EINVAL);
  if (c.stack != 0 &&
      (c.stack >= platform::kGuestAddressLimit || c.stack_size > platform::kGuestAddressLimit - c.stack))
    return err(EINVAL);
  if (c.set_tid_size > 32 || (c.set_tid != 0) != (c.set_tid_size != 0)) return err(EINVAL);
  if (c.set_tid_size != 0) return err(EPERM);
  return clone_task(t, {.flags = c.flags,
                        .exit_signal = static_cast<int>(c.exit_signal),
                        .stack = c.stack == 0 ? 0 : c.stack + c.stack_size,
                        .tls = c.tls,
                        .parent_tid = c.parent_tid,
                        .child_tid = c.child_tid,
                        .pidfd = c.pidfd});
}

SysResult sys_fork(Task& t, const SyscallArgs&) { return clone_task(t, {.exit_signal = SIGCHLD}); }
SysResult sys_vfork(Task& t, const SyscallArgs&) {
  return clone_task(t, {.flags = CLONE_VFORK | CLONE_VM, .exit_signal = SIGCHLD});
}

// --- execve ---------------------------------------------------------------------------------------

// What argument and environment strings may take, with their pointers: a quarter of the stack limit, at most 3/4 of
// its default, at least ARG_MAX.
u64 string_limit(const ThreadGroup& group) {
  constexpr u64 kMost = u64{6} << 20, kLeast = u64{128} << 10;
  return std::max(std::min<u64>(group.limit(RLIMIT_STACK).rlim_cur / 4, kMost), kLeast);
}

Result<std::vector<std::string>> read_strings(Task& t, mm::UserPtr<u64> array, u64& room) {
  constexpr u64 kMaxString = 32 * kPageSize;  // MAX_ARG_STRLEN
  std::vector<std::string> strings;
  if (!array) return strings;
  for (size_t i = 0;; i++) {
    const u64 p = TRY((array + i).read(*t.mm));
    if (p == 0) return strings;
    Result<std::string> s = mm::read_string(*t.mm, p, kMaxString);
    if (!s) return err(s.error() == Errno{ENAMETOOLONG} ? Errno{E2BIG} : s.error());
    const u64 cost = s->size() + 1 + sizeof p;
    if (cost > room) return err(E2BIG);
    room -= cost;
    strings.push_back(*std::move(s));
    if (t.killed) return err(EINTR);
  }
}

SysResult exec(Task& t, ExecRequest r, mm::UserAddr argv, mm::UserAddr envp) {
  u64 room = string_limit(*t.group);
  r.argv = TRY(read_strings(t, mm::UserPtr<u64>(argv), room));
  r.envp = TRY(read_strings(t, mm::UserPtr<u64>(envp), room));
  if (r.argv.empty()) r.argv.emplace_back();
  t.exec = TRY(load_program(t, std::move(r)));
  return SysResult::go_to(kExecStop);
}

SysResult sys_execve(Task& t, const SyscallArgs& a) {
  ExecRequest r;
  r.path = TRY(mm::read_path(*t.mm, a.addr(0)));
  if (r.path.empty()) return err(ENOENT);
  r.filename = r.path;
  return exec(t, std::move(r), a.addr(1), a.addr(2));
}

SysResult sys_execveat(Task& t, const SyscallArgs& a) {
  const int flags = a.i(4);
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return err(EINVAL);
  ExecRequest r;
  r.path = TRY(mm::read_path(*t.mm, a.addr(1)));
  r.follow = (flags & AT_SYMLINK_NOFOLLOW) == 0;
  r.empty_path = (flags & AT_EMPTY_PATH) != 0;
  if (r.path.empty() && !r.empty_path) return err(ENOENT);
  const int fd = a.fd(0);
  const Dirfd dirfd = TRY(Dirfd::resolve(t, fd, r.path));
  r.at = dirfd.at();
  r.filename = r.path;
  if (fd != AT_FDCWD && !r.path.starts_with('/')) {
    r.filename = "/dev/fd/" + std::to_string(fd) + (r.path.empty() ? "" : "/" + r.path);
    r.path_goes_away = t.files->close_on_exec(fd);
  }
  return exec(t, std::move(r), a.addr(2), a.addr(3));
}

// --- exit -----------------------------------------------------------------------------------------

SysResult sys_exit(Task& t, const SyscallArgs& a) {
  t.exit_code = (a.i(0) & 0xff) << 8;
  return SysResult::go_to(kExit);
}

SysResult sys_exit_group(Task& t, const SyscallArgs& a) {
  SpinGuard guard(t.group->signal_lock);
  // While another thread is in execve this one only makes room for it.
  if (!t.group->exec_task) begin_group_exit(*t.group, (a.i(0) & 0xff) << 8, &t);
  t.exit_code = t.group->exit_status;
  return SysResult::go_to(kExit);
}

// --- wait -----------------------------------------------------------------------------------------

Pid own_process_group(Task& t) {
  std::shared_lock guard(t.kernel.tree_lock);
  return t.group->process_group->id;
}

SysResult sys_wait4(Task& t, const SyscallArgs& a) {
  const Pid pid = a.i(0);
  const int options = a.i(2);
  if ((options & ~static_cast<int>(WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL)) != 0)
    return err(EINVAL);
  if (pid == std::numeric_limits<Pid>::min()) return err(ESRCH);
  WaitRequest r{.options = options | WEXITED};
  if (pid > 0) {
    r.which = WaitRequest::Which::kPid;
    r.id = pid;
  } else if (pid != -1) {
    r.which = WaitRequest::Which::kProcessGroup;
    r.id = pid == 0 ? own_process_group(t) : -pid;
  }
  const std::optional<WaitResult> result = TRY(wait_for_child(t, r));
  if (!result) return 0;
  if (a.addr(1) != 0) TRY(a.ptr<int>(1).write(*t.mm, result->status));
  if (a.addr(3) != 0) TRY(a.ptr<rusage>(3).write(*t.mm, result->usage));
  return static_cast<u64>(result->pid);
}

Result<WaitRequest> waitid_request(Task& t, const SyscallArgs& a) {
  const int options = a.i(3);
  constexpr int kKnown =
      WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | __WNOTHREAD | __WCLONE | static_cast<int>(__WALL);
  if ((options & ~kKnown) != 0 || (options & (WEXITED | WSTOPPED | WCONTINUED)) == 0) return err(EINVAL);
  WaitRequest r{.options = options};
  const Pid id = a.i(1);
  switch (a.i(0)) {
    case P_ALL:
      return r;
    case P_PID:
      if (id <= 0) return err(EINVAL);
      r.which = WaitRequest::Which::kPid;
      r.id = id;
      return r;
    case P_PGID:
      if (id < 0) return err(EINVAL);
      r.which = WaitRequest::Which::kProcessGroup;
      r.id = id == 0 ? own_process_group(t) : id;
      return r;
    case P_PIDFD: {
      if (id < 0) return err(EINVAL);
      Ref<fs::File> file = TRY(t.file(id));
      const Ref<ThreadGroup> group = pidfd_group(*file);
      if (!group) return err(EBADF);
      if (file->nonblocking()) r.options |= WNOHANG;
      r.which = WaitRequest::Which::kPid;
      r.id = group->pid;
      return r;
    }
    default:
      return err(EINVAL);
  }
}

// waitid(2)'s si_status: the exit code or the signal.
int waitid_status(const WaitResult& r) {
  switch (r.code) {
    case CLD_EXITED:
      return WEXITSTATUS(r.status);
    case CLD_CONTINUED:
      return SIGCONT;
    case CLD_STOPPED:
      return WSTOPSIG(r.status);
    default:
      return WTERMSIG(r.status);
  }
}

SysResult sys_waitid(Task& t, const SyscallArgs& a) {
  const WaitRequest request = TRY(waitid_request(t, a));
  const std::optional<WaitResult> r = TRY(wait_for_child(t, request));
  if (!r && (request.options & WNOHANG) != 0 && (a.i(3) & WNOHANG) == 0) return err(EAGAIN);  // a non-blocking pidfd
  if (r && a.addr(4) != 0) TRY(a.ptr<rusage>(4).write(*t.mm, r->usage));
  if (a.addr(2) != 0) {
    // Only these fields are written.
    struct Head {
      int signo, error, code;
    } head{};
    struct Body {
      Pid pid;
      u32 uid;
      int status;
    } body{};
    if (r) {
      head = {SIGCHLD, 0, r->code};
      body = {r->pid, r->uid, waitid_status(*r)};
    }
    TRY(mm::UserPtr<Head>(a.addr(2)).write(*t.mm, head));
    TRY(mm::UserPtr<Body>(a.addr(2) + offsetof(siginfo_t, si_pid)).write(*t.mm, body));
  }
  return 0;
}

// --- Ids ------------------------------------------------------------------------------------------

SysResult sys_getpid(Task& t, const SyscallArgs&) { return static_cast<u64>(t.group->pid); }
SysResult sys_gettid(Task& t, const SyscallArgs&) { return static_cast<u64>(t.tid); }

SysResult sys_getppid(Task& t, const SyscallArgs&) {
  return static_cast<u64>(t.group->parent_pid.load(std::memory_order_relaxed));
}

SysResult sys_set_tid_address(Task& t, const SyscallArgs& a) {
  t.clear_child_tid = a.addr(0);
  return static_cast<u64>(t.tid);
}

// The process that `pid` (0: the caller) names; null if none. tree_lock is held.
ThreadGroup* named_group(Task& t, Pid pid) {
  if (pid == 0) return t.group.get();
  Task* task = t.kernel.find_task(pid);
  return task ? task->group.get() : nullptr;
}

SysResult sys_setpgid(Task& t, const SyscallArgs& a) {
  const Pid pid = a.i(0) == 0 ? t.pid() : a.i(0);
  const Pid pgid = a.i(1) == 0 ? pid : a.i(1);
  if (pgid < 0) return err(EINVAL);
  Ref<ProcessGroup> old;
  std::lock_guard guard(t.kernel.tree_lock);
  ThreadGroup* group = t.kernel.find_group(pid);
  if (!group) return err(t.kernel.find_task(pid) ? EINVAL : ESRCH);
  if (group != t.group.get() && group->parent != t.group.get()) return err(ESRCH);
  const Ref<Session> session = t.group->process_group->session;
  if (group != t.group.get()) {
    if (group->process_group->session != session) return err(EPERM);
    if (group->execed) return err(EACCES);
  }
  if (group->process_group->session->id == group->pid) return err(EPERM);  // a session leader
  if (group->process_group->id == pgid) return 0;
  Ref<ProcessGroup> target(t.kernel.find_process_group(pgid));
  if (target ? target->session != session : pgid != pid) return err(EPERM);
  if (!target) target = make_ref<ProcessGroup>(pgid, session);
  old = group->process_group;
  t.kernel.set_process_group(*group, std::move(target));
  return 0;
}

SysResult sys_getpgid(Task& t, const SyscallArgs& a) {
  std::shared_lock guard(t.kernel.tree_lock);
  ThreadGroup* group = named_group(t, a.i(0));
  if (!group || !group->process_group) return err(ESRCH);
  return static_cast<u64>(group->process_group->id);
}

SysResult sys_getpgrp(Task& t, const SyscallArgs&) { return static_cast<u64>(own_process_group(t)); }

SysResult sys_setsid(Task& t, const SyscallArgs&) {
  const Pid pid = t.pid();
  Ref<ProcessGroup> old;
  std::lock_guard guard(t.kernel.tree_lock);
  if (t.kernel.find_process_group(pid)) return err(EPERM);
  old = t.group->process_group;
  t.kernel.set_process_group(*t.group, make_ref<ProcessGroup>(pid, make_ref<Session>(pid)));
  return static_cast<u64>(pid);
}

SysResult sys_getsid(Task& t, const SyscallArgs& a) {
  std::shared_lock guard(t.kernel.tree_lock);
  ThreadGroup* group = named_group(t, a.i(0));
  if (!group || !group->process_group) return err(ESRCH);
  return static_cast<u64>(group->process_group->session->id);
}

// --- pidfds ---------------------------------------------------------------------------------------

SysResult sys_pidfd_open(Task& t, const SyscallArgs& a) {
  const u32 flags = a.u32_(1);
  if ((flags & ~u32{O_NONBLOCK}) != 0 || a.i(0) <= 0) return err(EINVAL);
  Ref<ThreadGroup> group;
  {
    std::shared_lock guard(t.kernel.tree_lock);
    group = Ref<ThreadGroup>(t.kernel.find_group(a.i(0)));
    if (!group) return err(t.kernel.find_task(a.i(0)) ? EINVAL : ESRCH);
  }
  return t.files->install(make_pidfd(std::move(group), static_cast<int>(flags)), true, 0, t.group->open_files_limit);
}

SysResult sys_pidfd_send_signal(Task& t, const SyscallArgs& a) {
  const int sig = a.i(1);
  if (a.u32_(3) != 0 || sig < 0 || sig > kSignalMax) return err(EINVAL);
  const Ref<fs::File> file = TRY(t.file(a.fd(0)));
  const Ref<ThreadGroup> group = pidfd_group(*file);
  if (!group) return err(EBADF);
  siginfo_t info = user_siginfo(sig, SI_USER, t);
  if (a.addr(2) != 0) {
    info = TRY(a.ptr<siginfo_t>(2).read(*t.mm));
    if (info.si_signo != sig) return err(EINVAL);
    // Only to itself may a process claim that a signal comes from the kernel or from kill(2).
    if ((info.si_code >= 0 || info.si_code == SI_TKILL) && group != t.group) return err(EPERM);
  }
  std::shared_lock guard(t.kernel.tree_lock);
  if (group->reaped || group->live_threads == 0) return err(ESRCH);
  TRY(check_kill_permission(t, *group, sig));
  return sig == 0 ? Result<void>() : send_signal(*group, nullptr, info);
}

SysResult sys_pidfd_getfd(Task& t, const SyscallArgs& a) {
  if (a.u32_(2) != 0) return err(EINVAL);
  const Ref<fs::File> file = TRY(t.file(a.fd(0)));
  const Ref<ThreadGroup> group = pidfd_group(*file);
  if (!group) return err(EBADF);
  Ref<fs::FdTable> files;
  {
    SpinGuard guard(group->signal_lock);
    Task* leader = group->leader;
    if (!leader || !leader->files) return err(ESRCH);
    // ptrace(2)'s rule for reading another process.
    const fs::Credentials& c = *leader->creds;
    const bool same = t.creds->uid == c.uid && c.uid == c.euid && c.uid == c.suid && group->dumpable.load() == 1;
    if (group != t.group && !same && !t.creds->capable(CAP_SYS_PTRACE)) return err(EPERM);
    files = leader->files;
  }
  Ref<fs::File> target = TRY(files->get(a.fd(1)));
  return t.files->install(std::move(target), true, 0, t.group->open_files_limit);
}

constexpr SyscallEntry kEntries[] = {
    {__NR_clone,
     "clone",
     sys_clone,
     Support::kPartial,
     "no namespaces",
     {Arg::kCloneFlags, Arg::kAddr, Arg::kAddr, Arg::kAddr, Arg::kAddr}},
    {__NR_clone3, "clone3", sys_clone3, Support::kPartial, "no namespaces, set_tid, cgroup", {Arg::kAddr, Arg::kSize}},
    {__NR_fork, "fork", sys_fork, Support::kFull, "", {}},
    {__NR_vfork, "vfork", sys_vfork, Support::kFull, "", {}},
    {__NR_execve,
     "execve",
     sys_execve,
     Support::kPartial,
     "no file capabilities, no binfmt_misc",
     {Arg::kPath, Arg::kStringArray, Arg::kStringArray}},
    {__NR_execveat,
     "execveat",
     sys_execveat,
     Support::kPartial,
     "no file capabilities, no binfmt_misc",
     {Arg::kDirFd, Arg::kPath, Arg::kStringArray, Arg::kStringArray, Arg::kAtFlags}},
    {__NR_exit, "exit", sys_exit, Support::kFull, "", {Arg::kInt}},
    {__NR_exit_group, "exit_group", sys_exit_group, Support::kFull, "", {Arg::kInt}},
    {__NR_wait4,
     "wait4",
     sys_wait4,
     Support::kPartial,
     "__WNOTHREAD waits for all children",
     {Arg::kPid, Arg::kWaitStatus, Arg::kWaitOptions, Arg::kAddr}},
    {__NR_waitid,
     "waitid",
     sys_waitid,
     Support::kPartial,
     "__WNOTHREAD waits for all children",
     {Arg::kInt, Arg::kPid, Arg::kAddr, Arg::kWaitOptions, Arg::kAddr}},
    {__NR_getpid, "getpid", sys_getpid, Support::kFull, "", {}},
    {__NR_gettid, "gettid", sys_gettid, Support::kFull, "", {}},
    {__NR_getppid, "getppid", sys_getppid, Support::kFull, "", {}},
    {__NR_set_tid_address, "set_tid_address", sys_set_tid_address, Support::kFull, "", {Arg::kAddr}},
    {__NR_setpgid, "setpgid", sys_setpgid, Support::kFull, "", {Arg::kPid, Arg::kPid}},
    {__NR_getpgid, "getpgid", sys_getpgid, Support::kFull, "", {Arg::kPid}},
    {__NR_getpgrp, "getpgrp", sys_getpgrp, Support::kFull, "", {}},
    {__NR_setsid, "setsid", sys_setsid, Support::kFull, "", {}},
    {__NR_getsid, "getsid", sys_getsid, Support::kFull, "", {Arg::kPid}},
    {__NR_pidfd_open, "pidfd_open", sys_pidfd_open, Support::kFull, "", {Arg::kPid, Arg::kHex}},
    {__NR_pidfd_send_signal,
     "pidfd_send_signal",
     sys_pidfd_send_signal,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kSignal, Arg::kAddr, Arg::kHex}},
    {__NR_pidfd_getfd, "pidfd_getfd", sys_pidfd_getfd, Support::kFull, "", {Arg::kFd, Arg::kFd, Arg::kHex}},
    {__NR_ptrace,
     "ptrace",
     nullptr,
     Support::kNone,
     "tracing comes later",
     {Arg::kInt, Arg::kPid, Arg::kAddr, Arg::kAddr}},
    {__NR_kcmp, "kcmp", nullptr, Support::kNone, "", {Arg::kPid, Arg::kPid, Arg::kInt, Arg::kUint, Arg::kUint}},
};

}  // namespace

Family process_family() { return kEntries; }

}  // namespace rf::task
