#include "task/group_stop.h"

#include <shared_mutex>

#include "task/exit.h"
#include "task/kernel.h"
#include "task/signal_send.h"

namespace rf::task {

void begin_group_stop(ThreadGroup& group, int sig) {
  if (group.stopped || group.exiting) return;
  group.stopped = true;
  group.stop_complete = false;
  group.stop_signal = sig;
  group.stopped_count = 0;
  for (Task* t : group.tasks) t->recompute_pending();
}

bool complete_group_stop(ThreadGroup& group) {
  if (!group.stopped || group.stop_complete || group.live_threads == 0 || group.stopped_count != group.live_threads)
    return false;
  group.stop_complete = group.stop_unreported = true;
  group.continue_pending = false;
  return true;
}

void stop_here(Task& task, std::unique_lock<SpinLock>& lock) {
  ThreadGroup& group = *task.group;
  task.in_stop = true;
  group.stopped_count++;
  if (complete_group_stop(group)) {
    lock.unlock();
    notify_parent_of_stop(group, CLD_STOPPED);
    lock.lock();
  }
  while (group.stopped && task.in_stop && !task.killed.load(std::memory_order_acquire)) {
    lock.unlock();
    park(Interruptible::kNo);
    lock.lock();
  }
  task.in_stop = false;
}

void notify_parent_of_stop(ThreadGroup& group, int code) {
  std::shared_lock guard(group.kernel.tree_lock);
  notify_parent_of_stop_locked(group, code);
}

void notify_parent_of_stop_locked(ThreadGroup& group, int code) {
  ThreadGroup* parent = group.parent;
  if (!parent) {
    if (&group == group.kernel.init() && code == CLD_STOPPED && group.kernel.on_init_stopped)
      group.kernel.on_init_stopped();
    return;
  }
  int status = SIGCONT;
  if (code == CLD_STOPPED) {
    SpinGuard guard(group.signal_lock);
    status = group.stop_signal;
  }
  const siginfo_t info = child_siginfo(group, SIGCHLD, code, status);
  const KernelSigaction action = [&] {
    SpinGuard guard(parent->signal_lock);
    return parent->handlers->get(SIGCHLD);
  }();
  if (action.handler != reinterpret_cast<u64>(SIG_IGN) && (action.flags & SA_NOCLDSTOP) == 0)
    (void)send_signal(*parent, nullptr, info);
  parent->child_events.notify();
}

bool is_orphaned(const ProcessGroup& pg, const ThreadGroup* ignored) {
  for (const ThreadGroup* g : pg.members) {
    if (g == ignored || g->live_threads == 0) continue;
    // Whoever started the sandbox is to the first process what a shell is to its jobs.
    if (g == g->kernel.init() && pg.session->id == g->pid) return false;
    if (!g->parent) continue;
    const ProcessGroup* parents = g->parent->process_group.get();
    if (parents && parents != &pg && parents->session == pg.session) return false;
  }
  return true;
}

}  // namespace rf::task
