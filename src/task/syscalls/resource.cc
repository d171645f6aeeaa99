// Limits, accounting and scheduling attributes.
#include <asm/unistd_64.h>
#include <linux/membarrier.h>
#include <linux/sched.h>
#include <sys/resource.h>
#include <sys/times.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <shared_mutex>

#include "hostio/calls.h"
#include "task/call_helpers.h"
#include "task/exec.h"
#include "task/posix_timers.h"
#include "task/syscalls/families.h"
#include "task/wait.h"

namespace rf::task {
namespace {

// --- Limits ---------------------------------------------------------------------------------------

constexpr u64 kMaxOpenFiles = 1 << 20;  // fs.nr_open

// The process that prlimit(2) is about; EPERM unless the ids are the caller's. ESRCH.
Result<Ref<ThreadGroup>> limited_process(Task& t, Pid pid) {
  if (pid == 0 || pid == t.pid()) return t.group;
  std::shared_lock guard(t.kernel.tree_lock);
  Task* task = t.kernel.find_task(pid);
  if (!task) return err(ESRCH);
  Ref<ThreadGroup> group = task->group;
  if (t.creds->capable(CAP_SYS_RESOURCE)) return group;
  SpinGuard signal_guard(group->signal_lock);
  const fs::Credentials &c = *t.creds, &o = *task->creds;
  const bool same =
      c.uid == o.euid && c.uid == o.suid && c.uid == o.uid && c.gid == o.egid && c.gid == o.sgid && c.gid == o.gid;
  if (!same) return err(EPERM);
  return group;
}

Result<void> change_limit(Task& t, ThreadGroup& group, int which, const rlimit& l) {
  if (l.rlim_cur > l.rlim_max) return err(EINVAL);
  if (which == RLIMIT_NOFILE && l.rlim_max > kMaxOpenFiles) return err(EPERM);
  SpinGuard guard(group.signal_lock);
  if (l.rlim_max > group.limits[which].rlim_max && !t.creds->capable(CAP_SYS_RESOURCE)) return err(EPERM);
  group.set_limit(which, l);
  return {};
}

void apply_limit(ThreadGroup& group, int which) {
  if (which == RLIMIT_CPU) group.timers->update_cpu_limit();
  if (which != RLIMIT_STACK && which != RLIMIT_DATA && which != RLIMIT_AS && which != RLIMIT_MEMLOCK) return;
  Ref<mm::MemoryManager> mm;
  {
    SpinGuard guard(group.signal_lock);
    for (Task* task : group.tasks)
      if (task->mm) mm = task->mm;
  }
  if (mm) mm->set_limits(memory_limits(group));
}

Result<void> prlimit(Task& t, Pid pid, u32 which, mm::UserPtr<const rlimit> in, mm::UserPtr<rlimit> out) {
  if (which >= RLIM_NLIMITS) return err(EINVAL);
  rlimit wanted{};
  if (in) wanted = TRY(in.read(*t.mm));
  const Ref<ThreadGroup> group = TRY(limited_process(t, pid));
  const rlimit old = group->limit(static_cast<int>(which));
  if (in) {
    TRY(change_limit(t, *group, static_cast<int>(which), wanted));
    apply_limit(*group, static_cast<int>(which));
  }
  if (out) TRY(out.write(*t.mm, old));
  return {};
}

SysResult sys_prlimit64(Task& t, const SyscallArgs& a) {
  return prlimit(t, a.i(0), a.u32_(1), a.ptr<const rlimit>(2), a.ptr<rlimit>(3));
}
SysResult sys_getrlimit(Task& t, const SyscallArgs& a) { return prlimit(t, 0, a.u32_(0), {}, a.ptr<rlimit>(1)); }
SysResult sys_setrlimit(Task& t, const SyscallArgs& a) {
  if (a.addr(1) == 0) return err(EFAULT);
  return prlimit(t, 0, a.u32_(0), a.ptr<const rlimit>(1), {});
}

// --- Accounting -----------------------------------------------------------------------------------

rusage thread_usage(const Task& t) {
  rusage u{};
  u.ru_minflt = static_cast<long>(t.minor_faults.load());
  u.ru_majflt = static_cast<long>(t.major_faults.load());
  u.ru_nvcsw = static_cast<long>(t.voluntary_switches.load());
  u.ru_nivcsw = static_cast<long>(t.involuntary_switches.load());
  return u;
}

rusage process_usage(const ThreadGroup& group) {
  SpinGuard guard(group.signal_lock);
  rusage sum = group.dead_usage;
  for (const Task* task : group.tasks) {
    if (task->exited) continue;
    const rusage u = thread_usage(*task);
    sum.ru_minflt += u.ru_minflt;
    sum.ru_majflt += u.ru_majflt;
    sum.ru_nvcsw += u.ru_nvcsw;
    sum.ru_nivcsw += u.ru_nivcsw;
  }
  return make_rusage(group.cpu_times_locked(), sum);
}

SysResult sys_getrusage(Task& t, const SyscallArgs& a) {
  rusage result;
  switch (a.i(0)) {
    case RUSAGE_SELF:
      result = process_usage(*t.group);
      result.ru_maxrss = std::max(result.ru_maxrss, static_cast<long>(t.mm->usage().peak_rss >> 10));
      break;
    case RUSAGE_THREAD:
      result = make_rusage(t.cpu_times(), thread_usage(t));
      result.ru_maxrss = static_cast<long>(t.mm->usage().peak_rss >> 10);
      break;
    case RUSAGE_CHILDREN: {
      SpinGuard guard(t.group->signal_lock);
      result = make_rusage(t.group->children_times, t.group->children_usage);
      break;
    }
    default:
      return err(EINVAL);
  }
  return a.ptr<rusage>(1).write(*t.mm, result);
}

SysResult sys_times(Task& t, const SyscallArgs& a) {
  constexpr Nanos kTick = kNanosPerSecond / 100;
  if (a.addr(0) != 0) {
    CpuTimes own, children;
    {
      SpinGuard guard(t.group->signal_lock);
      own = t.group->cpu_times_locked();
      children = t.group->children_times;
    }
    const tms result{own.user / kTick, own.system / kTick, children.user / kTick, children.system / kTick};
    TRY(a.ptr<tms>(0).write(*t.mm, result));
  }
  return static_cast<u64>(TRY(t.kernel.now(CLOCK_MONOTONIC, nullptr)) / kTick);
}

// --- Scheduling -----------------------------------------------------------------------------------

u64 online_cpus(const Kernel& kernel) {
  const u32 n = kernel.options.cpus;
  return n >= 64 ? ~u64{0} : (u64{1} << n) - 1;
}

// The task that a call of this section is about (0: the caller), referenced; ESRCH, EINVAL for negative pids.
Result<Ref<Task>> named_task(Task& t, Pid pid) {
  if (pid < 0) return err(EINVAL);
  if (pid == 0) return Ref<Task>(&t);
  std::shared_lock guard(t.kernel.tree_lock);
  Ref<Task> task(t.kernel.find_task(pid));
  if (!task) return err(ESRCH);
  return task;
}

// EPERM unless the caller may change `other`'s scheduling.
Result<void> check_change(Task& t, Task& other) {
  if (&other == &t || t.creds->capable(CAP_SYS_NICE)) return {};
  SpinGuard guard(other.group->signal_lock);
  if (t.creds->euid != other.creds->uid && t.creds->euid != other.creds->euid) return err(EPERM);
  return {};
}

SysResult sys_sched_setaffinity(Task& t, const SyscallArgs& a) {
  u64 mask = 0;
  const size_t len = std::min<u64>(a.u32_(1), sizeof mask);
  if (t.mm->copy_in(&mask, a.addr(2), len) != len) return err(EFAULT);
  const Ref<Task> task = TRY(named_task(t, a.i(0)));
  TRY(check_change(t, *task));
  mask &= online_cpus(t.kernel);
  if (mask == 0) return err(EINVAL);
  task->affinity.store(mask, std::memory_order_relaxed);
  return 0;
}

SysResult sys_sched_getaffinity(Task& t, const SyscallArgs& a) {
  const u32 len = a.u32_(1);
  if (u64{len} * 8 < t.kernel.options.cpus || len % sizeof(u64) != 0) return err(EINVAL);
  const Ref<Task> task = TRY(named_task(t, a.i(0)));
  const u64 mask = task->affinity.load(std::memory_order_relaxed) & online_cpus(t.kernel);
  TRY(a.ptr<u64>(2).write(*t.mm, mask));
  return sizeof mask;
}

SysResult sys_sched_yield(Task&, const SyscallArgs&) {
  yield();
  return 0;
}

// membarrier(2). Every guest thread that runs is on a thread of ours, and an interrupt from the host's own expedited
// barrier reaches a CPU in guest mode too; switching fibers is a barrier anyway.
SysResult sys_membarrier(Task& t, const SyscallArgs& a) {
  constexpr u32 kRegistrations = MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
  constexpr u32 kBarriers = MEMBARRIER_CMD_GLOBAL | MEMBARRIER_CMD_GLOBAL_EXPEDITED | MEMBARRIER_CMD_PRIVATE_EXPEDITED;
  if (a.u32_(1) != 0) return err(EINVAL);
  const u32 command = a.u32_(0);
  if (command == MEMBARRIER_CMD_QUERY) {
    // A host without it is to be told apart by the guest, which then does without.
    if (!hostio::memory_barrier()) return err(ENOSYS);
    return u64{kRegistrations | kBarriers};
  }
  if (!std::has_single_bit(command) || (command & (kRegistrations | kBarriers)) == 0) return err(EINVAL);
  if ((command & kRegistrations) != 0) {
    t.group->membarrier_registered.fetch_or(command);
    return 0;
  }
  const u32 needed = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
  if (command == MEMBARRIER_CMD_PRIVATE_EXPEDITED && (t.group->membarrier_registered & needed) == 0) return err(EPERM);
  return hostio::memory_barrier();
}

constexpr int kResetOnFork = 0x4000'0000;

bool is_realtime(int policy) { return policy == SCHED_FIFO || policy == SCHED_RR; }
bool is_policy(int policy) {
  return policy == SCHED_NORMAL || policy == SCHED_BATCH || policy == SCHED_IDLE || is_realtime(policy);
}

Result<void> set_scheduler(Task& t, Pid pid, int policy, int priority) {
  if (pid < 0) return err(EINVAL);
  const Ref<Task> task = TRY(named_task(t, pid));
  if (policy < 0) policy = task->sched_policy;
  policy &= ~kResetOnFork;
  if (!is_policy(policy)) return err(EINVAL);
  if (is_realtime(policy) ? priority < 1 || priority > 99 : priority != 0) return err(EINVAL);
  TRY(check_change(t, *task));
  if (is_realtime(policy) && !t.creds->capable(CAP_SYS_NICE) &&
      static_cast<u64>(priority) > t.group->limit(RLIMIT_RTPRIO).rlim_cur)
    return err(EPERM);
  task->sched_policy = policy;
  task->sched_priority = priority;
  return {};
}

SysResult sys_sched_setscheduler(Task& t, const SyscallArgs& a) {
  if (a.addr(2) == 0 || a.i(1) < 0) return err(EINVAL);
  return set_scheduler(t, a.i(0), a.i(1), TRY(a.ptr<int>(2).read(*t.mm)));
}
SysResult sys_sched_setparam(Task& t, const SyscallArgs& a) {
  if (a.addr(1) == 0) return err(EINVAL);
  return set_scheduler(t, a.i(0), -1, TRY(a.ptr<int>(1).read(*t.mm)));
}
SysResult sys_sched_getscheduler(Task& t, const SyscallArgs& a) {
  return static_cast<u64>(TRY(named_task(t, a.i(0)))->sched_policy.load());
}
SysResult sys_sched_getparam(Task& t, const SyscallArgs& a) {
  if (a.addr(1) == 0) return err(EINVAL);
  const Ref<Task> task = TRY(named_task(t, a.i(0)));
  return a.ptr<int>(1).write(*t.mm, task->sched_priority);
}

// struct sched_attr of linux/sched/types.h, which libc's headers do not tolerate.
struct SchedAttr {
  u32 size;
  u32 policy;
  u64 flags;
  s32 nice;
  u32 priority;
  u64 runtime, deadline, period;
  u32 util_min, util_max;
};
constexpr u32 kSchedAttrSize0 = 48;  // SCHED_ATTR_SIZE_VER0

SysResult sys_sched_setattr(Task& t, const SyscallArgs& a) {
  if (a.addr(1) == 0 || a.i(0) < 0 || a.u32_(2) != 0) return err(EINVAL);
  const u32 size = TRY(a.ptr<u32>(1).read(*t.mm));
  SchedAttr attr{};
  if (size != 0 && size < kSchedAttrSize0) return err(E2BIG);
  const size_t len = std::min<u64>(size == 0 ? kSchedAttrSize0 : size, sizeof attr);
  if (t.mm->copy_in(&attr, a.addr(1), len) != len) return err(EFAULT);
  if ((attr.flags & ~u64{SCHED_FLAG_RESET_ON_FORK}) != 0) return err(EINVAL);
  const int policy = static_cast<int>(attr.policy);
  TRY(set_scheduler(t, a.i(0), policy, static_cast<int>(attr.priority)));
  if (!is_realtime(policy)) TRY(named_task(t, a.i(0)))->nice = std::clamp(attr.nice, -20, 19);
  return 0;
}

SysResult sys_sched_getattr(Task& t, const SyscallArgs& a) {
  const u32 size = a.u32_(2);
  if (a.addr(1) == 0 || size < kSchedAttrSize0 || size > kPageSize || a.u32_(3) != 0) return err(EINVAL);
  const Ref<Task> task = TRY(named_task(t, a.i(0)));
  SchedAttr attr{};
  attr.size = static_cast<u32>(std::min<u64>(size, sizeof attr));
  attr.policy = static_cast<u32>(task->sched_policy.load());
  attr.nice = task->nice;
  attr.priority = static_cast<u32>(task->sched_priority.load());
  if (t.mm->copy_out(a.addr(1), &attr, attr.size) != attr.size) return err(EFAULT);
  return 0;
}

SysResult sys_sched_get_priority_max(Task&, const SyscallArgs& a) {
  if (!is_policy(a.i(0)) && a.i(0) != 6) return err(EINVAL);
  return is_realtime(a.i(0)) ? 99 : 0;
}
SysResult sys_sched_get_priority_min(Task&, const SyscallArgs& a) {
  if (!is_policy(a.i(0)) && a.i(0) != 6) return err(EINVAL);
  return is_realtime(a.i(0)) ? 1 : 0;
}
SysResult sys_sched_rr_get_interval(Task& t, const SyscallArgs& a) {
  const Ref<Task> task = TRY(named_task(t, a.i(0)));
  const __kernel_timespec slice{0, is_realtime(task->sched_policy) ? 100'000'000 : 4'000'000};
  return a.ptr<__kernel_timespec>(1).write(*t.mm, slice);
}

// --- nice -----------------------------------------------------------------------------------------

// Calls f for the tasks that getpriority(2)'s `which` and `who` name. EINVAL.
template <class F>
Result<void> for_named(Task& t, int which, u32 who, F&& f) {
  std::shared_lock guard(t.kernel.tree_lock);
  switch (which) {
    case PRIO_PROCESS:
      if (Task* task = who == 0 ? &t : t.kernel.find_task(static_cast<Pid>(who))) f(*task);
      return {};
    case PRIO_PGRP: {
      const ProcessGroup* pg =
          who == 0 ? t.group->process_group.get() : t.kernel.find_process_group(static_cast<Pid>(who));
      if (!pg) return {};
      for (ThreadGroup* group : pg->members)
        for (Task* task : group->tasks) f(*task);
      return {};
    }
    case PRIO_USER: {
      const u32 uid = who == 0 ? t.creds->uid : who;
      t.kernel.for_each_task([&](Task& task) {
        const bool is_his = [&] {
          SpinGuard signal_guard(task.group->signal_lock);
          return task.creds->uid == uid;
        }();
        if (is_his) f(task);
      });
      return {};
    }
    default:
      return err(EINVAL);
  }
}

SysResult sys_getpriority(Task& t, const SyscallArgs& a) {
  int best = 0;
  TRY(for_named(t, a.i(0), a.u32_(1), [&](Task& task) { best = std::max(best, 20 - task.nice); }));
  if (best == 0) return err(ESRCH);
  return static_cast<u64>(best);
}

SysResult sys_setpriority(Task& t, const SyscallArgs& a) {
  const int nice = std::clamp(a.i(2), -20, 19);
  const bool may_raise = t.creds->capable(CAP_SYS_NICE);
  const int lowest = 20 - static_cast<int>(std::min<u64>(t.group->limit(RLIMIT_NICE).rlim_cur, 40));
  Result<void> result = err(ESRCH);
  TRY(for_named(t, a.i(0), a.u32_(1), [&](Task& task) {
    const Result<void> allowed = check_change(t, task);
    if (!allowed) {
      result = err(EPERM);
    } else if (nice < task.nice && nice < lowest && !may_raise) {
      result = err(EACCES);
    } else {
      task.nice = nice;
      if (!result && result.error() == Errno{ESRCH}) result = {};
    }
  }));
  return result;
}

SysResult sys_getcpu(Task& t, const SyscallArgs& a) {
  const u32 cpu = Worker::current()->index();
  if (a.addr(0) != 0) TRY(a.ptr<u32>(0).write(*t.mm, cpu));
  if (a.addr(1) != 0) TRY(a.ptr<u32>(1).write(*t.mm, 0));
  return 0;
}

SysResult sys_personality(Task& t, const SyscallArgs& a) {
  const u32 old = t.personality;
  if (a.u32_(0) != 0xffff'ffff) t.personality = a.u32_(0);
  return u64{old};
}

constexpr SyscallEntry kEntries[] = {
    {__NR_prlimit64, "prlimit64", sys_prlimit64, Support::kFull, "", {Arg::kPid, Arg::kRlimit, Arg::kAddr, Arg::kAddr}},
    {__NR_getrlimit, "getrlimit", sys_getrlimit, Support::kFull, "", {Arg::kRlimit, Arg::kAddr}},
    {__NR_setrlimit, "setrlimit", sys_setrlimit, Support::kFull, "", {Arg::kRlimit, Arg::kAddr}},
    {__NR_getrusage, "getrusage", sys_getrusage, Support::kFull, "", {Arg::kInt, Arg::kAddr}},
    {__NR_times, "times", sys_times, Support::kFull, "", {Arg::kAddr}},
    {__NR_sched_setaffinity,
     "sched_setaffinity",
     sys_sched_setaffinity,
     Support::kPartial,
     "kept, without effect",
     {Arg::kPid, Arg::kSize, Arg::kAddr}},
    {__NR_sched_getaffinity,
     "sched_getaffinity",
     sys_sched_getaffinity,
     Support::kFull,
     "",
     {Arg::kPid, Arg::kSize, Arg::kAddr}},
    {__NR_membarrier,
     "membarrier",
     sys_membarrier,
     Support::kPartial,
     "not SYNC_CORE and RSEQ",
     {Arg::kInt, Arg::kHex, Arg::kInt}},
    {__NR_sched_yield, "sched_yield", sys_sched_yield, Support::kFull, "", {}},
    {__NR_sched_setscheduler,
     "sched_setscheduler",
     sys_sched_setscheduler,
     Support::kPartial,
     "kept, without effect",
     {Arg::kPid, Arg::kInt, Arg::kAddr}},
    {__NR_sched_getscheduler, "sched_getscheduler", sys_sched_getscheduler, Support::kFull, "", {Arg::kPid}},
    {__NR_sched_setparam,
     "sched_setparam",
     sys_sched_setparam,
     Support::kPartial,
     "kept, without effect",
     {Arg::kPid, Arg::kAddr}},
    {__NR_sched_getparam, "sched_getparam", sys_sched_getparam, Support::kFull, "", {Arg::kPid, Arg::kAddr}},
    {__NR_sched_setattr,
     "sched_setattr",
     sys_sched_setattr,
     Support::kPartial,
     "kept, without effect; no SCHED_DEADLINE",
     {Arg::kPid, Arg::kAddr, Arg::kHex}},
    {__NR_sched_getattr,
     "sched_getattr",
     sys_sched_getattr,
     Support::kFull,
     "",
     {Arg::kPid, Arg::kAddr, Arg::kSize, Arg::kHex}},
    {__NR_sched_get_priority_max,
     "sched_get_priority_max",
     sys_sched_get_priority_max,
     Support::kFull,
     "",
     {Arg::kInt}},
    {__NR_sched_get_priority_min,
     "sched_get_priority_min",
     sys_sched_get_priority_min,
     Support::kFull,
     "",
     {Arg::kInt}},
    {__NR_sched_rr_get_interval,
     "sched_rr_get_interval",
     sys_sched_rr_get_interval,
     Support::kFull,
     "",
     {Arg::kPid, Arg::kAddr}},
    {__NR_getpriority, "getpriority", sys_getpriority, Support::kFull, "", {Arg::kInt, Arg::kInt}},
    {__NR_setpriority,
     "setpriority",
     sys_setpriority,
     Support::kPartial,
     "kept, without effect",
     {Arg::kInt, Arg::kInt, Arg::kInt}},
    {__NR_getcpu, "getcpu", sys_getcpu, Support::kFull, "", {Arg::kAddr, Arg::kAddr, Arg::kUnused}},
    {__NR_personality,
     "personality",
     sys_personality,
     Support::kPartial,
     "ADDR_NO_RANDOMIZE has effect; the rest is kept",
     {Arg::kHex}},
};

}  // namespace

Family resource_family() { return kEntries; }

}  // namespace rf::task
