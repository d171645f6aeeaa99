// Linked as the sentry is, with memory_functions.S; what the functions should do is written out as loops here.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace {

using Bytes = std::vector<unsigned char>;

// Called through these, the compiler does not know what they do.
void* (*volatile g_memmove)(void*, const void*, size_t) = memmove;
void* (*volatile g_memcpy)(void*, const void*, size_t) = memcpy;
void* (*volatile g_mempcpy)(void*, const void*, size_t) = mempcpy;
void* (*volatile g_memset)(void*, int, size_t) = memset;
int (*volatile g_memcmp)(const void*, const void*, size_t) = memcmp;

Bytes pattern(size_t size) {
  Bytes b(size);
  for (size_t i = 0; i < size; ++i) b[i] = static_cast<unsigned char>(i * 167 + (i >> 8) + 1);
  return b;
}

std::vector<size_t> lengths() {
  std::vector<size_t> all;
  for (size_t n = 0; n <= 200; ++n) all.push_back(n);
  for (size_t n : {255, 256, 257, 510, 511, 512, 513, 519, 520, 1000, 4095, 4096, 4097}) all.push_back(n);
  return all;
}

TEST(MemoryFunctionsTest, CopiesMoveEveryLengthAndNothingBeside) {
  constexpr size_t kRoom = 4200, kFrom = 16, kTo = kRoom + 48;
  for (size_t n : lengths())
    for (size_t shift = 0; shift < 8; ++shift) {
      Bytes b = pattern(2 * kRoom + 128), expected = b;
      for (size_t i = 0; i < n; ++i) expected[kTo + shift + i] = b[kFrom + i];
      Bytes c = b;
      ASSERT_EQ(g_memcpy(&b[kTo + shift], &b[kFrom], n), &b[kTo + shift]);
      ASSERT_EQ(g_mempcpy(&c[kTo + shift], &c[kFrom], n), &c[kTo + shift] + n);
      ASSERT_TRUE(b == expected) << n << " " << shift;
      ASSERT_TRUE(c == expected) << n << " " << shift;
    }
}

TEST(MemoryFunctionsTest, OverlappingMovesAreAsIfThroughACopy) {
  for (size_t n : lengths())
    for (size_t by : {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 100, 511, 600}) {
      const Bytes original = pattern(n + 1300);
      Bytes up = original, down = original, expected_up = original, expected_down = original;
      for (size_t i = 0; i < n; ++i) expected_up[16 + by + i] = original[16 + i];
      for (size_t i = 0; i < n; ++i) expected_down[16 + i] = original[16 + by + i];
      g_memmove(&up[16 + by], &up[16], n);
      g_memmove(&down[16], &down[16 + by], n);
      ASSERT_TRUE(up == expected_up) << n << " up by " << by;
      ASSERT_TRUE(down == expected_down) << n << " down by " << by;
    }
}

TEST(MemoryFunctionsTest, SetsEveryLengthAndNothingBeside) {
  for (size_t n : lengths())
    for (size_t shift = 0; shift < 8; ++shift) {
      Bytes b = pattern(n + 64), expected = b;
      for (size_t i = 0; i < n; ++i) expected[16 + shift + i] = 0xa5;
      ASSERT_EQ(g_memset(&b[16 + shift], 0x12a5, n), &b[16 + shift]);
      ASSERT_TRUE(b == expected) << n << " " << shift;
    }
}

TEST(MemoryFunctionsTest, ComparisonsGoByTheFirstDifference) {
  for (size_t n : lengths()) {
    Bytes a = pattern(n + 1), b = a;
    b[n] ^= 1;  // behind the end
    ASSERT_EQ(g_memcmp(a.data(), b.data(), n), 0) << n;
    for (size_t at : {size_t{0}, n / 3, n / 2, n - 1}) {
      if (at >= n) continue;
      Bytes c = a;
      c[at] = static_cast<unsigned char>(a[at] + 128);  // the sign matters: bytes are unsigned
      if (at + 1 < n) c[at + 1] = static_cast<unsigned char>(~a[at + 1]);
      const bool less = a[at] < c[at];
      ASSERT_EQ(g_memcmp(a.data(), c.data(), n) < 0, less) << n << " at " << at;
      ASSERT_EQ(g_memcmp(c.data(), a.data(), n) < 0, !less) << n << " at " << at;
    }
  }
}

}  // namespace
