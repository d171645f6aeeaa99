// The Kernel: what is one per sandbox. Ids, the tree of processes, the clocks, the mount tree, counters.
#pragma once

#include <sys/utsname.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/scheduler.h"
#include "core/worker_counts.h"
#include "fs/vfs.h"
#include "mm/memory_manager.h"
#include "mm/vdso.h"
#include "task/futex.h"
#include "task/syscall.h"
#include "task/task.h"

namespace rf::task {

class StraceSink;  // strace.h

struct KernelOptions {
  std::string hostname = "ringfence";
  u32 cpus = 1;
  u64 memory_limit = 0;  // bytes
};

// What the first process is to be.
struct InitialProcess {
  std::string path;  // of the program; argv[0] may be another name
  std::vector<std::string> argv, envp;
  std::string cwd;
  Ref<fs::Credentials> creds;
  std::array<Ref<fs::File>, 3> stdio;  // null: closed
};

// Why exec failed before anything ran, for exit status 126 or 127.
struct StartError {
  Errno error;
  std::string path;
};

class TaskJobControl;
class Kernel {
 public:
  Kernel(KernelOptions options, Scheduler& scheduler, platform::Platform& platform, mm::Frames& frames,
         mm::VdsoClock& clock);
  ~Kernel();

  Scheduler& scheduler;
  const SyscallTable& syscalls = SyscallTable::get();
  platform::Platform& platform;
  mm::Frames& frames;
  mm::VdsoClock& clock;
  std::unique_ptr<fs::Vfs> vfs;  // set by the runtime before the first process
  const KernelOptions options;
  FutexTable futexes;
  StraceSink* strace = nullptr;  // null: off
  mm::MemoryEnv memory_env() { return {platform, frames, clock}; }

  // --- The process tree; see the lock order in task.h ---
  mutable SpinRwLock tree_lock;
  // Under tree_lock (shared):
  Task* find_task(Pid tid) const;
  ThreadGroup* find_group(Pid pid) const;            // zombies too, until reaped
  ProcessGroup* find_process_group(Pid pgid) const;  // null when it has no member
  Session* find_session(Pid sid) const;              // likewise
  void for_each_group(const std::function<void(ThreadGroup&)>& f) const;
  void for_each_task(const std::function<void(Task&)>& f) const;
  ThreadGroup* init() const { return init_; }
  // Under tree_lock (exclusive):
  Result<Pid> allocate_pid();  // reserves it; EAGAIN at pid_max
  void release_pid(Pid pid);   // one that was reserved and not used
  // Enters a task under its reserved tid, and with a leader its group. A leader gains a reference, which whoever
  // removes it drops once the lock is free.
  void insert_task(Task& task);
  void remove_task(Task& task);  // frees the tid
  void remove_group(ThreadGroup& group);
  // Moves `group` to `to` (null: out of its process group, when it is reaped).
  void set_process_group(ThreadGroup& group, Ref<ProcessGroup> to);
  // Lets a thread that execs take over the identity of its group's leader, who has exited and is returned.
  Ref<Task> take_over_tid(Task& task);
  size_t session_members(Pid sid) const;
  size_t process_count() const { return groups_.size(); }
  size_t task_count() const { return tasks_.size(); }

  // Starts pid 1. Runs on a fiber. When pid 1 is gone every other process is killed and on_exit called with its wait
  // status. Suspends.
  std::expected<void, StartError> start(const InitialProcess& process, std::function<void(int status)> on_exit);
  // Set before start(): pid 1 has been stopped by a signal, and nobody in the sandbox is its parent. Called under
  // tree_lock; must not suspend.
  std::function<void()> on_init_stopped;
  // Kills every process (time-out, host SIGTERM): pid 1 gets `sig`, or everything SIGKILL.
  void signal_init(int sig);
  void continue_init();  // SIGCONT for pid 1's whole process group, which ^Z stopped as one
  void kill_all();

  // --- Sending signals: kill(2)'s permission checks are the caller's ---
  void send_to_group(ThreadGroup& group, const siginfo_t& info);  // takes signal_lock
  size_t send_to_process_group(Pid pgid, const siginfo_t& info);  // takes tree_lock; how many got it
  // Called by the last thread of pid 1 when it has become a zombie: ends everything else, then calls on_exit.
  // Suspends.
  void init_exited(int status);

  // Guest clocks, ns; EINVAL for clock ids that are not offered. `task` for the CPU-time clocks.
  Result<Nanos> now(int clock, Task* task);

  // Out of memory: kills the process that uses most (its oom_score_adj counted), logs, and returns when there is a
  // chance that memory was freed. Suspends.
  void out_of_memory(Task& task);

  // Counters.
  WorkerCounts<kSyscallLimit> syscall_counts;
  void log_unimplemented(u64 number, Task& task);  // once per number
  std::vector<std::pair<std::string, u64>> unimplemented_calls() const;
  std::atomic<u64> context_switches{0}, forks{0};
  Nanos boot_time = 0;  // realtime

  // nodename and domainname, guarded by uts_lock.
  mutable SpinLock uts_lock;
  std::string hostname, domainname = "(none)";
  utsname uname() const;

 private:
  friend class Task;
  Result<Ref<Task>> make_init(const InitialProcess& process);
  bool pid_in_use(Pid pid) const;
  std::unordered_map<Pid, Task*> tasks_;  // null: reserved
  std::unordered_map<Pid, Ref<ThreadGroup>> groups_;
  std::unordered_map<Pid, ProcessGroup*> process_groups_;  // with members
  std::unique_ptr<TaskJobControl> job_control_;
  std::unordered_map<Pid, u32> sessions_;  // number of processes in each
  ThreadGroup* init_ = nullptr;
  Pid last_pid_ = 0;
  std::function<void(int)> on_exit_;
  mutable SpinLock unimplemented_lock_;
  std::unordered_map<u64, u64> unimplemented_;
};

}  // namespace rf::task
