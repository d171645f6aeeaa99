#include "task/exit.h"

#include <sys/wait.h>

#include <algorithm>
#include <mutex>

#include "task/close.h"
#include "task/exec.h"
#include "task/group_stop.h"
#include "task/kernel.h"
#include "task/posix_timers.h"
#include "task/signal_send.h"
#include "task/strace.h"

namespace rf::task {
namespace {

constexpr Nanos kTick = kNanosPerSecond / 100;  // USER_HZ

// From here on nothing interrupts the task; signals meant for the process go to other threads.
class Exit final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    if (task.kernel.strace) task.kernel.strace->exited(task);
    SpinGuard guard(task.group->signal_lock);
    task.leaving = true;
    task.recompute_pending();
    retarget_pending(task, ~task.mask);
    return &kExitMain;
  }
  const char* name() const override { return "Exit"; }
};

void account_memory(Task& task) {
  {
    SpinGuard guard(task.group->signal_lock);
    if (task.group->live_threads != 1) return;
  }
  const u64 peak = task.mm->usage().peak_rss >> 10;
  SpinGuard guard(task.group->signal_lock);
  long& max = task.group->dead_usage.ru_maxrss;
  max = std::max(max, static_cast<long>(peak));
}

// Gives up what the thread holds: robust futexes, memory, files.
class ExitMain final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    task.exec.reset();
    task.restart = {};
    if (task.mm) {
      task.kernel.futexes.exit_robust_list(task);
      account_memory(task);
      Ref<mm::MemoryManager> mm;
      {
        SpinGuard guard(task.group->signal_lock);
        std::swap(mm, task.mm);
      }
      if (Ref<VforkLatch> latch = std::move(task.vfork_latch)) latch->release();
    }
    if (task.files) replace_files(task, {});
    Ref<FsState> fs_state;
    {
      SpinGuard guard(task.group->signal_lock);
      std::swap(fs_state, task.fs_state);
    }
    return &kExitNotify;
  }
  const char* name() const override { return "ExitMain"; }
};

// --- ExitNotify: all under tree_lock ----------------------------------------------------------------

void hang_up_if_orphaned(const ProcessGroup& pg, const ThreadGroup* ignored) {
  if (!is_orphaned(pg, ignored)) return;
  const bool stopped = std::ranges::any_of(pg.members, [](const ThreadGroup* g) {
    SpinGuard guard(g->signal_lock);
    return g->stopped;
  });
  if (!stopped) return;
  for (ThreadGroup* g : pg.members) {
    (void)send_signal(*g, nullptr, kernel_siginfo(SIGHUP));
    (void)send_signal(*g, nullptr, kernel_siginfo(SIGCONT));
  }
}

// kill_orphaned_pgrp() of Linux: `child`, or its parent, is about to go, and `parent` was what linked the child's group
// to the rest of its session.
void check_orphaned(const ThreadGroup& child, const ThreadGroup* parent, const ThreadGroup* ignored) {
  const ProcessGroup* pg = child.process_group.get();
  if (!parent || !pg || !parent->process_group || parent->process_group.get() == pg) return;
  if (parent->process_group->session == pg->session) hang_up_if_orphaned(*pg, ignored);
}

// Tells the parent of a zombie. True if nobody will wait for it: it is to be reaped at once.
bool notify_parent_of_exit(ThreadGroup& zombie) {
  ThreadGroup* parent = zombie.parent;
  if (!parent) return true;
  int sig = zombie.exit_signal;
  bool autoreap = false;
  int status;
  {
    SpinGuard guard(zombie.signal_lock);
    status = zombie_status(zombie);
  }
  if (sig == SIGCHLD) {
    SpinGuard guard(parent->signal_lock);
    const KernelSigaction action = parent->handlers->get(SIGCHLD);
    const bool ignored = action.handler == reinterpret_cast<u64>(SIG_IGN);
    autoreap = ignored || (action.flags & SA_NOCLDWAIT) != 0;
    if (ignored) sig = 0;
  }
  if (sig != 0) {
    const int code = WIFEXITED(status) ? CLD_EXITED : WCOREDUMP(status) ? CLD_DUMPED : CLD_KILLED;
    (void)send_signal(*parent, nullptr,
                      child_siginfo(zombie, sig, code, WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status)));
  }
  parent->child_events.notify();
  return autoreap;
}

ThreadGroup* new_parent(const ThreadGroup& group) {
  for (ThreadGroup* p = group.parent; p; p = p->parent)
    if (p->child_subreaper && p->live_threads > 0) return p;
  ThreadGroup* init = group.kernel.init();
  return init != &group ? init : nullptr;
}

void send_death_signals(ThreadGroup& child) {
  SpinGuard guard(child.signal_lock);
  for (Task* t : child.tasks)
    if (t->parent_death_signal != 0 && !t->exited) {
      siginfo_t info{};
      info.si_signo = t->parent_death_signal;
      info.si_code = SI_USER;
      info.si_pid = child.parent ? child.parent->pid : 0;
      (void)send_signal_locked(child, nullptr, info);
    }
}

void reparent_children(ThreadGroup& group, Garbage& garbage) {
  ThreadGroup* heir = new_parent(group);
  std::vector<Ref<ThreadGroup>> children;
  children.swap(group.children);
  for (Ref<ThreadGroup>& child : children) {
    child->set_parent(heir);
    child->parent_thread = heir ? heir->pid : 0;
    child->exit_signal = SIGCHLD;
    ThreadGroup& c = *child;
    garbage.push_back(child);
    if (heir) heir->children.push_back(std::move(child));
    // A zombie is reported again, to the new parent.
    if (c.zombie) {
      if (notify_parent_of_exit(c)) reap(c, garbage);
    } else {
      check_orphaned(c, &group, nullptr);
    }
  }
}

// The last thread is gone.
void group_is_dead(ThreadGroup& group, Garbage& garbage) {
  reparent_children(group, garbage);
  check_orphaned(group, group.parent, &group);
  {
    SpinGuard guard(group.signal_lock);
    group.zombie = true;
    group.pending.discard(~SignalSet{0});
  }
  group.exit_events.notify();
  if (notify_parent_of_exit(group) && &group != group.kernel.init()) reap(group, garbage);
}

// Takes the thread out of its group. True if it was the last.
bool leave_group(Task& task, Garbage& garbage) {
  ThreadGroup& group = *task.group;
  bool last, stop_completed;
  {
    SpinGuard guard(group.signal_lock);
    task.exited = true;
    group.live_threads--;
    group.dead_times += task.cpu_times();
    group.dead_usage.ru_minflt += static_cast<long>(task.minor_faults);
    group.dead_usage.ru_majflt += static_cast<long>(task.major_faults);
    group.dead_usage.ru_nvcsw += static_cast<long>(task.voluntary_switches);
    group.dead_usage.ru_nivcsw += static_cast<long>(task.involuntary_switches);
    task.pending.discard(~SignalSet{0});
    last = group.live_threads == 0;
    if (group.exec_task && group.live_threads == 1) group.exec_task->fiber->unpark();
    stop_completed = complete_group_stop(group);
  }
  if (stop_completed) notify_parent_of_stop_locked(group, CLD_STOPPED);
  for (Ref<ThreadGroup>& child : group.children)
    if (child->parent_thread == task.tid) {
      send_death_signals(*child);
      child->parent_thread = group.pid;
    }
  if (&task != group.leader) {
    garbage.push_back(Ref<Task>(&task));
    task.kernel.remove_task(task);
  }
  return last;
}

// The controlling terminal that a process leaves behind when it is the leader of its session. tree_lock is held.
Ref<fs::Tty> terminal_of_leader(const ThreadGroup& group) {
  const ProcessGroup* pg = group.process_group.get();
  return pg && pg->session->id == group.pid ? pg->session->controlling_tty : nullptr;
}

class ExitNotify final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    ThreadGroup& group = *task.group;
    Kernel& kernel = task.kernel;
    Ref<ThreadGroup> keep(&group);
    Garbage garbage;
    Ref<fs::Tty> terminal;
    bool last, init;
    int status = 0;
    {
      std::lock_guard guard(kernel.tree_lock);
      last = leave_group(task, garbage);
      init = last && &group == kernel.init();
      if (last) {
        terminal = terminal_of_leader(group);
        group_is_dead(group, garbage);
        SpinGuard signal_guard(group.signal_lock);
        status = zombie_status(group);
      }
    }
    // The vector state goes with the last run; nobody interrupts a task that has exited.
    task.context.reset();
    if (last) group.timers->stop_all();
    garbage.clear();
    if (terminal) terminal->session_ended(group.pid);
    if (init) kernel.init_exited(status);
    return nullptr;
  }
  const char* name() const override { return "ExitNotify"; }
};

const Exit exit_state;
const ExitMain exit_main_state;
const ExitNotify exit_notify_state;

}  // namespace

const RunState& kExit = exit_state;
const RunState& kExitMain = exit_main_state;
const RunState& kExitNotify = exit_notify_state;

siginfo_t child_siginfo(const ThreadGroup& child, int sig, int code, int status) {
  siginfo_t info{};
  info.si_signo = sig;
  info.si_code = code;
  info.si_pid = child.pid;
  info.si_status = status;
  SpinGuard guard(child.signal_lock);
  if (child.leader) info.si_uid = child.leader->creds->uid;
  const CpuTimes times = child.cpu_times_locked();
  info.si_utime = times.user / kTick;
  info.si_stime = times.system / kTick;
  return info;
}

int zombie_status(const ThreadGroup& group) {
  if (group.exiting) return group.exit_status;
  return group.leader ? group.leader->exit_code : 0;
}

void reap(ThreadGroup& zombie, Garbage& garbage) {
  Kernel& kernel = zombie.kernel;
  garbage.push_back(Ref<ThreadGroup>(&zombie));
  zombie.reaped = true;
  if (ThreadGroup* parent = zombie.parent) {
    SpinGuard guard(parent->signal_lock);
    parent->children_times += zombie.dead_times;
    parent->children_times += zombie.children_times;
    rusage& sum = parent->children_usage;
    for (const rusage* u : {&zombie.dead_usage, &zombie.children_usage}) {
      sum.ru_maxrss = std::max(sum.ru_maxrss, u->ru_maxrss);
      sum.ru_minflt += u->ru_minflt;
      sum.ru_majflt += u->ru_majflt;
      sum.ru_nvcsw += u->ru_nvcsw;
      sum.ru_nivcsw += u->ru_nivcsw;
    }
    std::erase(parent->children, &zombie);
  }
  zombie.set_parent(nullptr);
  if (zombie.process_group) garbage.push_back(zombie.process_group);
  kernel.set_process_group(zombie, {});
  if (Task* leader = zombie.leader) {
    kernel.remove_task(*leader);
    garbage.push_back(Ref<Task>::adopt(leader));  // insert_task()'s reference
  }
  kernel.remove_group(zombie);
}

}  // namespace rf::task
