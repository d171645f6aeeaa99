// Which frames of the memory file are free: a bitmap per 2 MiB chunk, and lists of chunks by how much of them is free.
#pragma once

#include <array>
#include <atomic>
#include <vector>

#include "core/spinlock.h"
#include "mm/lazy_array.h"
#include "platform/guest_memory.h"

namespace rf::mm {

inline constexpr u64 kChunkPages = kHugePageSize / kPageSize;

// Frame numbers [first, first + count), within one chunk.
struct PageRange {
  u64 first = 0;
  u64 count = 0;
};

// Thread-safe; never suspends. Grows the memory file as needed.
class ChunkMap {
 public:
  // `limit_pages`: about how much will be in use at most. While less is in the file, long runs are preferred to
  // the use of small gaps.
  ChunkMap(platform::GuestMemory& memory, u64 limit_pages);

  // A run of `pages` (at most a chunk's), or a shorter one when there is none; count 0 when nothing is left.
  PageRange take(u64 pages);
  // A whole chunk, or count 0.
  PageRange take_whole();
  void give_back(PageRange range);

  // Free chunks whose pages have been used since the host last took them back.
  u64 free_dirty_chunks() const { return free_dirty_.load(std::memory_order_relaxed); }
  // The fewest that there were since the last call.
  u64 reset_low_water();
  // Takes free dirty chunks out until `keep` are left; nobody gets them until attach_clean().
  std::vector<u32> detach_free_dirty(u64 keep);
  void attach_clean(const std::vector<u32>& chunks);

 private:
  static constexpr u32 kNone = 0;  // links hold chunk numbers plus one
  // Lists: by bit width of the number of free pages (1 to 9; 0 is not listed), then the wholly free ones.
  static constexpr u32 kDirtyList = 10, kCleanList = 11, kLists = 12;

  struct Chunk {
    u64 free[kChunkPages / 64];  // bit set: free
    u32 free_pages;
    u32 next, prev;
    u8 list;  // 0: in none
    bool dirty;
  };

  static PageRange find_run(const Chunk& c, u64 pages);
  void link(u32 index, u32 list);
  void unlink(u32 index);
  void relist(u32 index);
  PageRange cut(u32 index, PageRange within);
  PageRange take_partial(u64 pages);
  PageRange take_any_gap(u64 pages);
  bool grow();

  platform::GuestMemory& memory_;
  const u64 soft_limit_chunks_;
  SpinLock lock_;
  LazyArray<Chunk> chunks_;
  u32 in_file_ = 0;  // chunks the memory file has room for
  std::array<u32, kLists> heads_{};
  std::atomic<u64> free_dirty_{0};
  u64 low_water_ = 0;
};

}  // namespace rf::mm
