// The Interrupt state: leaving because of a kill, stops, and the delivery of signals, with the restart of
// interrupted calls that goes with it.
#include <asm/unistd_64.h>

#include <mutex>

#include "task/group_stop.h"
#include "task/kernel.h"
#include "task/signal_frame.h"
#include "task/signal_send.h"
#include "task/strace.h"

namespace rf::task {
namespace {

// What the task is to do next.
struct Delivery {
  enum class Kind { kNothing, kAgain, kLeave, kHandler } kind = Kind::kNothing;
  KernelSigaction action;
  siginfo_t info{};
};

using SignalLock = std::unique_lock<SpinLock>;

bool in_orphaned_group(const Task& task) {
  std::shared_lock guard(task.kernel.tree_lock);
  const ProcessGroup* pg = task.group->process_group.get();
  return !pg || is_orphaned(*pg, nullptr);
}

void trace(Task& task, const siginfo_t& info, SignalLock& lock) {
  if (!task.kernel.strace) return;
  lock.unlock();
  task.kernel.strace->signal(task, info);
  lock.lock();
}

// Drops the lock meanwhile; a SIGCONT that is sent then undoes the stop.
void stop_by_default(Task& task, const siginfo_t& info, SignalLock& lock) {
  ThreadGroup& group = *task.group;
  const u64 continues = group.continues;
  trace(task, info, lock);
  // SIGTSTP, TTIN and TTOU do not stop a process of an orphaned group: nobody would continue it.
  if (info.si_signo != SIGSTOP) {
    lock.unlock();
    const bool orphaned = in_orphaned_group(task);
    lock.lock();
    if (orphaned) return;
  }
  if (group.continues == continues) begin_group_stop(group, info.si_signo);
}

Delivery default_delivery(Task& task, const siginfo_t& info, SignalLock& lock) {
  const int sig = info.si_signo;
  switch (default_action(sig)) {
    case DefaultAction::kIgnore:
    case DefaultAction::kContinue:
      break;
    case DefaultAction::kStop:
      stop_by_default(task, info, lock);
      break;
    case DefaultAction::kTerminate:
    case DefaultAction::kCore:
      trace(task, info, lock);
      // No core is written, so its bit stays out of the status.
      begin_group_exit(*task.group, sig);
      break;
  }
  return {.kind = Delivery::Kind::kAgain};
}

// One look at what there is to do, in Linux's order: death, news for the parent, a stop, then the signals.
Delivery next_delivery(Task& task) {
  ThreadGroup& group = *task.group;
  SignalLock lock(group.signal_lock);
  if (task.killed.load(std::memory_order_relaxed)) {
    task.exit_code = group.exiting ? group.exit_status : 0;
    return {.kind = Delivery::Kind::kLeave};
  }
  if (const int notice = std::exchange(group.parent_notice, 0)) {
    lock.unlock();
    notify_parent_of_stop(group, notice);
    return {.kind = Delivery::Kind::kAgain};
  }
  if (group.stopped) {
    stop_here(task, lock);
    return {.kind = Delivery::Kind::kAgain};
  }
  const std::unique_ptr<PendingSignal> pending = take_signal(task, ~task.mask);
  if (!pending) {
    task.recompute_pending();
    return {};
  }
  const int sig = pending->info.si_signo;
  const KernelSigaction action = group.handlers->get(sig);
  if (action.handler == reinterpret_cast<u64>(SIG_IGN)) return {.kind = Delivery::Kind::kAgain};
  if (action.handler == reinterpret_cast<u64>(SIG_DFL)) return default_delivery(task, pending->info, lock);
  if ((action.flags & SA_RESETHAND) != 0) group.handlers->set(sig, KernelSigaction{});
  trace(task, pending->info, lock);
  return {.kind = Delivery::Kind::kHandler, .action = action, .info = pending->info};
}

void rewind(Task& task) {
  task.regs.rax = task.restart_rax;
  task.regs.rip -= 2;  // the length of SYSCALL
}

// A handler is about to run in the middle of a call: decides whether the call is made again after it.
void settle_for_handler(Task& task, const KernelSigaction& action) {
  switch (std::exchange(task.restart_code, 0)) {
    case 0:
      return;
    case kERESTARTNOINTR:
      return rewind(task);
    case kERESTARTSYS:
      if ((action.flags & SA_RESTART) != 0) return rewind(task);
      [[fallthrough]];
    default:
      task.regs.rax = static_cast<u64>(-s64{EINTR});
  }
}

void run_handler(Task& task, const Delivery& d) {
  settle_for_handler(task, d.action);
  const SignalSet old_mask = task.restore_mask ? task.saved_mask : task.mask;
  task.restore_mask = false;
  const int sig = d.info.si_signo;
  if (!push_signal_frame(task, d.action, d.info, old_mask)) {
    // As Linux's signal_setup_done(): a handler of SIGSEGV that cannot be reached is not tried again.
    if (sig == SIGSEGV) {
      SpinGuard guard(task.group->signal_lock);
      task.group->handlers->set(SIGSEGV, KernelSigaction{});
    }
    task.force_signal(kernel_siginfo(SIGSEGV));
    return;
  }
  SignalSet mask = task.mask | d.action.mask;
  if ((d.action.flags & SA_NODEFER) == 0) mask |= signal_bit(sig);
  task.set_mask(mask);
}

// Nothing (more) to deliver: an interrupted call is made again.
const RunState* resume(Task& task) {
  const int restart = std::exchange(task.restart_code, 0);
  if (restart == kERESTART_RESTARTBLOCK) task.restart_rax = __NR_restart_syscall;
  if (task.restore_mask) {
    task.restore_mask = false;
    task.set_mask(task.saved_mask);
    if (task.has_work()) {
      // The old mask lets another signal through: its handler runs first, and the call is made again after it.
      if (restart != 0) rewind(task);
      return &kInterrupt;
    }
  }
  return restart != 0 ? &kSyscallReinvoke : &kRunApp;
}

class Interrupt final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    for (;;) {
      const Delivery d = next_delivery(task);
      switch (d.kind) {
        case Delivery::Kind::kLeave:
          return &kExit;
        case Delivery::Kind::kNothing:
          return resume(task);
        case Delivery::Kind::kHandler:
          run_handler(task, d);
          break;
        case Delivery::Kind::kAgain:
          break;
      }
    }
  }
  const char* name() const override { return "Interrupt"; }
};

const Interrupt interrupt_state;

}  // namespace

const RunState& kInterrupt = interrupt_state;

}  // namespace rf::task
