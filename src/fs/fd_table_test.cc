#include "fs/fd_table.h"

#include <sys/resource.h>

#include "fs/fs_fixture.h"
#include "fs/special_files.h"

namespace rf::fs {
namespace {

constexpr u64 kNoLimit = u64{1} << 30;

class PlainFile final : public File {
 public:
  PlainFile() : File(make_anon_path("anon_inode:[test]"), O_RDWR) { ++live; }
  static inline std::atomic<int> live{0};

 private:
  ~PlainFile() override { --live; }
};
Ref<File> file() { return make_ref<PlainFile>(); }

class FdTableTest : public ::testing::Test {
 protected:
  void run(const std::function<void()>& body, u32 workers = 1) {
    run_fibers(workers, body);
    EXPECT_EQ(PlainFile::live.load(), 0);
  }
};

TEST_F(FdTableTest, ReservedDescriptorsAreNeitherOpenNorFree) {
  run([] {
    auto t = make_ref<FdTable>();
    EXPECT_EQ(*t->install(file(), false, 0, kNoLimit), 0);
    {
      auto one = *ReservedFd::make(*t, kNoLimit);
      auto two = *ReservedFd::make(*t, 3);
      EXPECT_EQ(one.number(), 1);
      EXPECT_EQ(two.number(), 2);
      EXPECT_EQ(error_of(ReservedFd::make(*t, 3)), EMFILE);
      EXPECT_EQ(*t->install(file(), false, 0, kNoLimit), 3);
      EXPECT_EQ(error_of(t->get(1)), EBADF);
      EXPECT_EQ(error_of(t->remove(1)), EBADF);
      EXPECT_EQ(error_of(t->set_close_on_exec(1, true)), EBADF);
      EXPECT_EQ(error_of(t->replace(1, file(), false, kNoLimit)), EBUSY);
      EXPECT_EQ(t->descriptors(), (std::vector<int>{0, 3}));
      auto child = t->fork();
      EXPECT_EQ(*child->install(file(), false, 0, kNoLimit), 1);
      two.fill(file(), true);
      EXPECT_TRUE(t->close_on_exec(2));
      EXPECT_EQ(t->remove_range(0, 2).size(), 2u);
    }
    EXPECT_EQ(*t->install(file(), false, 0, kNoLimit), 0);
    EXPECT_EQ(*t->install(file(), false, 0, kNoLimit), 1);
    EXPECT_EQ(*t->install(file(), false, 0, kNoLimit), 2);
    EXPECT_EQ(*t->install(file(), false, 0, kNoLimit), 4);
  });
}

TEST_F(FdTableTest, GivesTheLowestFree) {
  run([] {
    auto t = make_ref<FdTable>();
    for (int i = 0; i < 200; ++i) ASSERT_EQ(*t->install(file(), false, 0, kNoLimit), i);
    EXPECT_TRUE(t->remove(70));
    EXPECT_TRUE(t->remove(3));
    EXPECT_EQ(error_of(t->remove(3)), EBADF);
    EXPECT_EQ(*t->install(file(), false, 10, kNoLimit), 70);
    EXPECT_EQ(*t->install(file(), false, 0, kNoLimit), 3);
    EXPECT_EQ(*t->install(file(), false, 0, kNoLimit), 200);
    EXPECT_EQ(*t->install(file(), false, 5000, kNoLimit), 5000);
    EXPECT_EQ(error_of(t->install(file(), false, 0, 201)), EMFILE);
    EXPECT_EQ(error_of(t->install(file(), false, 300, 300)), EMFILE);
    EXPECT_EQ(t->descriptors().size(), 202u);
    EXPECT_EQ(t->descriptors().back(), 5000);
    EXPECT_EQ(error_of(t->get(4999)), EBADF);
    EXPECT_EQ(error_of(t->get(-1)), EBADF);
    EXPECT_EQ(error_of(t->get(INT32_MAX)), EBADF);
  });
}

TEST_F(FdTableTest, GrowsToAMillion) {
  run([] {
    auto t = make_ref<FdTable>();
    Ref<File> f = file();
    EXPECT_EQ(*t->install(f, true, (1 << 20) - 1, kNoLimit), (1 << 20) - 1);
    EXPECT_EQ(error_of(t->install(f, true, (1 << 20) - 1, kNoLimit)), EMFILE);
    EXPECT_EQ(error_of(t->replace(1 << 20, f, false, kNoLimit)), EBADF);
    EXPECT_EQ(*t->get((1 << 20) - 1), f);
    EXPECT_EQ(t->remove_all().size(), 1u);
  });
}

TEST_F(FdTableTest, CloseOnExecBelongsToTheDescriptor) {
  run([] {
    auto t = make_ref<FdTable>();
    Ref<File> f = file();
    EXPECT_EQ(*t->install(f, true, 0, kNoLimit), 0);
    EXPECT_EQ(*t->install(f, false, 0, kNoLimit), 1);
    EXPECT_TRUE(t->close_on_exec(0));
    EXPECT_FALSE(t->close_on_exec(1));
    EXPECT_EQ(error_of(t->set_close_on_exec(7, true)), EBADF);
    EXPECT_TRUE(t->set_close_on_exec(0, false));
    EXPECT_TRUE(t->set_close_on_exec(1, true));
    auto copy = t->fork();
    EXPECT_EQ(copy->remove_close_on_exec().size(), 1u);
    EXPECT_EQ(copy->descriptors(), std::vector<int>{0});
    EXPECT_EQ(t->descriptors(), (std::vector<int>{0, 1}));
    EXPECT_EQ(*t->install(f, true, 0, kNoLimit), 2);
    EXPECT_TRUE(t->remove(2));
    EXPECT_EQ(*t->install(f, false, 0, kNoLimit), 2);
    EXPECT_FALSE(t->close_on_exec(2));
    t->set_close_on_exec_range(2, ~0u);
    EXPECT_TRUE(t->close_on_exec(2));
    EXPECT_EQ(t->remove_range(1, 1).size(), 1u);
    EXPECT_EQ(t->descriptors(), (std::vector<int>{0, 2}));
  });
}

TEST_F(FdTableTest, ReplaceReturnsWhatWasThere) {
  run([] {
    auto t = make_ref<FdTable>();
    Ref<File> a = file(), b = file();
    EXPECT_EQ(*t->install(a, false, 0, kNoLimit), 0);
    EXPECT_EQ(*t->replace(0, b, true, 10), a);
    EXPECT_EQ(*t->get(0), b);
    EXPECT_TRUE(t->close_on_exec(0));
    EXPECT_EQ(*t->replace(5, a, false, 10), nullptr);
    EXPECT_EQ(error_of(t->replace(10, a, false, 10)), EBADF);
    EXPECT_EQ(error_of(t->replace(-1, a, false, 10)), EBADF);
    EXPECT_EQ(*t->install(a, false, 0, kNoLimit), 1);
  });
}

TEST_F(FdTableTest, LookUpsRaceWithChanges) {
  run(
      [] {
        auto t = make_ref<FdTable>();
        constexpr int kFds = 4;
        std::atomic<bool> stop{false};
        std::atomic<int> seeing{0};
        Countdown done(3);
        for (int r = 0; r < 2; ++r)
          spawn("reader", [&] {
            u64 seen = 0;
            while (!stop.load()) {
              for (int fd = 0; fd < kFds; ++fd)
                if (auto f = t->get(fd); f && (*f)->writable() && ++seen == 1) ++seeing;
              yield();
            }
            done.done();
          });
        spawn("writer", [&] {
          for (u32 i = 0; i < 2000 * kStress || seeing < 2; ++i) {
            (void)t->install(file(), i % 2 == 0, 0, kFds);
            (void)t->replace(static_cast<int>(i % kFds), file(), false, kFds);
            (void)t->remove(static_cast<int>(i * 7 % kFds));
            if (i % 64 == 0) t->fork();
            if (i % 256 == 0) yield();
          }
          stop = true;
          done.done();
        });
        done.wait();
        t->remove_all();
      },
      2);
}

}  // namespace
}  // namespace rf::fs
