#include "core/timer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "core/test_scheduler.h"

namespace rf {
namespace {

TEST(TimerTest, ExpireInOrderOfDeadline) {
  run_fibers(1, [] {
    std::vector<int> order;
    Fiber& self = Fiber::current();
    Nanos now = monotonic_now();
    struct Note {
      std::vector<int>& order;
      int id;
      Fiber& fiber;
      void operator()() {
        order.push_back(id);
        fiber.unpark();
      }
    };
    constexpr int kTimers = 50;
    std::vector<std::unique_ptr<TimerFunction<Note>>> timers;
    std::vector<int> ids;
    for (int i = 0; i < kTimers; i++) ids.push_back(i);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(1));
    for (int id : ids) {
      timers.push_back(std::make_unique<TimerFunction<Note>>(Note{order, id, self}));
      timers.back()->arm(now + kMillisecond + id * 10'000);
      EXPECT_TRUE(timers.back()->armed());
    }
    while (order.size() < kTimers) park(Interruptible::kNo);
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
    for (auto& t : timers) EXPECT_FALSE(t->armed());
  });
}

TEST(TimerTest, CancelledTimersDoNotExpire) {
  run_fibers(1, [] {
    int ran = 0;
    TimerFunction timer([&] { ran++; });
    EXPECT_FALSE(timer.cancel());
    timer.arm(monotonic_now() + kMillisecond);
    EXPECT_TRUE(timer.cancel());
    EXPECT_FALSE(timer.armed());
    sleep_until(monotonic_now() + 3 * kMillisecond, Interruptible::kNo);
    EXPECT_EQ(ran, 0);
    timer.arm(monotonic_now() + 50 * kMillisecond);
    timer.arm(monotonic_now() + kMillisecond);  // re-armed, earlier
    sleep_until(monotonic_now() + 3 * kMillisecond, Interruptible::kNo);
    EXPECT_EQ(ran, 1);
    EXPECT_FALSE(timer.cancel());
  });
}

TEST(TimerTest, MayArmItselfAgain) {
  run_fibers(1, [] {
    struct Periodic final : Timer {
      ~Periodic() override { cancel(); }
      void expire() override {
        if (++ticks < 5)
          arm(monotonic_now() + 100'000);
        else
          fiber->unpark();
      }
      int ticks = 0;
      Fiber* fiber = &Fiber::current();
    } timer;
    timer.arm(0);
    while (timer.ticks < 5) park(Interruptible::kNo);
    EXPECT_FALSE(timer.cancel());
  });
}

TEST(TimerTest, HeapKeepsOrderUnderRandomUse) {
  run_fibers(1, [] {
    struct Checked final : Timer {
      ~Checked() override { cancel(); }
      void expire() override {
        EXPECT_GE(deadline, *last);
        *last = deadline;
        deadline = kNever;
      }
      Nanos deadline = kNever;
      Nanos* last = nullptr;
    };
    Nanos last = 0;
    std::mt19937 random(7);
    std::vector<Checked> timers(200);
    Nanos base = monotonic_now() + 5 * kMillisecond;
    for (auto& t : timers) t.last = &last;
    for (int i = 0; i < 2000; i++) {
      Checked& t = timers[random() % timers.size()];
      if (random() % 3) {
        t.deadline = base + static_cast<Nanos>(random() % 1'000'000);
        t.arm(t.deadline);
      } else {
        EXPECT_EQ(t.cancel(), t.deadline != kNever);
        t.deadline = kNever;
      }
    }
    // From now, too: on a slow machine `base` is past already, and a sleep that is over lets no timer run.
    sleep_until(std::max(base, monotonic_now()) + 2 * kMillisecond, Interruptible::kNo);
    for (auto& t : timers) EXPECT_FALSE(t.armed());
  });
}

// Timers live on the stack of fibers that migrate; cancel() must wait for a callback that runs on another worker, or
// the callback writes to a dead frame (which the sanitizers see).
TEST(TimerTest, ArmAndCancelRaceWithExpiry) {
  run_fibers(3, [] {
    constexpr u32 kFibers = 9;
    std::atomic<u32> expired{0}, cancelled{0};
    Countdown all(kFibers);
    for (u32 i = 0; i < kFibers; i++)
      spawn("timer user", [&, i] {
        std::mt19937 random(i);
        for (u32 n = 0; n < 300 * kStress; n++) {
          std::atomic<int> ran{0};
          TimerFunction timer([&] { ran.fetch_add(1); });
          timer.arm(monotonic_now() + static_cast<Nanos>(random() % 20'000));
          if (random() % 2) timer.arm(monotonic_now() + static_cast<Nanos>(random() % 20'000));
          for (u32 k = random() % 4; k > 0; k--) yield();
          if (timer.cancel())
            cancelled++;
          else
            expired++;
          int before = ran;
          yield();
          EXPECT_EQ(before, ran.load());
        }
        all.done();
      });
    all.wait();
    EXPECT_GT(expired, 0u);
    EXPECT_GT(cancelled, 0u);
  });
}

// One timer, armed and cancelled by fibers of several workers while it expires: never two callbacks at once.
TEST(TimerTest, OneTimerUsedFromSeveralWorkers) {
  run_fibers(3, [] {
    std::atomic<int> inside{0};
    std::atomic<u32> runs{0};
    TimerFunction timer([&] {
      EXPECT_EQ(inside.fetch_add(1), 0);
      runs++;
      inside.fetch_sub(1);
    });
    constexpr u32 kFibers = 6;
    Countdown all(kFibers);
    for (u32 i = 0; i < kFibers; i++)
      spawn("timer user", [&, i] {
        for (u32 n = 0; n < 500 * kStress; n++) {
          if ((n + i) % 5)
            timer.arm(n % 4 ? 0 : monotonic_now() + 5000);
          else
            timer.cancel();
          yield();
        }
        all.done();
      });
    all.wait();
    timer.cancel();
    EXPECT_GT(runs, 0u);
  });
}

}  // namespace
}  // namespace rf
