// A task: one guest thread. And what it shares with others: thread group (process), process group, session.
//
// Lock order in this room: Kernel::tree_lock (who is whose parent, group, session; ids) > ThreadGroup::signal_lock
// (pending signals, masks, stops, exit state) > SignalHandlers. All are spin locks, never held while suspending. A
// task's own fields without a lock named are touched by its own fiber only.
#pragma once

#include <sys/resource.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/fiber.h"
#include "core/ref.h"
#include "core/wait_queue.h"
#include "fs/context.h"
#include "fs/fd_table.h"
#include "fs/tty.h"
#include "mm/memory_manager.h"
#include "platform/platform.h"
#include "task/run_state.h"
#include "task/signal.h"
#include "task/syscall.h"

namespace rf::task {

class Kernel;
class Task;
class ThreadGroup;
class IntervalTimers;  // setitimer, alarm, timer_create (posix_timers.h)
struct ExecImage;      // a program ready to take over the task (exec.h)

using Pid = s32;

// CLONE_FS: root, working directory, umask.
class FsState final : public RefCounted {
 public:
  FsState(fs::Path root, fs::Path cwd, u32 umask);
  Ref<FsState> fork() const;
  fs::Path root() const;
  fs::Path cwd() const;
  void set_root(fs::Path p);
  void set_cwd(fs::Path p);
  std::atomic<u32> umask;

 private:
  mutable SpinLock lock_;
  fs::Path root_, cwd_;
};

class Session final : public RefCounted {
 public:
  explicit Session(Pid id) : id(id) {}
  const Pid id;
  Ref<fs::Tty> controlling_tty;  // guarded by Kernel::tree_lock
};

class ProcessGroup final : public RefCounted {
 public:
  ProcessGroup(Pid id, Ref<Session> session) : id(id), session(std::move(session)) {}
  const Pid id;
  const Ref<Session> session;
  std::vector<ThreadGroup*> members;  // zombies included; guarded by Kernel::tree_lock
};

struct RestartBlock {
  // Continues an interrupted call from saved state; called by restart_syscall(2).
  std::function<SysResult(Task&)> function;
};

struct CpuTimes {
  Nanos user = 0, system = 0;
  CpuTimes& operator+=(const CpuTimes& o) {
    user += o.user;
    system += o.system;
    return *this;
  }
  Nanos total() const { return user + system; }
};

// What a vfork parent waits on; the child holds it until it lets go of the parent's memory.
class VforkLatch final : public RefCounted {
 public:
  explicit VforkLatch(Ref<Fiber> waiter) : waiter_(std::move(waiter)) {}
  void release() {
    done_.store(true, std::memory_order_release);
    waiter_->unpark();
  }
  bool done() const { return done_.load(std::memory_order_acquire); }

 private:
  Ref<Fiber> waiter_;
  std::atomic<bool> done_{false};
};

// A process: threads with one pid.
class ThreadGroup final : public RefCounted {
 public:
  ThreadGroup(Kernel& kernel, Pid pid);

  Kernel& kernel;
  const Pid pid;

  // --- changed under Kernel::tree_lock (exclusive) and signal_lock; either is enough to read ---
  std::vector<Task*> tasks;  // live threads; the leader stays until the process is reaped
  u32 live_threads = 0;
  Task* leader = nullptr;

  std::atomic<Pid> parent_pid{0};  // for getppid(2); 0: no parent

  // --- guarded by Kernel::tree_lock ---
  void set_parent(ThreadGroup* p) {
    parent = p;
    parent_pid.store(p ? p->pid : 0, std::memory_order_relaxed);
  }
  ThreadGroup* parent = nullptr;  // changed by set_parent()
  Pid parent_thread = 0;          // that made it, for parent-death signals
  std::vector<Ref<ThreadGroup>> children;
  Ref<ProcessGroup> process_group;
  bool child_subreaper = false;
  bool execed = false;        // since fork: setpgid on it is EACCES
  int exit_signal = SIGCHLD;  // to the parent; 0: none
  bool reaped = false;

  // --- guarded by signal_lock ---
  mutable SpinLock signal_lock;
  SignalQueue pending;
  bool exiting = false;       // exit_group, fatal signal or exec by another thread
  int exit_status = 0;        // wait(2) status once exiting
  Task* exec_task = nullptr;  // the thread in execve that waits for the rest
  bool stopped = false;       // job control: every thread is to stop
  int stop_signal = 0;
  bool stop_complete = false;     // every live thread has stopped
  bool stop_unreported = false;   // and wait(2) has not told it yet
  bool continue_pending = false;  // was continued, and wait(2) has not told it yet
  u32 stopped_count = 0;
  u64 continues = 0;  // how many SIGCONT were sent: one undoes a stop that a thread is only about to begin
  // What the next thread to look is to tell the parent (CLD_STOPPED or CLD_CONTINUED; 0: nothing).
  int parent_notice = 0;
  bool zombie = false;  // all threads gone; waiting to be reaped
  std::array<rlimit, RLIM_NLIMITS> limits;
  CpuTimes dead_times, children_times;
  rusage dead_usage{}, children_usage{};  // without the times

  Ref<SignalHandlers> handlers;
  WaitQueue child_events;   // a child exited, stopped or continued
  WaitQueue signal_events;  // a signal became pending (sigtimedwait, signalfd)
  WaitQueue exit_events;    // it became a zombie (pidfd)
  std::unique_ptr<IntervalTimers> timers;
  Nanos start_time = 0;  // monotonic
  std::atomic<int> dumpable{1};
  std::atomic<int> oom_score_adj{0};
  std::atomic<u32> membarrier_registered{0};  // MEMBARRIER_CMD_REGISTER_* asked for since the last exec
  // Copies of the limits that every call needs.
  std::atomic<u64> file_size_limit{~u64{0}}, open_files_limit{1024};

  rlimit limit(int which) const;
  void set_limit(int which, const rlimit& l);  // under signal_lock
  // CPU time of all threads, dead ones included. Takes signal_lock.
  CpuTimes cpu_times() const;
  CpuTimes cpu_times_locked() const;

 private:
  ~ThreadGroup() override;
};

struct SignalStack {
  u64 sp = 0;
  int flags = SS_DISABLE;
  u64 size = 0;
};

class Task final : public RefCounted {
 public:
  // --- Identity ---
  Kernel& kernel;
  Pid tid;  // guarded by Kernel::tree_lock; changes when exec makes this thread the leader
  Ref<ThreadGroup> group;
  Ref<Fiber> fiber;
  Pid pid() const { return group->pid; }
  std::string name() const;  // comm, 15 bytes
  void set_name(std::string_view name);

  // --- Guest state ---
  platform::Registers regs{};
  std::unique_ptr<platform::Context> context;
  platform::Exit last_exit{};
  Ref<mm::MemoryManager> mm;
  Ref<fs::FdTable> files;
  Ref<FsState> fs_state;
  // Replaced, never changed in place; others read it under the group's signal_lock.
  Ref<fs::Credentials> creds;
  SyscallArgs args;  // of the call in progress
  u64 syscall_number = ~u64{0};
  int restart_code = 0;  // kERESTART*: the last call is to be restarted or ended with EINTR; 0: none
  u64 restart_rax = 0;   // number to re-run it with
  RestartBlock restart;
  u64 clear_child_tid = 0;
  u64 robust_list = 0;
  int parent_death_signal = 0;
  std::unique_ptr<ExecImage> exec;  // between execve and the moment it takes over
  // Of the last fault, for signal frames: vector, x86 error code, address.
  u64 fault_vector = 0, fault_error = 0, fault_address = 0;

  // --- Scheduling attributes: kept and told, without effect on who runs ---
  std::atomic<u64> affinity{~u64{0}};  // bit n: CPU n
  std::atomic<int> nice{0};
  std::atomic<int> sched_policy{0}, sched_priority{0};
  u64 timer_slack = 50'000;  // ns
  u32 personality = 0;
  bool thp_disabled = false;

  // --- --strace: the line under way, and when the call began (monotonic ns) ---
  std::string strace_line;
  Nanos strace_start = 0;

  // --- Signals, guarded by group->signal_lock; the mask is written by the own fiber only ---
  SignalQueue pending;
  SignalSet mask = 0;
  SignalSet saved_mask = 0;  // of sigsuspend, ppoll, ...: restored by signal delivery or at return
  bool restore_mask = false;
  SignalStack altstack;
  SignalSet sigwait_mask = 0;  // being waited for by sigtimedwait: wakes although blocked

  // --- Exit ---
  int exit_code = 0;                // wait status of this thread
  std::atomic<bool> killed{false};  // SIGKILL or group exit: leave as soon as possible
  bool leaving = false;             // on its way out: no signal interrupts it any more (guarded by signal_lock)
  bool exited = false;              // a leader that others outlive, or a zombie (as ThreadGroup::tasks)
  bool in_stop = false;             // counted in stopped_count (guarded by signal_lock)
  Ref<VforkLatch> vfork_latch;      // of the parent that waits for this task; else null
  Ref<VforkLatch> vfork_wait;       // that this task waits on
  Pid vfork_child = 0;

  // --- Accounting ---
  std::atomic<u64> user_cycles{0};  // in guest code, finished stretches
  std::atomic<u64> guest_since{0};  // start of the present stretch; 0: none
  CpuTimes cpu_times() const;       // any thread
  std::atomic<u64> minor_faults{0}, major_faults{0}, voluntary_switches{0}, involuntary_switches{0};
  Nanos start_time = 0;  // monotonic

  // The VFS's view of this task; valid until the task's credentials or directories change.
  fs::Context fs_context();
  static Task& of(const fs::Context& ctx) { return *static_cast<Task*>(ctx.task); }
  // The task whose fiber is running.
  static Task& current();

  // --- Signals ---
  // Queues a signal for this thread (private) and makes it look. `force`: as the kernel's force_sig: unblocks and
  // resets an ignored or blocked handler to the default first. From any fiber; takes signal_lock.
  void send_signal(const siginfo_t& info);
  void force_signal(const siginfo_t& info);
  // Whether a signal waits that is not blocked, or a stop or exit is asked for. Cheap.
  bool has_work() const { return fiber->interrupted(); }
  void recompute_pending();  // under signal_lock: sets or clears the fiber's interrupt flag
  void set_mask(SignalSet mask);
  // Makes the task look at its interrupt flag, which this sets, wherever it is. Any thread.
  void interrupt();

  // Fault-style signal from an Exit or a failed fault.
  void deliver_fault(int sig, int code, u64 address);

  // The loop that is the task's fiber.
  void run();
  // Called first on the fiber: waits until the maker has finished with the task; false if it was given up.
  bool wait_for_start();
  void start();    // by the maker
  void abandon();  // by the maker, instead: nothing of the task is in the tree

  Result<Ref<fs::File>> file(int fd) { return files->get(fd); }

 private:
  friend Ref<Task> make_task(Kernel& kernel, Pid tid, Ref<ThreadGroup> group);
  Task(Kernel& kernel, Pid tid, Ref<ThreadGroup> group);
  ~Task() override;
  mutable SpinLock name_lock_;
  char name_[16] = {};
  std::atomic<int> start_state_{0};  // 0 being made, 1 started, 2 abandoned
};

// A task of `group` that is in no table yet and has no fiber.
Ref<Task> make_task(Kernel& kernel, Pid tid, Ref<ThreadGroup> group);

}  // namespace rf::task
