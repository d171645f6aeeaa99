#include "hostio/ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "core/test_scheduler.h"

namespace rf::hostio {
namespace {

SchedulerOptions ring_options(u32 workers) {
  SchedulerOptions o;
  o.workers = workers;
  o.make_reactor = make_ring_reactor;
  return o;
}

void run_ring(u32 workers, const std::function<void()>& body) { run_fibers(ring_options(workers), body); }

struct Pipe {
  Pipe() {
    int fds[2];
    RF_CHECK(pipe2(fds, O_CLOEXEC) == 0);
    r = HostFd(fds[0]);
    w = HostFd(fds[1]);
  }
  HostFd r, w;
};

HostFd temporary_file() {
  HostFd fd(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  RF_CHECK(fd.valid());
  return fd;
}

std::span<const std::byte> bytes(std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); }
template <size_t N>
std::span<std::byte> buffer(char (&b)[N]) {
  return std::as_writable_bytes(std::span(b));
}

TEST(RingTest, ProbeWorksHere) {
  auto r = probe_io_uring();
  EXPECT_TRUE(r) << r.error().message;
}

TEST(RingTest, ReadsAndWritesFilesAtOffsets) {
  run_ring(1, [] {
    HostFd f = temporary_file();
    EXPECT_EQ(write(f.get(), bytes("hello world"), 0).value(), 11u);
    EXPECT_EQ(write(f.get(), bytes("W"), 6).value(), 1u);
    char b[32] = {};
    EXPECT_EQ(read(f.get(), buffer(b), 4).value(), 7u);
    EXPECT_STREQ(b, "o World");
    EXPECT_EQ(read(f.get(), buffer(b), 100).value(), 0u) << "end of file";
    EXPECT_EQ(lseek(f.get(), 0, SEEK_CUR), 0);
    EXPECT_EQ(read(f.get(), std::span(buffer(b)).first(5), -1).value(), 5u);
    EXPECT_EQ(lseek(f.get(), 0, SEEK_CUR), 5) << "offset -1 moves the file position";
    EXPECT_TRUE(fsync(f.get(), false));
    EXPECT_TRUE(fsync(f.get(), true));
    EXPECT_TRUE(fallocate(f.get(), 0, 0, 8192));
    struct ::statx st;
    ASSERT_TRUE(hostio::statx(f.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st));
    EXPECT_EQ(st.stx_size, 8192u);
  });
}

TEST(RingTest, VectorsAreGatheredAndScattered) {
  run_ring(1, [] {
    HostFd f = temporary_file();
    char a[] = "abc", b[] = "defg";
    iovec out[2] = {{a, 3}, {b, 4}};
    EXPECT_EQ(hostio::writev(f.get(), out, 10).value(), 7u);
    char c[3] = {}, d[8] = {};
    iovec in[2] = {{c, 2}, {d, 7}};
    EXPECT_EQ(hostio::readv(f.get(), in, 10).value(), 7u);
    EXPECT_STREQ(c, "ab");
    EXPECT_STREQ(d, "cdefg");
  });
}

TEST(RingTest, ErrorsAreTheHosts) {
  run_ring(1, [] {
    char b[8];
    EXPECT_EQ(read(-1, buffer(b), 0).error(), Errno{EBADF});
    Pipe p;
    EXPECT_EQ(read(p.w.get(), buffer(b), -1).error(), Errno{EBADF});
    open_how how{};
    how.flags = O_RDONLY;
    EXPECT_EQ(openat2(AT_FDCWD, "/no/such/file", how).error(), Errno{ENOENT});
    how.flags = O_RDONLY | O_CREAT;
    how.mode = 0600;
    EXPECT_EQ(openat2(AT_FDCWD, "/no/such/file", how).error(), Errno{ENOENT});
    struct ::statx st;
    EXPECT_EQ(hostio::statx(AT_FDCWD, "/no/such/file", 0, STATX_BASIC_STATS, &st).error(), Errno{ENOENT});
    EXPECT_EQ(hostio::statx(-1, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st).error(), Errno{EBADF});
  });
}

TEST(RingTest, OpensCachedAndUncached) {
  run_ring(1, [] {
    open_how how{};
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    HostFd dir = openat2(AT_FDCWD, "/proc/self", how).value();
    how.flags = O_RDONLY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH;
    HostFd f = openat2(dir.get(), "status", how).value();
    char b[6] = {};
    EXPECT_EQ(read(f.get(), std::span(buffer(b)).first(5), 0).value(), 5u);
    EXPECT_STREQ(b, "Name:");
    EXPECT_EQ(openat2(dir.get(), "../version", how).error(), Errno{EXDEV});
    struct ::statx st;
    EXPECT_TRUE(hostio::statx(AT_FDCWD, "/proc/self/status", 0, STATX_BASIC_STATS, &st));
    EXPECT_TRUE(S_ISREG(st.stx_mode));
  });
}

TEST(RingTest, AReadThatWaitsLetsOthersRun) {
  run_ring(1, [] {
    Pipe p;
    bool other_ran = false;
    Countdown other(1);
    spawn("writer", [&] {
      other_ran = true;
      EXPECT_EQ(write(p.w.get(), bytes("x"), -1).value(), 1u);
      other.done();
    });
    char b[4] = {};
    EXPECT_EQ(read(p.r.get(), buffer(b), -1).value(), 1u);
    EXPECT_TRUE(other_ran);
    other.wait();
  });
}

TEST(RingTest, AnInterruptCancelsABlockedRead) {
  for (u32 workers : {1u, 2u})
    run_ring(workers, [] {
      Pipe p;
      Fiber& self = Fiber::current();
      Countdown other(1);
      spawn("interrupter", [&] {
        sleep_until(monotonic_now() + 2 * kMillisecond, Interruptible::kNo);
        self.interrupt();
        other.done();
      });
      char b[4] = {};
      EXPECT_EQ(read(p.r.get(), buffer(b), -1, Interruptible::kYes).error(), Errno{EINTR});
      other.wait();
      // Still set: data that is there is read nevertheless, a wait ends at once.
      EXPECT_EQ(write(p.w.get(), bytes("y"), -1, Interruptible::kYes).value(), 1u);
      EXPECT_EQ(read(p.r.get(), buffer(b), -1, Interruptible::kYes).value(), 1u);
      EXPECT_EQ(read(p.r.get(), buffer(b), -1, Interruptible::kYes).error(), Errno{EINTR});
      self.clear_interrupt();
    });
}

TEST(RingTest, ACancelledReadTakesNoData) {
  run_ring(2, [] {
    Pipe p;
    Fiber& self = Fiber::current();
    u32 rounds = 300 * kStress, sent = 0, received = 0, interrupts = 0;
    for (u32 i = 0; i < rounds; i++) {
      Countdown both(2);
      spawn("interrupter", [&] {
        self.interrupt();
        both.done();
      });
      spawn("writer", [&] {
        if (i % 2) {
          EXPECT_EQ(write(p.w.get(), bytes("z"), -1).value(), 1u);
        }
        both.done();
      });
      sent += i % 2;
      char b[4];
      auto r = read(p.r.get(), std::span(buffer(b)).first(1), -1, Interruptible::kYes);
      if (r)
        received++;
      else
        interrupts++;
      both.wait();
      self.clear_interrupt();
    }
    p.w.reset();
    char rest[64];
    while (size_t n = read(p.r.get(), buffer(rest), -1).value()) received += static_cast<u32>(n);
    EXPECT_EQ(sent, received);
    EXPECT_GT(interrupts, 0u);
  });
}

TEST(RingTest, PollWaitsTimesOutAndIsInterrupted) {
  run_ring(2, [] {
    Pipe p;
    EXPECT_EQ(poll(p.w.get(), POLLOUT).value(), EventMask{POLLOUT});
    Nanos deadline = monotonic_now() + 3 * kMillisecond;
    EXPECT_EQ(poll(p.r.get(), POLLIN, Interruptible::kYes, deadline).error(), Errno{ETIMEDOUT});
    EXPECT_GE(monotonic_now(), deadline);
    Fiber& self = Fiber::current();
    self.interrupt();
    EXPECT_EQ(poll(p.r.get(), POLLIN).error(), Errno{EINTR});
    EXPECT_EQ(poll(p.r.get(), POLLIN, Interruptible::kNo, monotonic_now() + kMillisecond).error(), Errno{ETIMEDOUT});
    self.clear_interrupt();
    Countdown other(1);
    spawn("interrupter", [&] {
      sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
      self.interrupt();
      other.done();
    });
    EXPECT_EQ(poll(p.r.get(), POLLIN).error(), Errno{EINTR});
    other.wait();
    self.clear_interrupt();
    p.w.reset();
    EXPECT_EQ(poll(p.r.get(), POLLIN).value(), EventMask{POLLHUP});
  });
}

// A pipe between two fibers; workers idle and wake each other all the time.
TEST(RingTest, PipePingPongAcrossWorkers) {
  for (u32 workers : {1u, 2u, 3u})
    run_ring(workers, [] {
      Pipe there, back;
      u32 rounds = 300 * kStress;
      Countdown both(2);
      auto player = [&](int in, int out, bool first) {
        for (u32 i = 0; i < rounds; i++) {
          char b[1] = {static_cast<char>(i)};
          if (first) {
            EXPECT_EQ(write(out, bytes({b, 1}), -1).value(), 1u);
          }
          EXPECT_EQ(read(in, buffer(b), -1).value(), 1u);
          EXPECT_EQ(b[0], static_cast<char>(i));
          if (!first) {
            EXPECT_EQ(write(out, bytes({b, 1}), -1).value(), 1u);
          }
        }
        both.done();
      };
      spawn("a", [&] { player(back.r.get(), there.w.get(), true); });
      spawn("b", [&] { player(there.r.get(), back.w.get(), false); });
      both.wait();
    });
}

TEST(RingTest, PlainThreadsWakeIdleWorkers) {
  run_ring(2, [] {
    std::atomic<u32> tickets{0};
    u32 rounds = 100 * kStress;
    Fiber& self = Fiber::current();
    std::thread outside([&] {
      for (u32 i = 0; i < rounds; i++) {
        if (i % 10 == 0) usleep(500);
        tickets++;
        self.unpark();
      }
    });
    while (tickets != rounds) park(Interruptible::kNo);
    outside.join();
  });
}

TEST(RingTest, WorkersWakeEachOtherByMessage) {
  run_ring(2, [] {
    // Each round leaves one worker idle and gives it something to do.
    for (u32 i = 0; i < 50 * kStress; i++) {
      sleep_until(monotonic_now() + 100'000, Interruptible::kNo);
      Countdown all(2);
      for (int n = 0; n < 2; n++) spawn("short", [&] { all.done(); });
      all.wait();
    }
    EXPECT_GT(ring_stats(Scheduler::current()->worker(0)).submissions +
                  ring_stats(Scheduler::current()->worker(1)).submissions,
              0u);
  });
}

TEST(RingTest, ManyRequestsInFlight) {
  run_ring(2, [] {
    constexpr u32 kFibers = RF_TSAN ? 500 : 3000;  // more than the completion queue holds
    HostFd event(eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC));
    Countdown all(kFibers);
    for (u32 i = 0; i < kFibers; i++)
      spawn("reader", [&] {
        char b[8];
        EXPECT_EQ(read(event.get(), buffer(b), -1).value(), 8u);
        all.done();
      });
    sleep_until(monotonic_now() + 20 * kMillisecond, Interruptible::kNo);
    u64 n = kFibers;
    // All at once: the completion queues overflow.
    EXPECT_EQ(write(event.get(), std::as_bytes(std::span(&n, 1)), -1).value(), 8u);
    all.wait();
  });
}

// Requests until they are handed to the submission thread: it sleeps without load.
void make_load(int fd) {
  Worker& here = *Worker::current();
  char b[1];
  for (const u64 before = ring_stats(here).handed_over; ring_stats(here).handed_over == before;)
    ASSERT_EQ(read(fd, buffer(b), 0).value(), 1u);
}

TEST(SubmissionThreadTest, TakesRequestsUnderLoad) {
  for (u32 workers : {1u, 3u})
    run_ring(workers, [] {
      auto started = start_submission_threads();
      ASSERT_TRUE(started) << started.error().message;
      constexpr u32 kFibers = 200, kBlocks = 50;  // more than fit in its queue
      HostFd f = temporary_file();
      for (u32 i = 0; i < kBlocks; i++)
        ASSERT_EQ(write(f.get(), std::as_bytes(std::span(&i, 1)), i * sizeof i).value(), sizeof i);
      Countdown all(kFibers);
      std::atomic<u64> handed_over{0};
      for (u32 n = 0; n < kFibers; n++)
        spawn("reader", [&] {
          for (u32 i = 0, got; i < kBlocks; i++) {
            EXPECT_EQ(read(f.get(), std::as_writable_bytes(std::span(&got, 1)), i * sizeof i).value(), sizeof i);
            EXPECT_EQ(got, i);
          }
          all.done();
        });
      all.wait();
      u64 submissions = 0, enters = 0;
      for (u32 i = 0; i < Scheduler::current()->worker_count(); i++) {
        const RingStats stats = ring_stats(Scheduler::current()->worker(i));
        submissions += stats.submissions, handed_over += stats.handed_over, enters += stats.enters;
      }
      EXPECT_GT(handed_over, kFibers * kBlocks / 20);
      EXPECT_LT(enters, submissions);
    });
}

TEST(SubmissionThreadTest, SleepsWithoutLoad) {
  run_ring(1, [] {
    ASSERT_TRUE(start_submission_threads());
    HostFd f = temporary_file();
    ASSERT_EQ(write(f.get(), bytes("x"), 0).value(), 1u);
    make_load(f.get());
    sleep_until(monotonic_now() + 100 * kMillisecond, Interruptible::kNo);  // it goes to sleep after one
    const RingStats before = ring_stats(*Worker::current());
    char b[1];
    for (int i = 0; i < 5; i++) {
      EXPECT_EQ(read(f.get(), buffer(b), 0).value(), 1u);
      sleep_until(monotonic_now() + 2 * kMillisecond, Interruptible::kNo);
    }
    EXPECT_EQ(ring_stats(*Worker::current()).handed_over, before.handed_over);
  });
}

TEST(SubmissionThreadTest, ACompletionWakesTheSleepingWorker) {
  run_ring(1, [] {
    ASSERT_TRUE(start_submission_threads());
    HostFd f = temporary_file();
    ASSERT_EQ(write(f.get(), bytes("x"), 0).value(), 1u);
    Pipe p;
    char b[1];
    for (u64 handed_over = 0; handed_over == 0;) {
      make_load(f.get());
      const u64 before = ring_stats(*Worker::current()).handed_over;
      std::thread writer([&] {
        usleep(20'000);
        EXPECT_EQ(::write(p.w.get(), "y", 1), 1);
      });
      EXPECT_EQ(read(p.r.get(), buffer(b), -1).value(), 1u);
      writer.join();
      handed_over = ring_stats(*Worker::current()).handed_over - before;
    }
  });
}

struct Vcpu final : GuestKicker {
  void on_kick_signal() noexcept override { stop.store(true, std::memory_order_relaxed); }
  std::atomic<bool> stop{false};
};

// A fiber that waits for a byte from the pipe.
struct Reader {
  explicit Reader(Pipe& p) {
    spawn("reader", [this, &p] {
      char b[1];
      EXPECT_EQ(read(p.r.get(), buffer(b), -1).value(), 1u);
      arrived = true;
      done.done();
    });
    yield();
  }
  Countdown done{1};
  std::atomic<bool> arrived{false};
};

// What the submission thread completes is in a queue that quiet() does not look at: it is seen because it is announced,
// and not only when the alarm goes off. Many attempts, for the alarm may come first by chance.
TEST(SubmissionThreadTest, ACompletionIsAnnouncedWhileTheGuestRuns) {
  run_ring(1, [] {
    ASSERT_TRUE(start_submission_threads());
    Vcpu vcpu;
    Worker& here = *Worker::current();
    HostFd f = temporary_file();
    ASSERT_EQ(write(f.get(), bytes("x"), 0).value(), 1u);
    Pipe p;
    bool announced = false;
    for (int i = 0; i < 200 && !announced; i++) {
      make_load(f.get());
      const u64 before = ring_stats(here).handed_over;
      Reader reader(p);
      const bool by_thread = ring_stats(here).handed_over != before;
      bool written = false;
      while (!reader.arrived) {
        vcpu.stop = false;
        if (!here.enter_guest(vcpu)) {
          yield();
          continue;
        }
        if (!std::exchange(written, true)) {
          EXPECT_EQ(::write(p.w.get(), "y", 1), 1);
        }
        while (!vcpu.stop && here.reactor().quiet()) ::poll(nullptr, 0, 1);
        if (by_thread && !vcpu.stop) announced = true;
        here.leave_guest();
      }
      reader.done.wait();
    }
    EXPECT_TRUE(announced);
  });
}

// A guest that never stops by itself, on the only worker: completions must end its stay (KVM_RUN returns EINTR; the
// host call here is restarted by the kernel, so that the alarm for outstanding requests has to do it).
TEST(RingTest, ACompletionIsSeenWhileTheGuestRuns) {
  run_ring(1, [] {
    Vcpu vcpu;
    Pipe p;
    Reader reader(p);
    std::thread outside([&] {
      usleep(5000);
      EXPECT_EQ(::write(p.w.get(), "x", 1), 1);
    });
    while (!reader.arrived) {
      vcpu.stop = false;
      if (!Worker::current()->enter_guest(vcpu)) {
        yield();
        continue;
      }
      while (!vcpu.stop) ::poll(nullptr, 0, 1);
      Worker::current()->leave_guest();
    }
    reader.done.wait();
    outside.join();
  });
}

TEST(FdWatchTest, PassesReadinessOnWhileSomebodyListens) {
  for (u32 workers : {1u, 2u})
    run_ring(workers, [] {
      Pipe p;
      FdWatch watch(p.r.get());
      EXPECT_EQ(watch.ready(), 0u);
      for (int round = 0; round < 20; round++) {
        Countdown other(1);
        spawn("writer", [&] {
          sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
          EXPECT_EQ(write(p.w.get(), bytes("x"), -1).value(), 1u);
          other.done();
        });
        {
          ScopedWaiter listening(watch.queue(), POLLIN);
          watch.update();
          while (!(watch.ready() & POLLIN))
            EXPECT_EQ(park(Interruptible::kNo, monotonic_now() + 1000 * kMillisecond), WakeReason::kWoken);
        }
        watch.update();
        other.wait();
        char b[1];
        EXPECT_EQ(read(p.r.get(), buffer(b), -1).value(), 1u);
      }
      p.w.reset();
      EXPECT_TRUE(watch.ready() & POLLHUP);
    });
}

TEST(FdWatchTest, ArmingAndDisarmingRace) {
  run_ring(2, [] {
    Pipe p;
    FdWatch watch(p.r.get());
    constexpr u32 kFibers = 4;
    Countdown all(kFibers);
    for (u32 i = 0; i < kFibers; i++)
      spawn("listener", [&] {
        for (u32 n = 0; n < 100 * kStress; n++) {
          {
            ScopedWaiter listening(watch.queue(), POLLIN);
            watch.update();
            yield();
          }
          watch.update();
        }
        all.done();
      });
    all.wait();
  });
}

TEST(FdWatchTest, RegularFilesAreAlwaysReady) {
  run_ring(1, [] {
    HostFd f = temporary_file();
    FdWatch watch(f.get());
    {
      ScopedWaiter listening(watch.queue());
      watch.update();
      EXPECT_TRUE(watch.ready() & POLLIN);
    }
    watch.update();
  });
}

}  // namespace
}  // namespace rf::hostio
