// Fibers: stackful coroutines (Boost.Context) that run on the scheduler's worker threads, M:N.
//
// A fiber runs until it parks, yields or ends. It may resume on another thread, so nothing may keep a
// thread_local's address (errno included) across a call that may suspend; use Worker::current(), which
// the compiler cannot cache. Comments that say "may suspend" mean exactly that.
//
// Stacks come from a pool: reserved memory, touched lazily, a guard page below. An overflow ends the
// sentry with a message that names the fiber.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "core/list.h"
#include "core/ref.h"
#include "core/time.h"
#include "core/timer.h"

namespace rf {

class RunQueue;
class Scheduler;
class Worker;
struct StackBounds;

enum class WakeReason {
  kWoken,        // unpark() was called (possibly long ago: re-check the condition)
  kTimeout,      // the deadline passed
  kInterrupted,  // interrupt() is pending and the wait was interruptible
};

enum class Interruptible : bool { kNo, kYes };

struct RunQueueTag;

class Fiber final : public RefCounted, public ListNode<RunQueueTag> {
 public:
  // The running fiber; checked: there must be one.
  static Fiber& current();
  // Null on a plain thread.
  static Fiber* current_or_null();

  const std::string& name() const { return name_; }

  // Makes a parked fiber runnable, or makes its next park() return at once. Callable from any thread,
  // lock-free unless the fiber is parked. Wakes do not count: two unparks before a park are one.
  void unpark();

  // Sets the interrupt flag and unparks: an interruptible park returns kInterrupted as long as it is set.
  void interrupt();
  void clear_interrupt() { interrupted_.store(false, std::memory_order_release); }
  bool interrupted() const { return interrupted_.load(std::memory_order_acquire); }

  // Bytes of stack this fiber has ever touched (page granularity).
  size_t stack_high_water() const;

  // CPU cycles (core/cycles.h) this fiber has run for on a worker, the present turn included. Any thread.
  u64 run_cycles() const;

  // For the owner's use (the task that runs on this fiber); not touched by the scheduler.
  void* user_data = nullptr;

 private:
  friend class RunQueue;
  friend class Scheduler;
  friend class Worker;
  friend WakeReason park(Interruptible, Nanos);
  friend void yield();
  friend StackBounds current_fiber_stack();
  struct Impl;  // context, stack, sanitizer state
  // Makes the park() in progress, or the next one, look at its conditions again.
  void poke();
  explicit Fiber(std::string name) : name_(std::move(name)) {}
  ~Fiber() override;

  std::string name_;
  std::atomic<u32> state_{0};
  std::atomic<bool> interrupted_{false};
  std::atomic<u64> run_cycles_{0};     // of finished turns
  std::atomic<u64> running_since_{0};  // start of the present turn; 0: not running
  Impl* impl_ = nullptr;
};

// Suspends the current fiber until unpark(), `deadline` (absolute monotonic) or, when interruptible, an
// interrupt. Spurious kWoken is allowed: callers loop over their condition. Precedence when several hold:
// kWoken, kInterrupted, kTimeout. Suspends.
WakeReason park(Interruptible interruptible, Nanos deadline = kNever);

// Lets other runnable fibers go first. Suspends unless there are none.
void yield();

// Parks until `deadline`. Returns kTimeout or kInterrupted.
WakeReason sleep_until(Nanos deadline, Interruptible interruptible);

}  // namespace rf
