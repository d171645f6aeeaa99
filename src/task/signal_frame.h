// The signal frame of Linux x86-64: what a handler finds on its stack, and what rt_sigreturn(2) takes back.
#pragma once

#include "core/result.h"
#include "task/signal.h"

namespace rf::task {

class Task;

// Builds the frame for `info` on the guest's stack (the alternate one if `action` and the task say so), with `mask` as
// the mask to return to, and points the registers at the handler. EFAULT if it cannot be written. Suspends.
Result<void> push_signal_frame(Task& task, const KernelSigaction& action, const siginfo_t& info, SignalSet mask);

// Undoes it from the frame at the guest's stack pointer. EFAULT or EINVAL for one that is not valid: the task is then
// in an undefined state and gets SIGSEGV. Suspends.
Result<void> pop_signal_frame(Task& task);

// --- The alternate stack ---
inline constexpr int kAutodisarm = static_cast<int>(1u << 31);  // SS_AUTODISARM
// Whether a task with this stack pointer is on its alternate stack (never with SS_AUTODISARM).
bool on_altstack(const Task& task, u64 sp);
// What sigaltstack(2) tells: SS_DISABLE, SS_ONSTACK or 0.
int altstack_state(const Task& task, u64 sp);
// EPERM: on it now; EINVAL: flags; ENOMEM: too small.
Result<void> set_altstack(Task& task, u64 sp, int flags, u64 size);

}  // namespace rf::task
