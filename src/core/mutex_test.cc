#include "core/mutex.h"

#include <gtest/gtest.h>

#include "core/test_scheduler.h"

namespace rf {
namespace {

TEST(FiberMutexTest, ExcludesAcrossSuspensions) {
  for (u32 workers : {1u, 2u, 4u})
    run_fibers(workers, [] {
      FiberMutex mutex;
      constexpr u32 kFibers = 8;
      u32 rounds = 200 * kStress;
      u64 count = 0;
      bool inside = false;
      Countdown all(kFibers);
      for (u32 i = 0; i < kFibers; i++)
        spawn("locker", [&, i] {
          for (u32 n = 0; n < rounds; n++) {
            FiberGuard guard(mutex);
            EXPECT_FALSE(inside);
            inside = true;
            if ((n + i) % 3 == 0) yield();
            count++;
            inside = false;
          }
          all.done();
        });
      all.wait();
      EXPECT_EQ(count, u64{kFibers} * rounds);
      EXPECT_FALSE(mutex.locked());
    });
}

TEST(FiberMutexTest, TryLockFailsWhileHeld) {
  run_fibers(1, [] {
    FiberMutex mutex;
    EXPECT_TRUE(mutex.try_lock());
    EXPECT_FALSE(mutex.try_lock());
    mutex.unlock();
    EXPECT_TRUE(mutex.try_lock());
    mutex.unlock();
  });
}

// One fiber takes the lock again as soon as it has let it go; the others must get it all the same.
TEST(FiberMutexTest, NobodyStarvesBehindAGreedyHolder) {
  for (u32 workers : {1u, 2u})
    run_fibers(workers, [workers] {
      FiberMutex mutex;
      std::atomic<bool> stop{false};
      u64 greedy = 0;
      constexpr u32 kOthers = 3;
      Countdown all(kOthers + 1);
      spawn("greedy", [&] {
        while (!stop) {
          mutex.lock();
          greedy++;
          yield();
          mutex.unlock();
        }
        all.done();
      });
      std::atomic<u32> left{kOthers};
      for (u32 i = 0; i < kOthers; i++)
        spawn("patient", [&] {
          for (int n = 0; n < 100; n++) {
            FiberGuard guard(mutex);
            yield();
          }
          if (--left == 0) stop = true;
          all.done();
        });
      all.wait();
      EXPECT_GT(greedy, 0u);
      // With more workers the host may keep the others' threads from running for as long as it likes.
      if (workers == 1) {
        EXPECT_LT(greedy, 2000u * kOthers) << "the others had to wait too long";
      }
    });
}

TEST(FiberMutexTest, WaitingIsNotInterrupted) {
  run_fibers(1, [] {
    FiberMutex mutex;
    mutex.lock();
    Countdown other(1);
    bool got = false;
    auto waiter = spawn("waiter", [&] {
      FiberGuard guard(mutex);
      got = true;
      other.done();
    });
    yield();
    waiter->interrupt();
    waiter->unpark();
    yield();
    EXPECT_FALSE(got);
    mutex.unlock();
    other.wait();
    EXPECT_TRUE(got);
  });
}

TEST(FiberRwMutexTest, WritersExcludeReadersShare) {
  for (u32 workers : {1u, 3u})
    run_fibers(workers, [] {
      FiberRwMutex mutex;
      u32 rounds = 100 * kStress;
      std::atomic<u32> readers{0};
      u64 a = 0, b = 0;
      constexpr u32 kReaders = 6, kWriters = 2;
      Countdown all(kReaders + kWriters);
      for (u32 i = 0; i < kReaders; i++)
        spawn("reader", [&] {
          for (u32 n = 0; n < rounds; n++) {
            mutex.lock_shared();
            readers++;
            EXPECT_EQ(a, b);
            yield();
            EXPECT_EQ(a, b);
            readers--;
            mutex.unlock_shared();
          }
          all.done();
        });
      for (u32 i = 0; i < kWriters; i++)
        spawn("writer", [&] {
          for (u32 n = 0; n < rounds; n++) {
            mutex.lock();
            EXPECT_EQ(readers, 0u);
            a++;
            yield();
            b++;
            mutex.unlock();
          }
          all.done();
        });
      all.wait();
      EXPECT_EQ(a, u64{kWriters} * rounds);
    });
}

TEST(FiberRwMutexTest, AWaitingWriterGoesBeforeLaterReaders) {
  run_fibers(1, [] {
    FiberRwMutex mutex;
    std::vector<std::string> order;
    Countdown all(3);
    mutex.lock_shared();
    mutex.lock_shared();  // readers share
    spawn("writer", [&] {
      mutex.lock();
      order.push_back("writer");
      mutex.unlock();
      all.done();
    });
    for (int i = 0; i < 2; i++)
      spawn("late reader", [&] {
        mutex.lock_shared();
        order.push_back("reader");
        mutex.unlock_shared();
        all.done();
      });
    yield();
    EXPECT_TRUE(order.empty());
    mutex.unlock_shared();
    mutex.unlock_shared();
    all.wait();
    EXPECT_EQ(order, (std::vector<std::string>{"writer", "reader", "reader"}));
  });
}

}  // namespace
}  // namespace rf
