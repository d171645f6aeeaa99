#include <gmock/gmock.h>
#include <poll.h>
#include <pty.h>
#include <sys/socket.h>
#include <termios.h>

#include <thread>

#include "core/test_scheduler.h"
#include "fs/host_news.h"
#include "fs/special_files.h"
#include "fs/tty_fixture.h"

namespace rf::fs {
namespace {

struct HostPipe {
  HostPipe() { RF_CHECK(::pipe2(fds, O_CLOEXEC) == 0); }
  ~HostPipe() {
    close_read();
    close_write();
  }
  void close_read() { ::close(std::exchange(fds[0], -1)); }
  void close_write() { ::close(std::exchange(fds[1], -1)); }
  int fds[2];
};

class HostStreamTest : public TtyTest {
 protected:
  Ref<FileSystem> make_root_fs() override { return make_tmpfs(*frames_, 0, 0755); }

  Ref<File> stream(int fd) {
    auto f = make_host_stream(fd, 0, frames_.get());
    EXPECT_TRUE(f.has_value());
    return *f;
  }
  void host_write(int fd, std::string_view s) { EXPECT_EQ(::write(fd, s.data(), s.size()), ssize_t(s.size())); }
  std::string host_read(int fd, size_t max = 1 << 16) {
    std::string s(max, 0);
    const ssize_t n = ::read(fd, s.data(), max);
    s.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return s;
  }
};

TEST_F(HostStreamTest, PipesPassBothWays) {
  run([&] {
    HostPipe in, out;
    Ref<File> r = stream(in.fds[0]), w = stream(out.fds[1]);
    host_write(in.fds[1], "from the host");
    EXPECT_EQ(take(*r), "from the host");
    EXPECT_EQ(send(*w, "to the host"), 0);
    EXPECT_EQ(host_read(out.fds[0]), "to the host");
    EXPECT_EQ(error_of(r->seek(ctx(), 0, SEEK_SET)), ESPIPE);
    EXPECT_EQ(r->inode().type(), unsigned{S_IFIFO});
    EXPECT_THAT(r->path().dentry->name(), testing::StartsWith("pipe:["));
    EXPECT_EQ(r->flags() & O_ACCMODE, O_RDONLY);
    EXPECT_EQ(w->flags() & O_ACCMODE, O_WRONLY);
    in.close_write();
    EXPECT_EQ(take(*r), "") << "end of file";
    out.close_read();
    EXPECT_EQ(send(*w, "x"), EPIPE);
    EXPECT_EQ(::fcntl(out.fds[1], F_GETFL) & O_NONBLOCK, 0) << "the host's description is as it was";
  });
}

// By what the guest reads it may learn that the host has changed a file.
TEST_F(HostStreamTest, DataIsNewsOfTheHost) {
  run([&] {
    HostPipe in;
    Ref<File> r = stream(in.fds[0]);
    for (const bool read : {true, false}) {
      host_write(in.fds[1], "the file is there");
      const Nanos before = monotonic_now();
      if (read)
        EXPECT_EQ(take(*r), "the file is there");
      else
        EXPECT_NE(r->poll() & POLLIN, 0u);
      EXPECT_GE(HostNews::horizon(monotonic_now()), before) << (read ? "read" : "poll");
    }
  });
}

TEST_F(HostStreamTest, ReaderWaitsAndAnInterruptLosesNothing) {
  run([&] {
    HostPipe in;
    Ref<File> r = stream(in.fds[0]);
    Countdown ended(1);
    std::string got;
    auto reader = spawn("reader", [&] {
      got = take(*r);
      ended.done();
    });
    sleep_until(monotonic_now() + 20'000'000, Interruptible::kNo);
    reader->interrupt();
    ended.wait();
    EXPECT_EQ(got, "errno " + std::to_string(kERESTARTSYS));
    host_write(in.fds[1], "kept");
    EXPECT_EQ(take(*r), "kept");
    std::jthread writer([&] {
      ::usleep(20'000);
      host_write(in.fds[1], "later");
    });
    EXPECT_EQ(take(*r), "later");
    r->set_flags(r->flags() | O_NONBLOCK);
    EXPECT_EQ(take(*r), "errno " + std::to_string(EAGAIN));
  });
}

TEST_F(HostStreamTest, WriterWaitsForRoom) {
  run([&] {
    HostPipe out;
    Ref<File> w = stream(out.fds[1]);
    const std::string big(1'000'000, 'x');
    size_t got = 0;
    std::jthread reader([&] {
      while (got < big.size()) got += host_read(out.fds[0]).size();
    });
    EXPECT_EQ(send(*w, big), 0);
    reader.join();
    EXPECT_EQ(got, big.size());
    w->set_flags(w->flags() | O_NONBLOCK);
    auto buffer = mm::IoBuffer::from_const(std::as_bytes(std::span(big)));
    const auto n = w->write(task_ctx(), buffer);
    EXPECT_EQ(n.value_or(0), 65536u) << "what a pipe holds";
    EXPECT_EQ(send(*w, "x"), EAGAIN);
    EXPECT_EQ(w->poll() & POLLOUT, 0u);
  });
}

TEST_F(HostStreamTest, PollersHearOfData) {
  run([&] {
    HostPipe in;
    Ref<File> r = stream(in.fds[0]);
    std::jthread writer([&] {
      ::usleep(20'000);
      host_write(in.fds[1], "x");
    });
    PollEntry entry{.file = r, .events = POLLIN};
    EXPECT_EQ(poll_files({&entry, 1}, monotonic_now() + 5 * kNanosPerSecond).value_or(0), 1u);
    EXPECT_EQ(entry.revents & POLLIN, EventMask{POLLIN});
  });
}

TEST_F(HostStreamTest, SocketsAreStreams) {
  run([&] {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    Ref<File> f = stream(fds[0]);
    ::close(fds[0]);
    EXPECT_EQ(send(*f, "out"), 0);
    EXPECT_EQ(host_read(fds[1]), "out");
    host_write(fds[1], "in");
    EXPECT_EQ(take(*f), "in");
    ::close(fds[1]);
    EXPECT_EQ(take(*f), "");
    EXPECT_EQ(send(*f, "x"), EPIPE);
  });
}

TEST_F(HostStreamTest, RegularFilesShareTheirPositionWithTheHost) {
  host_put("/file", "0123456789");
  run([&] {
    const int fd = ::open(host("/file").c_str(), O_RDWR | O_CLOEXEC);
    Ref<File> f = stream(fd);
    EXPECT_EQ(host_read(fd, 2), "01");
    EXPECT_EQ(take(*f, 3), "234");
    EXPECT_EQ(host_read(fd, 1), "5");
    EXPECT_EQ(f->position(), 6u);
    EXPECT_EQ(pread(*f, 1, 2), "12");
    EXPECT_EQ(f->seek(ctx(), 8, SEEK_SET).value(), 8u);
    EXPECT_EQ(send(*f, "XYZ"), 0);
    EXPECT_EQ(host_get("/file"), "01234567XYZ");
    EXPECT_EQ(pwrite(*f, "a", 0).value(), 1u);
    EXPECT_EQ(host_get("/file"), "a1234567XYZ");
    EXPECT_EQ(error_of(f->truncate(ctx(), 4)), 0);
    EXPECT_EQ(host_get("/file"), "a123");
    EXPECT_EQ(vfs_->getattr(ctx(), f->path()).value().size, 4u);
    // As through /proc/self/fd: a description with a position of its own.
    auto again = vfs_->open_path(ctx(), f->path(), O_RDONLY);
    ASSERT_EQ(error_of(again), 0);
    EXPECT_EQ(take(**again), "a123");
    EXPECT_NE(f->inode().mappable(), nullptr);
    ::close(fd);
  });
}

TEST_F(HostStreamTest, AppendingStdoutAppends) {
  host_put("/log", "one\n");
  run([&] {
    const int fd = ::open(host("/log").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    Ref<File> f = stream(fd);
    EXPECT_EQ(send(*f, "two\n"), 0);
    host_put("/log", "three\n");
    EXPECT_EQ(send(*f, "four\n"), 0);
    EXPECT_EQ(host_get("/log"), "three\nfour\n");
    EXPECT_EQ(error_of(vfs_->open_path(ctx(), f->path(), O_RDONLY)), EACCES);
    ::close(fd);
  });
}

TEST_F(HostStreamTest, DevNullNeedsNoHost) {
  run([&] {
    const int fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    Ref<File> f = stream(fd);
    ::close(fd);
    EXPECT_EQ(take(*f), "");
    EXPECT_EQ(send(*f, "gone"), 0);
    EXPECT_EQ(vfs_->getattr(ctx(), f->path()).value().rdev_minor, 3u);
  });
}

TEST_F(HostStreamTest, BadDescriptorIsExplained) {
  auto f = make_host_stream(999, 0);
  ASSERT_FALSE(f.has_value());
  EXPECT_THAT(f.error().message, testing::HasSubstr("999"));
}

TEST_F(HostStreamTest, TerminalsPassDataAndSettingsOn) {
  run([&] {
    int master, slave;
    ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    struct ::termios before {};
    ::tcgetattr(slave, &before);
    Ref<File> f = stream(slave);
    ASSERT_TRUE(host_terminal());
    host_write(master, "typed\n");
    EXPECT_EQ(take(*f), "typed\n");
    EXPECT_EQ(host_read(master), "typed\r\n");
    EXPECT_EQ(send(*f, "shown\n"), 0);
    EXPECT_EQ(host_read(master), "shown\r\n");

    winsize size{50, 132, 0, 0};
    ::ioctl(master, TIOCSWINSZ, &size);
    EXPECT_EQ(ioctl_out<winsize>(*f, TIOCGWINSZ).ws_col, 132);
    std::array<u32, 9> settings = ioctl_out<std::array<u32, 9>>(*f, TCGETS);
    EXPECT_EQ(settings[3], before.c_lflag);
    settings[3] &= ~static_cast<u32>(ECHO | ICANON);
    EXPECT_EQ(ioctl_in(*f, TCSETSW, settings), 0);
    struct ::termios changed {};
    ::tcgetattr(slave, &changed);
    EXPECT_EQ(changed.c_lflag & (ECHO | ICANON), 0u);
    EXPECT_EQ(ioctl_in(*f, TIOCSTI, 'x'), ENOTTY) << "never to the host";

    Countdown ended(1);
    std::string got;
    auto reader = spawn("reader", [&] {
      got = take(*f);
      ended.done();
    });
    sleep_until(monotonic_now() + 20'000'000, Interruptible::kNo);
    reader->interrupt();
    ended.wait();
    EXPECT_EQ(got, "errno " + std::to_string(kERESTARTSYS));
    host_write(master, "k");
    EXPECT_EQ(take(*f), "k");
    EXPECT_EQ(::fcntl(slave, F_GETFL) & O_NONBLOCK, 0);

    Ref<Tty> tty = host_terminal();
    tty->set_session(10, 10);
    control_.ttys[10] = tty;
    EXPECT_EQ(ioctl_out<s32>(*f, TIOCGPGRP), 10) << "the sandbox's groups, not the host's";
    EXPECT_EQ(ioctl_in(*f, TIOCSPGRP, s32{11}), 0);
    EXPECT_EQ(take(*f), "errno " + std::to_string(kERESTARTSYS));
    EXPECT_THAT(control_.take_sent(), testing::ElementsAre(testing::Pair(10, SIGTTIN)));
    EXPECT_EQ(send(*f, "x"), 0);

    restore_host_terminal();
    ::tcgetattr(slave, &changed);
    EXPECT_EQ(changed.c_lflag, before.c_lflag);
    ::close(master);
    ::close(slave);
  });
}

}  // namespace
}  // namespace rf::fs
