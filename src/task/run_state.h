// The run states of a task. A task's fiber loops: `handle stops; state = state.execute(task)`, until there is none.
// The states carry the reference's names; they hold no data of their own (that is in the Task).
//
//   RunApp ──syscall──▶ SyscallEnter ─▶ SyscallInvoke ─▶ SyscallExit ─▶ RunApp
//     │  ▲                                   │ (restart block)  │
//     │  └────────────── Interrupt ◀─────────┴──────────────────┘   SyscallReinvoke: after a restart
//     └──fatal──▶ Exit ─▶ ExitMain ─▶ ExitNotify ─▶ (none)
//   ExecStop: execve waits for the other threads to be gone;  VforkWait: the parent waits for its vfork child.
#pragma once

namespace rf::task {

class Task;

class RunState {
 public:
  // Runs one step on the task's fiber; the next state, or null when the task is over. May suspend.
  virtual const RunState* execute(Task& task) const = 0;
  virtual const char* name() const = 0;

 protected:
  ~RunState() = default;
};

extern const RunState& kRunApp;
extern const RunState& kSyscallEnter;
extern const RunState& kSyscallInvoke;
extern const RunState& kSyscallReinvoke;
extern const RunState& kSyscallExit;
extern const RunState& kInterrupt;
extern const RunState& kExit;
extern const RunState& kExitMain;
extern const RunState& kExitNotify;
extern const RunState& kExecStop;
extern const RunState& kVforkWait;

}  // namespace rf::task
