#include "core/worker_counts.h"

#include <gtest/gtest.h>

#include "core/test_scheduler.h"

namespace rf {
namespace {

TEST(WorkerCountsTest, AddsUpWhatAllWorkersCount) {
  constexpr int kFibers = 16, kEach = 500;
  run_fibers(4, [] {
    WorkerCounts<3> counts(4);
    Countdown done(kFibers);
    for (int i = 0; i < kFibers; ++i) {
      spawn("counter", [&] {
        for (int n = 0; n < kEach; ++n) {
          counts.add(*Worker::current(), 0);
          if (n % 2 == 0) counts.add(*Worker::current(), 2);
          if (n % 50 == 0) yield();
        }
        done.done();
      });
    }
    done.wait();
    EXPECT_EQ(counts.total(0), u64{kFibers} * kEach);
    EXPECT_EQ(counts.total(1), 0u);
    EXPECT_EQ(counts.total(2), u64{kFibers} * kEach / 2);
  });
}

}  // namespace
}  // namespace rf
