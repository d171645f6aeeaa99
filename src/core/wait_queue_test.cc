#include "core/wait_queue.h"

#include <gtest/gtest.h>
#include <poll.h>

#include "core/test_scheduler.h"

namespace rf {
namespace {

struct CountingWaiter final : Waiter {
  using Waiter::Waiter;
  void notify(EventMask e) override {
    count++;
    events |= e;
  }
  int count = 0;
  EventMask events = 0;
};

TEST(WaitQueueTest, NotifiesThoseWhoseMaskMeetsTheEvents) {
  WaitQueue q;
  CountingWaiter in(POLLIN), out(POLLOUT), any;
  EXPECT_TRUE(q.empty());
  q.add(in);
  q.add(out);
  q.add(any);
  q.notify(POLLIN | POLLHUP);
  EXPECT_EQ(in.count, 1);
  EXPECT_EQ(out.count, 0);
  EXPECT_EQ(any.count, 1);
  EXPECT_EQ(any.events, EventMask(POLLIN | POLLHUP));
  q.remove(in);
  q.remove(in);  // harmless
  q.notify();
  EXPECT_EQ(in.count, 1);
  EXPECT_EQ(out.count, 1);
  q.remove(out);
  q.remove(any);
  EXPECT_TRUE(q.empty());
}

TEST(WaitQueueTest, NotifySomeGoesRoundInOrder) {
  WaitQueue q;
  CountingWaiter a, b(POLLOUT), c;
  q.add(a);
  q.add(b);
  q.add(c);
  EXPECT_EQ(q.notify_some(0), 0u);
  EXPECT_EQ(q.notify_some(1, POLLIN), 1u);
  EXPECT_EQ(a.count, 1);
  EXPECT_EQ(q.notify_some(1, POLLIN), 1u);
  EXPECT_EQ(c.count, 1);
  EXPECT_EQ(q.notify_some(9, POLLIN), 2u) << "each at most once";
  EXPECT_EQ(a.count, 2);
  EXPECT_EQ(b.count, 0);
  for (CountingWaiter* w : {&a, &b, &c}) q.remove(*w);
}

TEST(WaitQueueTest, WaitUntilSeesTheCondition) {
  run_fibers(2, [] {
    WaitQueue q;
    std::atomic<bool> flag{false};
    EXPECT_EQ(wait_until(q, [] { return true; }), WakeReason::kWoken);
    Countdown other(1);
    spawn("notifier", [&] {
      sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
      q.notify();  // for nothing
      flag = true;
      q.notify();
      other.done();
    });
    EXPECT_EQ(wait_until(q, [&] { return flag.load(); }), WakeReason::kWoken);
    other.wait();
    EXPECT_TRUE(q.empty());
  });
}

TEST(WaitQueueTest, WaitUntilTimesOut) {
  run_fibers(1, [] {
    WaitQueue q;
    Nanos deadline = monotonic_now() + 2 * kMillisecond;
    EXPECT_EQ(wait_until(
                  q, [] { return false; }, Interruptible::kNo, deadline),
              WakeReason::kTimeout);
    EXPECT_GE(monotonic_now(), deadline);
    EXPECT_TRUE(q.empty());
  });
}

TEST(WaitQueueTest, WaitUntilIsInterruptedBeforeAndWhileBlocked) {
  run_fibers(2, [] {
    WaitQueue q;
    Fiber& self = Fiber::current();
    auto never = [] { return false; };
    self.interrupt();
    EXPECT_EQ(wait_until(q, never), WakeReason::kInterrupted);
    self.clear_interrupt();
    Countdown other(1);
    spawn("interrupter", [&] {
      sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
      self.interrupt();
      other.done();
    });
    EXPECT_EQ(wait_until(q, never), WakeReason::kInterrupted);
    other.wait();
    self.clear_interrupt();
  });
}

// A bounded buffer by hand: a lost wake-up hangs.
TEST(WaitQueueTest, ProducersAndConsumersLoseNothing) {
  for (u32 workers : {1u, 2u, 4u})
    run_fibers(workers, [] {
      constexpr u32 kPairs = 4;
      constexpr u32 kCapacity = 3;
      u32 rounds = 1000 * kStress;
      WaitQueue not_empty, not_full;
      std::atomic<u32> count{0};
      auto take = [&](u32 limit, int change) {
        u32 n = count.load();
        while (n != limit)
          if (count.compare_exchange_weak(n, n + static_cast<u32>(change))) return true;
        return false;
      };
      Countdown all(2 * kPairs);
      for (u32 i = 0; i < kPairs; i++) {
        spawn("producer", [&] {
          for (u32 n = 0; n < rounds; n++) {
            wait_until(not_full, [&] { return take(kCapacity, 1); });
            not_empty.notify_some(1);
          }
          all.done();
        });
        spawn("consumer", [&] {
          for (u32 n = 0; n < rounds; n++) {
            wait_until(not_empty, [&] { return take(0, -1); });
            not_full.notify();
          }
          all.done();
        });
      }
      // notify_some(1) may pick a waiter that has just satisfied itself: a real user passes the wake-up on. Here a
      // clock does.
      while (count != 0 || !not_empty.empty()) {
        not_empty.notify();
        sleep_until(monotonic_now() + 200'000, Interruptible::kNo);
      }
      all.wait();
      EXPECT_EQ(count, 0u);
    });
}

}  // namespace
}  // namespace rf
