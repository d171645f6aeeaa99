#include "platform/xstate.h"

#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace rf::platform::xstate {
namespace {

constexpr size_t kMxcsrAt = 24, kMxcsrMaskAt = 28, kHeaderAt = 512, kLegacySize = 576;
constexpr u16 kInitialFcw = 0x37f;
constexpr u32 kInitialMxcsr = 0x1f80;
constexpr u64 kX87AndSse = 3, kAvx = 4, kAvx512 = 0xe0;
constexpr u64 kKept = kX87AndSse | kAvx | kAvx512;

u32 mxcsr_mask() {
  static const u32 mask = [] {
    alignas(16) std::byte area[512] = {};
    _fxsave64(area);
    u32 m;
    std::memcpy(&m, area + kMxcsrMaskAt, 4);
    return m ? m : 0xffbf;
  }();
  return mask;
}

}  // namespace

u64 host_features() {
  u32 lo, hi;
  asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  u64 features = lo & kKept;
  if ((features & kAvx512) != kAvx512 || !(features & kAvx)) features &= ~kAvx512;
  return features | kX87AndSse;
}

size_t size_of(u64 features) {
  size_t size = kLegacySize;
  for (u32 i = 2; i < 63; ++i) {
    if (!(features & (u64{1} << i))) continue;
    u32 a, b, c, d;
    __cpuid_count(0xd, i, a, b, c, d);
    size = std::max<size_t>(size, b + a);
  }
  return size;
}

void reset(std::span<std::byte> image) {
  std::memset(image.data(), 0, image.size());
  std::memcpy(image.data(), &kInitialFcw, sizeof kInitialFcw);
  std::memcpy(image.data() + kMxcsrAt, &kInitialMxcsr, sizeof kInitialMxcsr);
  std::memcpy(image.data() + kHeaderAt, &kX87AndSse, sizeof kX87AndSse);  // the rest in its initial state
}

bool valid(std::span<const std::byte> image, u64 features) {
  u32 mxcsr;
  u64 header[8];
  std::memcpy(&mxcsr, image.data() + kMxcsrAt, sizeof mxcsr);
  std::memcpy(header, image.data() + kHeaderAt, sizeof header);
  if (mxcsr & ~mxcsr_mask()) return false;
  if (header[0] & ~features) return false;
  // XCOMP_BV: the compacted format is not for user memory. The rest of the header is reserved.
  return std::all_of(header + 1, header + 8, [](u64 word) { return word == 0; });
}

void keep_features(std::span<std::byte> image, u64 features) {
  u64 present;
  std::memcpy(&present, image.data() + kHeaderAt, sizeof present);
  present &= features;
  std::memcpy(image.data() + kHeaderAt, &present, sizeof present);
}

}  // namespace rf::platform::xstate
