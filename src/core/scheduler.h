// The scheduler: one Worker per host thread (and so per vCPU), each pinned when there are enough CPUs,
// each with its run queue; idle workers steal.
//
// A worker's loop: take a fiber from the own queue (newly woken ones first), else poll the reactor, else
// steal, else expire timers, else wait in the reactor. While it runs guest code it can be kicked:
// the platform calls enter_guest()/leave_guest() around the guest, and kick() from any thread (a wake-up
// for a fiber queued there, a timer, the end of the time slice) makes the guest stop soon.
//
// Lock order: WaitQueue > TimerHeap > run queue. None is held across a switch.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/fiber.h"
#include "core/result.h"

namespace rf {

// What a worker waits in when it has nothing to run: hostio's io_uring, or a futex in unit tests.
class Reactor {
 public:
  virtual ~Reactor() = default;
  // Reaps what has completed, without waiting; runs the completions (they unpark fibers). Submits what is
  // queued. Returns whether anything was reaped. Own worker only.
  virtual bool poll() = 0;
  // Submits what is queued and waits until something completes, wake() is called or `deadline` passes.
  virtual void wait(Nanos deadline) = 0;
  // Makes the wait() in progress, or the next one, return. Any thread.
  virtual void wake() = 0;
  // Before guest code is entered, when outstanding(): arranges for completions from now on to stop guest code, as far
  // as that can be arranged. Own worker only.
  virtual void prepare_for_guest() {}

  // The next two are looked at before every stay in a guest, and therefore not virtual. Own worker only.
  // Whether poll() has nothing to do. (Left to itself the compiler makes it a call, in the middle of every system
  // call.)
  [[gnu::always_inline]] bool quiet() const {
    return inbox_size_.load(std::memory_order_seq_cst) == 0 && !due_ &&
           std::atomic_ref(*taken_).load(std::memory_order_relaxed) ==
               std::atomic_ref(*arrived_).load(std::memory_order_acquire);
  }
  // Whether a completion may come that would not stop guest code on its own (it arrived between enter_guest()'s look
  // at the reactor and the guest entry): such guest code is then stopped every few milliseconds.
  bool outstanding() const { return outstanding_ != 0; }
  // A word that changes when something completes, and what it is as long as nothing has.
  const unsigned* arrivals() const { return arrived_; }
  unsigned arrivals_taken() const { return std::atomic_ref(*taken_).load(std::memory_order_relaxed); }

 protected:
  std::atomic<u32> inbox_size_{0};  // what other threads have left for poll() to do
  bool due_ = false;                // there is something else for it to do besides completions
  u64 outstanding_ = 0;             // requests whose completion would not stop guest code
  // Running indices of a queue of completions.
  unsigned *taken_ = &nothing_, *arrived_ = &nothing_;

 private:
  unsigned nothing_ = 0;
};

// Implemented by the platform, one per vCPU.
class GuestKicker {
 public:
  // In a signal handler on the worker's own thread: make the guest entry that is in progress or about to
  // happen return at once. Async-signal-safe.
  virtual void on_kick_signal() noexcept = 0;
  // Forgets the kicks so far, where host calls that the worker makes on its way to the guest count as such. It looks
  // afterwards at all that they could have been for. On the worker's own thread.
  virtual void forget_host_calls() noexcept {}
  // Whether guest code runs on while its fiber steps out: Worker::step_out().
  virtual bool steps_out() const noexcept { return false; }

 protected:
  ~GuestKicker() = default;
};

struct WorkerStats {
  u64 switches = 0;     // fibers resumed
  u64 steals = 0;       // fibers taken from another worker
  u64 kicks = 0;        // signals sent to stop guest code on this worker
  u64 idle_waits = 0;   // times it waited in the reactor
  Nanos idle_time = 0;  // ns spent there
};

class Worker;
// The worker of the calling thread. Read by Worker::current() alone.
extern "C" constinit thread_local Worker* rf_current_worker;

class Worker {
 public:
  // The worker whose thread this is; null elsewhere. A fiber may move between threads: the answer holds until the fiber
  // suspends.
  static Worker* current();

  u32 index() const { return index_; }
  Reactor& reactor() { return *reactor_; }
  const WorkerStats& stats() const { return stats_; }

  // Guest code's cycles on this worker, as who runs it reports them. Own worker only; reading from any thread.
  void add_guest_cycles(u64 n) {
    guest_cycles_.store(guest_cycles_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  // Without the time in which a fiber had stepped out and the worker did other things.
  u64 guest_cycles() const {
    const u64 outside = outside_cycles_.load(std::memory_order_relaxed);
    const u64 all = guest_cycles_.load(std::memory_order_relaxed);
    return all - std::min(all, outside);
  }

  // Brackets a stretch of guest code on this worker, called by a fiber. enter_guest() expires due timers,
  // reaps completions and returns false when the caller should yield() first (someone else is to run, or the
  // slice is used up); otherwise arms the kick for the slice's end and the next timer, and returns true.
  // Neither suspends. Between the two the fiber must not suspend, but by step_out(). A kick may come at any
  // moment from the call of enter_guest() on: what on_kick_signal() sets is to be cleared before that call, not after.
  bool enter_guest(GuestKicker& kicker);
  void leave_guest();

  // Instead of leave_guest(), after a kick, where guest code has a thread of its own and need not stop for what the
  // worker has to do: leaves it running, and runs those who were woken. The stay goes on with enter_guest(), which may
  // well return false. Suspends, but never leaves this worker. False, at once: there is somebody already who has
  // stepped out, and waits; guest code must be stopped.
  bool step_out();
  // Whether there is more guest code that computes than workers, and others who want to run in between: of late this
  // worker ran some of them beside guest code that had been stepped out of, and no worker is idle.
  bool crowded() const;

  // Stops guest code running on this worker soon, if it runs any. Any thread.
  void kick();

  // Makes this worker look at its reactor and queue soon, whatever it does: wakes it when it idles, kicks it when it
  // runs guest code. Any thread.
  void prod();

  // The kick signal's handler, on the worker's own thread.
  void handle_kick_signal() noexcept;

 private:
  friend class Scheduler;
  friend class RunQueue;
  friend class Fiber;
  friend class TimerHeap;
  friend class Timer;
  friend WakeReason park(Interruptible, Nanos);
  friend void yield();
  friend StackBounds current_fiber_stack();
  struct Impl;
  u32 index_ = 0;
  Reactor* reactor_ = nullptr;
  WorkerStats stats_;
  std::atomic<u64> guest_cycles_{0}, outside_cycles_{0};
  Impl* impl_ = nullptr;
};

// In assembly, relative to the thread pointer at this moment. The compiler, which knows nothing of fibers, would keep
// the variable's address over a switch, and then read another thread's.
inline Worker* Worker::current() {
  Worker* w;
  asm volatile("movq %%fs:rf_current_worker@tpoff, %0" : "=r"(w) : : "memory");
  return w;
}

struct SchedulerOptions {
  u32 workers = 1;
  bool pin = true;               // pin worker i to the i-th CPU this process may use, if there are enough
  Nanos time_slice = 4'000'000;  // of guest code, while others wait for the worker
  size_t stack_size = 64 << 10;  // per fiber; enlarged under sanitizers
  // Makes worker i's reactor, on that worker's own thread.
  std::function<Setup<std::unique_ptr<Reactor>>(u32 worker)> make_reactor;
  // Runs worker i's loop, on that worker's own thread, in whatever surroundings it likes. Null: it is just called.
  std::function<void(u32 worker, const std::function<void()>& loop)> run_loop;
  // Called by a worker just before a fiber is left, on its stack. May be null.
  void (*leave_fiber)() = nullptr;
};

class Scheduler {
 public:
  static Setup<std::unique_ptr<Scheduler>> create(SchedulerOptions options);
  ~Scheduler();  // after run() returned, or if it never ran

  // The scheduler of the calling worker thread; null elsewhere.
  static Scheduler* current();

  // Makes a fiber and queues it: on the calling worker, else on the least loaded. Any thread. The fiber keeps
  // itself alive while it runs. ENOMEM or EAGAIN when no stack is to be had (vm.max_map_count, memory).
  Result<Ref<Fiber>> spawn(std::string name, std::function<void()> body);

  // Starts the workers (the calling thread becomes worker 0) and returns when stop() was called. Fibers
  // that have not ended by then are abandoned where they are parked.
  Setup<void> run();
  void stop();  // any thread

  // Calls `f` once on each worker's own thread, outside any fiber, one worker after the other: for what the host keeps
  // per thread. From a fiber; suspends. A worker that runs guest code comes to it only when that stops by itself, so
  // this belongs to the start. `f` must be short and must not suspend.
  void on_each_worker(const std::function<void()>& f);

  u32 worker_count() const;
  Worker& worker(u32 i);
  // Fibers that exist, for dumps. The callback must not suspend.
  void for_each_fiber(const std::function<void(Fiber&)>& f);

 private:
  explicit Scheduler(SchedulerOptions options);
  friend class Fiber;
  friend class Worker;
  friend class Timer;
  friend WakeReason park(Interruptible, Nanos);
  friend void yield();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rf
