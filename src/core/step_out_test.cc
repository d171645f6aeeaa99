// step_out(), with a "guest" that runs on by itself while its fiber does something else, as the trap platform's do.
#include <gtest/gtest.h>
#include <poll.h>

#include "core/test_scheduler.h"

namespace rf {
namespace {

class OwnThread final : public GuestKicker {
 public:
  void on_kick_signal() noexcept override { kicked_.store(true, std::memory_order_relaxed); }
  bool steps_out() const noexcept override { return true; }

  // Until the guest has to be stopped, or `stop`. False: it was not entered.
  bool run(const std::atomic<bool>& stop) {
    kicked_ = false;
    if (!Worker::current()->enter_guest(*this)) return false;
    Worker* const worker = Worker::current();
    while (!stop) {
      if (!kicked_) {
        ::poll(nullptr, 0, 1);
        continue;
      }
      outs++;
      const bool goes_on = worker->step_out();
      backs++;
      EXPECT_EQ(Worker::current(), worker);
      kicked_ = false;
      if (!goes_on || !worker->enter_guest(*this)) return true;
    }
    worker->leave_guest();
    return true;
  }

  std::atomic<u64> outs{0}, backs{0};

 private:
  std::atomic<bool> kicked_{false};
};

void nap(Nanos ns) { sleep_until(monotonic_now() + ns, Interruptible::kNo); }

TEST(StepOutTest, TheWokenRunWhileTheGuestRunsOn) {
  run_fibers(1, [] {
    std::atomic<bool> stop{false};
    u64 stops = 0;
    Countdown all(1);
    OwnThread guest;
    spawn("guest", [&] {
      while (!stop)
        if (guest.run(stop)) stops++;
      all.done();
    });
    for (int i = 0; i < 20; i++) nap(3 * kMillisecond);
    EXPECT_EQ(stops, 0u);
    EXPECT_GE(guest.outs, 15u);
    stop = true;
    all.wait();
    EXPECT_EQ(stops, 1u);
  });
}

TEST(StepOutTest, NobodyRunsForGoodInItsPlace) {
  run_fibers(1, [] {
    std::atomic<bool> stop{false};
    u64 stops = 0;
    Countdown all(2);
    OwnThread first, second;
    spawn("first", [&] {
      while (!stop)
        if (first.run(stop)) stops++;
      all.done();
    });
    spawn("second", [&] {
      while (!stop) {
        nap(2 * kMillisecond);
        const u64 before = first.outs;
        // Served beside the first: it has to stop so that the worker can look at that.
        while (first.outs == before && !stop)
          if (second.run(stop)) yield();
      }
      all.done();
    });
    const Nanos give_up = monotonic_now() + 20'000 * kMillisecond;
    while (first.outs < 20 && monotonic_now() < give_up) nap(5 * kMillisecond);
    EXPECT_GE(first.outs, 20u);
    stop = true;
    all.wait();
  });
}

TEST(StepOutTest, AYieldIsForWhoHasSteppedOutToo) {
  run_fibers(1, [] {
    std::atomic<bool> stop{false};
    Countdown all(1);
    OwnThread guest;
    spawn("guest", [&] {
      while (!stop)
        if (!guest.run(stop)) yield();
      all.done();
    });
    nap(2 * kMillisecond);
    EXPECT_EQ(guest.outs, guest.backs + 1);
    const u64 before = guest.backs;
    const Nanos give_up = monotonic_now() + 5'000 * kMillisecond;
    // Nobody else is queued.
    while (guest.backs == before && monotonic_now() < give_up) yield();
    EXPECT_GT(guest.backs, before);
    stop = true;
    all.wait();
  });
}

// Those who sleep in a crowd are woken together. Most of them: a busy machine may not keep it a crowd.
TEST(StepOutTest, SleepsInACrowdEndOnAGrid) {
  run_fibers(1, [] {
    constexpr Nanos kGrid = 2 * kMillisecond;
    std::atomic<bool> stop{false};
    Countdown all(1);
    OwnThread guest;
    spawn("guest", [&] {
      while (!stop)
        if (!guest.run(stop)) yield();
      all.done();
    });
    constexpr u32 kNaps = 20;
    u32 on_grid = 0;
    for (u32 i = 0; i < kNaps; i++) {
      const Nanos line = (monotonic_now() / kGrid + 2) * kGrid;
      sleep_until(line + kMillisecond / 10, Interruptible::kNo);
      if (monotonic_now() >= line + kGrid) on_grid++;
    }
    EXPECT_GE(on_grid, kNaps / 2);
    stop = true;
    all.wait();
  });
}

// What it does to the fiber must be as if another worker did it: that fiber may be about to enter guest code.
TEST(StepOutTest, NoFiberIsCurrentWhenATimerExpires) {
  run_fibers(1, [] {
    std::atomic<bool> stop{false};
    Fiber* current = &Fiber::current();
    Countdown all(1);
    OwnThread guest;
    TimerFunction timer([&] {
      current = Fiber::current_or_null();
      stop = true;
    });
    spawn("guest", [&] {
      timer.arm(monotonic_now() + 2 * kMillisecond);
      while (!stop)
        if (!guest.run(stop)) yield();
      all.done();
    });
    all.wait();
    EXPECT_EQ(current, nullptr);
  });
}

// Among those who were woken some have more to do than others; who computes goes on meanwhile.
TEST(StepOutTest, ManyAreServedAndNobodyIsForgotten) {
  SchedulerOptions options = test_options(2);
  options.time_slice = 4 * kMillisecond;
  run_fibers(options, [] {
    constexpr u32 kGuests = 4, kSleepers = 40, kNaps = 10;
    std::atomic<bool> stop{false};
    OwnThread guests[kGuests];
    std::atomic<u64> stays[kGuests] = {};
    Countdown guests_done(kGuests), sleepers_done(kSleepers);
    for (u32 i = 0; i < kGuests; i++)
      spawn("guest", [&, i] {
        while (!stop) {
          if (guests[i].run(stop)) stays[i]++;
          yield();
        }
        guests_done.done();
      });
    for (u32 i = 0; i < kSleepers; i++)
      spawn("sleeper", [&] {
        for (u32 k = 0; k < kNaps; k++) nap(5 * kMillisecond);
        sleepers_done.done();
      });
    sleepers_done.wait();
    const Nanos give_up = monotonic_now() + 10'000 * kMillisecond;
    for (auto& s : stays)
      while (s == 0 && monotonic_now() < give_up) nap(kMillisecond);
    for (auto& s : stays) EXPECT_GT(s, 0u);
    stop = true;
    guests_done.wait();
  });
}

}  // namespace
}  // namespace rf
