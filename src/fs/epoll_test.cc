#include "fs/epoll.h"

#include <fmt/core.h>
#include <sys/epoll.h>

#include <algorithm>

#include "fs/test_files.h"

namespace rf::fs {
namespace {

constexpr u32 kEt = static_cast<u32>(EPOLLET);

struct Ends {
  Ref<File> r, w;
};

Ends open_pipe() {
  auto p = make_pipe(O_NONBLOCK);
  RF_CHECK(p);
  return {p->first, p->second};
}

Result<void> add(const Ref<File>& ep, int fd, const Ref<File>& f, u32 events) {
  return epoll_ctl(*ep, EPOLL_CTL_ADD, fd, f, {events, static_cast<u64>(fd)});
}
Result<void> modify(const Ref<File>& ep, int fd, const Ref<File>& f, u32 events) {
  return epoll_ctl(*ep, EPOLL_CTL_MOD, fd, f, {events, static_cast<u64>(fd)});
}
Result<void> remove(const Ref<File>& ep, int fd, const Ref<File>& f) {
  return epoll_ctl(*ep, EPOLL_CTL_DEL, fd, f, {});
}

// What epoll_wait gives now, as "fd:events" in the order of fds.
std::string ready_now(const Ref<File>& ep, size_t max = 16) {
  std::vector<EpollEvent> out(max);
  size_t n = *epoll_wait(*ep, out, 0);
  std::sort(out.begin(), out.begin() + n, [](auto& a, auto& b) { return a.data < b.data; });
  std::string s;
  for (size_t i = 0; i < n; i++) s += fmt::format("{}:{:x} ", out[i].data, out[i].events);
  return s;
}

TEST(EpollTest, LevelTriggeredReportsAsLongAsReady) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0);
    Ends p = open_pipe();
    ASSERT_TRUE(add(ep, 5, p.r, EPOLLIN));
    EXPECT_EQ(ready_now(ep), "");
    EXPECT_EQ(*write_string(*p.w, "xy"), 2u);
    EXPECT_EQ(ready_now(ep), "5:1 ");
    EXPECT_EQ(ready_now(ep), "5:1 ");
    EXPECT_EQ(*read_string(*p.r, 10), "xy");
    EXPECT_EQ(ready_now(ep), "");
  });
}

TEST(EpollTest, EdgeTriggeredReportsEachWrite) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0);
    Ends p = open_pipe();
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    ASSERT_TRUE(add(ep, 5, p.r, EPOLLIN | kEt));
    EXPECT_EQ(ready_now(ep), "5:1 ");
    EXPECT_EQ(ready_now(ep), "");
    EXPECT_EQ(*write_string(*p.w, "y"), 1u);
    EXPECT_EQ(ready_now(ep), "5:1 ");
    ASSERT_TRUE(modify(ep, 5, p.r, EPOLLIN | kEt));  // re-arms
    EXPECT_EQ(ready_now(ep), "5:1 ");
    EXPECT_EQ(ready_now(ep), "");
  });
}

TEST(EpollTest, OneShotFiresOnceUntilModified) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0);
    Ends p = open_pipe();
    ASSERT_TRUE(add(ep, 5, p.r, EPOLLIN | EPOLLONESHOT));
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    EXPECT_EQ(ready_now(ep), "5:1 ");
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    p.w.reset();
    EXPECT_EQ(ready_now(ep), "");
    ASSERT_TRUE(modify(ep, 5, p.r, EPOLLIN | EPOLLONESHOT));
    EXPECT_EQ(ready_now(ep), "5:11 ");
    EXPECT_EQ(ready_now(ep), "");
  });
}

TEST(EpollTest, ControlErrors) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0), other = *make_epoll(0);
    Ends p = open_pipe();
    EXPECT_EQ(error_of(modify(ep, 5, p.r, EPOLLIN)), ENOENT);
    EXPECT_EQ(error_of(remove(ep, 5, p.r)), ENOENT);
    ASSERT_TRUE(add(ep, 5, p.r, EPOLLIN));
    EXPECT_EQ(error_of(add(ep, 5, p.r, EPOLLIN)), EEXIST);
    ASSERT_TRUE(add(ep, 6, p.r, EPOLLIN));  // a duplicate descriptor is another registration
    EXPECT_EQ(error_of(add(ep, 7, ep, EPOLLIN)), EINVAL);
    EXPECT_EQ(error_of(add(p.r, 7, p.w, EPOLLIN)), EINVAL);
    EXPECT_EQ(error_of(epoll_ctl(*ep, 17, 5, p.r, {})), EINVAL);
    EXPECT_EQ(error_of(add(ep, 7, other, EPOLLIN | EPOLLEXCLUSIVE)), EINVAL);
    EXPECT_EQ(error_of(add(ep, 7, p.w, EPOLLOUT | EPOLLEXCLUSIVE | EPOLLONESHOT)), EINVAL);
    ASSERT_TRUE(add(ep, 7, p.w, EPOLLOUT | EPOLLEXCLUSIVE | EPOLLWAKEUP | kEt));
    EXPECT_EQ(error_of(modify(ep, 7, p.w, EPOLLOUT)), EINVAL);
    ASSERT_TRUE(remove(ep, 7, p.w));
    ASSERT_TRUE(remove(ep, 5, p.r));
    EXPECT_EQ(error_of(epoll_wait(*p.r, {}, 0)), EINVAL);
    EXPECT_EQ(error_of(epoll_wait(*ep, {}, 0)), EINVAL);
  });
}

TEST(EpollTest, LastCloseOfTheDescriptionRemovesIt) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0), second = *make_epoll(0);
    Ends p = open_pipe();
    ASSERT_TRUE(add(ep, 5, p.r, EPOLLIN));
    ASSERT_TRUE(add(ep, 6, p.r, EPOLLIN));
    ASSERT_TRUE(add(second, 5, p.r, EPOLLIN));
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    EXPECT_EQ(ready_now(ep), "5:1 6:1 ");
    p.r.reset();
    EXPECT_EQ(ready_now(ep), "");
    EXPECT_EQ(ready_now(second), "");
    EXPECT_EQ(ep->fdinfo(), "");
  });
}

TEST(EpollTest, SeveralWatchesShareTheOutputFairly) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0);
    std::vector<Ends> pipes;
    for (int i = 0; i < 4; i++) {
      pipes.push_back(open_pipe());
      ASSERT_TRUE(add(ep, i, pipes[i].w, EPOLLOUT));
    }
    EXPECT_EQ(ready_now(ep, 2), "0:4 1:4 ");
    EXPECT_EQ(ready_now(ep, 2), "2:4 3:4 ");
    EXPECT_EQ(ready_now(ep, 3), "0:4 1:4 2:4 ");
  });
}

TEST(EpollTest, Nested) {
  run_fibers(2, [] {
    Ref<File> outer = *make_epoll(0), inner = *make_epoll(0);
    Ends p = open_pipe();
    ASSERT_TRUE(add(outer, 3, inner, EPOLLIN));
    ASSERT_TRUE(add(inner, 5, p.r, EPOLLIN));
    EXPECT_EQ(ready_now(outer), "");
    Countdown done(1);
    spawn("waiter", [&] {
      EpollEvent e[4];
      EXPECT_EQ(*epoll_wait(*outer, e, kNever), 1u);
      EXPECT_EQ(e[0].data, 3u);
      done.done();
    });
    pause_briefly();
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    done.wait();
    EXPECT_EQ(inner->poll(), EventMask{POLLIN | POLLRDNORM});
    EXPECT_EQ(*read_string(*p.r, 1), "x");
    EXPECT_EQ(inner->poll(), 0u);
    EXPECT_EQ(ready_now(outer), "");
  });
}

TEST(EpollTest, LoopsAndDepthAreRefused) {
  run_fibers(1, [] {
    std::vector<Ref<File>> eps;
    for (int i = 0; i < 6; i++) eps.push_back(*make_epoll(0));
    for (int i = 0; i < 4; i++) ASSERT_TRUE(add(eps[i], 1, eps[i + 1], EPOLLIN));
    EXPECT_EQ(error_of(add(eps[4], 1, eps[0], EPOLLIN)), ELOOP);
    EXPECT_EQ(error_of(add(eps[4], 1, eps[5], EPOLLIN)), ELOOP);
    EXPECT_EQ(error_of(add(eps[5], 1, eps[0], EPOLLIN)), ELOOP);
    ASSERT_TRUE(add(eps[5], 1, eps[1], EPOLLIN));
    ASSERT_TRUE(remove(eps[2], 1, eps[3]));
    ASSERT_TRUE(add(eps[3], 2, eps[0], EPOLLIN));
  });
}

TEST(EpollTest, TimesOut) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0);
    EpollEvent e[1];
    Nanos start = monotonic_now();
    EXPECT_EQ(*epoll_wait(*ep, e, start + 3'000'000), 0u);
    EXPECT_GE(monotonic_now() - start, 3'000'000);
  });
}

TEST(EpollTest, Interrupted) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0);
    Ends p = open_pipe();
    ASSERT_TRUE(add(ep, 5, p.r, EPOLLIN));
    EpollEvent e[1];
    auto wait = [&] { return epoll_wait(*ep, e, kNever); };
    EXPECT_EQ(error_of(interrupted_result(wait)), EINTR);
    EXPECT_EQ(error_of(preinterrupted_result(wait)), EINTR);
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    EXPECT_EQ(*preinterrupted_result(wait), 1u);
  });
}

// Waiters are woken one at a time; none is forgotten though each takes one event only.
TEST(EpollTest, EachEventFindsAWaiter) {
  run_fibers(2, [] {
    Ref<File> ep = *make_epoll(0);
    constexpr u32 kPipes = 8, kRounds = 50;
    std::vector<Ends> pipes;
    for (u32 i = 0; i < kPipes; i++) {
      pipes.push_back(open_pipe());
      ASSERT_TRUE(add(ep, i, pipes[i].r, EPOLLIN | kEt));
    }
    for (u32 round = 0; round < kRounds; round++) {
      Countdown done(kPipes);
      std::atomic<u32> seen{0};
      for (u32 i = 0; i < kPipes; i++)
        spawn("waiter", [&] {
          EpollEvent e[1];
          EXPECT_EQ(*epoll_wait(*ep, e, kNever), 1u);
          seen |= 1u << e[0].data;
          done.done();
        });
      if (round % 2) yield();
      for (u32 i = 0; i < kPipes; i++) EXPECT_EQ(*write_string(*pipes[i].w, "x"), 1u);
      done.wait();
      EXPECT_EQ(seen.load(), (1u << kPipes) - 1);
      for (u32 i = 0; i < kPipes; i++) EXPECT_EQ(*read_string(*pipes[i].r, 9), "x");
    }
  });
}

// Registrations, closes, events and waits at once on two workers.
TEST(EpollTest, CloseRacesWithWait) {
  run_fibers(2, [] {
    Ref<File> ep = *make_epoll(0), inner = *make_epoll(0), stop = *make_eventfd(0, 0);
    ASSERT_TRUE(add(ep, 1000, stop, EPOLLIN));
    ASSERT_TRUE(add(ep, 1001, inner, EPOLLIN | kEt));
    Countdown waiters(2), writers(3);
    for (int i = 0; i < 2; i++)
      spawn("waiter", [&] {
        EpollEvent e[8];
        for (bool stopped = false; !stopped;) {
          size_t n = *epoll_wait(*ep, e, kNever);
          for (size_t k = 0; k < n; k++) stopped |= e[k].data == 1000;
          yield();
        }
        waiters.done();
      });
    for (int i = 0; i < 3; i++)
      spawn("writer", [&, i] {
        for (int k = 0; k < 300; k++) {
          Ends p = open_pipe();
          ASSERT_TRUE(add(k % 2 ? ep : inner, i, p.r, EPOLLIN));
          EXPECT_EQ(*write_string(*p.w, "x"), 1u);
          if (k % 3 == 0) yield();
        }
        writers.done();
      });
    writers.wait();
    EXPECT_EQ(*write_u64(*stop, 1), 8u);
    waiters.wait();
  });
}

TEST(EpollTest, ThousandsOfDescriptions) {
  run_fibers(1, [] {
    Ref<File> ep = *make_epoll(0);
    std::vector<Ref<File>> files;
    for (int i = 0; i < 5000; i++) {
      files.push_back(*make_eventfd(0, O_NONBLOCK));
      ASSERT_TRUE(add(ep, i, files[i], EPOLLIN));
    }
    for (int i = 0; i < 5000; i += 1000) EXPECT_EQ(*write_u64(*files[i], 1), 8u);
    EXPECT_EQ(ready_now(ep), "0:1 1000:1 2000:1 3000:1 4000:1 ");
  });
}

}  // namespace
}  // namespace rf::fs
