// A worker and the scheduler from the inside. Internal to core.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <vector>

#include "core/fiber_impl.h"
#include "core/kick_timer.h"
#include "core/run_queue.h"
#include "core/scheduler.h"
#include "core/timer_heap.h"

namespace rf {

struct Worker::Impl {
  // While a worker is crowded, those who sleep are woken together: guest code that computes is interrupted no more
  // often than this. (Linux lets a thread finish its slice of 1 to 3 ms.)
  static constexpr Nanos kWakesApart = 2'000'000;

  // What the worker's loop does with the fiber that has just switched back to it.
  enum class Action : u8 { kPark, kYield, kDone, kStepOut };

  // Where the worker is, for those who want to interrupt it.
  enum State : u32 {
    kSentry,
    kGuest,        // between enter_guest() and leave_guest(): needs the signal
    kGuestKicked,  // the same, and somebody has sent it
    kIdle,         // about to wait, or waiting, in the reactor: needs Reactor::wake()
  };

  Impl(Worker& w, Scheduler::Impl& s, u32 index) : self(w), scheduler(s), bit(u64{1} << index), timers(w) {}

  Worker& self;
  Scheduler::Impl& scheduler;
  const u64 bit;  // of the idle mask
  RunQueue queue;
  TimerHeap timers;
  // Stops those who are served beside a fiber that has stepped out: it wants the worker's attention.
  class ServingEnds final : public Timer {
   public:
    ~ServingEnds() override { cancel(); }

   private:
    void expire() override {}
  } serving_ends;
  std::unique_ptr<Reactor> reactor;
  ExecutionContext loop_context;
  KickTimer kick_timer;
  pid_t tid = 0;

  Fiber* current = nullptr;
  Action action = Action::kPark;
  Nanos slice_start = 0;     // of the current fiber, once others wait for the worker; 0 before
  Fiber* outside = nullptr;  // the fiber whose guest code runs on while the worker serves others: Worker::step_out()
  u32 served = 0;            // how many
  u64 crowded_until = 0;     // in cycles
  bool crowded = false;      // Worker::crowded(), but for idle workers
  bool ready_before_woken = false;  // the next fiber is one that was preempted
  Nanos look_at_completions = 0;    // kMissedCompletionDelay after the clock was last read for a guest entry
  u32 ticks = 0;
  bool searching = false;  // woken to look for work and has not found any yet

  // Something to be done on this thread between two fibers; lives on the stack of the fiber that waits for it.
  struct Errand {
    const std::function<void()>& body;
    Ref<Fiber> waiter;
    std::atomic<bool> done{false};
  };
  std::atomic<Errand*> errand{nullptr};

  std::atomic<u32> state{kSentry};
  std::atomic<GuestKicker*> kicker{nullptr};

  // The worker's thread.
  Setup<void> start();
  void loop();
  void finish();

  Fiber* next();
  Fiber* steal();
  void run(Fiber& f);
  void idle();
  void found_work();
  void run_errand();
  bool reap();
  // Leaves the current fiber; the loop then does `what`.
  void switch_out(Action what);

  // The same for the last time.
  [[noreturn]] void end_fiber();

  // Worker::enter_guest() again, where there is something to be looked at first.
  [[gnu::noinline]] bool enter_guest_after_all(GuestKicker& guest_kicker);
  // When to wake a fiber that sleeps until `deadline`.
  Nanos alarm_for(Nanos deadline) const {
    return self.crowded() ? (deadline + kWakesApart - 1) / kWakesApart * kWakesApart : deadline;
  }
  // Sets the alarm for the moment when guest code must be stopped. False when it must not even be entered.
  bool arm_for_guest(u32 woken, u32 ready);
  bool alarm_will_do(u32 woken, u32 ready, bool outstanding) const;
};

struct Scheduler::Impl {
  Impl(Scheduler& s, SchedulerOptions o) : self(&s), options(std::move(o)), stacks(options.stack_size) {}

  Scheduler* self;
  SchedulerOptions options;
  StackPool stacks;
  std::vector<std::unique_ptr<Worker>> workers;
  std::atomic<u64> idle_mask{0};
  std::atomic<u32> searching{0};  // 1 while a worker that was woken to steal has not found anything yet
  std::atomic<bool> stopping{false};
  bool ran = false;

  SpinLock fibers_lock;
  List<Fiber::Impl, AllFibersTag> fibers;

  // Queues a fiber that has just become runnable where it should run, and sees to it that it does.
  void make_runnable(Fiber& f, bool woken);
  // Queues a fiber whose turn on `here` is over: there, or on a worker that has clearly less to do. Only idle workers
  // steal, so busy ones would else keep for good what chance gave them.
  void requeue(Fiber& f, Worker::Impl& here);
  // Wakes an idle worker, unless one is on its way, to take work off the others.
  void wake_idle(u64 except);
  Worker& choose_worker(const Fiber& f);
  bool any_queued() const;
  void fiber_ended(Fiber& f);

  Setup<void> worker_thread(u32 index, std::latch& started, std::latch& ended, std::atomic<bool>& failed);
};

}  // namespace rf
