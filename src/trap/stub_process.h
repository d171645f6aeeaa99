// Stub processes and their threads, as the sentry handles them.
//
// A stub process is the host's side of one guest address space. Its first thread, the manager, makes the host calls
// that the sentry asks for; further threads run guest code. The first stub process of all, the zygote, runs none: the
// others are its clones, so that what a new one must take over of its parent is next to nothing.
//
// Locks: Process::lock_ > Control's. None is held while suspending.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/result.h"
#include "core/spinlock.h"
#include "trap/control.h"

namespace rf::trap {

class Family;

// A stub thread; the sentry's vCPU for one guest thread.
struct Thread {
  u32 index;                     // in Control
  u32 wakes = 0;                 // what its wake word says
  u64 fs_base = 0, gs_base = 0;  // what the thread has
  // Whether it waits for the sentry. While the sentry has it lend its CPU to the manager, nothing else may resume it.
  enum class State : u8 { kRuns, kWaits, kLends };
  std::atomic<State> state{State::kWaits};
  void begin_to_run() {
    auto s = State::kWaits;
    while (!state.compare_exchange_weak(s, State::kRuns, std::memory_order_acquire) && s != State::kRuns)
      s = State::kWaits;
  }
  // Where it runs, and where it is to run when it is next resumed: see Context::choose_place().
  enum class Place : u8 {
    kAnywhere,
    kAway,  // not on the core of the worker that had it move
    kHome,  // on the worker's core alone
  };
  Place place = Place::kAnywhere, wanted = Place::kAway;
  u32 home = 0;                       // whose core it is on, for kHome: a worker's index
  u32 same_core = 0;                  // stops in a row that found it on the worker's core
  u64 next_move = 0, move_pause = 0;  // cycles
};

class Process {
 public:
  ~Process();  // ends the host process
  Process(const Process&) = delete;

  // Makes the process do these host calls, in order, and waits for it. ENOMEM if one failed (the others are done all
  // the same), ESRCH if the process is gone.
  enum class Commands : u8 { kAdd, kTakeAway };  // whether they take mappings or rights away
  Result<void> execute(std::span<const Command> commands, Commands kind = Commands::kAdd);

  // A thread that is not in use, or a new one. EAGAIN: the host, or the sandbox, has no more threads.
  Result<Thread*> take_thread();
  void give_back_thread(Thread* thread);
  // Whether no more than one thread is taken.
  bool single_threaded();
  // `thread` has stopped and waits for the sentry.
  void waits(Thread& thread) {
    thread.state.store(Thread::State::kWaits, std::memory_order_release);
    if (lender_.load(std::memory_order_relaxed) != &thread) lender_.store(&thread, std::memory_order_relaxed);
  }
  // Has `thread`, which waits, do what its Area says; or lend its CPU to the manager, if `lend` is kLend.
  void wake(Thread& thread, u32 lend);
  // Makes `thread` stop soon if it runs guest code.
  void kick(const Thread& thread);
  // The process can be trusted no more, or is wanted no more.
  void kill();

  // Waits, on the host, until the host process of one that was killed is gone.
  void await_end() const;
  bool ending() const { return dead() || ending_; }

  bool dead() const { return dead_.load(std::memory_order_acquire); }
  pid_t pid() const { return pid_; }
  Control& control() const;
  // The CPUs that a thread may use there, if the calling worker is to resume it. False if there are none.
  bool cpus_of(Thread::Place place, CpuSet& out) const;

 private:
  friend class Family;
  Process(Family& family, u32 number, pid_t pid) : family_(family), number_(number), pid_(pid) {}
  Result<void> execute_locked(std::span<const Command> commands, Commands kind,
                              std::span<const Command> child_commands = {});
  Result<void> round(std::span<const Command> commands, Commands kind, std::span<const Command> child_commands);
  void died();

  Family& family_;
  bool call_manager();
  std::pair<Thread*, u32> take_lender(u32 own_cpu);
  void wake_manager();

  const u32 number_;
  const pid_t pid_;
  std::atomic<bool> dead_{false}, ending_{false};
  std::atomic<int> waiting_fd_{-1};  // who waits for the manager; taken by who finishes first, it or the process's end
  SpinLock lock_;
  CpuSet manager_cpus_{};                 // where the manager was told to run; none: nothing
  std::atomic<Thread*> lender_{nullptr};  // the thread that began to wait last
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Thread*> idle_;
};

// All stub processes of a sandbox, and the thread that sees them end.
class Family {
 public:
  static Setup<std::unique_ptr<Family>> create(u32 workers);
  ~Family();

  // A process without threads in use. EAGAIN: the host, or the sandbox, has no more.
  Result<std::shared_ptr<Process>> create_process();
  Control& control() { return *control_; }
  pid_t zygote() const { return zygote_->pid_; }

 private:
  friend class Process;
  Family() = default;
  Setup<void> start_zygote();
  Setup<void> start_thread(void (Family::*body)(), const char* what);
  void reap();
  void raise();
  void raise_to(size_t count);
  void begin();
  Result<std::shared_ptr<Process>> clone_process();
  void ended(pid_t pid, int code, int status);
  void forget(Process& p);
  int done_fd() const;  // of the calling thread

  std::unique_ptr<Control> control_;
  CpuSet cpus_{};                         // that the sentry may use
  bool worker_has_cpu_ = false;           // each worker one of them, which it stays on
  std::vector<hostio::HostFd> done_fds_;  // one a worker, and one for all other threads
  std::vector<pthread_t> own_threads_;    // of start_thread()
  std::atomic<u32> started_{0};           // how many of them run
  std::atomic<bool> begun_{false};        // they are to do their work
  std::atomic<bool> stopping_{false};     // they are to end
  std::unique_ptr<Process> zygote_;

  // Processes made ahead of use, each with a thread, by a thread of its own. An idle sandbox that never had more than
  // one process has none: the first is made while the sentry starts, more when a second one is asked for.
  static constexpr size_t kReady = 3;
  SpinLock ready_lock_;
  std::vector<std::shared_ptr<Process>> ready_;
  bool created_one_ = false;
  std::atomic<bool> first_made_{false};
  std::atomic<u32> wanted_{0};  // changes when ready_ has become shorter

  SpinLock lock_;
  struct Record {
    Process* process;  // null once the sentry has let go of it
    u32 number;
    std::vector<u32> threads;
  };
  std::unordered_map<pid_t, Record> alive_;
  std::vector<pid_t> early_ends_;  // of children that are not, or not yet, in alive_
};

}  // namespace rf::trap
