// Many fibers on two workers at work on one small tree: nothing is lost, nothing hangs, nothing leaks.
#include <linux/fs.h>

#include <random>

#include "fs/fs_fixture.h"

namespace rf::fs {
namespace {

class VfsStressTest : public FsTest, public ::testing::WithParamInterface<bool> {
 protected:
  Ref<FileSystem> make_root_fs() override {
    Ref<FileSystem> tmpfs = make_tmpfs(*frames_, 0, 0755);
    return GetParam() ? make_overlay(tmpfs, make_tmpfs(*frames_, 0, 0755)) : tmpfs;
  }

  void many(u32 fibers, const std::function<void(u32)>& body) {
    Countdown done(fibers);
    for (u32 i = 0; i < fibers; ++i)
      spawn("worker", [&, i] {
        body(i);
        done.done();
      });
    done.wait();
  }
};

std::string random_path(std::minstd_rand& random) {
  std::string p;
  for (u32 n = random() % 4 + 1; n > 0; --n) p += std::string("/") + "abc"[random() % 3];
  return p;
}

TEST_P(VfsStressTest, EverythingAtOnce) {
  run(
      [&] {
        DentryCache::get().set_limit(8);
        many(6, [&](u32 id) {
          std::minstd_rand random(id + 1);
          for (u32 i = 0; i < 1500 * kStress; ++i) {
            std::string p = random_path(random), q = random_path(random);
            switch (random() % 12) {
              case 0:
              case 1:
                mkdir(p);
                break;
              case 2:
                if (auto f = try_open(p, O_CREAT | O_RDWR | O_APPEND)) (void)write(**f, "text");
                break;
              case 3:
                unlink(p);
                break;
              case 4:
                rmdir(p);
                break;
              case 5:
              case 6:
                rename(p, q);
                break;
              case 7:
                rename(p, q, RENAME_EXCHANGE);
                break;
              case 8:
                link(p, q);
                break;
              case 9:
                if (auto f = try_open(p, O_RDONLY)) {
                  if ((*f)->inode().is_dir())
                    (void)(*f)->readdir(ctx(), [](const DirEntry&) { return true; });
                  else
                    read(**f);
                  path_of((*f)->path());
                }
                break;
              case 10:
                symlink(q, p);
                break;
              default:
                walk(p + "/..");
                break;
            }
            if (i % 16 == 0) yield();
          }
        });
        DentryCache::get().set_limit(1 << 16);
        // What is left is a tree: every directory can be emptied and removed.
        std::vector<std::string> directories{""};
        for (size_t i = 0; i < directories.size(); ++i) {
          std::string dir = directories[i];
          for (const std::string& n : list(dir.empty() ? "/" : dir)) {
            std::string p = dir + "/" + n;
            if (at(p, false).dentry->inode()->is_dir())
              directories.push_back(p);
            else
              EXPECT_EQ(unlink(p), 0) << p;
          }
        }
        for (size_t i = directories.size(); i-- > 1;) EXPECT_EQ(rmdir(directories[i]), 0) << directories[i];
        EXPECT_EQ(stat("/").nlink, 2u);
      },
      2);
}

TEST_P(VfsStressTest, AppendsDoNotMix) {
  run(
      [&] {
        put("/log", "");
        constexpr u32 kWriters = 4;
        const u32 lines = 200 * kStress;
        many(kWriters, [&](u32 id) {
          Ref<File> f = open("/log", O_WRONLY | O_APPEND);
          std::string line(100, static_cast<char>('a' + id));
          line.back() = '\n';
          for (u32 i = 0; i < lines; ++i) {
            EXPECT_EQ(write(*f, line).value_or(0), line.size());
            if (i % 8 == 0) yield();
          }
        });
        std::string text = get("/log").substr(0, 1 << 20);
        ASSERT_EQ(stat("/log").size, u64{100} * lines * kWriters);
        for (size_t at = 0; at + 100 <= text.size(); at += 100) {
          EXPECT_EQ(text.find_first_not_of(text[at], at), at + 99) << "at " << at;
          EXPECT_EQ(text[at + 99], '\n');
        }
      },
      2);
}

TEST_P(VfsStressTest, OneOfManyCreatesExclusively) {
  run(
      [&] {
        for (u32 round = 0; round < 50 * kStress; ++round) {
          std::atomic<int> made{0}, there{0};
          many(4, [&](u32) {
            int e = open_error("/x", O_CREAT | O_EXCL | O_WRONLY);
            if (e == 0) ++made;
            if (e == EEXIST) ++there;
          });
          EXPECT_EQ(made.load(), 1);
          EXPECT_EQ(there.load(), 3);
          EXPECT_EQ(unlink("/x"), 0);
        }
      },
      2);
}

TEST_P(VfsStressTest, RenamesNeverLoseADirectory) {
  run(
      [&] {
        for (const char* p : {"/a", "/a/x", "/b", "/b/y"}) ASSERT_EQ(mkdir(p), 0);
        // Each tries to put one tree under the other's: only one can, at a time.
        many(2, [&](u32 id) {
          for (u32 i = 0; i < 500 * kStress; ++i) {
            if (id == 0) {
              rename("/a", "/b/y/a");
              rename("/b/y/a", "/a");
            } else {
              rename("/b", "/a/x/b");
              rename("/a/x/b", "/b");
            }
            if (i % 8 == 0) yield();
          }
        });
        EXPECT_EQ(walk("/a/x"), 0);
        EXPECT_EQ(walk("/b/y"), 0);
        EXPECT_EQ(stat("/").nlink, 4u);
      },
      2);
}

INSTANTIATE_TEST_SUITE_P(On, VfsStressTest, ::testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Overlay" : "Tmpfs"; });

}  // namespace
}  // namespace rf::fs
