#include "mm/mm_fixture.h"
#include "mm/vma.h"

namespace rf::mm {
namespace {

using MmapTest = MmTest;
using Kind = FaultFailure::Kind;
constexpr u64 P = kPageSize;

TEST_F(MmapTest, WrongArguments) {
  auto error = [&](const MmapArgs& a) { return error_of(mm_->mmap(a)); };
  EXPECT_EQ(error({.len = 0, .flags = kPrivateAnon}), EINVAL);
  EXPECT_EQ(error({.len = ~u64{0}, .flags = kPrivateAnon}), ENOMEM);
  EXPECT_EQ(error({.len = ~u64{0} - 2 * P, .flags = kPrivateAnon}), ENOMEM);
  EXPECT_EQ(error({.len = u64{1} << 50, .flags = kPrivateAnon}), ENOMEM);
  EXPECT_EQ(error({.len = P, .flags = MAP_ANONYMOUS}), EINVAL);
  EXPECT_EQ(error({.len = P, .flags = MAP_SHARED_VALIDATE | MAP_ANONYMOUS}), EINVAL);
  EXPECT_EQ(error({.len = P, .flags = kPrivateAnon | MAP_HUGETLB}), ENOMEM);
  EXPECT_EQ(error({.len = P, .flags = kSharedAnon | MAP_GROWSDOWN}), EINVAL);
  EXPECT_EQ(error({.addr = 0x100123, .len = P, .flags = kPrivateAnon | MAP_FIXED}), EINVAL);
  EXPECT_EQ(error({.addr = P, .len = P, .flags = kPrivateAnon | MAP_FIXED}), EPERM);
  EXPECT_EQ(error({.addr = platform::kGuestAddressLimit - P, .len = 2 * P, .flags = kPrivateAnon | MAP_FIXED}), ENOMEM);
  EXPECT_EQ(error({.addr = ~u64{0} - 8191, .len = 2 * P, .flags = kPrivateAnon | MAP_FIXED}), ENOMEM);
}

TEST_F(MmapTest, HintsAreFollowedWhenFree) {
  UserAddr a = map(4, kRw, kPrivateAnon, 0x10000000);
  EXPECT_EQ(a, 0x10000000u);
  UserAddr b = map(4, kRw, kPrivateAnon, 0x10002000);
  EXPECT_NE(b, 0x10002000u);
  EXPECT_EQ(map(1, kRw, kPrivateAnon, 0x10), kMmapMinAddr) << "low hints are raised";
}

TEST_F(MmapTest, PlacementIsTopDownAndReusesHoles) {
  UserAddr a = map(10), b = map(10);
  EXPECT_EQ(b, a - 10 * P);
  EXPECT_EQ(maps(b), "0-20 rw-p\n") << "neighbours merge";
  ASSERT_TRUE(mm_->munmap(a + 2 * P, 4 * P));
  EXPECT_EQ(map(4), a + 2 * P) << "the highest hole that fits";
  ASSERT_TRUE(mm_->munmap(a + 2 * P, 4 * P));
  EXPECT_EQ(map(5), b - 5 * P);
  EXPECT_EQ(map(3), a + 3 * P);
}

TEST_F(MmapTest, ManyHolesAreFoundAgain) {
  // Holes of one page everywhere: large requests go below, small ones fill the holes from the top.
  UserAddr a = map(2000);
  for (u64 i = 1; i < 2000; i += 2) ASSERT_TRUE(mm_->munmap(a + i * P, P));
  for (int i = 0; i < 5; i++) EXPECT_LT(map(2, PROT_READ), a);
  EXPECT_EQ(map(1), a + 1999 * P);
  EXPECT_EQ(map(1), a + 1997 * P);
  ASSERT_TRUE(mm_->munmap(a + 1500 * P, 20 * P));
  EXPECT_EQ(map(20, PROT_READ), a + 1500 * P) << "a hole that grew is seen";
}

TEST_F(MmapTest, FixedReplaces) {
  UserAddr a = map(10);
  put(a + 4 * P, 9);
  map(2, PROT_READ, kPrivateAnon | MAP_FIXED, a + 4 * P);
  EXPECT_EQ(maps(a), "0-4 rw-p\n4-6 r--p\n6-10 rw-p\n");
  EXPECT_EQ(peek(a + 4 * P), 0u);
  EXPECT_EQ(
      error_of(mm_->mmap({.addr = a + 9 * P, .len = 2 * P, .prot = kRw, .flags = kPrivateAnon | MAP_FIXED_NOREPLACE})),
      EEXIST);
  EXPECT_EQ(map(2, kRw, kPrivateAnon | MAP_FIXED_NOREPLACE, a + 10 * P), a + 10 * P);
}

TEST_F(MmapTest, LowMappings) {
  UserAddr a = map(4, kRw, kPrivateAnon | MAP_32BIT);
  EXPECT_GE(a, 0x40000000u);
  EXPECT_LE(a + 4 * P, 0x80000000u);
  EXPECT_EQ(map(4, kRw, kPrivateAnon | MAP_32BIT), a + 4 * P);
}

TEST_F(MmapTest, HugeReservationsCostNothing) {
  UserAddr a = map((u64{20} << 40) / P, PROT_NONE, kPrivateAnon | MAP_NORESERVE);
  ASSERT_TRUE(mm_->mprotect(a + (u64{1} << 40), 16 * P, kRw));
  put(a + (u64{1} << 40), 3);
  EXPECT_EQ(peek(a + (u64{1} << 40)), 3u);
  EXPECT_LE(frames_->used(), u64{1} << 20);
  ASSERT_TRUE(mm_->munmap(a, u64{20} << 40));
}

TEST_F(MmapTest, MunmapErrors) {
  EXPECT_EQ(error_of(mm_->munmap(0x10001, P)), EINVAL);
  EXPECT_EQ(error_of(mm_->munmap(0x10000, 0)), EINVAL);
  EXPECT_EQ(error_of(mm_->munmap(platform::kGuestAddressLimit, P)), EINVAL);
  EXPECT_EQ(error_of(mm_->munmap(0x10000, ~u64{0})), EINVAL);
  EXPECT_TRUE(mm_->munmap(0x10000, P)) << "nothing there is fine";
}

TEST_F(MmapTest, MprotectChangesRightsAndKeepsPages) {
  UserAddr a = map(8);
  for (u64 i = 0; i < 8; i++) put(a + i * P, i + 1);
  ASSERT_TRUE(mm_->mprotect(a + 2 * P, 3 * P, PROT_READ));
  EXPECT_EQ(maps(a), "0-2 rw-p\n2-5 r--p\n5-8 rw-p\n");
  EXPECT_EQ(fault_kind(a + 2 * P, Access::kWrite), Kind::kAccErr);
  EXPECT_EQ(fault_kind(a + 2 * P, Access::kExec), Kind::kAccErr);
  ASSERT_TRUE(mm_->mprotect(a, 8 * P, PROT_NONE));
  EXPECT_EQ(fault_kind(a, Access::kRead), Kind::kAccErr);
  EXPECT_EQ(tables(*mm_).present(), 0u);
  u64 word;
  EXPECT_EQ(mm_->copy_in(&word, a, 8), 0u);
  EXPECT_EQ(mm_->usage().rss_anon, 8 * P) << "hidden pages are resident";
  ASSERT_TRUE(mm_->mprotect(a, 8 * P, kRw));
  EXPECT_EQ(maps(a), "0-8 rw-p\n");
  for (u64 i = 0; i < 8; i++) EXPECT_EQ(peek(a + i * P), i + 1);
}

TEST_F(MmapTest, HiddenPagesFollowUnmapForkAndMove) {
  UserAddr a = map(8);
  for (u64 i = 0; i < 8; i++) put(a + i * P, i + 1);
  u64 used = frames_->used();
  ASSERT_TRUE(mm_->mprotect(a, 8 * P, PROT_NONE));
  ASSERT_TRUE(mm_->munmap(a + 3 * P, P));
  EXPECT_EQ(frames_->used(), used - P);
  auto child = *mm_->fork();
  ASSERT_TRUE(child->mprotect(a, 3 * P, kRw));
  put(*child, a + P, 99);
  ASSERT_TRUE(mm_->mprotect(a, 3 * P, kRw));
  EXPECT_EQ(peek(a + P), 2u);
  EXPECT_EQ(peek(*child, a + P), 99u);
  UserAddr b = *mm_->mremap(a + 4 * P, 4 * P, 6 * P, MREMAP_MAYMOVE, 0);
  ASSERT_TRUE(mm_->mprotect(b, 4 * P, PROT_READ));
  EXPECT_EQ(peek(b + 3 * P), 8u);
}

TEST_F(MmapTest, MprotectErrors) {
  UserAddr a = map(4);
  ASSERT_TRUE(mm_->munmap(a + 2 * P, P));
  EXPECT_EQ(error_of(mm_->mprotect(a + 1, P, PROT_READ)), EINVAL);
  EXPECT_EQ(error_of(mm_->mprotect(a, P, 0x40)), EINVAL);
  EXPECT_EQ(error_of(mm_->mprotect(a, P, PROT_READ | PROT_GROWSUP)), EINVAL);
  EXPECT_EQ(error_of(mm_->mprotect(a, P, PROT_READ | PROT_GROWSDOWN)), EINVAL);
  EXPECT_EQ(error_of(mm_->mprotect(a, 4 * P, PROT_READ)), ENOMEM);
  EXPECT_EQ(maps(a), "0-2 r--p\n3-4 rw-p\n") << "what comes before the hole is changed";
  EXPECT_EQ(error_of(mm_->mprotect(a + 2 * P, 2 * P, PROT_READ)), ENOMEM);
  EXPECT_TRUE(mm_->mprotect(a, 0, PROT_READ));
}

TEST_F(MmapTest, TheNumberOfVmasIsLimited) {
  UserAddr a = map(2 * kMaxVmas + 10, PROT_READ);
  u64 i = 1;
  while (mm_->mprotect(a + i * P, P, kRw)) i += 2;
  EXPECT_EQ(error_of(mm_->mprotect(a + i * P, P, kRw)), ENOMEM);
  EXPECT_EQ(error_of(mm_->munmap(a + i * P, P)), ENOMEM) << "a hole would split one more";
  EXPECT_NEAR(static_cast<double>(i), kMaxVmas, 3);
  EXPECT_TRUE(mm_->munmap(a, 2 * P));
}

TEST_F(MmapTest, LimitsOnSize) {
  mm_->set_limits({.data = 16 * P, .as = 64 * P});
  EXPECT_EQ(error_of(mm_->mmap({.len = 65 * P, .prot = PROT_READ, .flags = kPrivateAnon})), ENOMEM);
  EXPECT_EQ(error_of(mm_->mmap({.len = 17 * P, .prot = kRw, .flags = kPrivateAnon})), ENOMEM);
  UserAddr a = map(60, PROT_READ);
  EXPECT_EQ(error_of(mm_->mmap({.len = 5 * P, .prot = PROT_READ, .flags = kPrivateAnon})), ENOMEM);
  EXPECT_EQ(map(60, PROT_READ, kPrivateAnon | MAP_FIXED, a), a) << "what is replaced does not count";
  EXPECT_EQ(error_of(mm_->mprotect(a, 60 * P, kRw)), ENOMEM);
  EXPECT_TRUE(mm_->mprotect(a, 10 * P, kRw));
}

class BrkTest : public MmTest {
 protected:
  BrkTest() { mm_->layout().start_brk = mm_->layout().brk = kStart; }
  static constexpr UserAddr kStart = 0x60000100;
};

TEST_F(BrkTest, GrowsAndShrinks) {
  EXPECT_EQ(mm_->brk(0), kStart);
  EXPECT_EQ(mm_->brk(kStart + 10 * P), kStart + 10 * P);
  put(kStart + 5 * P, 4);
  EXPECT_EQ(mm_->brk(kStart + 12 * P), kStart + 12 * P);
  EXPECT_EQ(maps(page_up(kStart)), "0-12 rw-p\n");
  mm_->for_each_vma(false, [](const VmaInfo& v) { EXPECT_EQ(*v.name, "[heap]"); });
  EXPECT_EQ(mm_->brk(kStart + P), kStart + P);
  EXPECT_EQ(fault_kind(kStart + 5 * P, Access::kRead), Kind::kMapErr);
  EXPECT_EQ(mm_->brk(kStart + 12 * P), kStart + 12 * P);
  EXPECT_EQ(peek(kStart + 5 * P), 0u);
  EXPECT_EQ(mm_->brk(kStart - 1), kStart + 12 * P);
}

TEST_F(BrkTest, StopsAtOtherMappingsAndLimits) {
  map(1, kRw, kPrivateAnon | MAP_FIXED, 0x60010000);
  EXPECT_EQ(mm_->brk(0x60010000), kStart) << "a page stays free above";
  EXPECT_EQ(mm_->brk(0x6000f000), 0x6000f000u);
  mm_->set_limits({.data = 0x2000});
  EXPECT_EQ(mm_->brk(0x60003000), 0x6000f000u);
  EXPECT_EQ(mm_->brk(~u64{0}), 0x6000f000u);
}

}  // namespace
}  // namespace rf::mm
