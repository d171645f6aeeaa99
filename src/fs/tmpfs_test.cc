// Files in memory: contents, holes, limits, and what a description's position does.
#include "fs/tmpfs.h"

#include <linux/falloc.h>
#include <linux/fs.h>

#include <algorithm>
#include <map>
#include <random>

#include "fs/fs_fixture.h"

namespace rf::fs {
namespace {

using Names = std::vector<std::string>;

class TmpfsTest : public FsTest {
 protected:
  void mount_limited(u64 limit) {
    ASSERT_EQ(mkdir("/m"), 0);
    ASSERT_EQ(error_of(vfs_->mount(ctx(), at("/m"), make_tmpfs(*frames_, limit, 01777), "tmpfs", 0)), 0);
  }
};

TEST_F(TmpfsTest, PositionsAndAppends) {
  run([&] {
    Ref<File> f = open("/f", O_CREAT | O_RDWR);
    EXPECT_EQ(*write(*f, "hello "), 6u);
    EXPECT_EQ(*write(*f, "world"), 5u);
    EXPECT_EQ(f->position(), 11u);
    EXPECT_EQ(*pwrite(*f, "J", 0), 1u);
    EXPECT_EQ(f->position(), 11u);
    EXPECT_EQ(*f->seek(ctx(), -5, SEEK_CUR), 6u);
    EXPECT_EQ(read(*f), "world");
    EXPECT_EQ(read(*f), "");
    EXPECT_EQ(*f->seek(ctx(), 100, SEEK_END), 111u);
    EXPECT_EQ(read(*f), "");
    EXPECT_EQ(error_of(f->seek(ctx(), -1, SEEK_SET)), EINVAL);
    EXPECT_EQ(error_of(f->seek(ctx(), 0, 99)), EINVAL);
    EXPECT_EQ(*write(*f, "!"), 1u);
    EXPECT_EQ(stat("/f").size, 112u);
    EXPECT_EQ(get("/f"), "Jello world" + std::string(100, '\0') + "!");
    Ref<File> a = open("/f", O_WRONLY | O_APPEND | O_TRUNC);
    EXPECT_EQ(*write(*a, "one"), 3u);
    EXPECT_EQ(*write(*f, "-"), 1u);
    EXPECT_EQ(*write(*a, "two"), 3u);
    EXPECT_EQ(a->position(), 116u);
    EXPECT_EQ(get("/f"), "one" + std::string(109, '\0') + "-two");
  });
}

TEST_F(TmpfsTest, FileSizeLimit) {
  run([&] {
    Ref<File> f = open("/f", O_CREAT | O_RDWR);
    Context c = ctx();
    c.file_size_limit = 10;
    auto buffer = mm::IoBuffer::from_const(std::as_bytes(std::span(std::string_view("123456789012345"))));
    EXPECT_EQ(*f->write(c, buffer), 10u) << "as much as goes";
    EXPECT_EQ(buffer.remaining(), 5u);
    EXPECT_EQ(error_of(f->write(c, buffer)), EFBIG);
    EXPECT_EQ(error_of(f->truncate(c, 11)), EFBIG);
    EXPECT_EQ(error_of(f->truncate(c, 9)), 0);
    EXPECT_EQ(error_of(f->fallocate(c, 0, 0, 11)), EFBIG);
    EXPECT_EQ(error_of(f->fallocate(c, FALLOC_FL_KEEP_SIZE, 0, 11)), 0);
    EXPECT_EQ(*pwrite(*f, "x", 20), 1u);
    EXPECT_EQ(error_of(f->truncate(c, 15)), 0) << "shrinking is always allowed";
    EXPECT_EQ(error_of(pwrite(*f, "x", ~u64{0} >> 1)), EFBIG);
    EXPECT_EQ(error_of(f->truncate(ctx(), ~u64{0})), EFBIG);
  });
}

TEST_F(TmpfsTest, HolesAndFallocate) {
  run([&] {
    constexpr u64 kP = kPageSize;
    Ref<File> f = open("/f", O_CREAT | O_RDWR);
    std::string page(kP, 'x');
    pwrite(*f, page, 2 * kP);
    pwrite(*f, "y", 5 * kP);
    EXPECT_EQ(stat("/f").blocks, 2 * kP / 512);
    EXPECT_EQ(*f->seek(ctx(), 0, SEEK_DATA), 2 * kP);
    EXPECT_EQ(*f->seek(ctx(), 0, SEEK_HOLE), 0u);
    EXPECT_EQ(*f->seek(ctx(), 2 * kP + 5, SEEK_HOLE), 3 * kP);
    EXPECT_EQ(*f->seek(ctx(), 5 * kP, SEEK_HOLE), 5 * kP + 1);
    EXPECT_EQ(error_of(f->seek(ctx(), 5 * kP + 1, SEEK_DATA)), ENXIO);
    EXPECT_EQ(error_of(f->seek(ctx(), -1, SEEK_DATA)), ENXIO);
    EXPECT_EQ(pread(*f, kP, 2 * kP), std::string(kP, '\0') + page);
    EXPECT_EQ(error_of(f->fallocate(ctx(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * kP - 10, kP)), 0);
    EXPECT_EQ(pread(*f, 2 * kP, kP), std::string(kP - 10, '\0') + std::string(10, 'x'));
    EXPECT_EQ(error_of(f->fallocate(ctx(), FALLOC_FL_PUNCH_HOLE, 0, kP)), EOPNOTSUPP);
    EXPECT_EQ(error_of(f->fallocate(ctx(), FALLOC_FL_COLLAPSE_RANGE, 0, kP)), EOPNOTSUPP);
    EXPECT_EQ(error_of(f->fallocate(ctx(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * kP, kP)), 0);
    EXPECT_EQ(stat("/f").blocks, kP / 512);
    EXPECT_EQ(error_of(f->fallocate(ctx(), FALLOC_FL_KEEP_SIZE, 0, 8 * kP)), 0);
    EXPECT_EQ(stat("/f").blocks, 8 * kP / 512);
    EXPECT_EQ(stat("/f").size, 5 * kP + 1);
    EXPECT_EQ(error_of(f->fallocate(ctx(), FALLOC_FL_ZERO_RANGE, 5 * kP, 2 * kP)), 0);
    EXPECT_EQ(stat("/f").size, 7 * kP);
    EXPECT_EQ(get("/f"), std::string(7 * kP, '\0'));
    EXPECT_EQ(error_of(f->truncate(ctx(), 1)), 0);
    EXPECT_EQ(stat("/f").blocks, kP / 512);
    put("/empty", "");
    EXPECT_EQ(error_of(open("/empty", O_RDWR)->fallocate(ctx(), FALLOC_FL_KEEP_SIZE, 0, kP)), 0);
    EXPECT_EQ(stat("/empty").size, 0u);
  });
}

TEST_F(TmpfsTest, ContentsAreWhatWasWritten) {
  run([&] {
    std::minstd_rand random(3);
    auto pick = [&](u64 n) { return random() % n; };
    Ref<File> f = open("/f", O_CREAT | O_RDWR);
    std::string model;
    for (int i = 0; i < 300; ++i) {
      u64 offset = pick(300'000), len = pick(8) == 0 ? pick(200'000) : pick(6000);
      switch (pick(5)) {
        case 0:
          ASSERT_EQ(error_of(f->truncate(ctx(), offset)), 0);
          model.resize(offset, '\0');
          break;
        case 1: {
          if (len == 0) break;
          ASSERT_EQ(error_of(f->fallocate(ctx(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len)), 0);
          u64 end = std::min<u64>(model.size(), offset + len);
          if (offset < end) std::fill(model.begin() + offset, model.begin() + end, '\0');
          break;
        }
        default: {
          std::string text(len, static_cast<char>('a' + i % 26));
          ASSERT_EQ(pwrite(*f, text, offset).value_or(~0u), len);
          if (len == 0) break;
          if (model.size() < offset + len) model.resize(offset + len, '\0');
          std::copy(text.begin(), text.end(), model.begin() + offset);
        }
      }
      ASSERT_EQ(stat("/f").size, model.size());
      u64 at = pick(model.size() + 10), n = pick(100'000);
      ASSERT_EQ(pread(*f, at, n), at < model.size() ? model.substr(at, n) : "");
    }
    EXPECT_TRUE(get("/f") == model);
  });
}

TEST_F(TmpfsTest, SizeLimit) {
  run([&] {
    mount_limited(10 * kPageSize);
    Ref<File> f = open("/m/f", O_CREAT | O_RDWR);
    std::string text(12 * kPageSize, 'x');
    EXPECT_EQ(*write(*f, text), 10 * kPageSize);
    EXPECT_EQ(error_of(write(*f, "x")), ENOSPC);
    EXPECT_EQ(*pwrite(*f, "y", 0), 1u) << "what is there may be written";
    EXPECT_EQ(error_of(open("/m/g", O_CREAT | O_RDWR)->fallocate(ctx(), 0, 0, 1)), ENOSPC);
    auto s = *vfs_->statfs(at("/m"));
    EXPECT_EQ(s.f_blocks, 10u);
    EXPECT_EQ(s.f_bfree, 0u);
    EXPECT_EQ(s.f_type, 0x01021994);
    EXPECT_EQ(error_of(f->truncate(ctx(), 5 * kPageSize)), 0);
    EXPECT_EQ(vfs_->statfs(at("/m"))->f_bfree, 5u);
    EXPECT_EQ(*pwrite(*f, "z", 20 * kPageSize), 1u);
    auto run = f->inode().mappable()->pin(10 * kPageSize, kPageSize, true);
    ASSERT_TRUE(run);
    frames_->unref(run->phys, run->len / kPageSize);
    EXPECT_EQ(vfs_->statfs(at("/m"))->f_bfree, 3u) << "pages that faults make count";
    EXPECT_EQ(unlink("/m/f"), 0);
    EXPECT_EQ(vfs_->statfs(at("/m"))->f_bfree, 3u) << "it is still open";
    f.reset();
    EXPECT_EQ(vfs_->statfs(at("/m"))->f_bfree, 10u);
  });
}

TEST_F(TmpfsTest, TheSandboxsMemoryLimitIsEnospc) {
  run([&] {
    Ref<File> f = open("/f", O_CREAT | O_RDWR);
    EXPECT_EQ(error_of(f->fallocate(ctx(), 0, 0, kLimit + kPageSize)), ENOSPC);
    EXPECT_EQ(stat("/f").blocks, 0u);
  });
}

TEST_F(TmpfsTest, ListingsSurviveChanges) {
  run([&] {
    mkdir("/d");
    for (int i = 0; i < 200; ++i) put("/d/" + std::to_string(i), "");
    Ref<File> dir = open("/d", O_RDONLY | O_DIRECTORY);
    std::vector<std::string> seen;
    std::map<std::string, s64> next;
    auto some = [&](size_t n) {
      return error_of(dir->readdir(ctx(), [&](const DirEntry& e) {
        if (n-- == 0) return false;
        seen.emplace_back(e.name);
        next[seen.back()] = e.next_offset;
        return true;
      }));
    };
    EXPECT_EQ(some(52), 0);
    for (int i = 0; i < 200; i += 2) unlink("/d/" + std::to_string(i));
    rename("/d/199", "/d/197");
    put("/d/new", "");
    EXPECT_EQ(some(1000), 0);
    EXPECT_EQ(seen.size(), 52 + 75 + 1 - 1u);
    EXPECT_EQ(seen.back(), "new");
    EXPECT_EQ(std::ranges::count(seen, "197"), 1);
    dir->seek(ctx(), next["51"], SEEK_SET);
    EXPECT_EQ(list(*dir).front(), "53");
    dir->seek(ctx(), next["48"], SEEK_SET);
    EXPECT_EQ(list(*dir).front(), "49") << "from a place whose entry is gone";
    EXPECT_EQ(rmdir("/d"), ENOTEMPTY);
    for (const std::string& n : list("/d")) unlink("/d/" + n);
    EXPECT_EQ(rmdir("/d"), 0);
    EXPECT_EQ(error_of(dir->readdir(ctx(), [](const DirEntry&) { return true; })), ENOENT);
  });
}

TEST_F(TmpfsTest, LinkCountsOfDirectories) {
  run([&] {
    mkdir("/a");
    mkdir("/a/b");
    mkdir("/c");
    EXPECT_EQ(stat("/a").nlink, 3u);
    EXPECT_EQ(stat("/").nlink, 4u);
    rename("/a/b", "/c/b");
    EXPECT_EQ(stat("/a").nlink, 2u);
    EXPECT_EQ(stat("/c").nlink, 3u);
    put("/a/f", "");
    EXPECT_EQ(rename("/a/f", "/c/b", RENAME_EXCHANGE), 0);
    EXPECT_EQ(stat("/a").nlink, 3u);
    EXPECT_EQ(stat("/c").nlink, 2u);
    rmdir("/a/f");
    EXPECT_EQ(stat("/a").nlink, 2u);
  });
}

TEST_F(TmpfsTest, TimesFollowTheRules) {
  run([&] {
    auto ns = [](const Timestamp& t) { return t.sec * kNanosPerSecond + t.nsec; };
    put("/f", "x");
    Vfs::TimeChange old{Vfs::TimeChange::What::kSet, {1000, 0}};
    Vfs::TimeChange recent{Vfs::TimeChange::What::kSet, {Timestamp::now().sec - 100, 0}};
    ASSERT_EQ(error_of(vfs_->utimens(ctx(), at("/f"), old, old)), 0);
    EXPECT_EQ(get("/f"), "x");
    EXPECT_GT(stat("/f").atime.sec, 1000) << "relatime: older than mtime or a day";
    EXPECT_EQ(stat("/f").mtime.sec, 1000);
    ASSERT_EQ(error_of(vfs_->utimens(ctx(), at("/f"), old, old)), 0);
    EXPECT_EQ(read(*open("/f", O_RDONLY | O_NOATIME)), "x");
    EXPECT_EQ(stat("/f").atime.sec, 1000);
    s64 before = ns(Timestamp::now());
    put("/f", "y");
    EXPECT_GE(ns(stat("/f").mtime), before);
    EXPECT_GE(ns(stat("/f").ctime), before);
    ASSERT_EQ(error_of(vfs_->utimens(ctx(), at("/"), recent, recent)), 0);
    put("/g", "");
    EXPECT_GE(ns(stat("/").mtime), before);
    before = ns(Timestamp::now());
    EXPECT_EQ(chmod("/f", 0600), 0);
    EXPECT_GE(ns(stat("/f").ctime), before);
    EXPECT_LT(ns(stat("/f").mtime), before);
    EXPECT_EQ(link("/f", "/h"), 0);
    EXPECT_EQ(stat("/h").nlink, 2u);
  });
}

TEST_F(TmpfsTest, UnnamedFilesCanGetAName) {
  run([&] {
    mkdir("/d");
    Ref<File> f = open("/d", O_TMPFILE | O_RDWR);
    write(*f, "secret");
    EXPECT_EQ(list("/d"), Names{});
    EXPECT_EQ(f->inode().getattr(ctx())->nlink, 0u);
    EXPECT_EQ(error_of(vfs_->link(ctx(), f->path(), nullptr, "/d/named")), 0);
    EXPECT_EQ(get("/d/named"), "secret");
    EXPECT_EQ(stat("/d/named").nlink, 1u);
    EXPECT_EQ(unlink("/d/named"), 0);
    EXPECT_EQ(error_of(vfs_->link(ctx(), f->path(), nullptr, "/d/again")), ENOENT);
    EXPECT_EQ(open_error("/d", O_TMPFILE | O_RDONLY), EINVAL);
    EXPECT_EQ(open_error("/d/none", O_TMPFILE | O_RDWR), ENOENT);
  });
}

TEST_F(TmpfsTest, XattrNamespaces) {
  run([&] {
    put("/f", "");
    symlink("f", "/l");
    auto set = [&](std::string_view p, const std::string& n, std::string_view v = "v", int flags = 0) {
      return error_of(vfs_->setxattr(ctx(), at(p, false), n, v, flags));
    };
    EXPECT_EQ(set("/f", "user.a"), 0);
    EXPECT_EQ(set("/f", "trusted.t"), 0);
    EXPECT_EQ(set("/f", "security.s"), 0);
    EXPECT_EQ(set("/f", "system.posix_acl_access"), EOPNOTSUPP);
    EXPECT_EQ(set("/f", "nonsense"), EOPNOTSUPP);
    EXPECT_EQ(set("/f", "user."), EOPNOTSUPP);
    EXPECT_EQ(set("/f", ""), ERANGE);
    EXPECT_EQ(set("/f", "user." + std::string(251, 'x')), ERANGE);
    EXPECT_EQ(set("/l", "user.a"), EPERM);
    EXPECT_EQ(set("/f", "user.a", "w", 1), EEXIST);
    EXPECT_EQ(set("/f", "user.b", "w", 2), ENODATA);
    EXPECT_EQ(set("/f", "user.big", std::string(65537, 'x')), E2BIG);
    EXPECT_EQ(set("/f", "user.big", std::string(65536, 'x')), 0);
    int e = 0;
    for (int i = 0; i < 10 && e == 0; ++i) e = set("/f", "user.n" + std::to_string(i), std::string(65536, 'x'));
    EXPECT_EQ(e, ENOSPC);
    EXPECT_EQ(set("/f", "user.n0", "small"), 0);
    chmod("/f", 0666);
    become(1000, 1000);
    EXPECT_EQ(set("/f", "user.c"), 0);
    EXPECT_EQ(set("/f", "trusted.u"), EPERM);
    EXPECT_EQ(set("/f", "security.u"), EPERM);
    EXPECT_EQ(error_of(vfs_->getxattr(ctx(), at("/f"), "trusted.t")), ENODATA);
    EXPECT_EQ(*vfs_->getxattr(ctx(), at("/f"), "security.s"), "v");
    auto names = *vfs_->listxattr(ctx(), at("/f"));
    EXPECT_EQ(std::ranges::count(names, "trusted.t"), 0);
    EXPECT_EQ(std::ranges::count(names, "user.a"), 1);
  });
}

TEST_F(TmpfsTest, SpecialFiles) {
  run([&] {
    EXPECT_EQ(mknod("/null", S_IFCHR | 0666, 1, 3), 0);
    Ref<File> null = open("/null", O_RDWR);
    EXPECT_EQ(*write(*null, "gone"), 4u);
    EXPECT_EQ(read(*null), "");
    EXPECT_EQ(mknod("/odd", S_IFCHR | 0666, 240, 3), 0);
    EXPECT_EQ(open_error("/odd", O_RDWR), ENXIO);
    EXPECT_EQ(mknod("/sock", S_IFSOCK | 0666), 0);
    EXPECT_EQ(open_error("/sock", O_RDWR), ENXIO);
    EXPECT_EQ(open_error("/sock", O_PATH), 0);
    EXPECT_EQ(mknod("/pipe", S_IFIFO | 0666), 0);
    EXPECT_EQ(open_error("/pipe", O_WRONLY | O_NONBLOCK), ENXIO) << "no reader";
    EXPECT_EQ(mknod("/plain", 0644), 0);
    EXPECT_EQ(get("/plain"), "");
    EXPECT_EQ(mknod("/dir", S_IFDIR | 0755), EPERM);
    EXPECT_EQ(mknod("/link", S_IFLNK | 0755), EINVAL);
    become(1000, 1000);
    chmod("/", 0777);
    EXPECT_EQ(mknod("/null2", S_IFCHR | 0666, 1, 3), EACCES);
    become(0, 0);
    ASSERT_EQ(mkdir("/nodev"), 0);
    ASSERT_EQ(error_of(vfs_->bind(ctx(), at("/"), at("/nodev"), MS_NODEV | MS_NOEXEC)), 0);
    EXPECT_EQ(open_error("/nodev/null", O_RDWR), EACCES);
  });
}

TEST_F(TmpfsTest, RunningFilesAreNotWritten) {
  run([&] {
    put("/prog", "x");
    chmod("/prog", 0755);
    auto exec = [&](std::string_view p) { return vfs_->open_exec(ctx(), nullptr, p, {}); };
    {
      auto running = exec("/prog");
      ASSERT_TRUE(running);
      EXPECT_EQ(open_error("/prog", O_WRONLY), ETXTBSY);
      EXPECT_EQ(open_error("/prog", O_RDONLY | O_TRUNC), ETXTBSY);
      EXPECT_EQ(error_of(vfs_->truncate(ctx(), at("/prog"), 0)), ETXTBSY);
      EXPECT_EQ(open_error("/prog", O_RDONLY), 0);
      EXPECT_TRUE(exec("/prog"));
    }
    Ref<File> writer = open("/prog", O_WRONLY);
    EXPECT_EQ(error_of(exec("/prog")), ETXTBSY);
    writer.reset();
    EXPECT_TRUE(exec("/prog"));
    chmod("/prog", 0644);
    EXPECT_EQ(error_of(exec("/prog")), EACCES) << "even for root";
    EXPECT_EQ(error_of(exec("/")), EACCES);
    chmod("/prog", 0711);
    mkdir("/noexec");
    ASSERT_EQ(error_of(vfs_->bind(ctx(), at("/"), at("/noexec"), MS_NOEXEC)), 0);
    EXPECT_EQ(error_of(exec("/noexec/prog")), EACCES);
    EXPECT_EQ(error_of(vfs_->access(ctx(), at("/noexec/prog"), 1, false)), EACCES);
  });
}

TEST_F(TmpfsTest, OpenFlagsAreKeptAsLinuxShowsThem) {
  run([&] {
    put("/f", "");
    EXPECT_EQ(open("/f", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_APPEND)->flags(),
              O_RDWR | O_APPEND | 0100000);
    EXPECT_EQ(open("/", O_RDONLY | O_DIRECTORY | O_NOFOLLOW)->flags(), O_DIRECTORY | O_NOFOLLOW | 0100000);
    Ref<File> p = open("/f", O_PATH | O_RDWR | O_CREAT);
    EXPECT_EQ(p->flags(), O_PATH);
    EXPECT_FALSE(p->readable());
    EXPECT_EQ(error_of(vfs_->open_path(ctx(), p->path(), O_RDWR)), 0);
    symlink("f", "/l");
    Ref<File> l = open("/l", O_PATH | O_NOFOLLOW);
    EXPECT_TRUE(l->inode().is_symlink());
    EXPECT_EQ(*vfs_->readlink(ctx(), &l->path(), ""), "f");
    EXPECT_EQ(error_of(vfs_->readlink(ctx(), &p->path(), "")), ENOENT);
    EXPECT_EQ(open_error("/l", O_RDONLY | O_NOFOLLOW), ELOOP);
  });
}

}  // namespace
}  // namespace rf::fs
