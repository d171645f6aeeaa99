#include <sys/timerfd.h>
#include <time.h>

#include "fs/test_files.h"

namespace rf::fs {
namespace {

constexpr Nanos kMs = 1'000'000;

TEST(TimerFdTest, OneShot) {
  run_fibers(1, [] {
    Ref<File> f = *make_timerfd(CLOCK_MONOTONIC, TFD_NONBLOCK);
    EXPECT_EQ(error_of(read_u64(*f)), EAGAIN);
    EXPECT_EQ(timerfd_settime(*f, 0, {2 * kMs, 0})->value, 0);
    Nanos left = timerfd_gettime(*f)->value;
    EXPECT_GT(left, 0);
    EXPECT_LE(left, 2 * kMs);
    EXPECT_EQ(f->poll(), 0u);
    sleep_until(monotonic_now() + 3 * kMs, Interruptible::kNo);
    EXPECT_EQ(f->poll(), EventMask{POLLIN});
    EXPECT_EQ(timerfd_gettime(*f)->value, 0);
    EXPECT_EQ(*read_u64(*f), 1u);
    EXPECT_EQ(error_of(read_u64(*f)), EAGAIN);
  });
}

TEST(TimerFdTest, PeriodsAreCounted) {
  run_fibers(1, [] {
    Ref<File> f = *make_timerfd(CLOCK_BOOTTIME, 0);
    ASSERT_TRUE(timerfd_settime(*f, 0, {kMs, 2 * kMs}));
    sleep_until(monotonic_now() + 8 * kMs, Interruptible::kNo);
    u64 n = *read_u64(*f);
    EXPECT_GE(n, 4u);
    EXPECT_GE(*read_u64(*f), 1u);  // waits for the next
    auto spec = *timerfd_gettime(*f);
    EXPECT_EQ(spec.interval, 2 * kMs);
    EXPECT_GT(spec.value, 0);
    EXPECT_LE(spec.value, 2 * kMs);
    EXPECT_EQ(timerfd_settime(*f, 0, {0, 0})->interval, 2 * kMs);
    set_nonblocking(*f);
    sleep_until(monotonic_now() + 3 * kMs, Interruptible::kNo);
    EXPECT_EQ(error_of(read_u64(*f)), EAGAIN);
  });
}

TEST(TimerFdTest, AbsoluteTimes) {
  run_fibers(1, [] {
    for (int clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM}) {
      Ref<File> f = *make_timerfd(clock, TFD_NONBLOCK);
      ASSERT_TRUE(timerfd_settime(*f, TFD_TIMER_ABSTIME, {1, 0}));  // long past
      EXPECT_EQ(*read_u64(*f), 1u);
      timespec now{};
      // Without an RTC the host does not read the *_ALARM clocks; they show the same time.
      clock_gettime(clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM ? CLOCK_REALTIME : CLOCK_BOOTTIME, &now);
      Nanos later = now.tv_sec * kNanosPerSecond + now.tv_nsec + 3 * kMs;
      ASSERT_TRUE(timerfd_settime(*f, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, {later, 0}));
      EXPECT_EQ(f->poll(), 0u);
      PollEntry entry{f, POLLIN};
      EXPECT_EQ(*poll_files({&entry, 1}, monotonic_now() + 1000 * kMs), 1u);
      EXPECT_EQ(*read_u64(*f), 1u);
    }
  });
}

TEST(TimerFdTest, ChecksItsArguments) {
  run_fibers(1, [] {
    EXPECT_EQ(error_of(make_timerfd(CLOCK_PROCESS_CPUTIME_ID, 0)), EINVAL);
    EXPECT_EQ(error_of(make_timerfd(CLOCK_MONOTONIC, 1)), EINVAL);
    Ref<File> f = *make_timerfd(CLOCK_MONOTONIC, 0), e = *make_eventfd(0, 0);
    EXPECT_EQ(error_of(timerfd_settime(*f, 8, {1, 0})), EINVAL);
    EXPECT_EQ(error_of(timerfd_settime(*f, 0, {-1, 0})), EINVAL);
    EXPECT_EQ(error_of(timerfd_settime(*e, 0, {1, 0})), EINVAL);
    EXPECT_EQ(error_of(timerfd_gettime(*e)), EINVAL);
    EXPECT_EQ(error_of(read_string(*f, 7)), EINVAL);
    // Times beyond what a clock holds are never, not now.
    ASSERT_TRUE(timerfd_settime(*f, 0, {kNever, kNever}));
    EXPECT_EQ(f->poll(), 0u);
  });
}

// A period of a nanosecond costs nothing while nobody asks.
TEST(TimerFdTest, ShortestPeriod) {
  run_fibers(1, [] {
    Ref<File> f = *make_timerfd(CLOCK_MONOTONIC, 0);
    ASSERT_TRUE(timerfd_settime(*f, 0, {1, 1}));
    sleep_until(monotonic_now() + 2 * kMs, Interruptible::kNo);
    EXPECT_GE(*read_u64(*f), u64{2 * kMs});
    EXPECT_GE(*read_u64(*f), 1u);
  });
}

TEST(TimerFdTest, BlockedReadAndChangedSetting) {
  run_fibers(2, [] {
    Ref<File> f = *make_timerfd(CLOCK_MONOTONIC, 0);
    ASSERT_TRUE(timerfd_settime(*f, 0, {1000 * 1000 * kMs, 0}));
    Countdown done(1);
    spawn("reader", [&] {
      EXPECT_EQ(*read_u64(*f), 1u);
      done.done();
    });
    pause_briefly();
    EXPECT_GT(timerfd_settime(*f, 0, {kMs, 0})->value, 999 * 1000 * kMs);
    done.wait();
  });
}

TEST(TimerFdTest, Interrupted) {
  run_fibers(1, [] {
    Ref<File> f = *make_timerfd(CLOCK_MONOTONIC, 0);
    EXPECT_EQ(error_of(interrupted_result([&] { return read_u64(*f); })), kERESTARTSYS);
    EXPECT_EQ(error_of(preinterrupted_result([&] { return read_u64(*f); })), kERESTARTSYS);
  });
}

}  // namespace
}  // namespace rf::fs
