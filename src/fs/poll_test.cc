#include "fs/test_files.h"

namespace rf::fs {
namespace {

TEST(PollTest, ReportsWhatIsReadyWithoutWaiting) {
  run_fibers(1, [] {
    auto p = *make_pipe(0);
    Ref<File> e = *make_eventfd(0, 0);
    PollEntry entries[] = {{p.first, POLLIN}, {p.second, POLLIN | POLLOUT}, {nullptr, 0, POLLNVAL}, {e, POLLIN}};
    EXPECT_EQ(*poll_files(entries, kNever), 2u);
    EXPECT_EQ(entries[0].revents, 0u);
    EXPECT_EQ(entries[1].revents, EventMask{POLLOUT});
    EXPECT_EQ(entries[2].revents, EventMask{POLLNVAL});
  });
}

TEST(PollTest, HangUpIsReportedUnasked) {
  run_fibers(1, [] {
    auto p = *make_pipe(0);
    p.second.reset();
    PollEntry entry{p.first, 0};
    EXPECT_EQ(*poll_files({&entry, 1}, kNever), 1u);
    EXPECT_EQ(entry.revents, EventMask{POLLHUP});
  });
}

TEST(PollTest, TimesOut) {
  run_fibers(1, [] {
    auto p = *make_pipe(0);
    PollEntry entry{p.first, POLLIN};
    EXPECT_EQ(*poll_files({&entry, 1}, 0), 0u);
    Nanos start = monotonic_now();
    EXPECT_EQ(*poll_files({&entry, 1}, start + 3'000'000), 0u);
    EXPECT_GE(monotonic_now() - start, 3'000'000);
    EXPECT_EQ(*poll_files({}, start + 4'000'000), 0u);
  });
}

TEST(PollTest, Interrupted) {
  run_fibers(1, [] {
    auto p = *make_pipe(0);
    PollEntry entry{p.first, POLLIN};
    auto wait = [&] { return poll_files({&entry, 1}, kNever); };
    EXPECT_EQ(error_of(interrupted_result(wait)), EINTR);
    EXPECT_EQ(error_of(preinterrupted_result(wait)), EINTR);
    EXPECT_EQ(*write_string(*p.second, "x"), 1u);
    EXPECT_EQ(*preinterrupted_result(wait), 1u);  // what is ready comes first
  });
}

TEST(PollTest, WakesForOneOfMany) {
  run_fibers(2, [] {
    std::vector<std::pair<Ref<File>, Ref<File>>> pipes;
    std::vector<PollEntry> entries;
    for (int i = 0; i < 100; i++) {
      pipes.push_back(*make_pipe(0));
      entries.push_back({pipes.back().first, POLLIN});
    }
    for (u32 round = 0; round < 20; round++) {
      Countdown done(1);
      spawn("poller", [&] {
        EXPECT_EQ(*poll_files(entries, kNever), 1u);
        done.done();
      });
      if (round % 2) pause_briefly();
      EXPECT_EQ(*write_string(*pipes[round * 5].second, "x"), 1u);
      done.wait();
      EXPECT_EQ(entries[round * 5].revents, EventMask{POLLIN});
      EXPECT_EQ(*read_string(*pipes[round * 5].first, 1), "x");
    }
  });
}

}  // namespace
}  // namespace rf::fs
