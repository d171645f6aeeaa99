#include "task/signal_send.h"

#include <algorithm>

#include "task/kernel.h"

namespace rf::task {
namespace {

// Most real-time signals that one queue holds, whatever RLIMIT_SIGPENDING says: the sentry's memory is bounded.
constexpr u64 kMaxQueuedSignals = 4096;

void discard_everywhere(ThreadGroup& group, SignalSet which) {
  group.pending.discard(which);
  for (Task* t : group.tasks) t->pending.discard(which);
}

// SIGCONT: ends a group stop, also one that not every thread has reached. The first thread that looks tells the parent.
void resume_group(ThreadGroup& group) {
  if (!group.stopped) return;
  if (group.stop_complete) {
    group.continue_pending = true;
    group.parent_notice = CLD_CONTINUED;
  } else {
    group.parent_notice = CLD_STOPPED;
  }
  group.stopped = group.stop_complete = group.stop_unreported = false;
  group.stopped_count = 0;
  for (Task* t : group.tasks) {
    t->in_stop = false;
    t->recompute_pending();
    t->fiber->unpark();
  }
}

// A blocked signal is kept even if it is ignored now: the action may change before it is unblocked.
bool drops(const ThreadGroup& group, const Task* target, int sig) {
  const Task* t = target ? target : group.leader;
  if (((t->mask | t->sigwait_mask) & signal_bit(sig)) != 0) return false;
  return group.handlers->ignores(sig);
}

bool wants(const Task& t, int sig) {
  return !t.leaving && !t.exited && ((t.mask & ~t.sigwait_mask) & signal_bit(sig)) == 0;
}

void wake_one(ThreadGroup& group, Task* target, int sig) {
  if (target) {
    if (wants(*target, sig)) target->interrupt();
    return;
  }
  if (wants(*group.leader, sig)) return group.leader->interrupt();
  for (Task* t : group.tasks)
    if (wants(*t, sig)) return t->interrupt();
}

}  // namespace

siginfo_t kernel_siginfo(int sig) {
  siginfo_t info{};
  info.si_signo = sig;
  info.si_code = SI_KERNEL;
  return info;
}

siginfo_t user_siginfo(int sig, int code, Task& from) {
  siginfo_t info{};
  info.si_signo = sig;
  info.si_code = code;
  info.si_pid = from.pid();
  info.si_uid = from.creds->uid;
  return info;
}

void raise_signal(Task& task, int sig) { task.send_signal(kernel_siginfo(sig)); }

void begin_group_exit(ThreadGroup& group, int status, Task* except) {
  if (group.exiting) return;
  group.exiting = true;
  group.exit_status = status;
  for (Task* t : group.tasks) {
    if (t == except || t->exited) continue;
    t->killed.store(true, std::memory_order_release);
    t->interrupt();
    t->fiber->unpark();
  }
}

Result<void> send_signal_locked(ThreadGroup& group, Task* target, const siginfo_t& info, Ref<TimerSignal> timer) {
  const int sig = info.si_signo;
  if (group.zombie || group.exiting) return {};
  if (sig == SIGKILL) {
    begin_group_exit(group, SIGKILL);
    return {};
  }
  if ((kStopSignals & signal_bit(sig)) != 0) discard_everywhere(group, signal_bit(SIGCONT));
  if (sig == SIGCONT) {
    discard_everywhere(group, kStopSignals);
    group.continues++;
    resume_group(group);
  }
  if (drops(group, target, sig)) return {};
  SignalQueue& queue = target ? target->pending : group.pending;
  const u64 limit = std::min<u64>(group.limits[RLIMIT_SIGPENDING].rlim_cur, kMaxQueuedSignals);
  switch (queue.enqueue(info, limit, std::move(timer))) {
    case Queued::kFull:
      // kill(2) never fails for want of room: the signal merges with those that are queued.
      if (info.si_code == SI_USER || info.si_code == SI_KERNEL) return {};
      return err(EAGAIN);
    case Queued::kAlready:
      return {};
    case Queued::kYes:
      break;
  }
  wake_one(group, target, sig);
  group.signal_events.notify();
  return {};
}

Result<void> send_signal(ThreadGroup& group, Task* target, const siginfo_t& info, Ref<TimerSignal> timer) {
  SpinGuard guard(group.signal_lock);
  return send_signal_locked(group, target, info, std::move(timer));
}

void retarget_pending(Task& task, SignalSet which) {
  ThreadGroup& group = *task.group;
  SignalSet left = group.pending.pending() & which;
  for (Task* t : group.tasks) {
    if (left == 0) return;
    if (t == &task || t->leaving || t->exited) continue;
    const SignalSet takes = left & ~(t->mask & ~t->sigwait_mask);
    if (takes == 0) continue;
    left &= ~takes;
    t->interrupt();
  }
}

std::unique_ptr<PendingSignal> take_signal(Task& task, SignalSet which) {
  std::unique_ptr<PendingSignal> pending = task.pending.dequeue(which & kSynchronous);
  if (!pending) pending = task.pending.dequeue(which);
  if (!pending) pending = task.group->pending.dequeue(which);
  if (pending && pending->timer) pending->info.si_overrun = pending->timer->take_overruns();
  return pending;
}

Result<void> check_kill_permission(Task& from, ThreadGroup& to, int sig) {
  const fs::Credentials& c = *from.creds;
  if (&to == from.group.get() || c.capable(CAP_KILL)) return {};
  Ref<fs::Credentials> target;
  {
    SpinGuard guard(to.signal_lock);
    if (!to.leader) return err(ESRCH);
    target = to.leader->creds;
  }
  if (c.euid == target->suid || c.euid == target->uid || c.uid == target->suid || c.uid == target->uid) return {};
  if (sig == SIGCONT && to.process_group->session == from.group->process_group->session) return {};
  return err(EPERM);
}

// --- Task -----------------------------------------------------------------------------------------

void Task::interrupt() {
  if (exited) return;
  fiber->interrupt();
  if (killed.load(std::memory_order_relaxed)) context->discard();
  if (fiber.get() != Fiber::current_or_null()) context->interrupt();
}

void Task::recompute_pending() {
  const ThreadGroup& g = *group;
  const SignalSet blocked = mask & ~sigwait_mask;
  const bool work = !leaving && (killed.load(std::memory_order_relaxed) ||
                                 ((pending.pending() | g.pending.pending()) & ~blocked) != 0 ||
                                 (g.stopped && !in_stop) || g.parent_notice != 0);
  if (!work)
    fiber->clear_interrupt();
  else if (!fiber->interrupted())
    interrupt();
}

void Task::set_mask(SignalSet new_mask) {
  new_mask &= ~kUnblockable;
  SpinGuard guard(group->signal_lock);
  const SignalSet newly_blocked = new_mask & ~mask;
  mask = new_mask;
  if (newly_blocked != 0) retarget_pending(*this, newly_blocked);
  recompute_pending();
}

void Task::send_signal(const siginfo_t& info) { (void)task::send_signal(*group, this, info); }

void Task::force_signal(const siginfo_t& info) {
  SpinGuard guard(group->signal_lock);
  const int sig = info.si_signo;
  const KernelSigaction action = group->handlers->get(sig);
  const bool blocked = (mask & signal_bit(sig)) != 0;
  if (blocked || action.handler == reinterpret_cast<u64>(SIG_IGN)) {
    group->handlers->set(sig, KernelSigaction{.flags = action.flags, .restorer = action.restorer, .mask = action.mask});
    mask &= ~signal_bit(sig);
  }
  (void)send_signal_locked(*group, this, info);
  recompute_pending();
}

void Task::deliver_fault(int sig, int code, u64 address) {
  siginfo_t info{};
  info.si_signo = sig;
  info.si_code = code;
  info.si_addr = reinterpret_cast<void*>(address);
  force_signal(info);
}

}  // namespace rf::task
