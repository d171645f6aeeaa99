#include "core/fiber.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "core/test_scheduler.h"

namespace rf {
namespace {

TEST(FiberTest, RunsAndEnds) {
  bool ran = false;
  run_fibers(1, [&] {
    EXPECT_EQ(Fiber::current().name(), "test");
    EXPECT_NE(Scheduler::current(), nullptr);
    ran = true;
  });
  EXPECT_TRUE(ran);
  EXPECT_EQ(Fiber::current_or_null(), nullptr);
  EXPECT_EQ(Scheduler::current(), nullptr);
}

TEST(FiberTest, ThousandsRunOnSeveralWorkers) {
  for (u32 workers : {1u, 2u, 4u}) {
    constexpr u32 kFibers = RF_TSAN ? 1000 : 5000;
    std::atomic<u32> ran{0};
    run_fibers(workers, [&] {
      Countdown all(kFibers);
      for (u32 i = 0; i < kFibers; i++)
        spawn("f", [&] {
          yield();
          ran++;
          all.done();
        });
      all.wait();
    });
    EXPECT_EQ(ran, kFibers);
  }
}

// All at once, each with its stack in use.
TEST(FiberTest, ThousandsLiveAtOnce) {
  constexpr u32 kFibers = RF_TSAN ? 2000 : 10000;
  run_fibers(2, [&] {
    std::vector<Ref<Fiber>> fibers;
    std::atomic<bool> go{false};
    Countdown all(kFibers);
    for (u32 i = 0; i < kFibers; i++)
      fibers.push_back(spawn("sleeper", [&, i] {
        volatile u32 local = i;
        while (!go) park(Interruptible::kNo);
        EXPECT_EQ(local, i);
        all.done();
      }));
    yield();
    u32 seen = 0;
    Scheduler::current()->for_each_fiber([&](Fiber&) { seen++; });
    EXPECT_EQ(seen, kFibers + 1);
    go = true;
    for (auto& f : fibers) f->unpark();
    all.wait();
  });
}

TEST(FiberTest, MigratesBetweenWorkers) {
  std::atomic<u32> moves{0};
  run_fibers(2, [&] {
    constexpr u32 kFibers = 8;
    Countdown all(kFibers);
    for (u32 i = 0; i < kFibers; i++)
      spawn("mover", [&] {
        u32 last = Worker::current()->index();
        for (int n = 0; n < 20000 && moves < 10; n++) {
          double x = n * 0.5;
          for (volatile int spin = 0; spin < 200;) spin = spin + 1;
          yield();
          EXPECT_EQ(x, n * 0.5);
          u32 now = Worker::current()->index();
          if (now != last) moves++;
          last = now;
        }
        all.done();
      });
    all.wait();
  });
  EXPECT_GE(moves, 1u);
}

TEST(FiberTest, SpawnsFromAPlainThread) {
  auto scheduler = Scheduler::create(test_options(2));
  ASSERT_TRUE(scheduler);
  std::atomic<u32> ran{0};
  std::thread outside([&] {
    for (u32 i = 0; i < 200; i++) {
      ASSERT_TRUE((*scheduler)->spawn("f", [&] { ran++; }));
      if (i % 50 == 0) usleep(2000);  // workers idle in between
    }
    while (ran != 200) usleep(100);
    (*scheduler)->stop();
  });
  EXPECT_TRUE((*scheduler)->run());
  outside.join();
  EXPECT_EQ(ran, 200u);
}

TEST(FiberTest, AbandonedFibersGoWithTheScheduler) {
  Ref<Fiber> parked;
  run_fibers(1, [&] {
    parked = spawn("parked", [] { park(Interruptible::kNo); });
    spawn("never started", [] {});
    yield();
  });
  parked->unpark();  // harmless
  EXPECT_EQ(parked->ref_count(), 1u);
}

TEST(FiberTest, ClosureIsDestroyedOnTheFiber) {
  struct Probe {
    std::string* where;
    ~Probe() {
      if (where) *where = Fiber::current_or_null() ? Fiber::current().name() : "no fiber";
    }
  };
  std::string where;
  run_fibers(1, [&] {
    auto probe = std::make_shared<Probe>(Probe{nullptr});
    probe->where = &where;
    spawn("owner", [probe = std::move(probe)] {});
    yield();
  });
  EXPECT_EQ(where, "owner");
}

[[gnu::noinline]] u64 use_stack(size_t bytes) {
  volatile char* p = static_cast<volatile char*>(__builtin_alloca(bytes));
  for (size_t i = 0; i < bytes; i += 1024) p[i] = static_cast<char>(i);
  return static_cast<u64>(p[bytes / 2]);
}

TEST(FiberTest, HighWaterCountsTouchedStack) {
  run_fibers(1, [&] {
    size_t before = Fiber::current().stack_high_water();
    EXPECT_GT(before, 0u);
    use_stack(48 << 10);
    size_t after = Fiber::current().stack_high_water();
    EXPECT_GE(after, size_t{48} << 10);
    EXPECT_GE(after, before);
  });
}

TEST(FiberTest, StacksAreLazilyTouched) {
  run_fibers(1, [&] {
    spawn("small", [] { EXPECT_LE(Fiber::current().stack_high_water(), size_t{RF_ASAN || RF_TSAN ? 64 : 16} << 10); });
    yield();
  });
}

[[gnu::noinline]] u64 recurse(u64 depth) {  // NOLINT: endless on purpose
  volatile char frame[512];
  frame[depth % 512] = 1;
  return depth == ~0ull ? 0 : recurse(depth + 1) + static_cast<u64>(frame[depth % 512]);
}

TEST(FiberDeathTest, StackOverflowNamesTheFiber) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(run_fibers(1,
                         [] {
                           spawn("deep thinker", [] { recurse(0); });
                           park(Interruptible::kNo);
                         }),
              testing::ExitedWithCode(125), "stack overflow in fiber deep thinker");
}

TEST(FiberDeathTest, FailedCheckNamesTheFiber) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(run_fibers(1,
                         [] {
                           spawn("sceptic", [] { RF_CHECK(1 == 2, "arithmetic"); });
                           park(Interruptible::kNo);
                         }),
              testing::ExitedWithCode(125), "1 == 2: arithmetic at .*fiber sceptic");
}

TEST(FiberDeathTest, AnEscapedExceptionNamesTheFiber) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(run_fibers(1,
                         [] {
                           spawn("thrower", [] { throw 1; });
                           park(Interruptible::kNo);
                         }),
              testing::ExitedWithCode(125), "SIGABRT in fiber thrower");
}

}  // namespace
}  // namespace rf
