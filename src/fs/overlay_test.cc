// The overlay: what it shows and keeps of a lower tree that stays as it is.
#include <linux/fs.h>
#include <sys/xattr.h>

#include <algorithm>
#include <map>
#include <random>

#include "fs/fs_fixture.h"

namespace rf::fs {
namespace {

// vfs_ is an overlay; lower_ is the tree below it, mounted in a Vfs of its own for as long.
class OverlayTest : public FsTest {
 protected:
  void run_over(const std::function<void()>& fill, const std::function<void()>& body, u32 workers = 1) {
    run_fibers(workers, [&] {
      Ref<FileSystem> lower = make_tmpfs(*frames_, 0, 0755);
      creds_ = make_ref<Credentials>();
      vfs_ = std::move(*Vfs::create(lower, "lower", 0));
      cwd_ = vfs_->root();
      fill();
      lower_ = std::move(vfs_);
      Ref<FileSystem> overlay = make_overlay(lower, make_tmpfs(*frames_, 0, 0755));
      vfs_ = std::move(*Vfs::create(overlay, "overlay", 0));
      cwd_ = vfs_->root();
      body();
      cwd_ = Path();
      vfs_.reset();
      lower_.reset();
    });
  }
  // Runs `f` with the lower tree in the overlay's place.
  void below(const std::function<void()>& f) {
    std::swap(vfs_, lower_);
    Path cwd = std::exchange(cwd_, vfs_->root());
    f();
    cwd_ = std::move(cwd);
    std::swap(vfs_, lower_);
  }
  std::unique_ptr<Vfs> lower_;
};

using Names = std::vector<std::string>;

TEST_F(OverlayTest, ShowsTheLowerTree) {
  run_over(
      [&] {
        mkdir("/d", 0711);
        put("/d/f", "hello");
        symlink("d/f", "/l");
      },
      [&] {
        EXPECT_EQ(get("/l"), "hello");
        EXPECT_EQ(stat("/d").mode, S_IFDIR | 0711);
        EXPECT_EQ(list("/"), (Names{"d", "l"}));
        EXPECT_EQ(open_error("/d/g", O_RDONLY), ENOENT);
        EXPECT_EQ(open_error("/d/f", O_CREAT | O_EXCL | O_RDWR), EEXIST);
      });
}

TEST_F(OverlayTest, AWriteChangesTheUpperFileOnly) {
  run_over([&] { put("/f", "hello"); },
           [&] {
             Attributes before = stat("/f");
             Ref<File> early = open("/f", O_RDONLY);
             Ref<File> f = open("/f", O_RDWR);
             EXPECT_EQ(*pwrite(*f, "J", 0), 1u);
             EXPECT_EQ(get("/f"), "Jello");
             EXPECT_EQ(read(*f), "Jello");
             EXPECT_EQ(read(*early), "Jello") << "one opened before sees it too";
             EXPECT_EQ(stat("/f").ino, before.ino);
             put("/f", "new");
             EXPECT_EQ(pread(*early, 0), "new");
             below([&] { EXPECT_EQ(get("/f"), "hello"); });
           });
}

TEST_F(OverlayTest, AppendsAndTruncates) {
  run_over(
      [&] {
        put("/a", "12345");
        put("/b", "12345");
        put("/c", std::string(100'000, 'x'));
      },
      [&] {
        Ref<File> a = open("/a", O_WRONLY | O_APPEND);
        EXPECT_EQ(*write(*a, "67"), 2u);
        EXPECT_EQ(*pwrite(*a, "89", 0), 2u);
        EXPECT_EQ(get("/a"), "123456789");
        EXPECT_EQ(error_of(vfs_->truncate(ctx(), at("/b"), 3)), 0);
        EXPECT_EQ(error_of(vfs_->truncate(ctx(), at("/b"), 5)), 0);
        EXPECT_EQ(get("/b"), std::string("123\0\0", 5));
        EXPECT_EQ(error_of(vfs_->truncate(ctx(), at("/c"), 70'000)), 0);
        EXPECT_EQ(get("/c"), std::string(70'000, 'x'));
        EXPECT_EQ(frames_->used(), 25 * kPageSize + 2 * kPageSize + 1 * kPageSize + 1 * kPageSize + 18 * kPageSize);
      });
}

TEST_F(OverlayTest, AttributesChangeWithoutTheData) {
  run_over([&] { put("/f", std::string(1 << 20, 'x')); },
           [&] {
             u64 used = frames_->used();
             EXPECT_EQ(chmod("/f", 04755), 0);
             EXPECT_EQ(chown("/f", 7, 8), 0);
             Vfs::TimeChange t{Vfs::TimeChange::What::kSet, {5, 6}};
             EXPECT_EQ(error_of(vfs_->utimens(ctx(), at("/f"), t, t)), 0);
             EXPECT_EQ(error_of(vfs_->setxattr(ctx(), at("/f"), "user.a", "b", 0)), 0);
             Attributes a = stat("/f");
             EXPECT_EQ(a.mode, S_IFREG | 0755) << "chown took set-user-ID off";
             EXPECT_EQ(a.uid, 7u);
             EXPECT_EQ(a.gid, 8u);
             EXPECT_EQ(a.mtime.sec, 5);
             EXPECT_EQ(a.size, 1u << 20);
             EXPECT_EQ(*vfs_->getxattr(ctx(), at("/f"), "user.a"), "b");
             EXPECT_EQ(frames_->used(), used);
             DentryCache::get().set_limit(0);
             DentryCache::get().set_limit(1 << 16);
             EXPECT_EQ(stat("/f").uid, 7u) << "though nobody held it";
             below([&] { EXPECT_EQ(stat("/f").mode, S_IFREG | 0644); });
           });
}

TEST_F(OverlayTest, XattrsOfTheLowerFileAreKept) {
  run_over(
      [&] {
        put("/f", "x");
        ASSERT_EQ(error_of(vfs_->setxattr(ctx(), at("/f"), "user.a", "1", 0)), 0);
        ASSERT_EQ(error_of(vfs_->setxattr(ctx(), at("/f"), "user.b", "2", 0)), 0);
        ASSERT_EQ(error_of(vfs_->setxattr(ctx(), at("/f"), "security.capability", "cap", 0)), 0);
      },
      [&] {
        EXPECT_EQ(*vfs_->getxattr(ctx(), at("/f"), "user.a"), "1");
        EXPECT_EQ(error_of(vfs_->removexattr(ctx(), at("/f"), "user.none")), ENODATA);
        EXPECT_EQ(error_of(vfs_->removexattr(ctx(), at("/f"), "user.a")), 0);
        EXPECT_EQ(error_of(vfs_->getxattr(ctx(), at("/f"), "user.a")), ENODATA);
        EXPECT_EQ(*vfs_->listxattr(ctx(), at("/f")), (Names{"security.capability", "user.b"}));
        put("/f", "y");
        EXPECT_EQ(*vfs_->listxattr(ctx(), at("/f")), (Names{"user.b"})) << "a capability does not outlive a write";
      });
}

TEST_F(OverlayTest, WhiteoutsHideAndMakeRoom) {
  run_over(
      [&] {
        put("/f", "lower");
        mkdir("/d");
        put("/d/x", "lower");
      },
      [&] {
        EXPECT_EQ(rmdir("/d"), ENOTEMPTY);
        EXPECT_EQ(unlink("/f"), 0);
        EXPECT_EQ(walk("/f"), ENOENT);
        EXPECT_EQ(unlink("/f"), ENOENT);
        EXPECT_EQ(list("/"), (Names{"d"}));
        put("/f", "upper");
        EXPECT_EQ(get("/f"), "upper");
        EXPECT_EQ(list("/"), (Names{"d", "f"}));
        EXPECT_EQ(unlink("/d/x"), 0);
        EXPECT_EQ(rmdir("/d"), 0);
        EXPECT_EQ(mkdir("/d"), 0);
        EXPECT_EQ(list("/d"), (Names{})) << "nothing of the lower directory shines through";
        EXPECT_EQ(walk("/d/x"), ENOENT);
        DentryCache::get().set_limit(0);
        DentryCache::get().set_limit(1 << 16);
        EXPECT_EQ(walk("/d/x"), ENOENT);
        EXPECT_EQ(get("/f"), "upper");
        below([&] { EXPECT_EQ(get("/d/x"), "lower"); });
      });
}

TEST_F(OverlayTest, AnUnlinkedFileLivesOnInItsDescriptors) {
  run_over([&] { put("/f", "hello"); },
           [&] {
             Ref<File> f = open("/f", O_RDWR);
             EXPECT_EQ(unlink("/f"), 0);
             EXPECT_EQ(path_of(f->path()), "/f (deleted)");
             EXPECT_EQ(f->inode().getattr(ctx())->nlink, 0u);
             EXPECT_EQ(*pwrite(*f, "J", 0), 1u);
             EXPECT_EQ(read(*f), "Jello");
             put("/f", "other");
             EXPECT_EQ(pread(*f, 0), "Jello");
           });
}

TEST_F(OverlayTest, HardLinksOfTheLowerTreeStayLinks) {
  run_over(
      [&] {
        put("/a", "shared");
        mkdir("/d");
        link("/a", "/d/b");
      },
      [&] {
        put("/a", "written");
        EXPECT_EQ(get("/d/b"), "written");
        EXPECT_EQ(link("/d/b", "/c"), 0);
        EXPECT_EQ(stat("/a").nlink, 3u);
        EXPECT_EQ(unlink("/a"), 0);
        EXPECT_EQ(unlink("/d/b"), 0);
        EXPECT_EQ(get("/c"), "written");
        EXPECT_EQ(stat("/c").nlink, 1u);
        EXPECT_EQ(unlink("/c"), 0);
      });
}

TEST_F(OverlayTest, ARenamedLowerDirectoryIsNotCopied) {
  run_over(
      [&] {
        mkdir("/d");
        mkdir("/d/e");
        put("/d/e/f", std::string(1 << 20, 'x'));
        mkdir("/other");
      },
      [&] {
        u64 used = frames_->used();
        EXPECT_EQ(rename("/d", "/other/n"), 0);
        EXPECT_EQ(walk("/d"), ENOENT);
        EXPECT_EQ(list("/"), (Names{"other"}));
        EXPECT_EQ(get("/other/n/e/f").size(), 1u << 20);
        EXPECT_EQ(path_of(at("/other/n/e/..")), "/other/n");
        EXPECT_EQ(frames_->used(), used);
        put("/other/n/e/g", "new");
        EXPECT_EQ(mkdir("/d"), 0);
        EXPECT_EQ(list("/d"), (Names{}));
        EXPECT_EQ(rename("/other/n/e", "/d", 0), 0) << "onto an empty directory";
        EXPECT_EQ(list("/d"), (Names{"f", "g"}));
        EXPECT_EQ(list("/other/n"), (Names{}));
        DentryCache::get().set_limit(0);
        DentryCache::get().set_limit(1 << 16);
        EXPECT_EQ(get("/d/g"), "new");
        EXPECT_EQ(rename("/d", "/other", RENAME_EXCHANGE), 0);
        EXPECT_EQ(list("/other"), (Names{"f", "g"}));
        EXPECT_EQ(list("/d"), (Names{"n"}));
      });
}

TEST_F(OverlayTest, ListingsGoOnWhereTheyWere) {
  run_over(
      [&] {
        for (int i = 0; i < 100; ++i) put("/l" + std::to_string(i), "");
      },
      [&] {
        for (int i = 0; i < 100; ++i) put("/u" + std::to_string(i), "");
        unlink("/l50");
        Ref<File> dir = open("/", O_RDONLY | O_DIRECTORY);
        Names names;
        std::map<std::string, s64> next;
        for (bool more = true; more;) {
          more = false;
          size_t left = 7;
          EXPECT_EQ(error_of(dir->readdir(ctx(),
                                          [&](const DirEntry& e) {
                                            if (left-- == 0) return false;
                                            more = true;
                                            names.emplace_back(e.name);
                                            next[names.back()] = e.next_offset;
                                            return true;
                                          })),
                    0);
          if (names.size() == 70) unlink("/l20");  // passed
          if (names.size() == 77) unlink("/l95");  // to come
          if (names.size() == 84) unlink("/u99");
          if (names.size() == 91) put("/late", "");
        }
        EXPECT_EQ(names.size(), 2 + 99 + 100 - 2 + 1u);
        EXPECT_EQ(names.back(), "late");
        for (const char* from : {"l10", "u5", "..", "l98"}) {
          EXPECT_EQ(error_of(dir->seek(ctx(), next[from], SEEK_SET)), 0);
          size_t at = std::ranges::find(names, from) - names.begin();
          Names rest = list(*dir);
          Names expected(names.begin() + std::max<size_t>(at + 1, 2), names.end());
          std::erase(expected, "l20");
          EXPECT_EQ(rest, expected) << from;
        }
      });
}

TEST_F(OverlayTest, MappingsFollowACopyUp) {
  run_over([&] { put("/f", "hello"); },
           [&] {
             Ref<File> reader = open("/f", O_RDONLY);
             auto object = *reader->map_object();
             auto first = *object->mappable().pin(0, kPageSize, false);
             EXPECT_EQ(memcmp(frames_->host_ptr(first.phys), "hello", 5), 0);
             Ref<File> writer = open("/f", O_RDWR);
             File::MapUse use{.shared = true, .write = true, .may_write = true};
             auto writable = *writer->map_object_for(use);
             EXPECT_EQ(&writable->mappable(), &object->mappable());
             auto run = *writable->mappable().pin(0, kPageSize, true);
             EXPECT_NE(run.phys, first.phys);
             memcpy(frames_->host_ptr(run.phys), "J", 1);
             EXPECT_EQ(read(*reader), "Jello");
             frames_->unref(first.phys);
             frames_->unref(run.phys);
             below([&] { EXPECT_EQ(get("/f"), "hello"); });
           });
}

TEST_F(OverlayTest, SparseFilesStaySparse) {
  run_over(
      [&] {
        Ref<File> f = open("/f", O_CREAT | O_RDWR);
        pwrite(*f, "start", 0);
        pwrite(*f, "end", 10 << 20);
      },
      [&] {
        u64 used = frames_->used();
        Ref<File> f = open("/f", O_RDWR);
        EXPECT_EQ(*f->seek(ctx(), 4096, SEEK_DATA), 10u << 20);
        pwrite(*f, "S", 0);
        EXPECT_EQ(frames_->used() - used, 2 * kPageSize);
        EXPECT_EQ(pread(*f, 0, 5), "Start");
        EXPECT_EQ(pread(*f, 10 << 20), "end");
        EXPECT_EQ(*f->seek(ctx(), 4096, SEEK_DATA), 10u << 20);
      });
}

// The same random calls on an overlay and on a plain tmpfs that began with the same tree.
class OverlayModelTest : public OverlayTest {
 protected:
  std::string name() { return "abcd"[random_() % 4] + std::string(random_() % 8 == 0 ? "x" : ""); }
  std::string path() {
    std::string p;
    for (u32 depth = random_() % 4 + 1; depth > 0; --depth) p += "/" + name();
    return p;
  }

  void fill() {
    for (int i = 0; i < 60; ++i) step(random_() % 10, path(), path());
  }

  std::string step(u32 kind, const std::string& p, const std::string& q) {
    switch (kind) {
      case 0:
      case 1:
        return std::to_string(mkdir(p));
      case 2:
      case 3: {
        auto f = try_open(p, O_CREAT | O_WRONLY);
        if (!f) return std::to_string(error_of(f));
        return "wrote " + std::to_string(write(**f, q).value_or(0));
      }
      case 4:
        return std::to_string(link(p, q));
      case 5:
        return std::to_string(symlink(q, p));
      case 6: {
        auto f = try_open(p, O_WRONLY | O_APPEND);
        if (!f) return std::to_string(error_of(f));
        return "appended " + std::to_string(write(**f, q).value_or(0));
      }
      case 7:
        return std::to_string(unlink(p));
      case 8:
        return std::to_string(rmdir(p));
      case 9:
        return std::to_string(rename(p, q));
      case 10:
        return std::to_string(rename(p, q, RENAME_EXCHANGE));
      case 11:
        return std::to_string(rename(p, q, RENAME_NOREPLACE));
      case 12: {
        auto w = vfs_->walk(ctx(), nullptr, p, {.follow = false});
        if (!w) return std::to_string(error_of(w));
        return std::to_string(error_of(vfs_->chmod(ctx(), *w, q.size() * 8)));
      }
      case 13: {
        auto f = try_open(p, O_RDONLY);
        if (!f) return std::to_string(error_of(f));
        return (*f)->inode().is_dir() ? "directory" : read(**f);
      }
      default: {
        auto f = try_open(p, O_WRONLY | O_TRUNC);
        return f ? "truncated" : std::to_string(error_of(f));
      }
    }
  }

  void dump(const std::string& directory, std::string& out, std::map<u64, std::string>& inodes) {
    Names names = list(directory.empty() ? "/" : directory);
    std::ranges::sort(names);
    for (const std::string& n : names) {
      std::string p = directory + "/" + n;
      Attributes a = stat(p, false);
      out += p + " mode=" + std::to_string(a.mode) + " links=" + std::to_string(a.nlink);
      auto [it, fresh] = inodes.try_emplace(a.ino, p);
      if (!fresh) out += " same as " + it->second;
      if (S_ISREG(a.mode)) out += " size=" + std::to_string(a.size) + " \"" + get(p) + "\"";
      if (S_ISLNK(a.mode)) out += " -> " + *vfs_->readlink(ctx(), nullptr, p);
      out += "\n";
      if (S_ISDIR(a.mode)) dump(p, out, inodes);
    }
  }
  std::string dump() {
    std::string out;
    std::map<u64, std::string> inodes;
    dump("", out, inodes);
    return out;
  }

  std::minstd_rand random_;
};

TEST_F(OverlayModelTest, BehavesAsATreeThatWasAlwaysThere) {
  for (u32 seed = 1; seed <= 5 * kStress; ++seed) {
    std::unique_ptr<Vfs> model;
    auto in_model = [&](const auto& f) {
      std::swap(vfs_, model);
      Path cwd = std::exchange(cwd_, vfs_->root());
      auto result = f();
      cwd_ = std::move(cwd);
      std::swap(vfs_, model);
      return result;
    };
    std::string untouched;
    run_over(
        [&] {
          random_.seed(seed);
          fill();
          untouched = dump();
          model = std::move(*Vfs::create(make_tmpfs(*frames_, 0, 0755), "model", 0));
          in_model([&] {
            random_.seed(seed);
            fill();
            return 0;
          });
        },
        [&] {
          ASSERT_EQ(dump(), in_model([&] { return dump(); })) << "seed " << seed;
          for (int i = 0; i < 400; ++i) {
            u32 kind = random_() % 15;
            std::string p = path(), q = path();
            if (random_() % 16 == 0) {
              DentryCache::get().set_limit(0);
              DentryCache::get().set_limit(1 << 16);
            }
            std::string got = step(kind, p, q);
            std::string expected = in_model([&] { return step(kind, p, q); });
            ASSERT_EQ(got, expected) << "seed " << seed << " step " << i << ": " << kind << " " << p << " " << q;
            if (i % 20 == 0) {
              ASSERT_EQ(dump(), in_model([&] { return dump(); }))
                  << "seed " << seed << " step " << i << ": " << kind << " " << p << " " << q;
            }
          }
          below([&] { EXPECT_EQ(dump(), untouched) << "seed " << seed; });
          model.reset();
        });
    if (HasFatalFailure()) break;
  }
}

}  // namespace
}  // namespace rf::fs
