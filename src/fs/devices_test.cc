#include <gmock/gmock.h>
#include <sys/sysmacros.h>

#include "fs/tty_fixture.h"

namespace rf::fs {
namespace {

class DevicesTest : public TtyTest {
 protected:
  Ref<FileSystem> make_root_fs() override { return make_devfs(*frames_); }
};

TEST_F(DevicesTest, DevfsHasTheUsualNodesAndLinks) {
  run([&] {
    EXPECT_THAT(list("/"), testing::IsSupersetOf({"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx",
                                                  "fd", "stdin", "stdout", "stderr", "pts", "shm", "mqueue"}));
    EXPECT_EQ(stat("/null").mode, S_IFCHR | 0666);
    EXPECT_EQ(stat("/shm").mode, S_IFDIR | 01777);
    EXPECT_EQ(vfs_->readlink(ctx(), nullptr, "/fd").value(), "/proc/self/fd");
  });
}

TEST_F(DevicesTest, NullZeroAndFull) {
  run([&] {
    Ref<File> null = open("/null", O_RDWR), zero = open("/zero", O_RDWR), full = open("/full", O_RDWR);
    EXPECT_EQ(take(*null), "");
    EXPECT_EQ(send(*null, "x"), 0);
    EXPECT_EQ(take(*zero, 10), std::string(10, '\0'));
    EXPECT_EQ(send(*zero, "x"), 0);
    EXPECT_EQ(take(*full, 10), std::string(10, '\0'));
    EXPECT_EQ(send(*full, "x"), ENOSPC);
    EXPECT_EQ(null->seek(ctx(), 100, SEEK_SET).value(), 0u);
    EXPECT_EQ(error_of(null->map_object()), ENODEV);
  });
}

TEST_F(DevicesTest, ZeroMapsAsMemory) {
  run([&] {
    auto zero = vfs_->open(task_ctx(), nullptr, "/zero", O_RDWR, 0);
    ASSERT_EQ(error_of(zero), 0);
    auto object = (*zero)->map_object();
    ASSERT_EQ(error_of(object), 0);
    EXPECT_EQ((*object)->identity().path, "/dev/zero (deleted)");
    auto at = mm_->mmap({.len = 2 * kPageSize, .prot = PROT_READ | PROT_WRITE, .flags = MAP_SHARED, .object = *object});
    ASSERT_EQ(error_of(at), 0);
    u64 v = 1;
    EXPECT_EQ(mm_->copy_in(&v, *at, sizeof v), sizeof v);
    EXPECT_EQ(v, 0u);
  });
}

TEST_F(DevicesTest, RandomBytesDiffer) {
  run([&] {
    Ref<File> random = open("/urandom", O_RDONLY);
    EXPECT_EQ(take(*random, 16).size(), 16u);
    EXPECT_NE(take(*random, 16), take(*random, 16));
    EXPECT_EQ(take(*random, 200'000).size(), 200'000u);
    std::set<std::string> seen;
    for (int i = 0; i < 1000; ++i) seen.insert(take(*random, 8));
    EXPECT_EQ(seen.size(), 1000u);
  });
}

TEST_F(DevicesTest, TtyIsTheControllingTerminal) {
  run([&] {
    EXPECT_EQ(error_of(vfs_->open(task_ctx(), nullptr, "/tty", O_RDWR, 0)), ENXIO);
    ASSERT_EQ(error_of(vfs_->mount(ctx(), at("/pts"), make_devpts(*frames_), "devpts", 0)), 0);
    auto master = vfs_->open(task_ctx(), nullptr, "/ptmx", O_RDWR | O_NOCTTY, 0);
    ASSERT_EQ(error_of(master), 0);
    ASSERT_EQ(ioctl_in(**master, TIOCSPTLCK, s32{0}), 0);
    auto slave = vfs_->open(task_ctx(), nullptr, "/pts/0", O_RDWR, 0);
    ASSERT_EQ(error_of(slave), 0);
    auto tty = vfs_->open(task_ctx(), nullptr, "/tty", O_RDWR, 0);
    ASSERT_EQ(error_of(tty), 0);
    EXPECT_EQ(send(**tty, "through /dev/tty"), 0);
    EXPECT_EQ(take(**master), "through /dev/tty");
    EXPECT_EQ(path_of((*tty)->path()), "/tty");
  });
}

TEST_F(DevicesTest, UnknownDevicesAreNotThere) {
  run([&] {
    ASSERT_EQ(mknod("/sda", S_IFBLK | 0600, 8, 0), 0);
    ASSERT_EQ(mknod("/mem", S_IFCHR | 0600, 1, 1), 0);
    EXPECT_EQ(open_error("/sda", O_RDONLY), ENXIO);
    EXPECT_EQ(open_error("/mem", O_RDONLY), ENXIO);
  });
}

class SysFsTest : public HostFsTest {
 protected:
  Ref<FileSystem> make_root_fs() override { return make_sysfs(*frames_, 4); }
};

TEST_F(SysFsTest, TellsTheCpus) {
  run([&] {
    EXPECT_EQ(get("/devices/system/cpu/online"), "0-3\n");
    EXPECT_EQ(get("/devices/system/cpu/possible"), "0-3\n");
    EXPECT_EQ(walk("/devices/system/cpu/cpu3/topology/core_id"), 0);
    EXPECT_EQ(walk("/devices/system/cpu/cpu4"), ENOENT);
    EXPECT_EQ(get("/kernel/mm/transparent_hugepage/enabled"), "always [madvise] never\n");
    EXPECT_TRUE(list("/block").empty());
    EXPECT_THAT(list("/fs"), testing::ElementsAre("cgroup"));
    EXPECT_EQ(open_error("/devices/system/cpu/online", O_WRONLY), EROFS);
    EXPECT_EQ(mkdir("/x"), EROFS);
  });
}

}  // namespace
}  // namespace rf::fs
