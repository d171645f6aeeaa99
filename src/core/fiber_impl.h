// What a fiber is made of. Internal to core.
#pragma once

#include <functional>

#include "core/fiber.h"
#include "core/fiber_context.h"
#include "core/list.h"
#include "core/stack_pool.h"
#include "core/timer.h"

namespace rf {

// Fiber::state_. A fiber that is running, or queued to run, is in one of the first three; unpark() and poke() leave
// their mark there and park() takes it. Only a fiber whose context has been saved is kParked: the worker's loop
// sets it after the switch, so that no one can resume a fiber that is still on its way out.
enum FiberState : u32 {
  kFiberRunning,
  kFiberPoked,     // the next park() looks at its interrupt flag and deadline again
  kFiberNotified,  // the next park() returns kWoken
  kFiberParked,
  kFiberDone,
};

struct AllFibersTag;

struct Fiber::Impl final : ListNode<AllFibersTag> {
  // The deadline of a park().
  class ParkTimer final : public Timer {
   public:
    explicit ParkTimer(Fiber& fiber) : fiber_(fiber) {}
    ~ParkTimer() override = default;  // park() has cancelled it

   private:
    void expire() override { fiber_.poke(); }
    Fiber& fiber_;
  };

  Impl(Fiber& f, std::function<void()> b, Scheduler& s, Stack st)
      : fiber(f), body(std::move(b)), scheduler(s), stack(st), park_timer(f) {}

  // The first function on the fiber's stack.
  [[noreturn]] void main() noexcept;

  Fiber& fiber;
  std::function<void()> body;
  Scheduler& scheduler;  // not to be used after the fiber's end
  Stack stack;           // size 0 once it has been given back
  ExecutionContext context;
  ParkTimer park_timer;
  u32 last_worker = 0;
  u32 refusals = 0;       // times in a row that enter_guest() turned it away
  Nanos ready_since = 0;  // when it was queued as ready
};

// The running fiber's stack, for fault reports. All zero on a plain thread.
struct StackBounds {
  u64 low = 0, high = 0;
  bool contains(u64 address) const { return address >= low && address < high; }
  bool in_guard(u64 address) const { return low != 0 && address < low && address >= low - StackPool::kGuardSize; }
};
StackBounds current_fiber_stack();

}  // namespace rf
