// Sending signals.
#pragma once

#include <signal.h>

#include "core/result.h"
#include "task/task.h"

namespace rf::task {

// Sends `sig` to the task itself as the kernel does (SI_KERNEL): SIGPIPE, SIGXFSZ.
void raise_signal(Task& task, int sig);

// siginfo of a signal that the kernel makes (SI_KERNEL), or that `from` sends with kill(2) (SI_USER) or tgkill(2)
// (SI_TKILL).
siginfo_t kernel_siginfo(int sig);
siginfo_t user_siginfo(int sig, int code, Task& from);

// Queues a signal for the process, or for the one thread `target`. The signal may turn out to be ignored.
// EAGAIN: a real-time signal found the queue full. Takes signal_lock; any thread; does not suspend.
Result<void> send_signal(ThreadGroup& group, Task* target, const siginfo_t& info, Ref<TimerSignal> timer = {});

// The same under group.signal_lock.
Result<void> send_signal_locked(ThreadGroup& group, Task* target, const siginfo_t& info, Ref<TimerSignal> timer = {});

// Ends every thread of the group but `except` with wait status `status`, unless the group is ending already. Under
// signal_lock.
void begin_group_exit(ThreadGroup& group, int status, Task* except = nullptr);

// After `task` blocked signals or began to leave: lets other threads see the group's pending signals in `which`. Under
// signal_lock.
void retarget_pending(Task& task, SignalSet which);

// Takes the next pending signal of `which` that `task` would get: its own first, then the process's; null if none.
// Under signal_lock.
std::unique_ptr<PendingSignal> take_signal(Task& task, SignalSet which);

// Whether `from` may signal `to`: kill(2)'s rule. EPERM; ESRCH if it is gone. tree_lock is held; takes signal_lock of
// `to`.
Result<void> check_kill_permission(Task& from, ThreadGroup& to, int sig);

}  // namespace rf::task
