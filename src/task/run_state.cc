// The states a task is in nearly always: running guest code, and the stages of a system call. They call each other
// directly where the next one is known, so that a call costs no turn of the loop in Task::run().
#include "task/run_state.h"

#include <asm/unistd_64.h>

#include "core/cycles.h"
#include "core/scheduler.h"
#include "task/kernel.h"
#include "task/strace.h"
#include "task/task.h"

namespace rf::task {
namespace {

bool is_restart(int e) {
  return e >= kERESTARTSYS &&
         (e == kERESTARTSYS || e == kERESTARTNOINTR || e == kERESTARTNOHAND || e == kERESTART_RESTARTBLOCK);
}

// --- SyscallExit ----------------------------------------------------------------------------------

const RunState* finish_syscall(Task& task) {
  if (task.has_work() || task.restart_code != 0 || task.restore_mask) [[unlikely]]
    return &kInterrupt;
  return &kRunApp;
}

class SyscallExit final : public RunState {
 public:
  const RunState* execute(Task& task) const override { return finish_syscall(task); }
  const char* name() const override { return "SyscallExit"; }
};

// Puts the temporary mask of ppoll and its like away again, when no signal ended the call.
[[gnu::noinline, gnu::cold]] void restore_mask(Task& task) {
  task.restore_mask = false;
  task.set_mask(task.saved_mask);
}

// --- SyscallInvoke --------------------------------------------------------------------------------

[[gnu::always_inline]] inline const RunState* invoke(Task& task, const SyscallEntry* entry) {
  const SysResult result = entry->handler(task, task.args);
  if (result.next()) [[unlikely]]
    return result.next();
  task.regs.rax = result.rax();
  const int error = result.error();
  if (is_restart(error)) [[unlikely]] {
    task.restart_code = error;
    task.restart_rax = task.regs.orig_rax;
  }
  if (task.kernel.strace) [[unlikely]]
    task.kernel.strace->exit(task, entry, result);
  if (task.restore_mask && task.restart_code == 0 && error != EINTR) [[unlikely]]
    restore_mask(task);
  return finish_syscall(task);
}

class SyscallInvoke final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    return invoke(task, task.kernel.syscalls.find(task.syscall_number));
  }
  const char* name() const override { return "SyscallInvoke"; }
};

// --- SyscallEnter ---------------------------------------------------------------------------------

[[gnu::noinline, gnu::cold]] const RunState* not_implemented(Task& task, const SyscallEntry* entry) {
  task.kernel.log_unimplemented(task.syscall_number, task);
  task.regs.rax = static_cast<u64>(-s64{ENOSYS});
  if (task.kernel.strace) task.kernel.strace->exit(task, entry, err(ENOSYS));
  return finish_syscall(task);
}

const RunState* enter_syscall(Task& task, const Worker& worker) {
  platform::Registers& regs = task.regs;
  // Linux takes the number from eax.
  const u64 number = static_cast<u32>(regs.rax);
  regs.orig_rax = number;
  task.syscall_number = number;
  task.args.v = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9};
  const SyscallEntry* entry = task.kernel.syscalls.find(number);
  if (task.kernel.strace) [[unlikely]]
    task.kernel.strace->enter(task, entry);
  if (number < kSyscallLimit) task.kernel.syscall_counts.add(worker, number);
  if (!entry || !entry->handler) [[unlikely]]
    return not_implemented(task, entry);
  return invoke(task, entry);
}

class SyscallEnter final : public RunState {
 public:
  const RunState* execute(Task& task) const override { return enter_syscall(task, *Worker::current()); }
  const char* name() const override { return "SyscallEnter"; }
};

// Makes an interrupted call again, without going back to the guest for its SYSCALL instruction.
class SyscallReinvoke final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    task.regs.rax = task.restart_rax;
    return enter_syscall(task, *Worker::current());
  }
  const char* name() const override { return "SyscallReinvoke"; }
};

// --- RunApp ---------------------------------------------------------------------------------------

constexpr u64 kVectorPageFault = 14;

// The error code the CPU would have pushed.
u64 fault_error_code(const platform::Exit& exit) {
  constexpr u64 kPresent = 1, kWrite = 2, kUser = 4, kFetch = 16;
  return (exit.present ? kPresent : 0) | (exit.access == platform::Access::kWrite ? kWrite : 0) | kUser |
         (exit.access == platform::Access::kExec ? kFetch : 0);
}

void page_fault(Task& task, const platform::Exit& exit) {
  using Kind = mm::FaultFailure::Kind;
  const auto result = task.mm->handle_fault(exit.address, exit.access);
  task.minor_faults.fetch_add(1, std::memory_order_relaxed);
  if (result) [[likely]]
    return;
  task.fault_vector = kVectorPageFault;
  task.fault_error = fault_error_code(exit);
  task.fault_address = exit.address;
  switch (result.error().kind) {
    case Kind::kMapErr:
      return task.deliver_fault(SIGSEGV, SEGV_MAPERR, exit.address);
    case Kind::kAccErr:
      return task.deliver_fault(SIGSEGV, SEGV_ACCERR, exit.address);
    case Kind::kBusAdrErr:
      return task.deliver_fault(SIGBUS, BUS_ADRERR, exit.address);
    case Kind::kOutOfMemory:
      return task.kernel.out_of_memory(task);
    case Kind::kInterrupted:
      return;  // the fault happens again once the signal has been dealt with
  }
}

void exception(Task& task, const platform::Exit& exit) {
  task.fault_vector = exit.vector;
  task.fault_error = exit.error;
  task.deliver_fault(exit.signo, exit.code, exit.address);
}

// `worker`: that the fiber is on afterwards.
platform::Exit run_guest(Task& task, Worker*& worker) {
  const u64 begin = cycles();
  task.guest_since.store(begin, std::memory_order_relaxed);
  const platform::Exit exit = task.context->run(task.mm->address_space(), task.regs);
  task.guest_since.store(0, std::memory_order_relaxed);
  const u64 spent = cycles() - begin;
  task.user_cycles.store(task.user_cycles.load(std::memory_order_relaxed) + spent, std::memory_order_release);
  worker = Worker::current();
  worker->add_guest_cycles(spent);
  return exit;
}

class RunApp final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    if (task.has_work()) [[unlikely]]
      return &kInterrupt;
    for (;;) {
      Worker* worker;
      const platform::Exit exit = run_guest(task, worker);
      switch (exit.kind) {
        case platform::Exit::Kind::kSyscall:
          // Has looked at has_work().
          if (const RunState* next = enter_syscall(task, *worker); next != &kRunApp) [[unlikely]]
            return next;
          continue;
        case platform::Exit::Kind::kPageFault:
          page_fault(task, exit);
          break;
        case platform::Exit::Kind::kException:
          exception(task, exit);
          break;
        case platform::Exit::Kind::kInterrupted:
          if (!task.has_work()) {
            task.involuntary_switches.fetch_add(1, std::memory_order_relaxed);
            yield();
          }
          break;
      }
      if (task.has_work()) [[unlikely]]
        return &kInterrupt;
    }
  }
  const char* name() const override { return "RunApp"; }
};

const RunApp run_app_state;
const SyscallEnter syscall_enter_state;
const SyscallInvoke syscall_invoke_state;
const SyscallReinvoke syscall_reinvoke_state;
const SyscallExit syscall_exit_state;

}  // namespace

const RunState& kRunApp = run_app_state;
const RunState& kSyscallEnter = syscall_enter_state;
const RunState& kSyscallInvoke = syscall_invoke_state;
const RunState& kSyscallReinvoke = syscall_reinvoke_state;
const RunState& kSyscallExit = syscall_exit_state;

}  // namespace rf::task
