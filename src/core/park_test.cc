// park() against unpark(), interrupts and deadlines.
#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "core/test_scheduler.h"

namespace rf {
namespace {

TEST(ParkTest, UnparkBeforeParkReturnsAtOnce) {
  run_fibers(1, [] {
    Fiber::current().unpark();
    Fiber::current().unpark();
    EXPECT_EQ(park(Interruptible::kNo), WakeReason::kWoken);
    // The two were one.
    EXPECT_EQ(park(Interruptible::kNo, monotonic_now() + kMillisecond), WakeReason::kTimeout);
  });
}

TEST(ParkTest, TimesOut) {
  run_fibers(1, [] {
    Nanos begin = monotonic_now();
    EXPECT_EQ(park(Interruptible::kYes, begin + 5 * kMillisecond), WakeReason::kTimeout);
    EXPECT_GE(monotonic_now(), begin + 5 * kMillisecond);
    EXPECT_EQ(park(Interruptible::kYes, 0), WakeReason::kTimeout);
  });
}

TEST(ParkTest, IsInterruptedBeforeAndWhileParked) {
  run_fibers(2, [] {
    Fiber& self = Fiber::current();
    self.interrupt();
    EXPECT_EQ(park(Interruptible::kYes), WakeReason::kInterrupted);
    EXPECT_EQ(park(Interruptible::kYes), WakeReason::kInterrupted) << "as long as the flag is set";
    EXPECT_EQ(park(Interruptible::kNo, monotonic_now() + kMillisecond), WakeReason::kTimeout);
    self.clear_interrupt();
    spawn("interrupter", [&] {
      sleep_until(monotonic_now() + 2 * kMillisecond, Interruptible::kNo);
      self.interrupt();
    });
    EXPECT_EQ(park(Interruptible::kYes), WakeReason::kInterrupted);
    self.clear_interrupt();
    EXPECT_FALSE(self.interrupted());
  });
}

TEST(ParkTest, WokenTakesPrecedence) {
  run_fibers(1, [] {
    Fiber::current().interrupt();
    Fiber::current().unpark();
    EXPECT_EQ(park(Interruptible::kYes, 0), WakeReason::kWoken);
    EXPECT_EQ(park(Interruptible::kYes, 0), WakeReason::kInterrupted);
    Fiber::current().clear_interrupt();
    EXPECT_EQ(park(Interruptible::kYes, 0), WakeReason::kTimeout);
  });
}

TEST(ParkTest, SleepIgnoresWakeUps) {
  run_fibers(1, [] {
    Fiber::current().unpark();
    Nanos deadline = monotonic_now() + 2 * kMillisecond;
    EXPECT_EQ(sleep_until(deadline, Interruptible::kYes), WakeReason::kTimeout);
    EXPECT_GE(monotonic_now(), deadline);
    Fiber::current().interrupt();
    EXPECT_EQ(sleep_until(kNever, Interruptible::kYes), WakeReason::kInterrupted);
  });
}

// Two fibers hand a turn to and fro; a lost wake-up hangs.
void ping_pong(u32 workers, u32 rounds) {
  run_fibers(workers, [&] {
    std::atomic<u32> turn{0};
    Countdown both(2);
    Ref<Fiber> players[2];
    std::atomic<bool> ready{false};
    for (u32 me : {0u, 1u})
      players[me] = spawn("player", [&, me] {
        while (!ready) yield();
        for (u32 i = 0; i < rounds; i++) {
          while (turn.load() % 2 != me) park(Interruptible::kNo);
          turn.fetch_add(1);
          players[1 - me]->unpark();
        }
        both.done();
      });
    ready = true;
    both.wait();
    EXPECT_EQ(turn, 2 * rounds);
  });
}

TEST(ParkTest, PingPongOnOneWorker) { ping_pong(1, 20000 * kStress); }
TEST(ParkTest, PingPongOnTwoWorkers) { ping_pong(2, 20000 * kStress); }
TEST(ParkTest, PingPongOnFourWorkers) { ping_pong(4, 5000 * kStress); }

TEST(ParkTest, UnparksFromPlainThreads) {
  run_fibers(2, [] {
    constexpr u32 kFibers = 16;
    u32 rounds = 500 * kStress;
    std::vector<Ref<Fiber>> fibers;
    std::vector<std::atomic<u32>> tickets(kFibers);
    Countdown all(kFibers);
    for (u32 i = 0; i < kFibers; i++)
      fibers.push_back(spawn("taker", [&, i] {
        for (u32 n = 1; n <= rounds; n++)
          while (tickets[i].load() < n) park(Interruptible::kNo);
        all.done();
      }));
    std::vector<std::thread> threads;
    for (u32 t = 0; t < 2; t++)
      threads.emplace_back([&, t] {
        for (u32 n = 0; n < rounds; n++)
          for (u32 i = t; i < kFibers; i += 2) {
            tickets[i]++;
            fibers[i]->unpark();
          }
      });
    all.wait();
    for (auto& t : threads) t.join();
  });
}

// Wake-ups, interrupts and deadlines all at once: each park must end, for one reason or another.
TEST(SchedulerTest, ErrandsRunOnEachWorkersOwnThread) {
  run_fibers(4, [] {
    for (int round = 0; round < 100; round++) {
      std::vector<Worker*> seen;
      Scheduler::current()->on_each_worker([&] {
        EXPECT_EQ(Fiber::current_or_null(), nullptr);
        seen.push_back(Worker::current());
      });
      ASSERT_EQ(seen.size(), 4u);
      for (u32 i = 0; i < 4; i++) EXPECT_EQ(seen[i], &Scheduler::current()->worker(i));
      if (round % 2) sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
    }
  });
}

TEST(ParkTest, EverythingRaces) {
  run_fibers(3, [] {
    constexpr u32 kFibers = 12;
    u32 rounds = 300 * kStress;
    std::vector<Ref<Fiber>> fibers(kFibers);
    std::atomic<u32> left{kFibers};
    std::atomic<u32> reasons[3] = {};
    Countdown all(kFibers + 1);
    for (u32 i = 0; i < kFibers; i++)
      fibers[i] = spawn("parker", [&, i] {
        for (u32 n = 0; n < rounds; n++) {
          Nanos deadline = (n + i) % 3 ? monotonic_now() + static_cast<Nanos>(n % 50) * 1000 : kNever;
          WakeReason r = park(Interruptible::kYes, deadline);
          reasons[static_cast<int>(r)]++;
          if (r == WakeReason::kInterrupted) Fiber::current().clear_interrupt();
        }
        left--;
        all.done();
      });
    spawn("waker", [&] {
      for (u32 n = 0; left != 0; n++) {
        Fiber& f = *fibers[n % kFibers];
        n / kFibers % 2 ? f.unpark() : f.interrupt();
        if (n % 7 == 0) yield();
      }
      all.done();
    });
    all.wait();
    for (auto& r : reasons) EXPECT_GT(r, 0u);
  });
}

}  // namespace
}  // namespace rf
