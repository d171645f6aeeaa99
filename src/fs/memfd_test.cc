#include <linux/falloc.h>
#include <linux/memfd.h>

#include "fs/fs_fixture.h"
#include "fs/test_files.h"

namespace rf::fs {
namespace {

class MemfdTest : public FsTest {
 protected:
  Ref<File> make(u32 flags = MFD_ALLOW_SEALING) { return *make_memfd(*frames_, "x", flags); }
  int write_at(const Ref<File>& f, std::string_view s, u64 offset) {
    auto src = mm::IoBuffer::from_const(std::as_bytes(std::span(s)));
    auto n = f->write_at(ctx(), src, offset);
    return n ? static_cast<int>(*n) : -errno_value(n.error());
  }
  int map(const Ref<File>& f, bool shared, bool write, Ref<mm::MapObject>* out = nullptr, bool* may_write = nullptr) {
    File::MapUse use{shared, write, shared && f->writable()};
    auto object = f->map_object_for(use);
    if (object && out) *out = *object;
    if (may_write) *may_write = use.may_write;
    return error_of(object);
  }
};

TEST_F(MemfdTest, HoldsWhatIsWritten) {
  run([&] {
    Ref<File> f = make(0);
    EXPECT_EQ(*write_string(*f, "hello"), 5u);
    EXPECT_EQ(write_at(f, "J", 0), 1);
    EXPECT_EQ(*f->seek(ctx(), 0, SEEK_SET), 0u);
    EXPECT_EQ(*read_string(*f, 100), "Jello");
    EXPECT_EQ(*f->seek(ctx(), 0, SEEK_HOLE), 5u);
    Attributes a = *f->inode().getattr(ctx());
    EXPECT_EQ(a.size, 5u);
    EXPECT_EQ(a.mode, S_IFREG | 0777);
    EXPECT_EQ(vfs_->path_of(f->path(), vfs_->root()), "/memfd:x (deleted)");
    Ref<File> again = *f->inode().open(ctx(), f->path(), {O_RDONLY});
    EXPECT_EQ(*read_string(*again, 100), "Jello");
    EXPECT_EQ(*get_seals(*f), u32{F_SEAL_SEAL});
    EXPECT_EQ(error_of(add_seals(*f, F_SEAL_GROW)), EPERM);
  });
}

TEST_F(MemfdTest, SizeSeals) {
  run([&] {
    Ref<File> f = make();
    EXPECT_TRUE(f->truncate(ctx(), 10000));
    EXPECT_TRUE(add_seals(*f, F_SEAL_SHRINK));
    EXPECT_EQ(error_of(f->truncate(ctx(), 9999)), EPERM);
    EXPECT_TRUE(f->truncate(ctx(), 10001));
    EXPECT_TRUE(add_seals(*f, F_SEAL_GROW));
    EXPECT_EQ(*get_seals(*f), u32{F_SEAL_SHRINK | F_SEAL_GROW});
    EXPECT_EQ(error_of(f->truncate(ctx(), 10002)), EPERM);
    EXPECT_EQ(write_at(f, "x", 10001), -EPERM);
    EXPECT_EQ(write_at(f, "x", 10000), 1);
    // Like Linux, up to the page that would grow the file.
    EXPECT_EQ(write_at(f, std::string(5000, 'y'), 8000), 192);
    EXPECT_EQ(error_of(f->fallocate(ctx(), 0, 0, 10002)), EPERM);
    EXPECT_TRUE(f->fallocate(ctx(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    EXPECT_TRUE(add_seals(*f, F_SEAL_SEAL));
    EXPECT_EQ(error_of(add_seals(*f, F_SEAL_WRITE)), EPERM);
  });
}

TEST_F(MemfdTest, WriteSealWaitsForNoMapping) {
  run([&] {
    Ref<File> f = make();
    EXPECT_TRUE(f->truncate(ctx(), 8192));
    {
      Ref<mm::MapObject> shared, private_;
      EXPECT_EQ(map(f, true, true, &shared), 0);
      EXPECT_EQ(map(f, false, true, &private_), 0);
      EXPECT_EQ(error_of(add_seals(*f, F_SEAL_WRITE)), EBUSY);
      EXPECT_TRUE(add_seals(*f, F_SEAL_FUTURE_WRITE));
      EXPECT_EQ(write_at(f, "x", 0), -EPERM);
      EXPECT_EQ(map(f, true, true), EPERM);
      shared.reset();
      EXPECT_TRUE(add_seals(*f, F_SEAL_WRITE));
    }
    bool may_write = true;
    EXPECT_EQ(map(f, true, false, nullptr, &may_write), 0);
    EXPECT_FALSE(may_write);
    EXPECT_EQ(map(f, false, true), 0);
    EXPECT_EQ(error_of(f->fallocate(ctx(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)), EPERM);
    EXPECT_TRUE(f->truncate(ctx(), 4096));
  });
}

TEST_F(MemfdTest, ChecksItsArguments) {
  run([&] {
    EXPECT_EQ(error_of(make_memfd(*frames_, "x", MFD_HUGETLB)), EINVAL);
    EXPECT_EQ(error_of(make_memfd(*frames_, std::string(250, 'x'), 0)), EINVAL);
    EXPECT_EQ(error_of(add_seals(**make_eventfd(0, 0), 1)), EINVAL);
    Ref<File> f = make(0x8);  // MFD_NOEXEC_SEAL
    EXPECT_EQ(*get_seals(*f), 0x20u);
    AttributeChange change{.mask = AttributeChange::kMode, .mode = 0755};
    EXPECT_EQ(error_of(f->inode().setattr(ctx(), change)), EPERM);
    EXPECT_EQ(error_of(add_seals(*f, 0x1000)), EINVAL);
    Ref<File> reader = *f->inode().open(ctx(), f->path(), {O_RDONLY});
    EXPECT_EQ(error_of(add_seals(*reader, F_SEAL_GROW)), EPERM);
  });
}

}  // namespace
}  // namespace rf::fs
