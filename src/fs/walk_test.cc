// Path walks, path_resolution(7) and openat2(2).
#include <linux/openat2.h>

#include "fs/fs_fixture.h"

namespace rf::fs {
namespace {

class WalkTest : public FsTest {};

TEST_F(WalkTest, FindsDotsSlashesAndTheRoot) {
  run([&] {
    ASSERT_EQ(mkdir("/a"), 0);
    ASSERT_EQ(mkdir("/a/b"), 0);
    put("/a/f", "x");
    EXPECT_EQ(path_of(at("/")), "/");
    EXPECT_EQ(path_of(at("///")), "/");
    EXPECT_EQ(path_of(at("/..")), "/");
    EXPECT_EQ(path_of(at("/../../a/./b/../b//")), "/a/b");
    EXPECT_EQ(path_of(at("a/b/..")), "/a");
    cwd_ = at("/a/b");
    EXPECT_EQ(path_of(at(".")), "/a/b");
    EXPECT_EQ(path_of(at("../f")), "/a/f");
    EXPECT_EQ(walk(""), ENOENT);
    EXPECT_EQ(walk("nothing"), ENOENT);
    EXPECT_EQ(walk("nothing"), ENOENT) << "from the negative entry";
    EXPECT_EQ(walk("nothing/more"), ENOENT);
    EXPECT_EQ(walk("../f/"), ENOTDIR);
    EXPECT_EQ(walk("../f/."), ENOTDIR);
    EXPECT_EQ(walk("../f/.."), ENOTDIR);
    EXPECT_EQ(walk("../f/x"), ENOTDIR);
  });
}

TEST_F(WalkTest, AnswersFromTheCacheAsFromTheFileSystem) {
  run([&] {
    ASSERT_EQ(mkdir("/a"), 0);
    ASSERT_EQ(symlink("a", "/l"), 0);
    put("/a/f", "x");
    auto check = [&] {
      EXPECT_EQ(walk("/a/f"), 0);
      EXPECT_EQ(walk("/l/f"), 0);
      EXPECT_EQ(walk("/a/f/"), ENOTDIR);
      EXPECT_EQ(walk("/a/g"), ENOENT);
      EXPECT_EQ(walk("/l", false), 0);
      EXPECT_EQ(stat("/l", false).mode & S_IFMT, unsigned{S_IFLNK});
      EXPECT_EQ(stat("/l/", false).mode & S_IFMT, unsigned{S_IFDIR});
    };
    DentryCache::get().set_limit(0);
    check();
    DentryCache::get().set_limit(1 << 16);
    check();
    check();
  });
}

TEST_F(WalkTest, FollowsFortySymlinksAndNoMore) {
  run([&] {
    put("/f", "x");
    ASSERT_EQ(symlink("f", "/l1"), 0);
    for (int i = 2; i <= 41; ++i) ASSERT_EQ(symlink("l" + std::to_string(i - 1), "/l" + std::to_string(i)), 0);
    EXPECT_EQ(walk("/l40"), 0);
    EXPECT_EQ(walk("/l41"), ELOOP);
    EXPECT_EQ(walk("/l41", false), 0);
    ASSERT_EQ(symlink("self", "/self"), 0);
    EXPECT_EQ(walk("/self"), ELOOP);
    EXPECT_EQ(walk("/self/x"), ELOOP);
  });
}

TEST_F(WalkTest, SymlinksLeadFromTheirDirectoryOrTheRoot) {
  run([&] {
    mkdir("/d");
    mkdir("/d/e");
    put("/d/f", "rel");
    put("/f", "abs");
    symlink("../f", "/d/e/up");
    symlink("/f", "/d/e/abs");
    symlink("e//up", "/d/twice");
    symlink("/", "/d/root");
    symlink("e/", "/d/slash");
    symlink("f/", "/d/notdir");
    symlink("gone", "/d/dangling");
    EXPECT_EQ(get("/d/e/up"), "rel");
    EXPECT_EQ(get("/d/e/abs"), "abs");
    EXPECT_EQ(get("/d/twice"), "rel");
    EXPECT_EQ(path_of(at("/d/root")), "/");
    EXPECT_EQ(get("/d/root/d/f"), "rel");
    EXPECT_EQ(path_of(at("/d/slash")), "/d/e");
    EXPECT_EQ(walk("/d/notdir"), ENOTDIR);
    EXPECT_EQ(walk("/d/dangling"), ENOENT);
    EXPECT_EQ(walk("/d/dangling/"), ENOENT);
    EXPECT_EQ(walk("/d/dangling", false), 0);
    EXPECT_EQ(*vfs_->readlink(ctx(), nullptr, "/d/twice"), "e//up");
    EXPECT_EQ(error_of(vfs_->readlink(ctx(), nullptr, "/f")), EINVAL);
  });
}

TEST_F(WalkTest, LimitsNamesAndPaths) {
  run([&] {
    std::string name(255, 'n');
    EXPECT_EQ(mkdir("/" + name), 0);
    EXPECT_EQ(walk("/" + name), 0);
    EXPECT_EQ(walk("/" + name + "n"), ENAMETOOLONG);
    EXPECT_EQ(mkdir("/" + name + "n"), ENAMETOOLONG);
    EXPECT_EQ(open_error("/" + name + "n", O_CREAT | O_RDWR), ENAMETOOLONG);
    std::string path;
    while (path.size() < 4096) path += "/.";
    EXPECT_EQ(walk(path.substr(0, 4095)), 0);
    EXPECT_EQ(walk(path.substr(0, 4096)), ENAMETOOLONG);
  });
}

TEST_F(WalkTest, SearchPermissionOnEachDirectory) {
  run([&] {
    mkdir("/open", 0755);
    mkdir("/open/shut", 0700);
    mkdir("/open/shut/in", 0755);
    put("/open/shut/f", "x");
    chown("/open/shut", 1000, 1000);
    become(1000, 1000);
    EXPECT_EQ(walk("/open/shut/in"), 0);
    become(1001, 1001);
    EXPECT_EQ(walk("/open/shut"), 0);
    EXPECT_EQ(walk("/open/shut/in"), EACCES);
    EXPECT_EQ(walk("/open/shut/."), EACCES);
    EXPECT_EQ(walk("/open/shut/nothing"), EACCES);
    EXPECT_EQ(open_error("/open/shut/new", O_CREAT | O_RDWR), EACCES);
    become(0, 0);
    EXPECT_EQ(chmod("/open", 0744), 0);
    become(1001, 1001);
    EXPECT_EQ(walk("/open/shut"), EACCES) << "the hint follows chmod";
    become(2000, 2000, {1000});
    EXPECT_EQ(walk("/open"), 0);
  });
}

TEST_F(WalkTest, ARemovedDirectoryIsEmptyAndStaysSo) {
  run([&] {
    mkdir("/d");
    mkdir("/d/e");
    cwd_ = at("/d/e");
    EXPECT_EQ(rmdir("/d/e"), 0);
    EXPECT_EQ(walk("."), 0);
    EXPECT_EQ(path_of(at("..")), "/d");
    EXPECT_EQ(walk("x"), ENOENT);
    EXPECT_EQ(mkdir("x"), ENOENT);
    EXPECT_EQ(open_error("x", O_CREAT | O_RDWR), ENOENT);
    EXPECT_EQ(path_of(cwd_), "/d/e (deleted)");
    mkdir("/d/e");
    EXPECT_EQ(walk("x"), ENOENT);
    EXPECT_EQ(mkdir("/d/e/x"), 0);
    EXPECT_EQ(walk("x"), ENOENT) << "another directory of the same name";
  });
}

TEST_F(WalkTest, Openat2Restrictions) {
  run([&] {
    mkdir("/jail");
    mkdir("/jail/d");
    put("/jail/f", "x");
    put("/f", "outside");
    symlink("/f", "/jail/abs");
    symlink("../f", "/jail/up");
    symlink("f", "/jail/in");
    symlink("../jail/f", "/jail/outin");
    Path jail = at("/jail");
    auto walk_in = [&](std::string_view p, u64 resolve, bool follow = true) {
      return error_of(vfs_->walk(ctx(), &jail, p, {.follow = follow, .resolve = resolve}));
    };
    EXPECT_EQ(walk_in("in", RESOLVE_BENEATH), 0);
    EXPECT_EQ(walk_in("d/../f", RESOLVE_BENEATH), 0);
    EXPECT_EQ(walk_in("..", RESOLVE_BENEATH), EXDEV);
    EXPECT_EQ(walk_in("abs", RESOLVE_BENEATH), EXDEV);
    EXPECT_EQ(walk_in("up", RESOLVE_BENEATH), EXDEV);
    EXPECT_EQ(walk_in("outin", RESOLVE_BENEATH), EXDEV);
    EXPECT_EQ(walk_in("/jail/f", RESOLVE_BENEATH), EXDEV);
    EXPECT_EQ(walk_in("abs", RESOLVE_IN_ROOT), 0) << "/f of the jail";
    EXPECT_EQ(walk_in("up", RESOLVE_IN_ROOT), 0);
    EXPECT_EQ(walk_in("/d", RESOLVE_IN_ROOT), 0);
    EXPECT_EQ(walk_in("/../../d/..", RESOLVE_IN_ROOT), 0);
    EXPECT_EQ(walk_in("/jail", RESOLVE_IN_ROOT), ENOENT);
    EXPECT_EQ(walk_in("in", RESOLVE_NO_SYMLINKS), ELOOP);
    EXPECT_EQ(walk_in("in", RESOLVE_NO_SYMLINKS, false), 0);
    EXPECT_EQ(walk_in("f", RESOLVE_CACHED), 0);
    EXPECT_EQ(walk_in("in", RESOLVE_CACHED), EAGAIN) << "links are not followed on the quick path";
  });
}

TEST_F(WalkTest, CrossesMountsBothWays) {
  run([&] {
    mkdir("/m");
    mkdir("/m/hidden");
    Ref<FileSystem> other = make_tmpfs(*frames_, 0, 0755);
    ASSERT_EQ(error_of(vfs_->mount(ctx(), at("/m"), other, "other", 0)), 0);
    EXPECT_EQ(walk("/m/hidden"), ENOENT);
    EXPECT_EQ(mkdir("/m/d"), 0);
    EXPECT_EQ(path_of(at("/m/d")), "/m/d");
    EXPECT_EQ(path_of(at("/m/d/../..")), "/");
    EXPECT_EQ(path_of(at("/m/..")), "/");
    EXPECT_EQ(walk("/m/d", true, RESOLVE_NO_XDEV), EXDEV);
    EXPECT_EQ(rename("/m/d", "/d"), EXDEV);
    EXPECT_EQ(rename("/m", "/n"), EBUSY);
    EXPECT_EQ(rmdir("/m"), EBUSY);
    put("/f", "x");
    EXPECT_EQ(link("/f", "/m/f"), EXDEV);
    {
      Ref<File> f = open("/m/f", O_CREAT | O_RDWR);
      EXPECT_EQ(error_of(vfs_->umount(ctx(), at("/m"), 0)), EBUSY);
    }
    EXPECT_EQ(error_of(vfs_->umount(ctx(), at("/m/d"), 0)), EINVAL);
    EXPECT_EQ(error_of(vfs_->umount(ctx(), at("/"), 0)), EINVAL);
    EXPECT_EQ(error_of(vfs_->umount(ctx(), at("/m"), 0)), 0);
    EXPECT_EQ(walk("/m/hidden"), 0);
    EXPECT_EQ(walk("/m/d"), ENOENT);
  });
}

TEST_F(WalkTest, MountsStackAndBind) {
  run([&] {
    mkdir("/a");
    mkdir("/b");
    put("/a/f", "a");
    put("/one", "1");
    put("/two", "2");
    ASSERT_EQ(error_of(vfs_->bind(ctx(), at("/a"), at("/b"), MS_RDONLY)), 0);
    EXPECT_EQ(get("/b/f"), "a");
    EXPECT_EQ(open_error("/b/f", O_WRONLY), EROFS);
    EXPECT_EQ(open_error("/b/g", O_CREAT | O_WRONLY), EROFS);
    EXPECT_EQ(mkdir("/b/d"), EROFS);
    EXPECT_EQ(mkdir("/b/f"), EEXIST);
    EXPECT_EQ(unlink("/b/f"), EROFS);
    EXPECT_EQ(open_error("/b/nothing", O_WRONLY), ENOENT);
    put("/a/g", "later");
    EXPECT_EQ(get("/b/g"), "later");
    ASSERT_EQ(error_of(vfs_->bind(ctx(), at("/two"), at("/one"), 0)), 0);
    EXPECT_EQ(get("/one"), "2");
    EXPECT_EQ(error_of(vfs_->bind(ctx(), at("/two"), at("/a"), 0)), ENOTDIR);
    ASSERT_EQ(error_of(vfs_->mount(ctx(), at("/b"), make_tmpfs(*frames_, 0, 0755), "top", 0)), 0);
    EXPECT_EQ(walk("/b/f"), ENOENT);
    EXPECT_EQ(path_of(at("/b/..")), "/");
    EXPECT_EQ(error_of(vfs_->umount(ctx(), at("/b"), 0)), 0);
    EXPECT_EQ(get("/b/f"), "a");
    EXPECT_EQ(vfs_->mounts().size(), 3u);
  });
}

TEST_F(WalkTest, AChangedRootIsAWall) {
  run([&] {
    mkdir("/r");
    mkdir("/r/d");
    symlink("/d", "/r/l");
    Context c = ctx();
    Context inside{.creds = *creds_, .root = at("/r"), .cwd = at("/r/d")};
    auto path = [&](std::string_view p) {
      auto r = vfs_->walk(inside, nullptr, p, {});
      return r ? path_of(*r) : std::to_string(error_of(r));
    };
    EXPECT_EQ(path("/.."), "/r");
    EXPECT_EQ(path("../.."), "/r");
    EXPECT_EQ(path("/l"), "/r/d");
    EXPECT_EQ(vfs_->path_of(at("/r/d"), inside.root), "/d");
    EXPECT_EQ(vfs_->path_of(at("/r"), inside.root), "/");
    EXPECT_EQ(vfs_->path_of(at("/"), inside.root), "(unreachable)/");
  });
}

TEST_F(WalkTest, TheCacheIsBounded) {
  run([&] {
    DentryCache& cache = DentryCache::get();
    cache.set_limit(100);
    mkdir("/d");
    for (int i = 0; i < 1000; ++i) put("/d/" + std::to_string(i), "x");
    EXPECT_LE(cache.size(), 110u);
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(walk("/d/" + std::to_string(i)), 0);
    EXPECT_LE(cache.size(), 110u);
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(walk("/d/no" + std::to_string(i)), ENOENT);
    EXPECT_LE(cache.size(), 110u);
    cache.set_limit(1 << 16);
  });
}

TEST_F(WalkTest, ADeepTreeComesDownWithoutRecursion) {
  run([&] {
    for (int i = 0; i < 20'000; ++i) {
      ASSERT_EQ(mkdir("d"), 0);
      cwd_ = at("d");
    }
  });
}

}  // namespace
}  // namespace rf::fs
