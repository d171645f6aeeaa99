#include <asm/termbits.h>
#include <gmock/gmock.h>
#include <sys/ioctl.h>

#include "core/test_scheduler.h"
#include "fs/tty_fixture.h"

namespace rf::fs {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

class PtyTest : public TtyTest {
 protected:
  // Opens a pty and, without making it a controlling terminal, its slave.
  void open_pair(int slave_flags = O_RDWR | O_NOCTTY) {
    master = open_as_task("/ptmx", O_RDWR);
    ASSERT_TRUE(master);
    ASSERT_EQ(ioctl_in(*master, TIOCSPTLCK, s32{0}), 0);
    name = "/" + std::to_string(ioctl_out<u32>(*master, TIOCGPTN));
    slave = open_as_task(name, slave_flags);
    ASSERT_TRUE(slave);
  }
  Ref<File> open_as_task(const std::string& path, int flags) {
    auto f = vfs_->open(task_ctx(), nullptr, path, flags, 0);
    EXPECT_EQ(error_of(f), 0) << path;
    return f ? *f : nullptr;
  }
  void drop() {
    slave.reset();
    master.reset();
  }
  void change(File& f, auto how) {
    auto t = ioctl_out<struct termios>(f, TCGETS);
    how(t);
    EXPECT_EQ(ioctl_in(f, TCSETS, t), 0);
  }
  void raw() {
    change(*slave, [](auto& t) { t.c_lflag = t.c_iflag = t.c_oflag = 0; });
  }

  Ref<File> master, slave;
  std::string name;
};

TEST_F(PtyTest, NodesAppearLockedAndGoWithTheMaster) {
  run([&] {
    EXPECT_THAT(list("/"), ElementsAre("ptmx"));
    Ref<File> first = open_as_task("/ptmx", O_RDWR);
    Ref<File> second = open_as_task("/ptmx", O_RDWR);
    EXPECT_THAT(list("/"), ElementsAre("ptmx", "0", "1"));
    EXPECT_EQ(ioctl_out<u32>(*second, TIOCGPTN), 1u);
    EXPECT_EQ(open_error("/1", O_RDWR | O_NOCTTY), EIO) << "locked";
    EXPECT_EQ(stat("/1").mode, S_IFCHR | 0620);
    EXPECT_EQ(stat("/1").rdev_major, 136u);
    EXPECT_EQ(stat("/1").rdev_minor, 1u);
    EXPECT_EQ(chmod("/1", 0600), 0);
    EXPECT_EQ(stat("/1").mode, S_IFCHR | 0600);
    first.reset();
    EXPECT_EQ(walk("/0"), ENOENT);
    Ref<File> third = open_as_task("/ptmx", O_RDWR);
    EXPECT_EQ(ioctl_out<u32>(*third, TIOCGPTN), 0u);
  });
}

TEST_F(PtyTest, LinesGoToTheProgramAndOutputToTheScreen) {
  run([&] {
    open_pair();
    EXPECT_EQ(send(*master, "hi\r"), 0);
    EXPECT_EQ(slave->poll() & POLLIN, EventMask{POLLIN});
    EXPECT_EQ(ioctl_out<s32>(*slave, FIONREAD), 3);
    EXPECT_EQ(take(*slave), "hi\n");
    EXPECT_EQ(take(*master), "hi\r\n");
    EXPECT_EQ(send(*slave, "out\n"), 0);
    EXPECT_EQ(take(*master), "out\r\n");
    slave->set_flags(slave->flags() | O_NONBLOCK);
    EXPECT_EQ(take(*slave), "errno " + std::to_string(EAGAIN));
    drop();
  });
}

TEST_F(PtyTest, ReaderWaitsForTheLine) {
  run([&] {
    open_pair();
    Countdown ended(1);
    std::string got;
    auto reader = spawn("reader", [&] {
      got = take(*slave);
      ended.done();
    });
    yield();
    EXPECT_EQ(send(*master, "li"), 0);
    yield();
    EXPECT_EQ(send(*master, "ne\n"), 0);
    ended.wait();
    EXPECT_EQ(got, "line\n");
    drop();
  });
}

TEST_F(PtyTest, InterruptedReaderLosesNothing) {
  run([&] {
    open_pair();
    Countdown ended(1);
    std::string got;
    auto reader = spawn("reader", [&] {
      got = take(*slave);
      ended.done();
    });
    yield();
    reader->interrupt();
    ended.wait();
    EXPECT_EQ(got, "errno " + std::to_string(kERESTARTSYS));
    EXPECT_EQ(send(*master, "kept\n"), 0);
    EXPECT_EQ(take(*slave), "kept\n");
    drop();
  });
}

TEST_F(PtyTest, MinimumAndTimeOfRawReads) {
  run([&] {
    open_pair();
    raw();
    change(*slave, [](auto& t) { t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 0; });
    EXPECT_EQ(take(*slave), "");
    change(*slave, [](auto& t) { t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 1; });
    const Nanos before = monotonic_now();
    EXPECT_EQ(take(*slave), "");
    EXPECT_GE(monotonic_now() - before, 100'000'000);
    change(*slave, [](auto& t) { t.c_cc[VMIN] = 4, t.c_cc[VTIME] = 0; });
    EXPECT_EQ(send(*master, "abc"), 0);
    EXPECT_EQ(slave->poll() & POLLIN, 0u);
    Countdown ended(1);
    std::string got;
    auto reader = spawn("reader", [&] {
      got = take(*slave);
      ended.done();
    });
    yield();
    EXPECT_EQ(got, "");
    EXPECT_EQ(send(*master, "d"), 0);
    ended.wait();
    EXPECT_EQ(got, "abcd");
    change(*slave, [](auto& t) { t.c_cc[VMIN] = 4, t.c_cc[VTIME] = 1; });
    EXPECT_EQ(send(*master, "xy"), 0);
    EXPECT_EQ(take(*slave), "xy") << "the time after a byte ends it";
    drop();
  });
}

TEST_F(PtyTest, WriterWaitsForRoom) {
  run([&] {
    open_pair();
    raw();
    const std::string big(100'000, 'x');
    Countdown ended(1);
    auto writer = spawn("writer", [&] {
      EXPECT_EQ(send(*slave, big), 0);
      ended.done();
    });
    std::string got;
    while (got.size() < big.size()) got += take(*master);
    ended.wait();
    EXPECT_EQ(got, big);
    auto typist = spawn("typist", [&] {
      EXPECT_EQ(send(*master, big), 0);
      ended.done();
    });
    got.clear();
    while (got.size() < big.size()) got += take(*slave);
    EXPECT_EQ(got, big);
    yield();
    drop();
  });
}

TEST_F(PtyTest, ControllingTerminalAndForegroundGroup) {
  run([&] {
    open_pair(O_RDWR);
    EXPECT_TRUE(control_.ttys[10]) << "a session leader's first terminal";
    EXPECT_EQ(ioctl_out<s32>(*slave, TIOCGPGRP), 10);
    EXPECT_EQ(ioctl_out<s32>(*slave, TIOCGSID), 10);
    EXPECT_EQ(ioctl_in(*slave, TIOCSPGRP, s32{11}), 0);
    EXPECT_EQ(ioctl_out<s32>(*master, TIOCGPGRP), 11);
    EXPECT_EQ(ioctl_in(*slave, TIOCSPGRP, s32{20}), kERESTARTSYS);
    EXPECT_THAT(control_.take_sent(), ElementsAre(Pair(10, SIGTTOU)));
    control_.current = {10, 11, false};
    EXPECT_EQ(ioctl_in(*slave, TIOCSPGRP, s32{20}), EPERM) << "another session's";
    EXPECT_EQ(ioctl_in(*slave, TIOCSPGRP, s32{12}), ESRCH);
    EXPECT_EQ(ioctl_in(*slave, TIOCSPGRP, s32{-1}), EINVAL);

    EXPECT_EQ(send(*master, "\x03"), 0);
    EXPECT_THAT(control_.take_sent(), ElementsAre(Pair(11, SIGINT)));
    EXPECT_EQ(ioctl_in(*master, TIOCSWINSZ, winsize{24, 80, 0, 0}), 0);
    EXPECT_THAT(control_.take_sent(), ElementsAre(Pair(11, SIGWINCH)));
    EXPECT_EQ(ioctl_out<winsize>(*slave, TIOCGWINSZ).ws_col, 80);
    EXPECT_EQ(ioctl_in(*master, TIOCSWINSZ, winsize{24, 80, 0, 0}), 0);
    EXPECT_THAT(control_.take_sent(), ElementsAre()) << "nothing changed";
    drop();
  });
}

TEST_F(PtyTest, BackgroundReadersAndWritersAreStopped) {
  run([&] {
    open_pair(O_RDWR);
    EXPECT_EQ(ioctl_in(*slave, TIOCSPGRP, s32{11}), 0);
    EXPECT_EQ(take(*slave), "errno " + std::to_string(kERESTARTSYS));
    EXPECT_THAT(control_.take_sent(), ElementsAre(Pair(10, SIGTTIN)));
    EXPECT_EQ(send(*slave, "x"), 0) << "without TOSTOP";
    control_.ignored = SIGTTIN;
    EXPECT_EQ(take(*slave), "errno " + std::to_string(EIO));
    control_.ignored = 0;
    control_.orphan = 10;
    EXPECT_EQ(take(*slave), "errno " + std::to_string(EIO));
    control_.orphan = 0;
    control_.current.process_group = 11;
    change(*slave, [](auto& t) { t.c_lflag |= TOSTOP; });
    control_.current.process_group = 10;
    EXPECT_EQ(send(*slave, "x"), kERESTARTSYS);
    EXPECT_THAT(control_.take_sent(), ElementsAre(Pair(10, SIGTTOU)));
    control_.ignored = SIGTTOU;
    EXPECT_EQ(send(*slave, "x"), 0);
    drop();
  });
}

TEST_F(PtyTest, MasterClosingHangsUp) {
  run([&] {
    open_pair(O_RDWR);
    Countdown ended(1);
    std::string got = "?";
    auto reader = spawn("reader", [&] {
      got = take(*slave);
      ended.done();
    });
    yield();
    master.reset();
    ended.wait();
    EXPECT_EQ(got, "");
    EXPECT_THAT(control_.take_sent(), ElementsAre(Pair(-10, SIGHUP), Pair(-10, SIGCONT)));
    EXPECT_FALSE(control_.ttys[10]);
    EXPECT_EQ(take(*slave), "");
    EXPECT_EQ(send(*slave, "x"), EIO);
    EXPECT_EQ(ioctl(*slave, TCGETS, page_), EIO);
    EXPECT_NE(slave->poll() & POLLHUP, 0u);
    drop();
  });
}

TEST_F(PtyTest, SessionsEndTellsTheForegroundAndLeavesTheTerminalUsable) {
  run([&] {
    open_pair(O_RDWR);
    ASSERT_TRUE(control_.ttys[10]);
    Ref<Tty> tty = control_.ttys[10];
    tty->session_ended(20);
    EXPECT_THAT(control_.take_sent(), IsEmpty()) << "of another session";
    tty->set_foreground(11);
    tty->session_ended(10);
    EXPECT_THAT(control_.take_sent(), ElementsAre(Pair(11, SIGHUP)));
    EXPECT_FALSE(control_.ttys[10]);
    EXPECT_EQ(send(*slave, "x"), 0) << "a pty is not hung up";
    EXPECT_EQ(take(*master), "x");
    drop();
  });
}

TEST_F(PtyTest, GivingTheTerminalUpTellsTheForeground) {
  run([&] {
    open_pair(O_RDWR);
    EXPECT_EQ(ioctl(*slave, TIOCNOTTY), 0);
    EXPECT_THAT(control_.take_sent(), ElementsAre(Pair(10, SIGHUP), Pair(10, SIGCONT)));
    EXPECT_FALSE(control_.ttys[10]);
    EXPECT_EQ(ioctl(*slave, TIOCNOTTY), ENOTTY);
    drop();
  });
}

TEST_F(PtyTest, SlavesClosingGivesTheMasterEio) {
  run([&] {
    open_pair();
    EXPECT_EQ(send(*slave, "last words"), 0);
    slave.reset();
    EXPECT_EQ(take(*master), "last words");
    EXPECT_EQ(take(*master), "errno " + std::to_string(EIO));
    EXPECT_NE(master->poll() & POLLHUP, 0u);
    slave = open_as_task(name, O_RDWR | O_NOCTTY);
    EXPECT_EQ(master->poll() & POLLHUP, 0u);
    EXPECT_EQ(send(*slave, "again"), 0);
    EXPECT_EQ(take(*master), "again");
    drop();
  });
}

TEST_F(PtyTest, PacketModeTellsWhatHappened) {
  run([&] {
    open_pair();
    EXPECT_EQ(ioctl_in(*master, TIOCPKT, s32{1}), 0);
    EXPECT_EQ(send(*slave, "data"), 0);
    EXPECT_EQ(take(*master), std::string("\0data", 5));
    EXPECT_EQ(ioctl(*slave, TCFLSH, TCIOFLUSH), 0);
    EXPECT_NE(master->poll() & POLLPRI, 0u);
    EXPECT_EQ(take(*master), std::string(1, TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE));
    EXPECT_EQ(ioctl(*slave, TCXONC, TCOOFF), 0);
    EXPECT_EQ(take(*master), std::string(1, TIOCPKT_STOP));
    EXPECT_EQ(ioctl(*slave, TCXONC, TCOON), 0);
    drop();
  });
}

TEST_F(PtyTest, PeerOpensWithoutAName) {
  run([&] {
    Ref<File> m = open_as_task("/ptmx", O_RDWR);
    EXPECT_EQ(error_of(open_pty_peer(task_ctx(), *m, O_RDWR | O_NOCTTY)), EIO) << "locked";
    ASSERT_EQ(ioctl_in(*m, TIOCSPTLCK, s32{0}), 0);
    auto s = open_pty_peer(task_ctx(), *m, O_RDWR | O_NOCTTY);
    ASSERT_EQ(error_of(s), 0);
    EXPECT_EQ(send(**s, "x"), 0);
    EXPECT_EQ(take(*m), "x");
    EXPECT_EQ(path_of((*s)->path()), "/dev/pts/0");
    EXPECT_EQ(error_of(open_pty_peer(task_ctx(), **s, O_RDWR)), ENOTTY);
  });
}

TEST_F(PtyTest, SettingsAreSharedAndBothFormsAgree) {
  run([&] {
    open_pair();
    auto t = ioctl_out<struct termios2>(*slave, TCGETS2);
    EXPECT_EQ(t.c_ospeed, 38400u);
    t.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    EXPECT_EQ(ioctl_in(*slave, TCSETSW2, t), 0);
    EXPECT_EQ(ioctl_out<struct termios>(*master, TCGETS).c_lflag & ECHO, 0u);
    EXPECT_EQ(send(*master, "dropped"), 0);
    EXPECT_EQ(ioctl_in(*slave, TCSETSF2, t), 0);
    EXPECT_EQ(send(*master, "kept\n"), 0);
    EXPECT_EQ(take(*slave), "kept\n");
    EXPECT_EQ(ioctl(*slave, TCGETS, 0x10), EFAULT);
    EXPECT_EQ(ioctl(*slave, 0x1234, 0), ENOTTY);
    drop();
  });
}

}  // namespace
}  // namespace rf::fs
