// ExecStop: a task that has loaded its new program waits until it is the only thread of its process, takes over the
// leader's identity, and becomes the program.
#include <mutex>

#include "task/exec.h"
#include "task/kernel.h"
#include "task/strace.h"

namespace rf::task {
namespace {

// Kills the other threads and waits for them to be gone. False if the process is being ended by someone else, or
// another of its threads is in execve: then this one dies.
bool stop_other_threads(Task& task) {
  ThreadGroup& group = *task.group;
  std::unique_lock lock(group.signal_lock);
  if (group.exiting || task.killed.load(std::memory_order_relaxed)) return false;
  group.exec_task = &task;
  for (Task* t : group.tasks) {
    if (t == &task || t->exited) continue;
    t->killed.store(true, std::memory_order_release);
    t->interrupt();
    t->fiber->unpark();
  }
  while (group.live_threads > 1 && !group.exiting) {
    lock.unlock();
    park(Interruptible::kNo);
    lock.lock();
  }
  group.exec_task = nullptr;
  return !group.exiting;
}

// The tid of the process's leader, who has exited, becomes this thread's.
void become_leader(Task& task) {
  Kernel& kernel = task.kernel;
  Ref<Task> old_leader;
  std::lock_guard guard(kernel.tree_lock);
  if (task.group->leader == &task) return;
  old_leader = kernel.take_over_tid(task);
}

class ExecStop final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    if (!stop_other_threads(task)) {
      task.exec.reset();
      return &kInterrupt;
    }
    become_leader(task);
    become(task, std::move(task.exec));
    if (task.kernel.strace)
      task.kernel.strace->exit(task, SyscallTable::get().find(task.syscall_number), SysResult(u64{0}));
    SpinGuard guard(task.group->signal_lock);
    task.recompute_pending();
    return &kRunApp;
  }
  const char* name() const override { return "ExecStop"; }
};

// The parent in vfork(2) goes on when the child has given its memory back, or when the parent is killed.
class VforkWait final : public RunState {
 public:
  const RunState* execute(Task& task) const override {
    const Ref<VforkLatch> latch = std::move(task.vfork_wait);
    while (!latch->done() && !task.killed.load(std::memory_order_acquire)) park(Interruptible::kNo);
    task.regs.rax = static_cast<u64>(task.vfork_child);
    if (task.kernel.strace)
      task.kernel.strace->exit(task, SyscallTable::get().find(task.syscall_number), SysResult(task.regs.rax));
    return &kSyscallExit;
  }
  const char* name() const override { return "VforkWait"; }
};

const ExecStop exec_stop_state;
const VforkWait vfork_wait_state;

}  // namespace

const RunState& kExecStop = exec_stop_state;
const RunState& kVforkWait = vfork_wait_state;

}  // namespace rf::task
