// Writable host trees.
#include <gmock/gmock.h>
#include <sys/fsuid.h>
#include <sys/xattr.h>

#include "fs/hostfs_fixture.h"

namespace rf::fs {
namespace {

class HostFsWriteTest : public HostFsTest {
 protected:
  HostFsWriteTest() { read_only_ = false; }
};

TEST_F(HostFsWriteTest, CreatedFilesAreTheHostsToo) {
  run([&] {
    put("/f", "hello");
    EXPECT_EQ(host_get("/f"), "hello");
    EXPECT_EQ(host_stat("/f").st_mode, S_IFREG | 0644u);
    EXPECT_EQ(open_error("/f", O_WRONLY | O_CREAT | O_EXCL), EEXIST);
    Ref<File> f = open("/f", O_RDWR | O_APPEND);
    EXPECT_EQ(write(*f, " world").value(), 6u);
    EXPECT_EQ(stat("/f").size, 11u);
    EXPECT_EQ(pread(*f, 0), "hello world");
    const std::string big(300'000, 'b');
    EXPECT_EQ(write(*f, big).value(), big.size());
    EXPECT_EQ(host_get("/f"), "hello world" + big);
    EXPECT_EQ(error_of(f->fsync(false)), 0);
    EXPECT_EQ(error_of(f->truncate(ctx(), 4)), 0);
    EXPECT_EQ(host_get("/f"), "hell");
    EXPECT_EQ(error_of(f->fallocate(ctx(), 0, 0, 100)), 0);
    EXPECT_EQ(stat("/f").size, 100u);
    put("/f", "cut");
    EXPECT_EQ(host_get("/f"), "cut");
  });
}

TEST_F(HostFsWriteTest, DirectoriesLinksAndRenames) {
  run([&] {
    ASSERT_EQ(mkdir("/d", 0711), 0);
    EXPECT_EQ(host_stat("/d").st_mode & 07777, 0711u);
    put("/d/f", "x");
    ASSERT_EQ(symlink("d/f", "/s"), 0);
    EXPECT_EQ(get("/s"), "x");
    ASSERT_EQ(link("/d/f", "/hard"), 0);
    EXPECT_EQ(host_stat("/hard").st_ino, host_stat("/d/f").st_ino);
    EXPECT_EQ(stat("/hard").nlink, 2u);
    ASSERT_EQ(rename("/d", "/e"), 0);
    EXPECT_EQ(walk("/d"), ENOENT);
    EXPECT_EQ(get("/e/f"), "x");
    EXPECT_EQ(rmdir("/e"), ENOTEMPTY);
    put("/other", "other");
    ASSERT_EQ(rename("/other", "/hard", RENAME_EXCHANGE), 0);
    EXPECT_EQ(get("/hard"), "other");
    EXPECT_EQ(get("/other"), "x");
    EXPECT_EQ(rename("/other", "/hard", RENAME_NOREPLACE), EEXIST);
    ASSERT_EQ(rename("/other", "/hard"), 0);
    EXPECT_EQ(host_get("/hard"), "x");
    ASSERT_EQ(unlink("/e/f"), 0);
    ASSERT_EQ(rmdir("/e"), 0);
    EXPECT_EQ(walk("/e"), ENOENT);
    EXPECT_NE(::access(host("/e").c_str(), F_OK), 0);
  });
}

TEST_F(HostFsWriteTest, RenamedDirectoryStillLeadsToItsFiles) {
  run([&] {
    ASSERT_EQ(mkdir("/a"), 0);
    ASSERT_EQ(mkdir("/a/b"), 0);
    put("/a/b/f", "x");
    Path f = at("/a/b/f");
    ASSERT_EQ(rename("/a", "/z"), 0);
    static_cast<FileSystem&>(*at("/").mount->fs).unmounted();  // gives every descriptor up
    auto file = vfs_->open_path(ctx(), f, O_RDWR);
    ASSERT_EQ(error_of(file), 0);
    EXPECT_EQ(read(**file), "x");
  });
}

TEST_F(HostFsWriteTest, UnlinkedFileLivesWhileItIsOpen) {
  run([&] {
    put("/f", "text");
    Ref<File> f = open("/f", O_RDWR);
    ASSERT_EQ(unlink("/f"), 0);
    EXPECT_EQ(pread(*f, 0), "text");
    EXPECT_EQ(vfs_->getattr(ctx(), f->path()).value().nlink, 0u);
    EXPECT_EQ(write(*f, "TEXT").value(), 4u);
    EXPECT_EQ(error_of(vfs_->chmod(ctx(), f->path(), 0600)), 0);
    // Open again, as /proc/self/fd does.
    auto again = vfs_->open_path(ctx(), f->path(), O_RDONLY);
    ASSERT_EQ(error_of(again), 0);
    EXPECT_EQ(read(**again), "TEXT");
  });
}

TEST_F(HostFsWriteTest, UnnamedFilesStayUnnamed) {
  run([&] {
    Ref<File> f = open("/", O_TMPFILE | O_RDWR, 0600);
    ASSERT_TRUE(f);
    EXPECT_EQ(write(*f, "x").value(), 1u);
    EXPECT_TRUE(list("/").empty());
    EXPECT_EQ(vfs_->getattr(ctx(), f->path()).value().size, 1u);
  });
}

TEST_F(HostFsWriteTest, ModesTimesAndOwners) {
  run([&] {
    put("/f", "x");
    EXPECT_EQ(chmod("/f", 0751), 0);
    EXPECT_EQ(host_stat("/f").st_mode & 07777, 0751u);
    using Time = Vfs::TimeChange;
    EXPECT_EQ(error_of(vfs_->utimens(ctx(), at("/f"), {Time::What::kOmit, {}}, {Time::What::kSet, {1234, 5678}})), 0);
    EXPECT_EQ(host_stat("/f").st_mtim.tv_sec, 1234);
    EXPECT_EQ(host_stat("/f").st_mtim.tv_nsec, 5678);
    EXPECT_EQ(stat("/f").mtime.sec, 1234);
    if (::geteuid() != 0) return;
    EXPECT_EQ(chown("/f", 12, 34), 0);
    EXPECT_EQ(host_stat("/f").st_uid, 12u);
    ASSERT_EQ(symlink("f", "/l"), 0);
    EXPECT_EQ(chown("/l", 56, 78), 0);
    EXPECT_EQ(host_stat("/l").st_uid, 56u);
    EXPECT_EQ(host_stat("/f").st_uid, 12u) << "of the link, not of what it leads to";
    chmod("/", 01777);
    become(1000, 1001);
    put("/mine", "x");
    EXPECT_EQ(host_stat("/mine").st_uid, 1000u);
    EXPECT_EQ(host_stat("/mine").st_gid, 1001u);
    ASSERT_EQ(mkdir("/mydir"), 0);
    EXPECT_EQ(host_stat("/mydir").st_uid, 1000u);
  });
}

TEST_F(HostFsWriteTest, FilesTheHostLetsOnlyWrite) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  constexpr uid_t kNobody = 65534;
  host_put("/drop", "old");
  ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
  ASSERT_EQ(::chown(host("/drop").c_str(), kNobody, 0), 0);
  ASSERT_EQ(::chmod(host("/drop").c_str(), 0200), 0);
  run([&] {
    ::setfsuid(kNobody);
    Ref<File> f = open("/drop", O_WRONLY);
    ASSERT_TRUE(f);
    EXPECT_EQ(write(*f, "new!").value(), 4u);
    EXPECT_EQ(error_of(f->truncate(ctx(), 3)), 0);
    EXPECT_EQ(open_error("/drop", O_RDONLY), EACCES);
    EXPECT_EQ(open_error("/drop", O_RDWR), EACCES);
    ::setfsuid(0);
  });
  EXPECT_EQ(host_get("/drop"), "new");
}

TEST_F(HostFsWriteTest, NodesOnTheHostAreNamesOnly) {
  run([&] {
    ASSERT_EQ(mknod("/fifo", S_IFIFO | 0600), 0);
    EXPECT_EQ(host_stat("/fifo").st_mode, S_IFIFO | 0600u);
    ASSERT_EQ(mknod("/sock", S_IFSOCK | 0600), 0);
    EXPECT_EQ(mknod("/null", S_IFCHR | 0666, 1, 3), EPERM);
  });
}

TEST_F(HostFsWriteTest, ExtendedAttributes) {
  run([&] {
    put("/f", "x");
    Path f = at("/f");
    auto set = vfs_->setxattr(ctx(), f, "user.name", "value", 0);
    if (error_of(set) == EOPNOTSUPP) GTEST_SKIP() << "no user xattrs on the host's /tmp";
    ASSERT_EQ(error_of(set), 0);
    EXPECT_EQ(vfs_->getxattr(ctx(), f, "user.name").value(), "value");
    EXPECT_EQ(error_of(vfs_->setxattr(ctx(), f, "user.name", "v", XATTR_CREATE)), EEXIST);
    EXPECT_EQ(error_of(vfs_->getxattr(ctx(), f, "user.none")), ENODATA);
    EXPECT_NE(error_of(vfs_->setxattr(ctx(), f, "security.x", "v", 0)), 0);
    EXPECT_NE(error_of(vfs_->setxattr(ctx(), f, "trusted.overlay.opaque", "y", 0)), 0);
    EXPECT_THAT(vfs_->listxattr(ctx(), f).value(), testing::ElementsAre("user.name"));
    const std::string big(2000, 'v');
    ASSERT_EQ(error_of(vfs_->setxattr(ctx(), f, "user.big", big, 0)), 0);
    EXPECT_EQ(vfs_->getxattr(ctx(), f, "user.big").value(), big);
    EXPECT_EQ(error_of(vfs_->removexattr(ctx(), f, "user.name")), 0);
    EXPECT_EQ(error_of(vfs_->getxattr(ctx(), f, "user.name")), ENODATA);
  });
}

TEST_F(HostFsWriteTest, MappedPagesAreTheFiles) {
  host_put("/f", std::string(10000, 'a'));
  run([&] {
    Ref<File> f = open("/f", O_RDWR);
    mm::Mappable* pages = at("/f").dentry->inode()->mappable();
    ASSERT_NE(pages, nullptr);
    auto run = pages->pin(4096, 4096, true);
    ASSERT_EQ(error_of(run), 0);
    frames_->host_ptr(run->phys)[0] = std::byte{'b'};
    EXPECT_EQ(pread(*f, 4095, 3), "aba");
    frames_->unref(run->phys, run->len / kPageSize);
    EXPECT_EQ(error_of(pages->pin(16384, 4096, false)), ENXIO);
  });
}

}  // namespace
}  // namespace rf::fs
