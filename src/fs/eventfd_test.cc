#include <sys/eventfd.h>

#include "fs/test_files.h"

namespace rf::fs {
namespace {

constexpr u64 kMax = ~u64{0} - 1;

TEST(EventFdTest, ReadTakesTheCount) {
  run_fibers(1, [] {
    Ref<File> f = *make_eventfd(3, EFD_NONBLOCK);
    EXPECT_EQ(*write_u64(*f, 4), 8u);
    EXPECT_EQ(*read_u64(*f), 7u);
    EXPECT_EQ(error_of(read_u64(*f)), EAGAIN);
  });
}

TEST(EventFdTest, SemaphoreCountsDown) {
  run_fibers(1, [] {
    Ref<File> f = *make_eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE);
    EXPECT_EQ(*read_u64(*f), 1u);
    EXPECT_EQ(*read_u64(*f), 1u);
    EXPECT_EQ(error_of(read_u64(*f)), EAGAIN);
  });
}

TEST(EventFdTest, RefusesShortBuffersAndTheLargestValue) {
  run_fibers(1, [] {
    Ref<File> f = *make_eventfd(1, 0);
    EXPECT_EQ(error_of(read_string(*f, 7)), EINVAL);
    EXPECT_EQ(error_of(write_string(*f, "1234567")), EINVAL);
    EXPECT_EQ(error_of(write_u64(*f, ~u64{0})), EINVAL);
    EXPECT_EQ(error_of(make_eventfd(0, 0x10)), EINVAL);
  });
}

TEST(EventFdTest, PollBits) {
  run_fibers(1, [] {
    Ref<File> f = *make_eventfd(0, EFD_NONBLOCK);
    EXPECT_EQ(f->poll(), EventMask{POLLOUT});
    EXPECT_EQ(*write_u64(*f, kMax - 1), 8u);
    EXPECT_EQ(f->poll(), EventMask{POLLIN | POLLOUT});
    EXPECT_EQ(*write_u64(*f, 1), 8u);
    EXPECT_EQ(f->poll(), EventMask{POLLIN});
    EXPECT_EQ(error_of(write_u64(*f, 1)), EAGAIN);
  });
}

TEST(EventFdTest, WriteWaitsForRoom) {
  run_fibers(2, [] {
    Ref<File> f = *make_eventfd(0, 0);
    EXPECT_EQ(*write_u64(*f, kMax), 8u);
    Countdown done(1);
    spawn("writer", [&] {
      EXPECT_EQ(*write_u64(*f, 5), 8u);
      done.done();
    });
    pause_briefly();
    EXPECT_EQ(*read_u64(*f), kMax);
    done.wait();
    EXPECT_EQ(*read_u64(*f), 5u);
  });
}

TEST(EventFdTest, Interrupted) {
  run_fibers(1, [] {
    Ref<File> f = *make_eventfd(0, 0);
    EXPECT_EQ(error_of(interrupted_result([&] { return read_u64(*f); })), kERESTARTSYS);
    EXPECT_EQ(error_of(preinterrupted_result([&] { return read_u64(*f); })), kERESTARTSYS);
    EXPECT_EQ(*write_u64(*f, kMax), 8u);
    EXPECT_EQ(error_of(interrupted_result([&] { return write_u64(*f, 1); })), kERESTARTSYS);
  });
}

}  // namespace
}  // namespace rf::fs
