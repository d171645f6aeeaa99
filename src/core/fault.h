// The sentry's own faults. Fix-ups (user-memory copies) get the first look at SIGSEGV and SIGBUS; what none of them
// claims ends the sentry with a report: the signal, the fiber, registers, a backtrace, status 125. A stack
// overflow of a fiber is recognised by its guard pages and named as such.
#pragma once

#include <signal.h>

#include <cstddef>

namespace rf {

// The exit status of a failure of Ringfence itself.
inline constexpr int kInternalErrorStatus = 125;

// Returns true when it has dealt with the fault (by changing the context in `ucontext`). In a signal handler, on the
// alternate stack; must be async-signal-safe.
using FaultFixup = bool (*)(int sig, siginfo_t* info, void* ucontext) noexcept;
// Fix-ups are asked in the order they were added. At most 8; before other threads run.
void add_fault_fixup(FaultFixup fixup);

// Adds something to the report of a fatal fault or failed check ("the guest's last system calls"): writes text to
// `fd`. Async-signal-safe. At most 8; before other threads run.
using CrashReport = void (*)(int fd) noexcept;
void add_crash_report(CrashReport report);

// Installs the handlers for SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT. Idempotent; any thread. Scheduler::run()
// calls it.
void install_fault_handlers();

// What the handlers do: asks the fix-ups, then dies. For faults that are told otherwise than by a signal. Returns when
// a fix-up has changed the context in `ucontext`.
void deliver_fault(int sig, siginfo_t* info, void* ucontext);

// The calling thread's alternate signal stack, for the life of the object (which must die on the same thread).
class FaultStack {
 public:
  FaultStack();
  ~FaultStack();
  FaultStack(const FaultStack&) = delete;
  FaultStack& operator=(const FaultStack&) = delete;

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
  stack_t previous_{};
};

// For check.cc.
void write_backtrace_here(int fd) noexcept;
void run_crash_reports(int fd) noexcept;

}  // namespace rf
