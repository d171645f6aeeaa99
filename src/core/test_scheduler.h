// For unit tests: a reactor without I/O, and a scheduler that runs one test body.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "core/futex.h"
#include "core/sanitizer.h"
#include "core/scheduler.h"

namespace rf {

class FutexReactor : public Reactor {
 public:
  bool poll() override { return false; }
  void wait(Nanos deadline) override {
    futex_wait(word_, 0, deadline);
    word_.store(0, std::memory_order_seq_cst);
  }
  void wake() override {
    word_.store(1, std::memory_order_seq_cst);
    futex_wake(word_, 1);
  }

 private:
  std::atomic<u32> word_{0};
};

inline SchedulerOptions test_options(u32 workers) {
  SchedulerOptions o;
  o.workers = workers;
  o.make_reactor = [](u32) -> Setup<std::unique_ptr<Reactor>> { return std::make_unique<FutexReactor>(); };
  return o;
}

inline void run_fibers(SchedulerOptions options, const std::function<void()>& body) {
  auto scheduler = Scheduler::create(std::move(options));
  ASSERT_TRUE(scheduler) << scheduler.error().message;
  auto spawned = (*scheduler)->spawn("test", [&] {
    body();
    Scheduler::current()->stop();
  });
  ASSERT_TRUE(spawned);
  auto ran = (*scheduler)->run();
  ASSERT_TRUE(ran) << ran.error().message;
}

// Runs `body` on a fiber of a scheduler with that many workers; returns when it has returned. Every fiber that it
// spawned must have ended.
inline void run_fibers(u32 workers, const std::function<void()>& body) { run_fibers(test_options(workers), body); }

inline Ref<Fiber> spawn(std::string name, std::function<void()> body) {
  auto f = Scheduler::current()->spawn(std::move(name), std::move(body));
  RF_CHECK(f);
  return *std::move(f);
}

// Counts fibers down and lets one wait for them.
class Countdown {
 public:
  explicit Countdown(u32 n) : left_(n), waiter_(Fiber::current()) {}
  void done() {
    // The reference outlives this object, which goes as soon as the waiter sees 0.
    Ref<Fiber> waiter(&waiter_);
    if (left_.fetch_sub(1) == 1) waiter->unpark();
  }
  void wait() {
    while (left_.load() != 0) park(Interruptible::kNo);
  }

 private:
  std::atomic<u32> left_;
  Fiber& waiter_;
};

// Work for tests of races: less of it under sanitizers, which slow it down tenfold.
inline constexpr u32 kStress = RF_TSAN ? 1 : RF_ASAN ? 2 : 10;

constexpr Nanos kMillisecond = 1'000'000;

}  // namespace rf
