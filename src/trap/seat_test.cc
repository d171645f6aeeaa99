#include "trap/seat.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "core/cycles.h"
#include "core/test_scheduler.h"
#include "hostio/calls.h"
#include "hostio/ring.h"

namespace rf::trap {
namespace {

void run_with_ring(const std::function<void()>& body) {
  SchedulerOptions o;
  o.make_reactor = hostio::make_ring_reactor;
  run_fibers(std::move(o), body);
}

constexpr Nanos kNeverHere = 20'000'000'000;

// The host posts the completion in the middle of the worker's sleep, which it then takes up again.
TEST(SeatTest, ACompletionEndsTheWaitForGuestCode) {
  run_with_ring([] {
    int fds[2];
    ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    const hostio::HostFd from(fds[0]), to(fds[1]);
    Countdown reader(1);
    spawn("reader", [&] {
      std::byte b;
      EXPECT_EQ(hostio::read(from.get(), {&b, 1}, -1).value(), 1u);
      reader.done();
    });
    yield();
    std::thread writer([&] {
      ::poll(nullptr, 0, 30);
      EXPECT_EQ(::write(to.get(), "x", 1), 1);
    });
    Area area{};
    Seat seat;
    Patience patience;
    Reactor& reactor = Worker::current()->reactor();
    reactor.prepare_for_guest();
    EXPECT_TRUE(reactor.quiet());
    const Nanos deadline = monotonic_now() + kNeverHere;
    EXPECT_EQ(seat.wait(area, patience, cycles(), false, deadline, &reactor), kRunning);
    EXPECT_LT(monotonic_now(), deadline);
    EXPECT_FALSE(reactor.quiet());
    writer.join();
    reader.wait();
  });
}

TEST(SeatTest, SoDoesTheStubThread) {
  run_with_ring([] {
    Area area{};
    std::thread stub([&] {
      ::poll(nullptr, 0, 30);
      std::atomic_ref(area.state).store(kTrapped);
      std::atomic_ref(area.sentry_sleeps).store(0);
      (void)hostio::host_call(SYS_futex, &area.sentry_sleeps, FUTEX_WAKE, kEverybody);
    });
    Seat seat;
    Patience patience;
    const Nanos deadline = monotonic_now() + kNeverHere;
    EXPECT_EQ(seat.wait(area, patience, cycles(), false, deadline, &Worker::current()->reactor()), kTrapped);
    EXPECT_LT(monotonic_now(), deadline);
    stub.join();
  });
}

}  // namespace
}  // namespace rf::trap
