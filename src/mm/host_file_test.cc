#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "mm/mm_fixture.h"
#include "mm/test_objects.h"
#include "mm/window_cache.h"

namespace rf::mm {
namespace {

using Kind = FaultFailure::Kind;

class HostFileTest : public MmTest {
 protected:
  static constexpr u64 kPages = 700;  // more than a chunk
  void SetUp() override {
    path_ = testing::TempDir() + "/rf_mm_host_file.XXXXXX";
    hostio::HostFd fd(mkstemp(path_.data()));
    std::vector<u64> words(kPages * kPageSize / sizeof(u64));
    for (u64 i = 0; i < kPages; i++) words[i * 512] = i + 1000;
    ASSERT_EQ(pwrite(fd.get(), words.data(), words.size() * 8, 0), static_cast<ssize_t>(kPages * kPageSize));
    object_ = HostFileObject::open(*frames_, path_, true);
    ASSERT_TRUE(object_);
  }
  void TearDown() override {
    mm_.reset();
    object_.reset();
    unlink(path_.c_str());
    EXPECT_EQ(frames_->window_cache().size(), 0u);
  }
  UserAddr map_file(u64 pages, int prot, int flags, u64 offset = 0) {
    auto r = mm_->mmap({.len = pages * kPageSize, .prot = prot, .flags = flags, .object = object_, .offset = offset});
    EXPECT_EQ(error_of(r), 0);
    return r.value_or(0);
  }
  u64 in_file(u64 page) {
    u64 v = 0;
    EXPECT_EQ(pread(object_->fd(), &v, sizeof v, static_cast<off_t>(page * kPageSize)), 8);
    return v;
  }
  std::string path_;
  Ref<HostFileObject> object_;
};

TEST_F(HostFileTest, ReadsComeFromTheFileAcrossChunks) {
  UserAddr a = map_file(kPages - 3, PROT_READ, MAP_PRIVATE, 3 * kPageSize);
  for (u64 i = 0; i < kPages - 3; i += 13) EXPECT_EQ(peek(a + i * kPageSize), i + 1003);
  EXPECT_LE(tables(*mm_).commits(), 0u);
}

TEST_F(HostFileTest, OneFaultMapsManyPages) {
  UserAddr a = map_file(kPages, PROT_READ, MAP_PRIVATE);
  EXPECT_TRUE(mm_->handle_fault(a + 20 * kPageSize, Access::kRead));
  EXPECT_GE(tables(*mm_).present(), 100u);
  EXPECT_EQ(frames_->used(), clock_->image_size()) << "nothing is copied";
}

TEST_F(HostFileTest, PrivateWritesStayPrivate) {
  UserAddr a = map_file(kPages, kRw, MAP_PRIVATE);
  EXPECT_EQ(peek(a + 5 * kPageSize), 1005u);
  put(a + 5 * kPageSize, 1);
  put(a + 600 * kPageSize, 2);
  EXPECT_EQ(in_file(5), 1005u);
  EXPECT_EQ(peek(a + 5 * kPageSize), 1u);
  EXPECT_EQ(peek(a + 6 * kPageSize), 1006u);
  EXPECT_EQ(peek(a + 601 * kPageSize), 1601u);
  auto child = *mm_->fork();
  put(*child, a + 5 * kPageSize, 3);
  EXPECT_EQ(peek(a + 5 * kPageSize), 1u);
  EXPECT_EQ(peek(*child, a + 600 * kPageSize), 2u);
}

TEST_F(HostFileTest, SharedWritesReachTheFile) {
  UserAddr a = map_file(kPages, kRw, MAP_SHARED);
  put(a + 7 * kPageSize, 9);
  EXPECT_EQ(in_file(7), 9u);
}

TEST_F(HostFileTest, PagesPastTheEndAreSigbus) {
  UserAddr a = map_file(kPages + 10, PROT_READ, MAP_SHARED);
  EXPECT_EQ(peek(a + (kPages - 1) * kPageSize), kPages + 999);
  EXPECT_EQ(fault_kind(a + kPages * kPageSize, Access::kRead), Kind::kBusAdrErr);
}

TEST_F(HostFileTest, CopiesSurviveAFileCutShort) {
  UserAddr a = map_file(8, kRw, MAP_SHARED);
  for (u64 i = 0; i < 8; i++) peek(a + i * kPageSize);
  ASSERT_EQ(ftruncate(object_->fd(), 2 * kPageSize), 0);
  std::vector<std::byte> buffer(8 * kPageSize);
  EXPECT_EQ(mm_->copy_in(buffer.data(), a, buffer.size()), 2 * kPageSize);
  EXPECT_EQ(mm_->copy_in(buffer.data(), a + 4 * kPageSize + 100, 16), 0u);
  EXPECT_EQ(mm_->copy_out(a + 4 * kPageSize, buffer.data(), 4000), 0u);
  EXPECT_EQ(mm_->zero_out(a + 4 * kPageSize, 4000), 0u);
  EXPECT_EQ(error_of(mm_->load_u32(a + 5 * kPageSize)), EFAULT);
  u32 expected = 0;
  EXPECT_EQ(error_of(mm_->compare_exchange_u32(a + 5 * kPageSize, expected, 1)), EFAULT);
  char text[100];
  EXPECT_EQ(error_of(mm_->copy_in_string(text, a + 6 * kPageSize, sizeof text)), EFAULT);
}

TEST_F(HostFileTest, CopyOnWriteOfALostPageIsSigbus) {
  UserAddr a = map_file(kPages, kRw, MAP_PRIVATE);
  for (u64 i = 0; i < 8; i++) peek(a + i * kPageSize);
  ASSERT_EQ(ftruncate(object_->fd(), 2 * kPageSize), 0);
  EXPECT_EQ(fault_kind(a + 4 * kPageSize, Access::kWrite), Kind::kBusAdrErr);
  put(a + kPageSize, 1);
}

TEST_F(HostFileTest, UnmapMappingsTakesSharedPagesAndPrivateCopies) {
  UserAddr shared = map_file(8, PROT_READ, MAP_SHARED), copy = map_file(kPages, kRw, MAP_PRIVATE);
  for (u64 i = 0; i < 8; i++) peek(shared + i * kPageSize);
  put(copy, 1);
  peek(copy + kPageSize * 6);
  ASSERT_EQ(ftruncate(object_->fd(), kPageSize), 0);
  object_->mappable().unmap_mappings(kPageSize, ~u64{0}, true);
  EXPECT_EQ(peek(shared), 1000u);
  EXPECT_EQ(fault_kind(shared + kPageSize, Access::kRead), Kind::kBusAdrErr);
  EXPECT_EQ(peek(copy), 1u);
  EXPECT_EQ(fault_kind(copy + 6 * kPageSize, Access::kRead), Kind::kBusAdrErr);
}

TEST_F(HostFileTest, IdleChunksAreGivenUpForOthers) {
  // Many files, one chunk each, none mapped any more: the cache stays bounded.
  std::vector<Ref<HostFileObject>> files;
  for (int i = 0; i < 900; i++) {
    auto f = HostFileObject::open(*frames_, path_);
    if (!f) break;
    auto a = mm_->mmap({.len = kPageSize, .prot = PROT_READ, .flags = MAP_PRIVATE, .object = f});
    EXPECT_EQ(peek(*a), 1000u);
    EXPECT_TRUE(mm_->munmap(*a, kPageSize));
    files.push_back(std::move(f));
  }
  EXPECT_LE(frames_->window_cache().size(), 800u);
}

TEST_F(HostFileTest, MapsTellTheOffset) {
  UserAddr a = map_file(4, PROT_READ, MAP_PRIVATE, 2 * kPageSize);
  EXPECT_TRUE(mm_->mprotect(a + kPageSize, kPageSize, PROT_NONE));
  std::vector<u64> offsets;
  mm_->for_each_vma(false, [&](const VmaInfo& v) { offsets.push_back(v.offset / kPageSize); });
  EXPECT_EQ(offsets, (std::vector<u64>{2, 3, 4}));
  EXPECT_TRUE(mm_->mprotect(a + kPageSize, kPageSize, PROT_READ));
  EXPECT_EQ(maps(a), "0-4 r--p\n");
}

TEST_F(HostFileTest, RightsOfTheFileAreKept) {
  EXPECT_EQ(
      error_of(mm_->mmap({.len = kPageSize, .prot = kRw, .flags = MAP_SHARED, .object = object_, .may_write = false})),
      EACCES);
  EXPECT_EQ(error_of(mm_->mmap(
                {.len = kPageSize, .prot = PROT_EXEC, .flags = MAP_PRIVATE, .object = object_, .may_exec = false})),
            EPERM);
  auto a = mm_->mmap({.len = kPageSize,
                      .prot = PROT_READ,
                      .flags = MAP_SHARED,
                      .object = object_,
                      .may_write = false,
                      .may_exec = false});
  EXPECT_EQ(error_of(mm_->mprotect(*a, kPageSize, kRw)), EACCES);
  EXPECT_EQ(error_of(mm_->mprotect(*a, kPageSize, PROT_READ | PROT_EXEC)), EACCES);
}

}  // namespace
}  // namespace rf::mm
