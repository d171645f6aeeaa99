#include "core/kick_timer.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

namespace rf {
namespace {

KickTimer* g_timer = nullptr;
std::atomic<int> g_signals{0};

class KickTimerTest : public testing::Test {
 protected:
  void SetUp() override {
    struct sigaction action {};
    action.sa_handler = [](int) {
      g_timer->went_off();
      g_signals++;
    };
    ASSERT_EQ(sigaction(kick_signal(), &action, &before_), 0);
    g_timer = &timer_;
    g_signals = 0;
    ASSERT_TRUE(timer_.create());
  }
  void TearDown() override {
    timer_.destroy();
    sigaction(kick_signal(), &before_, nullptr);
  }
  // Whether so many signals have come, in the end.
  static bool come(int signals) {
    for (int i = 0; i < 20'000 && g_signals < signals; i++) ::poll(nullptr, 0, 1);
    return g_signals >= signals;
  }

  KickTimer timer_;
  struct sigaction before_ {};
};

TEST_F(KickTimerTest, GoesOff) {
  const Nanos now = monotonic_now();
  timer_.ensure(now + 2'000'000, now);
  EXPECT_NE(timer_.pending(), 0);
  EXPECT_TRUE(come(1));
  EXPECT_EQ(timer_.pending(), 0);
}

// Ring 0's clock may be behind the host's by what two CPUs' counters differ.
TEST_F(KickTimerTest, GoesOffAgainForWhoseClockIsBehind) {
  const Nanos now = monotonic_now(), deadline = now + 2'000'000;
  timer_.ensure(deadline, now);
  ASSERT_TRUE(come(1));
  timer_.ensure(deadline + 1'000'000, deadline - 1);
  EXPECT_TRUE(come(2));
}

TEST_F(KickTimerTest, AnEarlierOneWillDo) {
  const Nanos now = monotonic_now();
  timer_.ensure(now + 5'000'000, now);
  timer_.ensure(now + 9'000'000, now);
  EXPECT_EQ(timer_.pending(), now + 5'000'000);
  timer_.ensure(now + 3'000'000, now);
  EXPECT_EQ(timer_.pending(), now + 3'000'000);
  EXPECT_TRUE(come(1));
}

}  // namespace
}  // namespace rf
