#include "core/spinlock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <shared_mutex>
#include <thread>
#include <vector>

#include "core/test_scheduler.h"

namespace rf {
namespace {

TEST(SpinLockTest, ExcludesUnderContention) {
  SpinLock lock;
  u64 count = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&] {
      for (u32 i = 0; i < 10000 * kStress; i++) {
        SpinGuard guard(lock);
        count++;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(count, 40000u * kStress);
}

TEST(SpinLockTest, ASleepingWaiterIsWoken) {
  SpinLock lock;
  lock.lock();
  EXPECT_FALSE(lock.try_lock());
  std::thread waiter([&] { SpinGuard guard(lock); });
  usleep(20000);  // long enough that it has given up spinning
  lock.unlock();
  waiter.join();
  EXPECT_TRUE(lock.try_lock());
  lock.unlock();
}

TEST(SpinRwLockTest, WritersExcludeEverybody) {
  SpinRwLock lock;
  u64 a = 0, b = 0;
  std::atomic<bool> torn{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; t++)
    threads.emplace_back([&] {
      for (u32 i = 0; i < 3000 * kStress; i++) {
        std::unique_lock guard(lock);
        a++;
        b++;
      }
    });
  for (int t = 0; t < 3; t++)
    threads.emplace_back([&] {
      for (u32 i = 0; i < 3000 * kStress; i++) {
        std::shared_lock guard(lock);
        if (a != b) torn = true;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_FALSE(torn);
  EXPECT_EQ(a, 6000u * kStress);
}

TEST(SpinRwLockTest, SleepingWaitersAreWoken) {
  SpinRwLock lock;
  lock.lock_shared();
  std::thread writer([&] {
    lock.lock();
    usleep(20000);
    lock.unlock();
  });
  usleep(20000);
  std::thread reader([&] {
    lock.lock_shared();
    lock.unlock_shared();
  });
  usleep(20000);
  lock.unlock_shared();
  writer.join();
  reader.join();
}

}  // namespace
}  // namespace rf
