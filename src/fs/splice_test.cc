#include "fs/pipe.h"
#include "fs/test_files.h"

namespace rf::fs {
namespace {

struct Ends {
  Ref<File> r, w;
};

Ends open_pipe(int flags = 0) {
  auto p = make_pipe(flags);
  RF_CHECK(p);
  return {p->first, p->second};
}

Result<size_t> move(Ends& from, Ends& to, u64 len, u32 flags = 0) {
  return splice(test_context(), *from.r, nullptr, *to.w, nullptr, len, flags);
}

TEST(SpliceTest, MovesBetweenPipes) {
  run_fibers(1, [] {
    Ends a = open_pipe(), b = open_pipe();
    EXPECT_EQ(*write_string(*a.w, std::string(4096, 'x') + "hello world"), 4107u);
    EXPECT_EQ(*move(a, b, 4096 + 5), 4101u);
    EXPECT_EQ(read_string(*b.r, 10000)->substr(4090), "xxxxxxhello");
    EXPECT_EQ(*write_string(*a.w, "!"), 1u);
    EXPECT_EQ(*read_string(*a.r, 100), " world!");
  });
}

TEST(SpliceTest, ChecksItsArguments) {
  run_fibers(1, [] {
    Ends a = open_pipe(), b = open_pipe();
    Ref<File> e = *make_eventfd(1, 0), e2 = *make_eventfd(1, 0);
    s64 offset = 0;
    auto& ctx = test_context();
    EXPECT_EQ(error_of(splice(ctx, *a.r, nullptr, *a.w, nullptr, 1, 0)), EINVAL);
    EXPECT_EQ(error_of(splice(ctx, *e, nullptr, *e2, nullptr, 1, 0)), EINVAL);
    EXPECT_EQ(error_of(splice(ctx, *a.r, &offset, *b.w, nullptr, 1, 0)), ESPIPE);
    EXPECT_EQ(error_of(splice(ctx, *a.r, nullptr, *b.w, &offset, 1, 0)), ESPIPE);
    EXPECT_EQ(error_of(splice(ctx, *e, &offset, *b.w, nullptr, 8, 0)), EINVAL);
    EXPECT_EQ(error_of(move(a, b, 1, SPLICE_F_NONBLOCK)), EAGAIN);
    EXPECT_EQ(error_of(tee(ctx, *e, *b.w, 1, 0)), EINVAL);
    b.r.reset();
    EXPECT_EQ(error_of(move(a, b, 1)), EPIPE);
    a.w.reset();
    b = open_pipe();
    EXPECT_EQ(*move(a, b, 1), 0u);
  });
}

TEST(SpliceTest, ThroughFiles) {
  run_fibers(1, [] {
    Ends p = open_pipe();
    Ref<File> e = *make_eventfd(0x4142, 0);
    auto& ctx = test_context();
    EXPECT_EQ(*splice(ctx, *e, nullptr, *p.w, nullptr, 100, 0), 8u);
    EXPECT_EQ(read_string(*p.r, 100)->substr(0, 2), "BA");
    EXPECT_EQ(*write_string(*p.w, std::string("\5\0\0\0\0\0\0\0rest", 12)), 12u);
    EXPECT_EQ(*splice(ctx, *p.r, nullptr, *e, nullptr, 8, 0), 8u);
    EXPECT_EQ(*read_u64(*e), 5u);
    // A failed write leaves the data where it was.
    EXPECT_EQ(error_of(splice(ctx, *p.r, nullptr, *e, nullptr, 4, 0)), EINVAL);
    EXPECT_EQ(*read_string(*p.r, 100), "rest");
  });
}

TEST(SpliceTest, TeeCopies) {
  run_fibers(1, [] {
    Ends a = open_pipe(), b = open_pipe();
    EXPECT_EQ(*write_string(*a.w, "hello"), 5u);
    EXPECT_EQ(*tee(test_context(), *a.r, *b.w, 3, 0), 3u);
    EXPECT_EQ(*tee(test_context(), *a.r, *b.w, 100, 0), 5u);
    EXPECT_EQ(*read_string(*a.r, 100), "hello");
    EXPECT_EQ(*read_string(*b.r, 100), "helhello");
  });
}

TEST(SpliceTest, BlocksForDataAndRoom) {
  run_fibers(2, [] {
    Ends a = open_pipe(), b = open_pipe();
    Countdown done(1);
    spawn("splicer", [&] {
      EXPECT_EQ(*move(a, b, 1), 1u);
      done.done();
    });
    pause_briefly();
    EXPECT_EQ(*write_string(*b.w, std::string(65536, 'x')), 65536u);
    EXPECT_EQ(*write_string(*a.w, "y"), 1u);
    pause_briefly();
    EXPECT_EQ(read_string(*b.r, 65536)->size(), 65536u);
    done.wait();
    EXPECT_EQ(*read_string(*b.r, 10), "y");
  });
}

TEST(SpliceTest, Interrupted) {
  run_fibers(1, [] {
    Ends a = open_pipe(), b = open_pipe();
    Ref<File> e = *make_eventfd(0, 0);
    auto& ctx = test_context();
    EXPECT_EQ(error_of(interrupted_result([&] { return move(a, b, 1); })), kERESTARTSYS);
    EXPECT_EQ(error_of(preinterrupted_result([&] { return move(a, b, 1); })), kERESTARTSYS);
    auto from_file = [&] { return splice(ctx, *e, nullptr, *b.w, nullptr, 8, 0); };
    EXPECT_EQ(error_of(interrupted_result(from_file)), kERESTARTSYS);
    EXPECT_EQ(*write_string(*b.w, "not stuck"), 9u);  // the claim is gone
    EXPECT_EQ(*read_string(*b.r, 100), "not stuck");
  });
}

// While a splice waits in its file, others wait for the claimed side and can be interrupted.
TEST(SpliceTest, ClaimedSideWaits) {
  run_fibers(1, [] {
    Ends p = open_pipe();
    Ref<File> e = *make_eventfd(0, 0);
    Countdown done(1);
    spawn("splicer", [&] {
      EXPECT_EQ(*splice(test_context(), *e, nullptr, *p.w, nullptr, 8, 0), 8u);
      done.done();
    });
    pause_briefly();
    EXPECT_EQ(error_of(interrupted_result([&] { return write_string(*p.w, "x"); })), kERESTARTSYS);
    EXPECT_EQ(*write_u64(*e, 1), 8u);
    done.wait();
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    EXPECT_EQ(read_string(*p.r, 100)->size(), 9u);
  });
}

}  // namespace
}  // namespace rf::fs
