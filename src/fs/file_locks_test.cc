#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>

#include <algorithm>

#include "fs/test_files.h"

namespace rf::fs {
namespace {

constexpr u64 kEnd = ~u64{0};

// Owners of POSIX locks are descriptor tables; any address will do here.
int g_process[8];
const void* process(int i) { return &g_process[i]; }

Ref<File> lockable() { return *make_eventfd(0, 0); }

Result<void> set(File& f, int who, short type, u64 start, u64 end, bool wait = false) {
  return set_record_lock(f, process(who), who, {type, start, end}, wait);
}
// What `who` would be refused by, as "type start end pid".
std::string get(File& f, int who, short type, u64 start, u64 end) {
  RecordLock l = *get_record_lock(f, process(who), {type, start, end});
  if (l.type == F_UNLCK) return "free";
  return fmt::format("{} {} {} {}", l.type == F_WRLCK ? "write" : "read", l.start, static_cast<s64>(l.end), l.pid);
}

TEST(RecordLockTest, ReadersShareWritersDoNot) {
  run_fibers(1, [] {
    Ref<File> f = lockable();
    EXPECT_TRUE(set(*f, 1, F_RDLCK, 0, 9));
    EXPECT_TRUE(set(*f, 2, F_RDLCK, 5, 14));
    EXPECT_EQ(error_of(set(*f, 2, F_WRLCK, 5, 14)), EAGAIN);
    EXPECT_TRUE(set(*f, 2, F_WRLCK, 10, 14));
    EXPECT_EQ(error_of(set(*f, 1, F_RDLCK, 14, 20)), EAGAIN);
    EXPECT_EQ(get(*f, 1, F_RDLCK, 0, kEnd), "write 10 14 2");
    EXPECT_EQ(get(*f, 2, F_WRLCK, 0, kEnd), "read 0 9 1");
    EXPECT_EQ(get(*f, 2, F_RDLCK, 0, kEnd), "free");
  });
}

TEST(RecordLockTest, RangesSplitAndJoin) {
  run_fibers(1, [] {
    Ref<File> f = lockable();
    EXPECT_TRUE(set(*f, 1, F_WRLCK, 0, kEnd));
    EXPECT_TRUE(set(*f, 1, F_UNLCK, 100, 199));
    EXPECT_EQ(get(*f, 2, F_WRLCK, 0, kEnd), "write 0 99 1");
    EXPECT_EQ(get(*f, 2, F_WRLCK, 100, 199), "free");
    EXPECT_EQ(get(*f, 2, F_WRLCK, 150, 300), "write 200 -1 1");
    EXPECT_TRUE(set(*f, 1, F_RDLCK, 100, 149));
    EXPECT_EQ(get(*f, 2, F_WRLCK, 100, 149), "read 100 149 1");
    EXPECT_TRUE(set(*f, 1, F_WRLCK, 100, 199));
    EXPECT_EQ(get(*f, 2, F_RDLCK, 150, 160), "write 0 -1 1");
    EXPECT_TRUE(set(*f, 1, F_RDLCK, 50, 59));
    EXPECT_EQ(get(*f, 2, F_WRLCK, 55, 55), "read 50 59 1");
    EXPECT_EQ(get(*f, 2, F_RDLCK, 50, 70), "write 60 -1 1");
  });
}

TEST(RecordLockTest, ClosingReleasesAll) {
  run_fibers(1, [] {
    Ref<File> f = lockable();
    EXPECT_TRUE(set(*f, 1, F_WRLCK, 0, 9));
    EXPECT_TRUE(set(*f, 1, F_RDLCK, 20, 29));
    EXPECT_TRUE(set(*f, 2, F_RDLCK, 20, 29));
    release_record_locks(f->inode(), process(1));
    EXPECT_EQ(get(*f, 3, F_WRLCK, 0, kEnd), "read 20 29 2");
  });
}

TEST(RecordLockTest, DescriptionsOwnOfdLocks) {
  run_fibers(1, [] {
    Ref<File> f = lockable();
    EXPECT_TRUE(set_record_lock(*f, f.get(), 1, {F_WRLCK, 0, 9}, false));
    EXPECT_EQ(get(*f, 1, F_RDLCK, 5, 5), "write 0 9 -1");
    release_record_locks(f->inode(), f.get());
    EXPECT_EQ(get(*f, 1, F_RDLCK, 5, 5), "free");
  });
}

TEST(RecordLockTest, WaitersGetTheLock) {
  run_fibers(2, [] {
    Ref<File> f = lockable();
    EXPECT_TRUE(set(*f, 1, F_WRLCK, 0, 9));
    Countdown done(3);
    for (int i = 2; i < 5; i++)
      spawn("waiter", [&, i] {
        EXPECT_TRUE(set(*f, i, F_WRLCK, 5, 5, true));
        yield();
        EXPECT_TRUE(set(*f, i, F_UNLCK, 0, kEnd));
        done.done();
      });
    pause_briefly();
    EXPECT_TRUE(set(*f, 1, F_RDLCK, 0, 9));  // a weaker lock is not enough for them
    pause_briefly();
    EXPECT_TRUE(set(*f, 1, F_UNLCK, 5, 5));
    done.wait();
  });
}

TEST(RecordLockTest, InterruptedWait) {
  run_fibers(1, [] {
    Ref<File> f = lockable();
    EXPECT_TRUE(set(*f, 1, F_WRLCK, 0, 9));
    auto wait = [&] { return set(*f, 2, F_WRLCK, 0, 9, true); };
    EXPECT_EQ(error_of(interrupted_result(wait)), kERESTARTSYS);
    EXPECT_EQ(error_of(preinterrupted_result(wait)), kERESTARTSYS);
    // It no longer counts as waiting.
    EXPECT_TRUE(set(*f, 2, F_WRLCK, 20, 20));
    Countdown done(1);
    spawn("waiter", [&] {
      EXPECT_TRUE(set(*f, 1, F_WRLCK, 20, 20, true));
      done.done();
    });
    pause_briefly();
    EXPECT_TRUE(set(*f, 2, F_UNLCK, 20, 20));
    done.wait();
  });
}

TEST(RecordLockTest, DeadlockIsRefused) {
  run_fibers(2, [] {
    Ref<File> f = lockable(), g = lockable();
    EXPECT_TRUE(set(*f, 1, F_WRLCK, 0, 0));
    EXPECT_TRUE(set(*g, 2, F_WRLCK, 0, 0));
    EXPECT_TRUE(set(*f, 3, F_WRLCK, 1, 1));
    Countdown done(2);
    spawn("one", [&] {
      EXPECT_TRUE(set(*g, 1, F_WRLCK, 0, 0, true));
      EXPECT_TRUE(set(*f, 1, F_UNLCK, 0, 0));
      done.done();
    });
    spawn("two", [&] {
      EXPECT_TRUE(set(*f, 2, F_WRLCK, 1, 1, true));
      EXPECT_TRUE(set(*g, 2, F_UNLCK, 0, 0));
      done.done();
    });
    pause_briefly();
    EXPECT_EQ(error_of(set(*f, 3, F_WRLCK, 0, 0, true)), EDEADLK);
    EXPECT_TRUE(set(*f, 3, F_UNLCK, 1, 1));
    done.wait();
  });
}

TEST(RecordLockTest, ChecksItsArguments) {
  run_fibers(1, [] {
    auto p = *make_pipe(0);
    EXPECT_EQ(error_of(set(*p.first, 1, F_WRLCK, 0, 0)), EBADF);
    EXPECT_EQ(error_of(set(*p.second, 1, F_RDLCK, 0, 0)), EBADF);
    EXPECT_EQ(error_of(set(*p.second, 1, 17, 0, 0)), EINVAL);
    EXPECT_EQ(error_of(set(*p.second, 1, F_WRLCK, 5, 4)), EINVAL);
    EXPECT_EQ(error_of(get_record_lock(*p.first, process(1), {F_UNLCK, 0, 0})), EINVAL);
  });
}

// Two descriptions of one file.
struct Twins {
  Ref<File> a, b;
};
Twins twins() {
  auto p = *make_pipe(0);
  return {p.first, p.second};
}

TEST(FlockTest, SharedAndExclusive) {
  run_fibers(1, [] {
    Twins t = twins();
    EXPECT_TRUE(flock_file(*t.a, LOCK_SH));
    EXPECT_TRUE(flock_file(*t.b, LOCK_SH | LOCK_NB));
    EXPECT_EQ(error_of(flock_file(*t.a, LOCK_EX | LOCK_NB)), EWOULDBLOCK);
    EXPECT_TRUE(flock_file(*t.b, LOCK_EX | LOCK_NB));  // the refused change lost its shared lock
    EXPECT_EQ(error_of(flock_file(*t.a, LOCK_SH | LOCK_NB)), EWOULDBLOCK);
    EXPECT_TRUE(flock_file(*t.b, LOCK_UN));
    EXPECT_TRUE(flock_file(*t.a, LOCK_SH | LOCK_NB));
    EXPECT_EQ(error_of(flock_file(*t.a, 99)), EINVAL);
  });
}

TEST(FlockTest, WaitsUntilReleased) {
  run_fibers(2, [] {
    Twins t = twins();
    EXPECT_TRUE(flock_file(*t.a, LOCK_EX));
    auto wait = [&] { return flock_file(*t.b, LOCK_SH); };
    EXPECT_EQ(error_of(interrupted_result(wait)), kERESTARTSYS);
    EXPECT_EQ(error_of(preinterrupted_result(wait)), kERESTARTSYS);
    Countdown done(1);
    spawn("waiter", [&] {
      EXPECT_TRUE(wait());
      done.done();
    });
    pause_briefly();
    release_flock(*t.a);
    done.wait();
  });
}

// The locks of several owners never conflict, whatever they do.
TEST(RecordLockTest, ManyOwnersExcludeEachOther) {
  run_fibers(2, [] {
    Ref<File> f = lockable();
    std::atomic<int> inside[4]{};
    Countdown done(6);
    for (int who = 0; who < 6; who++)
      spawn("owner", [&, who] {
        u32 random = 12345u * static_cast<u32>(who + 1);
        for (int k = 0; k < 200; k++) {
          random = random * 1103515245 + 12345;
          u64 start = (random >> 16) % 4, end = start + (random >> 20) % (4 - start);
          ASSERT_TRUE(set(*f, who, F_WRLCK, start, end, true));
          for (u64 i = start; i <= end; i++) EXPECT_EQ(inside[i].fetch_add(1), 0);
          if (random & 64) yield();
          for (u64 i = start; i <= end; i++) inside[i].fetch_sub(1);
          ASSERT_TRUE(set(*f, who, F_UNLCK, 0, kEnd));
        }
        done.done();
      });
    done.wait();
  });
}

}  // namespace
}  // namespace rf::fs
