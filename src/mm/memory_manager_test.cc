#include "mm/mm_fixture.h"

namespace rf::mm {
namespace {

using MemoryManagerTest = MmTest;
using Kind = FaultFailure::Kind;

TEST_F(MemoryManagerTest, AnonymousMemoryReadsAsZerosAndKeepsWhatIsWritten) {
  UserAddr a = map(64);
  EXPECT_EQ(peek(a + 5 * kPageSize), 0u);
  put(a + 5 * kPageSize, 42);
  EXPECT_EQ(peek(a + 5 * kPageSize), 42u);
  EXPECT_EQ(peek(a + 6 * kPageSize), 0u);
}

TEST_F(MemoryManagerTest, ForkSharesCopyOnWrite) {
  UserAddr a = map(8);
  put(a, 1);
  auto child = *mm_->fork();
  EXPECT_EQ(peek(*child, a), 1u);
  put(a, 2);
  put(*child, a + kPageSize, 3);
  EXPECT_EQ(peek(*child, a), 1u);
  EXPECT_EQ(peek(a), 2u);
  EXPECT_EQ(peek(a + kPageSize), 0u);
}

TEST_F(MemoryManagerTest, MunmapInTheMiddleSplits) {
  UserAddr a = map(10);
  put(a + 9 * kPageSize, 7);
  ASSERT_TRUE(mm_->munmap(a + 3 * kPageSize, 2 * kPageSize));
  EXPECT_EQ(maps(a), "0-3 rw-p\n5-10 rw-p\n");
  EXPECT_EQ(fault_kind(a + 3 * kPageSize, Access::kRead), Kind::kMapErr);
  EXPECT_EQ(peek(a + 9 * kPageSize), 7u);
}

}  // namespace
}  // namespace rf::mm
