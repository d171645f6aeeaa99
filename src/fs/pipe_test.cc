#include "fs/pipe.h"

#include "fs/dentry.h"
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

Path fifo_path() { return make_anon_path("fifo", S_IFIFO | 0600); }

TEST(PipeTest, ReadGivesWhatWasWritten) {
  run_fibers(1, [] {
    Ends p = open_pipe();
    EXPECT_EQ(*write_string(*p.w, "hello "), 6u);
    EXPECT_EQ(*write_string(*p.w, "world"), 5u);
    EXPECT_EQ(*read_string(*p.r, 3), "hel");
    EXPECT_EQ(*read_string(*p.r, 100), "lo world");
  });
}

TEST(PipeTest, EmptyBufferReturnsAtOnce) {
  run_fibers(1, [] {
    Ends p = open_pipe();
    EXPECT_EQ(*read_string(*p.r, 0), "");
    EXPECT_EQ(*write_string(*p.w, ""), 0u);
    p.r.reset();
    EXPECT_EQ(*write_string(*p.w, ""), 0u);
  });
}

TEST(PipeTest, NonblockingGivesEagain) {
  run_fibers(1, [] {
    Ends p = open_pipe(O_NONBLOCK);
    EXPECT_EQ(error_of(read_string(*p.r, 10)), EAGAIN);
    EXPECT_EQ(*write_string(*p.w, std::string(100000, 'x')), 65536u);
    EXPECT_EQ(error_of(write_string(*p.w, "x")), EAGAIN);
  });
}

TEST(PipeTest, OneByteWritesFillThePages) {
  run_fibers(1, [] {
    Ends p = open_pipe(O_NONBLOCK);
    u32 n = 0;
    while (write_string(*p.w, "x")) n++;
    EXPECT_EQ(n, 65536u);
  });
}

// A write of up to PIPE_BUF goes in whole or not at all.
TEST(PipeTest, SmallWriteIsAtomic) {
  run_fibers(1, [] {
    Ends p = open_pipe(O_NONBLOCK);
    for (int i = 0; i < 16; i++) EXPECT_EQ(*write_string(*p.w, std::string(3000, 'a')), 3000u);
    EXPECT_EQ(error_of(write_string(*p.w, std::string(2000, 'b'))), EAGAIN);
    EXPECT_EQ(*write_string(*p.w, std::string(1096, 'c')), 1096u);
  });
}

TEST(PipeTest, EndOfFileAfterTheLastWriter) {
  run_fibers(1, [] {
    Ends p = open_pipe();
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    p.w.reset();
    EXPECT_EQ(p.r->poll(), EventMask{POLLIN | POLLRDNORM | POLLHUP});
    EXPECT_EQ(*read_string(*p.r, 10), "x");
    EXPECT_EQ(*read_string(*p.r, 10), "");
    EXPECT_EQ(p.r->poll(), EventMask{POLLHUP});
  });
}

TEST(PipeTest, WriteToClosedReaderGivesEpipe) {
  run_fibers(1, [] {
    Ends p = open_pipe();
    EXPECT_EQ(p.w->poll(), EventMask{POLLOUT | POLLWRNORM});
    p.r.reset();
    EXPECT_EQ(p.w->poll(), EventMask{POLLOUT | POLLWRNORM | POLLERR});
    EXPECT_EQ(error_of(write_string(*p.w, "x")), EPIPE);
  });
}

TEST(PipeTest, PacketsKeepTheirBounds) {
  run_fibers(1, [] {
    Ends p = open_pipe(O_DIRECT);
    EXPECT_EQ(*write_string(*p.w, "one"), 3u);
    EXPECT_EQ(*write_string(*p.w, "second"), 6u);
    EXPECT_EQ(*write_string(*p.w, std::string(5000, 'x')), 5000u);
    EXPECT_EQ(*read_string(*p.r, 100), "one");
    EXPECT_EQ(*read_string(*p.r, 3), "sec");  // the rest is dropped
    EXPECT_EQ(read_string(*p.r, 10000)->size(), 4096u);
    EXPECT_EQ(read_string(*p.r, 10000)->size(), 904u);
  });
}

TEST(PipeTest, BlockedReaderGetsData) {
  run_fibers(2, [] {
    Ends p = open_pipe();
    Countdown done(1);
    spawn("reader", [&] {
      EXPECT_EQ(*read_string(*p.r, 10), "x");
      done.done();
    });
    pause_briefly();
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    done.wait();
  });
}

TEST(PipeTest, InterruptedReadAndWrite) {
  run_fibers(1, [] {
    Ends p = open_pipe();
    EXPECT_EQ(error_of(interrupted_result([&] { return read_string(*p.r, 1); })), kERESTARTSYS);
    EXPECT_EQ(error_of(preinterrupted_result([&] { return read_string(*p.r, 1); })), kERESTARTSYS);
    // What was written before the interrupt counts.
    EXPECT_EQ(*interrupted_result([&] { return write_string(*p.w, std::string(70000, 'x')); }), 65536u);
    EXPECT_EQ(error_of(interrupted_result([&] { return write_string(*p.w, "y"); })), kERESTARTSYS);
    EXPECT_EQ(error_of(preinterrupted_result([&] { return write_string(*p.w, "y"); })), kERESTARTSYS);
  });
}

TEST(PipeTest, BlockedWriterSeesReaderClose) {
  run_fibers(2, [] {
    Ends p = open_pipe();
    EXPECT_EQ(*write_string(*p.w, std::string(65536, 'x')), 65536u);
    Countdown done(1);
    spawn("writer", [&] {
      EXPECT_EQ(error_of(write_string(*p.w, "y")), EPIPE);
      done.done();
    });
    pause_briefly();
    p.r.reset();
    done.wait();
  });
}

// Several readers and writers on several workers: every byte arrives once.
TEST(PipeTest, ManyReadersAndWriters) {
  run_fibers(2, [] {
    Ends p = open_pipe();
    constexpr u32 kWriters = 4, kReaders = 4;
    const u32 rounds = 300;
    std::atomic<u64> received{0}, sum{0};
    Countdown writers(kWriters), all(1);
    std::atomic<u32> readers_left{kReaders};
    for (u32 i = 0; i < kReaders; i++)
      spawn("reader", [&] {
        for (;;) {
          auto s = read_string(*p.r, 1000 + 13 * 7);
          if (s->empty()) break;
          received += s->size();
          for (char c : *s) sum += static_cast<u8>(c);
        }
        if (--readers_left == 0) all.done();
      });
    u64 sent = 0, expected = 0;
    for (u32 i = 0; i < kWriters; i++) {
      for (u32 k = 0; k < rounds; k++) {
        sent += 37 * (k % 200);
        expected += u64{37} * (k % 200) * (i + 1);
      }
      spawn("writer", [&, i] {
        for (u32 k = 0; k < rounds; k++)
          ASSERT_EQ(*write_string(*p.w, std::string(37 * (k % 200), static_cast<char>(i + 1))), 37 * (k % 200));
        writers.done();
      });
    }
    writers.wait();
    p.w.reset();
    all.wait();
    EXPECT_EQ(received.load(), sent);
    EXPECT_EQ(sum.load(), expected);
  });
}

TEST(PipeTest, CapacityCanBeSet) {
  run_fibers(1, [] {
    Ends p = open_pipe(O_NONBLOCK);
    EXPECT_EQ(*pipe_capacity(*p.r), 65536u);
    EXPECT_EQ(*write_string(*p.w, "abc"), 3u);
    EXPECT_EQ(*set_pipe_capacity(test_context(), *p.w, 5000), 8192u);
    // As on Linux: what does not fill pages goes behind "abc", then whole pages as there are slots.
    EXPECT_EQ(*write_string(*p.w, std::string(10000, 'x')), 5904u);
    EXPECT_EQ(error_of(set_pipe_capacity(test_context(), *p.w, 4096)), EBUSY);
    EXPECT_EQ(*set_pipe_capacity(test_context(), *p.w, 1 << 20), 1u << 20);
    EXPECT_EQ(*write_string(*p.w, std::string(10000, 'y')), 10000u);
    EXPECT_EQ(pipe_of(*p.r)->unread_bytes(), 15907u);
    EXPECT_EQ(read_string(*p.r, 20000)->substr(0, 4), "abcx");
    Ref<Credentials> plain = make_ref<Credentials>();
    plain->effective = 0;
    Context ctx{.creds = *plain};
    EXPECT_EQ(error_of(set_pipe_capacity(ctx, *p.w, 2 << 20)), EPERM);
  });
}

TEST(FifoTest, OpenWaitsForTheOtherEnd) {
  run_fibers(2, [] {
    Path path = fifo_path();
    Ref<File> r, w;
    Countdown done(1);
    spawn("reader", [&] {
      r = *open_fifo(test_context(), path, O_RDONLY);
      done.done();
    });
    pause_briefly();
    EXPECT_FALSE(r);
    w = *open_fifo(test_context(), path, O_WRONLY);
    done.wait();
    EXPECT_EQ(*write_string(*w, "x"), 1u);
    EXPECT_EQ(*read_string(*r, 1), "x");
  });
}

TEST(FifoTest, InterruptedOpen) {
  run_fibers(1, [] {
    Path path = fifo_path();
    for (int flags : {O_RDONLY, O_WRONLY}) {
      EXPECT_EQ(error_of(interrupted_result([&] { return open_fifo(test_context(), path, flags); })), kERESTARTSYS);
      EXPECT_EQ(error_of(preinterrupted_result([&] { return open_fifo(test_context(), path, flags); })), kERESTARTSYS);
    }
    EXPECT_FALSE(path.dentry->inode()->fifo);
    EXPECT_EQ(error_of(open_fifo(test_context(), path, O_WRONLY | O_NONBLOCK)), ENXIO);
  });
}

TEST(FifoTest, NonblockingReaderSeesNoHangUpBeforeTheFirstWriter) {
  run_fibers(1, [] {
    Path path = fifo_path();
    Ref<File> r = *open_fifo(test_context(), path, O_RDONLY | O_NONBLOCK);
    EXPECT_EQ(r->poll(), 0u);
    EXPECT_EQ(*read_string(*r, 1), "");
    Ref<File> w = *open_fifo(test_context(), path, O_WRONLY | O_NONBLOCK);
    EXPECT_EQ(error_of(read_string(*r, 1)), EAGAIN);
    w.reset();
    EXPECT_EQ(r->poll(), EventMask{POLLHUP});
  });
}

TEST(FifoTest, DataStaysWhileOneEndIsOpen) {
  run_fibers(1, [] {
    Path path = fifo_path();
    Ref<File> both = *open_fifo(test_context(), path, O_RDWR);
    EXPECT_EQ(*write_string(*both, "abc"), 3u);
    Ref<File> r = *open_fifo(test_context(), path, O_RDONLY);
    both.reset();
    EXPECT_EQ(*read_string(*r, 10), "abc");
    r.reset();
    both = *open_fifo(test_context(), path, O_RDWR | O_NONBLOCK);
    EXPECT_EQ(error_of(read_string(*both, 10)), EAGAIN);
  });
}

TEST(FifoTest, AnonymousPipeCanBeOpenedAnew) {
  run_fibers(1, [] {
    Ends p = open_pipe();
    Path path = p.r->path();
    p.r.reset();
    Ref<File> r = *open_fifo(test_context(), path, O_RDONLY);
    EXPECT_EQ(*write_string(*p.w, "x"), 1u);
    EXPECT_EQ(*read_string(*r, 1), "x");
  });
}

}  // namespace
}  // namespace rf::fs
