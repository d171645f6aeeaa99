// A program of its own, linked as the sentry is (static-PIE, with high_heap.cc).
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr uintptr_t kGuestAddressLimit = 0x7000'0000'0000;

uintptr_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

thread_local int t_variable = 1;

TEST(HighHeapTest, HeapAndTlsLieAboveTheGuest) {
  EXPECT_GE(address(&t_variable), kGuestAddressLimit);
  EXPECT_GE(address(sbrk(0)), kGuestAddressLimit);
  std::vector<std::unique_ptr<char[]>> blocks;
  for (size_t size = 16; size < (1 << 22); size *= 2) {
    blocks.emplace_back(new char[size]);
    EXPECT_GE(address(blocks.back().get()), kGuestAddressLimit) << size;
  }
  std::thread([] { EXPECT_GE(address(std::make_unique<int>().get()), kGuestAddressLimit); }).join();
}

TEST(HighHeapTest, NothingIsMappedLow) {
  FILE* maps = fopen("/proc/self/maps", "r");
  ASSERT_NE(maps, nullptr);
  char line[512];
  while (fgets(line, sizeof line, maps)) EXPECT_GE(strtoull(line, nullptr, 16), kGuestAddressLimit) << line;
  fclose(maps);
}

TEST(HighHeapTest, TrimmedMemoryComesBackAsZeroes) {
  auto* p = static_cast<char*>(sbrk(3 * 4096));
  ASSERT_NE(p, reinterpret_cast<char*>(-1));
  memset(p, 1, 3 * 4096);
  EXPECT_EQ(sbrk(-3 * 4096), p + 3 * 4096);
  EXPECT_EQ(sbrk(3 * 4096), p);
  // malloc's break is seldom aligned: the first page may keep its old contents, as with the kernel's.
  for (int i = 4096; i < 3 * 4096; i++) ASSERT_EQ(p[i], 0);
  EXPECT_EQ(brk(p), 0);
  EXPECT_EQ(sbrk(0), p);
}

TEST(HighHeapTest, TheReservationHasAnEnd) {
  void* before = sbrk(0);
  EXPECT_EQ(sbrk(intptr_t{1} << 40), reinterpret_cast<void*>(-1));
  EXPECT_EQ(sbrk(-(intptr_t{1} << 40)), reinterpret_cast<void*>(-1));
  EXPECT_EQ(sbrk(0), before);
}

}  // namespace
