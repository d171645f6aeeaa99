// mremap(2), madvise(2), mlock(2), mincore(2), msync(2).
#include "mm/mm_fixture.h"

namespace rf::mm {
namespace {

using Kind = FaultFailure::Kind;
constexpr u64 P = kPageSize;
using MremapTest = MmTest;

TEST_F(MremapTest, GrowsInPlaceWhenThereIsRoom) {
  UserAddr a = map(4, kRw, kPrivateAnon | MAP_FIXED, 0x20000000);
  put(a, 1);
  EXPECT_EQ(*mm_->mremap(a, 4 * P, 8 * P, 0, 0), a);
  EXPECT_EQ(maps(a), "0-8 rw-p\n");
  EXPECT_EQ(*mm_->mremap(a, 8 * P, 2 * P, 0, 0), a);
  EXPECT_EQ(maps(a), "0-2 rw-p\n");
  EXPECT_EQ(peek(a), 1u);
}

TEST_F(MremapTest, MovesPagesWhenThereIsNone) {
  UserAddr a = map(4, kRw, kPrivateAnon | MAP_FIXED, 0x20000000);
  map(1, PROT_READ, kPrivateAnon | MAP_FIXED, a + 4 * P);
  for (u64 i = 0; i < 4; i++) put(a + i * P, i + 1);
  u64 used = frames_->used();
  EXPECT_EQ(error_of(mm_->mremap(a, 4 * P, 6 * P, 0, 0)), ENOMEM);
  UserAddr b = *mm_->mremap(a, 4 * P, 6 * P, MREMAP_MAYMOVE, 0);
  EXPECT_NE(b, a);
  EXPECT_EQ(frames_->used(), used) << "moved, not copied";
  for (u64 i = 0; i < 4; i++) EXPECT_EQ(peek(b + i * P), i + 1);
  EXPECT_EQ(peek(b + 5 * P), 0u);
  EXPECT_EQ(fault_kind(a, Access::kRead), Kind::kMapErr);
}

TEST_F(MremapTest, MovesThePartOfAMapping) {
  UserAddr a = map(6, kRw, kPrivateAnon | MAP_FIXED, 0x20000000);
  put(a + 2 * P, 3);
  UserAddr b = *mm_->mremap(a + 2 * P, 2 * P, 4 * P, MREMAP_MAYMOVE, 0);
  EXPECT_EQ(peek(b), 3u);
  std::string m = maps(a);
  EXPECT_TRUE(m.starts_with("0-2 rw-p\n4-6 rw-p\n")) << m;
}

TEST_F(MremapTest, FixedReplacesTheTarget) {
  UserAddr a = map(2, kRw, kPrivateAnon | MAP_FIXED, 0x20000000), b = map(3, PROT_READ, kPrivateAnon, 0x30000000);
  put(a + P, 4);
  constexpr int kFlags = MREMAP_MAYMOVE | MREMAP_FIXED;
  EXPECT_EQ(*mm_->mremap(a, 2 * P, 2 * P, kFlags, b), b);
  EXPECT_EQ(peek(b + P), 4u);
  EXPECT_EQ(maps(b), "0-2 rw-p\n2-3 r--p\n");
  EXPECT_EQ(error_of(mm_->mremap(b, 2 * P, 2 * P, kFlags, b + P)), EINVAL);
  EXPECT_EQ(error_of(mm_->mremap(b, 2 * P, 2 * P, kFlags, b + 123)), EINVAL);
  EXPECT_EQ(error_of(mm_->mremap(b, 2 * P, 2 * P, MREMAP_FIXED, a)), EINVAL);
  EXPECT_EQ(*mm_->mremap(b, 2 * P, P, kFlags, a), a) << "shrinks on the way";
  EXPECT_EQ(maps(a), "0-1 rw-p\n65538-65539 r--p\n");
}

TEST_F(MremapTest, DontunmapLeavesAnEmptyMapping) {
  UserAddr a = map(2, kRw, kPrivateAnon | MAP_FIXED, 0x20000000);
  put(a, 4);
  UserAddr b = *mm_->mremap(a, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
  EXPECT_EQ(peek(b), 4u);
  EXPECT_EQ(peek(a), 0u);
  EXPECT_EQ(error_of(mm_->mremap(a, 2 * P, 3 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0)), EINVAL);
}

TEST_F(MremapTest, ZeroLengthDuplicatesSharedMemory) {
  UserAddr a = map(2, kRw, kSharedAnon);
  put(a + P, 4);
  UserAddr b = *mm_->mremap(a, 0, 2 * P, MREMAP_MAYMOVE, 0);
  EXPECT_EQ(peek(b + P), 4u);
  put(b, 5);
  EXPECT_EQ(peek(a), 5u);
  UserAddr c = map(1);
  EXPECT_EQ(error_of(mm_->mremap(c, 0, P, MREMAP_MAYMOVE, 0)), EINVAL);
}

TEST_F(MremapTest, Errors) {
  UserAddr a = map(2, kRw, kPrivateAnon | MAP_FIXED, 0x20000000);
  EXPECT_EQ(error_of(mm_->mremap(a + 1, P, P, 0, 0)), EINVAL);
  EXPECT_EQ(error_of(mm_->mremap(a, P, 0, 0, 0)), EINVAL);
  EXPECT_EQ(error_of(mm_->mremap(a, P, P, 0x100, 0)), EINVAL);
  EXPECT_EQ(error_of(mm_->mremap(0x50000000, P, P, 0, 0)), EFAULT);
  EXPECT_EQ(error_of(mm_->mremap(a, 3 * P, 4 * P, MREMAP_MAYMOVE, 0)), EFAULT);
  EXPECT_EQ(error_of(mm_->mremap(a, 2 * P, u64{1} << 50, MREMAP_MAYMOVE, 0)), ENOMEM);
  EXPECT_EQ(error_of(mm_->mremap(a, ~u64{0}, ~u64{0}, MREMAP_MAYMOVE, 0)), EINVAL);
}

using MadviseTest = MmTest;

TEST_F(MadviseTest, DontneedAndFreeDropPages) {
  UserAddr a = map(8);
  for (u64 i = 0; i < 8; i++) put(a + i * P, 1);
  u64 used = frames_->used();
  ASSERT_TRUE(mm_->madvise(a + P, 2 * P, MADV_DONTNEED));
  ASSERT_TRUE(mm_->madvise(a + 4 * P, P, MADV_FREE));
  EXPECT_EQ(frames_->used(), used - 3 * P);
  EXPECT_EQ(peek(a + P), 0u);
  EXPECT_EQ(peek(a + 3 * P), 1u);
}

TEST_F(MadviseTest, Errors) {
  UserAddr a = map(4);
  EXPECT_EQ(error_of(mm_->madvise(a, P, 12345)), EINVAL);
  EXPECT_EQ(error_of(mm_->madvise(a + 1, P, MADV_DONTNEED)), EINVAL);
  EXPECT_EQ(error_of(mm_->madvise(a, ~u64{0}, MADV_DONTNEED)), EINVAL);
  EXPECT_EQ(error_of(mm_->madvise(a, P, MADV_REMOVE)), EINVAL);
  EXPECT_TRUE(mm_->madvise(a, 0, MADV_DONTNEED));
  ASSERT_TRUE(mm_->munmap(a + P, P));
  put(a + 2 * P, 1);
  EXPECT_EQ(error_of(mm_->madvise(a, 4 * P, MADV_DONTNEED)), ENOMEM);
  EXPECT_EQ(peek(a + 2 * P), 0u) << "what is there is done all the same";
  for (int advice : {MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE,
                     MADV_DONTDUMP, MADV_DODUMP, MADV_SEQUENTIAL, MADV_NORMAL})
    EXPECT_TRUE(mm_->madvise(a, P, advice)) << advice;
  UserAddr s = map(1, kRw, kSharedAnon);
  EXPECT_EQ(error_of(mm_->madvise(s, P, MADV_FREE)), EINVAL);
  EXPECT_EQ(error_of(mm_->madvise(s, P, MADV_WIPEONFORK)), EINVAL);
}

TEST_F(MadviseTest, PopulateFaultsIn) {
  UserAddr a = map(64, PROT_READ);
  ASSERT_TRUE(mm_->madvise(a, 64 * P, MADV_POPULATE_READ));
  EXPECT_EQ(tables(*mm_).present(), 64u);
  EXPECT_EQ(error_of(mm_->madvise(a, 64 * P, MADV_POPULATE_WRITE)), EINVAL);
  UserAddr b = map(64, kRw, kPrivateAnon | MAP_POPULATE);
  for (u64 i = 0; i < 64; i++) EXPECT_TRUE(mm_->address_space().lookup(b + i * P).prot.write);
  EXPECT_EQ(error_of(mm_->madvise(b + 64 * P, P, MADV_POPULATE_READ)), 0) << "merged or not, it is a's";
}

using MlockTest = MmTest;

TEST_F(MlockTest, LocksPopulateAndCount) {
  UserAddr a = map(32);
  ASSERT_TRUE(mm_->mlock(a + 100, 10 * P, false));
  EXPECT_EQ(mm_->usage().locked, 11 * P);
  for (u64 i = 0; i < 11; i++) EXPECT_TRUE(mm_->address_space().lookup(a + i * P).present());
  ASSERT_TRUE(mm_->mlock(a, 11 * P, false)) << "again, not counted twice";
  EXPECT_EQ(mm_->usage().locked, 11 * P);
  EXPECT_EQ(error_of(mm_->madvise(a, P, MADV_DONTNEED)), EINVAL);
  ASSERT_TRUE(mm_->munlock(a, 5 * P));
  EXPECT_EQ(mm_->usage().locked, 6 * P);
  ASSERT_TRUE(mm_->munlockall());
  EXPECT_EQ(mm_->usage().locked, 0u);
  EXPECT_EQ(maps(a), "0-32 rw-p\n");
}

TEST_F(MlockTest, LimitsAndErrors) {
  mm_->set_limits({.memlock = 8 * P});
  UserAddr a = map(32);
  EXPECT_EQ(error_of(mm_->mlock(a, 9 * P, false)), ENOMEM);
  EXPECT_TRUE(mm_->mlock(a, 8 * P, true));
  EXPECT_EQ(error_of(mm_->mlock(a + 8 * P, P, false)), ENOMEM);
  EXPECT_EQ(error_of(mm_->mmap({.len = P, .prot = kRw, .flags = kPrivateAnon | MAP_LOCKED})), EAGAIN);
  EXPECT_EQ(error_of(mm_->mlock(a, ~u64{0}, false)), EINVAL);
  EXPECT_EQ(error_of(mm_->munlock(0x50000000, P)), ENOMEM);
  EXPECT_EQ(error_of(mm_->mlockall(0)), EINVAL);
  EXPECT_EQ(error_of(mm_->mlockall(8)), EINVAL);
  EXPECT_EQ(error_of(mm_->mlockall(MCL_CURRENT)), ENOMEM);
  mm_->set_limits({.memlock = 0});
  EXPECT_EQ(error_of(mm_->mlock(a, P, false)), EPERM);
}

TEST_F(MlockTest, FutureMappingsAreLocked) {
  mm_->set_limits({.memlock = 64 * P});
  ASSERT_TRUE(mm_->mlockall(MCL_CURRENT | MCL_FUTURE));
  UserAddr a = map(4);
  EXPECT_EQ(mm_->usage().locked, 4 * P);
  EXPECT_TRUE(mm_->address_space().lookup(a + 3 * P).present());
  auto child = *mm_->fork();
  EXPECT_EQ(child->usage().locked, 0u);
}

TEST_F(MlockTest, MincoreTellsResidence) {
  UserAddr a = map(4);
  ASSERT_TRUE(mm_->madvise(a, 4 * P, MADV_RANDOM));
  put(a + P, 1);
  std::string seen;
  ASSERT_TRUE(mm_->mincore(a, 4 * P - 100, [&](u64 i, bool in) -> Result<void> {
    EXPECT_EQ(i, seen.size());
    seen += in ? '1' : '0';
    return {};
  }));
  EXPECT_EQ(seen, "0100");
  auto none = [](u64, bool) -> Result<void> { return {}; };
  EXPECT_EQ(error_of(mm_->mincore(a + 1, P, none)), EINVAL);
  EXPECT_EQ(error_of(mm_->mincore(a, 5 * P, none)), ENOMEM);
  EXPECT_EQ(error_of(mm_->mincore(a, ~u64{0}, none)), ENOMEM);
}

TEST_F(MlockTest, MsyncChecksItsArguments) {
  UserAddr a = map(4, kRw, kSharedAnon);
  EXPECT_TRUE(mm_->msync(a, 4 * P, MS_SYNC));
  EXPECT_TRUE(mm_->msync(a, 4 * P, MS_ASYNC));
  EXPECT_EQ(error_of(mm_->msync(a, P, MS_SYNC | MS_ASYNC)), EINVAL);
  EXPECT_EQ(error_of(mm_->msync(a + 1, P, MS_SYNC)), EINVAL);
  EXPECT_EQ(error_of(mm_->msync(a, 5 * P, MS_SYNC)), ENOMEM);
  ASSERT_TRUE(mm_->mlock(a, P, true));
  EXPECT_EQ(error_of(mm_->msync(a, P, MS_INVALIDATE)), EBUSY);
}

TEST_F(MlockTest, UsageCountsByKind) {
  UserAddr a = map(10), s = map(6, kRw, kSharedAnon);
  ASSERT_TRUE(mm_->madvise(a, 10 * P, MADV_RANDOM));
  put(a, 1);
  put(a + P, 1);
  put(s, 1);
  MemoryUsage u = mm_->usage();
  EXPECT_EQ(u.virtual_size, 16 * P);
  EXPECT_EQ(u.rss_anon, 2 * P);
  EXPECT_EQ(u.rss_shmem, 6 * P) << "a fault in a store makes some pages ahead";
  EXPECT_EQ(u.data, 10 * P);
  ASSERT_TRUE(mm_->munmap(a, 10 * P));
  u = mm_->usage();
  EXPECT_EQ(u.rss_anon, 0u);
  EXPECT_EQ(u.peak_virtual, 16 * P);
  EXPECT_EQ(u.peak_rss, 8 * P);
}

}  // namespace
}  // namespace rf::mm
