// enter_guest(), leave_guest() and kicks, with a "guest" that blocks in a host call until the signal comes, as KVM_RUN
// does.
#include <gtest/gtest.h>
#include <poll.h>
#include <time.h>

#include <algorithm>
#include <span>
#include <thread>

#include "core/test_scheduler.h"

namespace rf {
namespace {

// A vCPU whose guest runs for ever.
class FakeVcpu final : public GuestKicker {
 public:
  void on_kick_signal() noexcept override { immediate_exit_.store(true, std::memory_order_relaxed); }

  // One stay in the guest, until the worker is kicked. False when it could not be entered. `interrupted` is looked at
  // after the entry, so that setting it and then kicking the worker always ends the stay.
  bool run(const std::atomic<bool>& interrupted = kNotInterrupted) {
    immediate_exit_.store(false, std::memory_order_relaxed);
    if (!Worker::current()->enter_guest(*this)) return false;
    if (interrupted.load(std::memory_order_seq_cst)) immediate_exit_.store(true, std::memory_order_relaxed);
    // The window between the look at immediate_exit and the wait is what the kernel closes in KVM_RUN; here a short
    // time-out does.
    while (!immediate_exit_.load(std::memory_order_relaxed)) ::poll(nullptr, 0, 1);
    Worker::current()->leave_guest();
    return true;
  }

 private:
  static constexpr std::atomic<bool> kNotInterrupted{false};
  std::atomic<bool> immediate_exit_{false};
};

void stop_guests(std::atomic<bool>& stop) {
  stop.store(true, std::memory_order_seq_cst);
  for (u32 i = 0; i < Scheduler::current()->worker_count(); i++) Scheduler::current()->worker(i).kick();
}

// A fiber's life in the guest, until `stop`.
void run_guest(const std::atomic<bool>& stop, u64& stays) {
  FakeVcpu vcpu;
  while (!stop) {
    if (vcpu.run(stop))
      std::atomic_ref(stays).fetch_add(1);
    else
      yield();
  }
}

TEST(GuestTest, ATimerEndsTheStay) {
  run_fibers(1, [] {
    FakeVcpu vcpu;
    bool fired = false;
    TimerFunction timer([&] { fired = true; });
    Nanos begin = monotonic_now();
    timer.arm(begin + 5 * kMillisecond);
    EXPECT_TRUE(vcpu.run());
    EXPECT_GE(monotonic_now(), begin + 5 * kMillisecond);
    while (!fired) yield();
    EXPECT_TRUE(fired);
  });
}

// Waits until each guest has been in for `wanted` times, or for so long that it will not come.
void await_stays(std::span<u64> stays, u64 wanted) {
  const Nanos give_up = monotonic_now() + 20'000 * kMillisecond;
  auto satisfied = [&](u64& s) { return std::atomic_ref(s).load() >= wanted; };
  while (!std::ranges::all_of(stays, satisfied) && monotonic_now() < give_up)
    sleep_until(monotonic_now() + 5 * kMillisecond, Interruptible::kNo);
}

TEST(GuestTest, TheSliceEndsWhenOthersAreReady) {
  SchedulerOptions options = test_options(1);
  options.time_slice = 3 * kMillisecond;
  run_fibers(options, [] {
    std::atomic<bool> stop{false};
    u64 stays[3] = {};
    Countdown all(3);
    for (auto& s : stays)
      spawn("guest", [&] {
        run_guest(stop, s);
        all.done();
      });
    await_stays(stays, 3);
    stop_guests(stop);
    all.wait();
    for (u64 s : stays) EXPECT_GE(s, 3u);
  });
}

TEST(GuestTest, AWakeUpDoesNotWaitForTheSlice) {
  SchedulerOptions options = test_options(1);
  options.time_slice = 10'000 * kMillisecond;
  auto scheduler = Scheduler::create(options);
  ASSERT_TRUE(scheduler);
  std::atomic<bool> stop{false};
  std::atomic<Nanos> asked{0}, slowest{0};
  u64 stays = 0;
  auto sleeper = (*scheduler)->spawn("sleeper", [&] {
    while (!stop) {
      park(Interruptible::kNo);
      if (Nanos a = asked.exchange(0)) slowest = std::max(slowest.load(), monotonic_now() - a);
    }
  });
  ASSERT_TRUE((*scheduler)->spawn("guest", [&] {
    run_guest(stop, stays);
    Scheduler::current()->stop();
  }));
  std::thread outside([&] {
    for (int i = 0; i < 20; i++) {
      timespec ts{0, 2'000'000};
      nanosleep(&ts, nullptr);
      asked = monotonic_now();
      (*sleeper)->unpark();
      while (asked != 0) {
      }
    }
    stop = true;
    (*sleeper)->unpark();
  });
  EXPECT_TRUE((*scheduler)->run());
  outside.join();
  EXPECT_GE(stays, 10u);
  EXPECT_GT((*scheduler)->worker(0).stats().kicks, 0u);
  EXPECT_LT(slowest, 5000 * kMillisecond);  // half a slice
}

TEST(GuestTest, AnUncontendedEntryIsAdmittedAtOnce) {
  run_fibers(1, [] {
    struct : GuestKicker {
      void on_kick_signal() noexcept override { kicked = true; }
      std::atomic<bool> kicked{false};
    } kicker;
    for (int i = 0; i < 1000; i++) {
      EXPECT_TRUE(Worker::current()->enter_guest(kicker));
      Worker::current()->leave_guest();
    }
    EXPECT_FALSE(kicker.kicked);
    EXPECT_TRUE(Worker::current()->enter_guest(kicker));
    Worker::current()->kick();
    Worker::current()->leave_guest();
    ::poll(nullptr, 0, 0);  // TSan delivers signals at host calls
    EXPECT_EQ(Worker::current()->stats().kicks, 1u);
  });
}

TEST(GuestTest, IsRefusedWhileAWokenFiberWaits) {
  run_fibers(1, [] {
    FakeVcpu vcpu;
    bool ran = false;
    auto f = spawn("woken", [&] {
      park(Interruptible::kNo);
      ran = true;
    });
    yield();
    f->unpark();
    EXPECT_FALSE(vcpu.run());
    yield();
    EXPECT_TRUE(ran);
  });
}

// Without the idle worker's help the second guest would wait for the first one's slice.
TEST(GuestTest, AnIdleWorkerTakesAReadyGuest) {
  SchedulerOptions options = test_options(2);
  options.time_slice = 10'000 * kMillisecond;
  run_fibers(options, [] {
    std::atomic<bool> stop{false};
    u64 stays[2] = {};
    std::atomic<u32> started{0};
    Countdown all(2);
    for (auto& s : stays)
      spawn("guest", [&] {
        started++;
        run_guest(stop, s);
        all.done();
      });
    Nanos give_up = monotonic_now() + 2'000 * kMillisecond;
    while (started < 2 && monotonic_now() < give_up) sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
    EXPECT_EQ(started, 2u);
    stop_guests(stop);
    all.wait();
  });
}

// Whoever was alone on its worker would otherwise never be asked to share it.
TEST(GuestTest, BusyWorkersShareTheLoad) {
  SchedulerOptions options = test_options(2);
  options.time_slice = 2 * kMillisecond;
  run_fibers(options, [] {
    std::atomic<bool> stop{false};
    u64 stays[6] = {};
    Countdown all(6);
    for (auto& s : stays)
      spawn("guest", [&] {
        run_guest(stop, s);
        all.done();
      });
    await_stays(stays, 5);
    stop_guests(stop);
    all.wait();
    for (u64 s : stays) EXPECT_GE(s, 5u);
  });
}

TEST(GuestTest, KicksFromEverywhereAreNotLost) {
  run_fibers(2, [] {
    std::atomic<bool> stop{false};
    u64 stays[3] = {};
    constexpr u32 kGuests = 3;
    Countdown all(kGuests + 1);
    for (auto& s : stays)
      spawn("guest", [&] {
        run_guest(stop, s);
        all.done();
      });
    std::atomic<u32> tickets{0};
    u32 rounds = 30 * kStress;
    auto taker = spawn("taker", [&] {
      for (u32 n = 1; n <= rounds; n++)
        while (tickets < n) park(Interruptible::kNo);
      stop_guests(stop);
      all.done();
    });
    std::thread outside([&] {
      for (u32 n = 0; n < rounds; n++) {
        tickets++;
        taker->unpark();
        if (n % 8 == 0) std::this_thread::yield();
      }
    });
    all.wait();
    outside.join();
  });
}

}  // namespace
}  // namespace rf
