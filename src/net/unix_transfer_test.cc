#include <linux/sockios.h>

#include "net/unix_fixture.h"

namespace rf::net {
namespace {

class UnixTransferTest : public UnixTest {};

TEST_F(UnixTransferTest, StreamsHaveNoBounds) {
  run([&] {
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(p.a->poll(), kOut);
    EXPECT_EQ(*send(p.a, "one"), 3u);
    EXPECT_EQ(*send(p.a, "two"), 3u);
    EXPECT_EQ(p.b->poll(), kIn | kOut);
    EXPECT_EQ(*receive(p.b, 2, MSG_PEEK), "on");
    EXPECT_EQ(*receive(p.b, 100, MSG_PEEK), "onetwo");
    EXPECT_EQ(*receive(p.b, 4), "onet");
    EXPECT_EQ(*receive(p.b, 100, MSG_PEEK), "wo");
    EXPECT_EQ(*receive(p.b, 100), "wo");
    EXPECT_EQ(error_of(receive(p.b, 1, MSG_DONTWAIT)), EAGAIN);
    EXPECT_EQ(*fs::write_string(*p.b, "back"), 4u);
    EXPECT_EQ(*fs::read_string(*p.a, 10), "back");
    SocketAddress to = address("@x");
    EXPECT_EQ(error_of(send_to(p.a, "x", &to)), EISCONN);
    EXPECT_EQ(error_of(send(p.a, "x", MSG_OOB)), EOPNOTSUPP);
  });
}

TEST_F(UnixTransferTest, WaitAllWaitsForAll) {
  run(
      [&] {
        Pair p = pair(SOCK_STREAM);
        Countdown done(1);
        spawn("reader", [&] {
          EXPECT_EQ(*receive(p.b, 6, MSG_WAITALL), "abcdef");
          EXPECT_EQ(*receive(p.b, 6, MSG_WAITALL), "gh");
          done.done();
        });
        for (const char* s : {"ab", "cde", "f", "gh"}) {
          EXPECT_TRUE(send(p.a, s));
          pause_briefly();
        }
        p.a.reset();
        done.wait();
      },
      2);
}

TEST_F(UnixTransferTest, DatagramsHaveBounds) {
  for (int type : {SOCK_DGRAM, SOCK_SEQPACKET})
    run([&] {
      Pair p = pair(type);
      EXPECT_EQ(*send(p.a, "first"), 5u);
      EXPECT_EQ(*send(p.a, ""), 0u);
      EXPECT_EQ(*send(p.a, "third"), 5u);
      auto m = *receive_message(p.b, 3, MSG_PEEK);
      EXPECT_EQ(m.text, "fir");
      EXPECT_EQ(m.message.flags, MSG_TRUNC);
      m = *receive_message(p.b, 3, MSG_TRUNC);
      EXPECT_EQ(m.message.bytes, 5u);
      EXPECT_EQ(*receive(p.b, 100), "");
      m = *receive_message(p.b, 100);
      EXPECT_EQ(m.text, "third");
      EXPECT_EQ(m.message.flags, 0);
      EXPECT_EQ(error_of(send(p.a, std::string(212992, 'x'))), EMSGSIZE);
      EXPECT_EQ(*send(p.a, std::string(200000, 'x')), 200000u);
      EXPECT_EQ(receive(p.b, 1 << 20)->size(), 200000u);
    });
}

TEST_F(UnixTransferTest, ClosedPeer) {
  run([&] {
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(*send(p.a, "left"), 4u);
    p.a.reset();
    EXPECT_EQ(p.b->poll(), POLLHUP | POLLRDHUP | kIn | kOut);
    EXPECT_EQ(*receive(p.b, 100), "left");
    EXPECT_EQ(*receive(p.b, 100), "");
    EXPECT_EQ(error_of(send(p.b, "x")), EPIPE);
    EXPECT_TRUE(p.b->getpeername());
    // With data unread at the other end the connection is reset.
    p = pair(SOCK_STREAM);
    EXPECT_EQ(*send(p.b, "unread"), 6u);
    p.a.reset();
    EXPECT_EQ(error_of(receive(p.b, 100)), ECONNRESET);
    EXPECT_EQ(*receive(p.b, 100), "");
    p = pair(SOCK_SEQPACKET);
    p.a.reset();
    EXPECT_EQ(*receive(p.b, 100), "");
    EXPECT_EQ(error_of(send(p.b, "x")), EPIPE);
    p = pair(SOCK_DGRAM);
    p.a.reset();
    EXPECT_EQ(error_of(send(p.b, "x")), ECONNREFUSED);
  });
}

TEST_F(UnixTransferTest, Shutdown) {
  run([&] {
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(error_of(p.a->shutdown(3)), EINVAL);
    EXPECT_EQ(*send(p.a, "x"), 1u);
    EXPECT_TRUE(p.a->shutdown(SHUT_WR));
    EXPECT_EQ(error_of(send(p.a, "y")), EPIPE);
    EXPECT_EQ(p.b->poll(), POLLRDHUP | kIn | kOut);
    EXPECT_EQ(p.a->poll(), kOut);
    EXPECT_EQ(*receive(p.b, 9), "x");
    EXPECT_EQ(*receive(p.b, 9), "");
    EXPECT_EQ(*send(p.b, "still"), 5u);
    EXPECT_EQ(*receive(p.a, 9), "still");
    EXPECT_TRUE(p.a->shutdown(SHUT_RD));
    EXPECT_EQ(error_of(send(p.b, "z")), EPIPE);
    EXPECT_EQ(p.a->poll(), POLLHUP | POLLRDHUP | kIn | kOut);
    EXPECT_EQ(p.b->poll(), POLLHUP | POLLRDHUP | kIn | kOut);
  });
}

TEST_F(UnixTransferTest, SendBufferLimitsWhatIsQueued) {
  run(
      [&] {
        for (int type : {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM}) {
          Pair p = pair(type);
          EXPECT_EQ(set_option(p.a, SO_SNDBUF, 4096), 0);
          std::string kilo(1024, 'x');
          size_t sent = 0;
          while (send(p.a, kilo, MSG_DONTWAIT)) sent += kilo.size();
          EXPECT_GE(sent, 4096u);
          EXPECT_LE(sent, 16384u);
          EXPECT_EQ(error_of(send(p.a, kilo, MSG_DONTWAIT)), EAGAIN);
          EXPECT_EQ(p.a->poll(), 0u);
          EXPECT_EQ(p.b->poll(), kIn | kOut);
          EXPECT_EQ(set_timeout(p.a, SO_SNDTIMEO, 3), 0);
          EXPECT_EQ(error_of(send(p.a, kilo)), EAGAIN);
          EXPECT_EQ(set_timeout(p.a, SO_SNDTIMEO, 0), 0);
          EXPECT_EQ(error_of(interrupted_result([&] { return send(p.a, kilo); })), kERESTARTSYS);
          EXPECT_EQ(error_of(preinterrupted_result([&] { return send(p.a, kilo); })), kERESTARTSYS);
          Countdown done(1);
          spawn("sender", [&] {
            EXPECT_EQ(*send(p.a, kilo), kilo.size());
            done.done();
          });
          pause_briefly();
          size_t received = 0;
          while (received < sent + kilo.size()) received += receive(p.b, 1024)->size();
          done.wait();
          EXPECT_EQ(p.a->poll(), kOut);
        }
      },
      2);
}

TEST_F(UnixTransferTest, DatagramQueueLimitsSenders) {
  run(
      [&] {
        Socket server = make(SOCK_DGRAM), a = make(SOCK_DGRAM);
        EXPECT_EQ(bind(server, "@server"), 0);
        EXPECT_EQ(connect(a, "@server"), 0);
        for (int i = 0; i < 11; i++) EXPECT_EQ(*send(a, "x", MSG_DONTWAIT), 1u);
        EXPECT_EQ(error_of(send(a, "x", MSG_DONTWAIT)), EAGAIN);
        EXPECT_EQ(a->poll(), 0u);
        EXPECT_EQ(error_of(interrupted_result([&] { return send(a, "x"); })), kERESTARTSYS);
        Countdown polled(1), sent(1);
        spawn("poller", [&] {
          fs::PollEntry entry{a, POLLOUT};
          EXPECT_EQ(*fs::poll_files({&entry, 1}, kNever), 1u);
          polled.done();
        });
        pause_briefly();
        EXPECT_EQ(*receive(server, 1), "x");
        polled.wait();
        EXPECT_EQ(*send(a, "x"), 1u);
        spawn("sender", [&] {
          EXPECT_EQ(*send(a, "x"), 1u);
          sent.done();
        });
        pause_briefly();
        EXPECT_EQ(*receive(server, 1), "x");
        sent.wait();
        for (int i = 0; i < 5; i++) EXPECT_EQ(*receive(server, 1), "x");
        // Connected to one another they are limited by the send buffer alone.
        EXPECT_EQ(bind(a, "@a"), 0);
        EXPECT_EQ(connect(server, "@a"), 0);
        for (int i = 0; i < 30; i++) EXPECT_EQ(*send(a, "z", MSG_DONTWAIT), 1u);
      },
      2);
}

TEST_F(UnixTransferTest, BlockedReceiver) {
  run(
      [&] {
        for (int type : {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM}) {
          Pair p = pair(type);
          auto wait = [&] { return receive(p.b, 10); };
          EXPECT_EQ(error_of(interrupted_result(wait)), kERESTARTSYS);
          EXPECT_EQ(error_of(preinterrupted_result(wait)), kERESTARTSYS);
          EXPECT_EQ(set_timeout(p.b, SO_RCVTIMEO, 3), 0);
          EXPECT_EQ(error_of(receive(p.b, 10)), EAGAIN);
          EXPECT_EQ(set_timeout(p.b, SO_RCVTIMEO, 999), 0);
          EXPECT_EQ(error_of(interrupted_result(wait)), EINTR);
          EXPECT_EQ(set_timeout(p.b, SO_RCVTIMEO, 0), 0);
          Countdown done(1);
          spawn("receiver", [&] {
            EXPECT_EQ(*receive(p.b, 10), "data");
            EXPECT_EQ(*receive(p.b, 10), "");
            done.done();
          });
          pause_briefly();
          EXPECT_EQ(*send(p.a, "data"), 4u);
          pause_briefly();
          EXPECT_TRUE((type == SOCK_DGRAM ? p.b : p.a)->shutdown(SHUT_RDWR));
          done.wait();
        }
      },
      2);
}

TEST_F(UnixTransferTest, Credentials) {
  run([&] {
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(*send(p.a, "before"), 6u);
    EXPECT_EQ(set_option(p.b, SO_PASSCRED, 1), 0);
    auto m = *receive_message(p.b, 100);
    EXPECT_EQ(m.message.control.credentials->pid, 0);
    EXPECT_EQ(m.message.control.credentials->uid, 65534u);
    pid_ = 7;
    EXPECT_EQ(*send(p.a, "seven"), 5u);
    pid_ = 8;
    EXPECT_EQ(*send(p.a, "eight"), 5u);
    m = *receive_message(p.b, 100);
    EXPECT_EQ(m.text, "seven");  // not glued to another's
    EXPECT_EQ(m.message.control.credentials->pid, 7);
    m = *receive_message(p.b, 100);
    EXPECT_EQ(m.message.control.credentials->pid, 8);
    EXPECT_EQ(*send_to(p.a, "x", nullptr, 0, Control{{}, ucred{42, 1, 2}}), 1u);
    m = *receive_message(p.b, 100);
    EXPECT_EQ(m.message.control.credentials->pid, 42);
    EXPECT_EQ(m.message.control.credentials->gid, 2u);
  });
}

// What one sends in pieces on one worker arrives whole and in order on the other.
TEST_F(UnixTransferTest, LargeStream) {
  run(
      [&] {
        Pair p = pair(SOCK_STREAM);
        const size_t total = 2 << 20;
        Countdown done(1);
        spawn("sender", [&] {
          std::string data(total, '\0');
          for (size_t i = 0; i < total; i++) data[i] = static_cast<char>(i * 7 + (i >> 8));
          EXPECT_EQ(*send(p.a, data), total);
          p.a.reset();
          done.done();
        });
        size_t got = 0;
        bool right = true;
        for (;;) {
          std::string s = *receive(p.b, 10000);
          if (s.empty()) break;
          for (char c : s) right &= c == static_cast<char>(got * 7 + (got >> 8)), got++;
        }
        done.wait();
        EXPECT_EQ(got, total);
        EXPECT_TRUE(right);
      },
      2);
}

}  // namespace
}  // namespace rf::net
