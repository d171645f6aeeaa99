#include "net/unix_fixture.h"

namespace rf::net {
namespace {

// A file that tells when it goes.
class Tracer final : public fs::StreamFile {
 public:
  explicit Tracer(std::atomic<int>& alive) : StreamFile(fs::make_anon_path("tracer"), O_RDWR), alive_(alive) {
    alive_++;
  }

 private:
  void release() override { alive_--; }
  std::atomic<int>& alive_;
};

class UnixRightsTest : public UnixTest {
 protected:
  Ref<fs::File> tracer() { return make_ref<Tracer>(alive_); }
  // As on Linux, what went round in circles is looked for when some socket is closed.
  void close_another() { make(SOCK_STREAM).reset(); }
  std::atomic<int> alive_{0};
};

TEST_F(UnixRightsTest, DescriptionsArrive) {
  for (int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET})
    run([&] {
      Pair p = pair(type);
      Ref<fs::File> f = tracer();
      EXPECT_EQ(*send_files(p.a, {f, f}, "fds"), 3u);
      f.reset();
      EXPECT_EQ(receive_message(p.b, 10, MSG_PEEK)->message.control.files.size(), 2u);
      auto m = *receive_message(p.b, 10);
      EXPECT_EQ(m.text, "fds");
      ASSERT_EQ(m.message.control.files.size(), 2u);
      EXPECT_EQ(m.message.control.files[0], m.message.control.files[1]);
      EXPECT_EQ(alive_.load(), 1);
      m = {};
      EXPECT_EQ(alive_.load(), 0);
    });
}

TEST_F(UnixRightsTest, StreamReadsStopAtDescriptions) {
  run([&] {
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(*send(p.a, "plain"), 5u);
    EXPECT_EQ(*send_files(p.a, {tracer()}, "with"), 4u);
    EXPECT_EQ(*send_files(p.a, {tracer()}, "more"), 4u);
    auto m = *receive_message(p.b, 7);
    EXPECT_EQ(m.text, "plainwi");
    EXPECT_EQ(m.message.control.files.size(), 1u);
    m = *receive_message(p.b, 100);
    EXPECT_EQ(m.text, "thmore");
    EXPECT_EQ(m.message.control.files.size(), 1u);
    m = {};
    EXPECT_EQ(alive_.load(), 0);
  });
}

TEST_F(UnixRightsTest, CloseDropsWhatWasNotReceived) {
  run([&] {
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(*send_files(p.a, {tracer()}), 1u);
    p = {};
    EXPECT_EQ(alive_.load(), 0);
    // In the queue of a connection that nobody accepted.
    Socket l = listener(SOCK_STREAM, "@l"), c = make(SOCK_STREAM);
    EXPECT_EQ(connect(c, "@l"), 0);
    EXPECT_EQ(*send_files(c, {tracer()}), 1u);
    l.reset();
    EXPECT_EQ(alive_.load(), 0);
  });
}

TEST_F(UnixRightsTest, ASocketSentOverItselfIsCollected) {
  run([&] {
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(*send_files(p.a, {p.b, p.a, tracer()}), 1u);
    EXPECT_EQ(*send_files(p.b, {p.b, p.a, tracer()}), 1u);
    p.a.reset();
    EXPECT_EQ(alive_.load(), 2);
    p.b.reset();
    close_another();
    EXPECT_EQ(alive_.load(), 0);
  });
}

TEST_F(UnixRightsTest, CyclesThroughSeveralAreCollected) {
  run([&] {
    std::vector<Pair> ring;
    for (int i = 0; i < 10; i++) ring.push_back(pair(i % 2 ? SOCK_DGRAM : SOCK_STREAM));
    for (int i = 0; i < 10; i++) EXPECT_EQ(*send_files(ring[i].a, {ring[(i + 1) % 10].b, tracer()}), 1u);
    Socket kept = ring[3].b;
    ring.clear();
    close_another();
    EXPECT_EQ(alive_.load(), 10);  // through the one that is held all can be received
    auto m = *receive_message(kept, 10);
    EXPECT_EQ(m.message.control.files.size(), 2u);
    m = {};
    // That broke the circle: it unwound on its own.
    EXPECT_EQ(alive_.load(), 0);
  });
}

TEST_F(UnixRightsTest, AListenerInItsOwnQueueIsCollected) {
  run([&] {
    Socket l = listener(SOCK_STREAM, "@l"), c = make(SOCK_STREAM);
    EXPECT_EQ(connect(c, "@l"), 0);
    EXPECT_EQ(*send_files(c, {l, c, tracer()}), 1u);
    l.reset();
    c.reset();
    close_another();
    EXPECT_EQ(alive_.load(), 0);
    EXPECT_EQ(connect(make(SOCK_STREAM), "@l"), ECONNREFUSED);
  });
}

// Each description is held by the queue of the one before: to drop the first must not recurse.
TEST_F(UnixRightsTest, LongChainsUnwind) {
  run([&] {
    Pair first = pair(SOCK_STREAM), last = first;
    for (int i = 0; i < 3000; i++) {
      Pair next = pair(SOCK_STREAM);
      ASSERT_EQ(*send_files(last.a, {next.b, tracer()}), 1u);
      last = next;
    }
    last = {};
    EXPECT_EQ(alive_.load(), 3000);
    first = {};
    EXPECT_EQ(alive_.load(), 0);
  });
}

TEST_F(UnixRightsTest, InFlightIsLimited) {
  run([&] {
    std::vector<Pair> pairs;
    int error = 0;
    u32 sent = 0;
    for (int i = 0; i < 100 && error == 0; i++) {
      pairs.push_back(pair(SOCK_STREAM));
      Ref<fs::File> f = tracer();
      while (error == 0 && sent / 40 <= pairs.size() * 100) {
        auto n = send_to(pairs.back().a, "x", nullptr, MSG_DONTWAIT, Control{std::vector(40, f), {}});
        if (!n && n.error() == Errno{EAGAIN}) break;
        if (!n) error = errno_value(n.error());
        sent += 40;
      }
    }
    EXPECT_EQ(error, ETOOMANYREFS);
    pairs.clear();
    EXPECT_EQ(alive_.load(), 0);
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(*send_files(p.a, {tracer()}), 1u);
  });
}

TEST_F(UnixRightsTest, CollectionRacesWithTraffic) {
  run(
      [&] {
        Countdown done(4);
        for (int k = 0; k < 4; k++)
          spawn("worker", [&] {
            for (int i = 0; i < 100; i++) {
              Pair p = pair(SOCK_STREAM), q = pair(SOCK_DGRAM);
              EXPECT_TRUE(send_files(p.a, {p.b, q.a, tracer()}));
              EXPECT_TRUE(send_files(q.a, {q.b, p.a}));
              if (i % 2) {
                EXPECT_TRUE(receive_message(q.b, 10));
              }
              if (i % 3 == 0) yield();
            }
            done.done();
          });
        done.wait();
        close_another();
        EXPECT_EQ(alive_.load(), 0);
      },
      2);
}

}  // namespace
}  // namespace rf::net
