#include "trap/address_space.h"

#include <gtest/gtest.h>

namespace rf::trap {
namespace {

TEST(TrapAddressSpaceTest, ForEachStopsWhereAChunkOfTheFileWindowEnds) {
  auto memory = GuestMemory::create();
  ASSERT_TRUE(memory);
  auto patches = CodePatches::create();
  ASSERT_TRUE(patches);
  AddressSpace space(**memory, **patches, nullptr);
  constexpr u64 kChunk = GuestMemory::kWindowChunk, kVa = 0x400000 + 3 * kPageSize;
  const Phys phys = GuestMemory::kWindowBase + 8 * kChunk - 2 * kPageSize;
  ASSERT_TRUE(space.map(kVa, phys, kChunk + 4 * kPageSize, {.read = true}));
  std::vector<std::pair<Phys, u64>> found;
  space.for_each(0, platform::kGuestAddressLimit, [&](u64 va, Phys p, u64 len, platform::Prot) {
    EXPECT_EQ(va - kVa, p - phys);
    found.emplace_back(p, len);
  });
  const std::vector<std::pair<Phys, u64>> expected{
      {phys, 2 * kPageSize}, {phys + 2 * kPageSize, kChunk}, {phys + 2 * kPageSize + kChunk, 2 * kPageSize}};
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace rf::trap
