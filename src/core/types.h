// Fixed-width shorthands used in every room.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rf {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

inline constexpr u64 kPageShift = 12;
inline constexpr u64 kPageSize = u64{1} << kPageShift;
inline constexpr u64 kPageMask = kPageSize - 1;
inline constexpr u64 kHugePageSize = u64{2} << 20;

constexpr u64 page_down(u64 v) { return v & ~kPageMask; }
// Wraps to 0 for v in the last page of the address space: check for that before use.
constexpr u64 page_up(u64 v) { return (v + kPageMask) & ~kPageMask; }
constexpr bool page_aligned(u64 v) { return (v & kPageMask) == 0; }

}  // namespace rf
