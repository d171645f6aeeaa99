#include "mm/chunk_map.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace rf::mm {
namespace {

constexpr u64 kChunks = platform::GuestMemory::kWindowBase / kHugePageSize;
// How many chunks of a list are searched for a long enough run before fresh memory is preferred.
constexpr int kProbes = 4;
// Chunks by which the memory file grows: only its size, nothing is committed.
constexpr u64 kGrowStep = 64;

// The first bit at or after `from` that is set (or clear, with `invert`); kChunkPages when none.
u64 next_bit(const u64* words, u64 from, bool invert) {
  while (from < kChunkPages) {
    u64 w = words[from / 64];
    if (invert) w = ~w;
    w >>= from % 64;
    if (w != 0) return std::min<u64>(from + static_cast<u64>(std::countr_zero(w)), kChunkPages);
    from = (from / 64 + 1) * 64;
  }
  return kChunkPages;
}

u64 bits(u64 from, u64 count) { return (count == 64 ? ~u64{0} : (u64{1} << count) - 1) << from; }

// Sets or clears [first, first + count).
void set_bits(u64* words, u64 first, u64 count, bool value) {
  while (count != 0) {
    u64 at = first % 64, n = std::min(count, 64 - at);
    u64& w = words[first / 64];
    w = value ? w | bits(at, n) : w & ~bits(at, n);
    first += n;
    count -= n;
  }
}

}  // namespace

ChunkMap::ChunkMap(platform::GuestMemory& memory, u64 limit_pages)
    : memory_(memory),
      // Room for gaps and for the workers' reserves.
      soft_limit_chunks_((limit_pages + limit_pages / 16) / kChunkPages + 16),
      chunks_(kChunks) {}

PageRange ChunkMap::find_run(const Chunk& c, u64 pages) {
  PageRange best;
  for (u64 at = next_bit(c.free, 0, false); at < kChunkPages;) {
    u64 end = next_bit(c.free, at, true);
    if (end - at > best.count) best = {at, end - at};
    if (best.count >= pages) break;
    at = next_bit(c.free, end, false);
  }
  return best;
}

void ChunkMap::link(u32 index, u32 list) {
  Chunk& c = chunks_[index];
  c.list = static_cast<u8>(list);
  c.prev = kNone;
  c.next = heads_[list];
  if (c.next != kNone) chunks_[c.next - 1].prev = index + 1;
  heads_[list] = index + 1;
  if (list == kDirtyList) free_dirty_.fetch_add(1, std::memory_order_relaxed);
}

void ChunkMap::unlink(u32 index) {
  Chunk& c = chunks_[index];
  if (c.list == 0) return;
  if (c.list == kDirtyList) {
    u64 left = free_dirty_.fetch_sub(1, std::memory_order_relaxed) - 1;
    low_water_ = std::min(low_water_, left);
  }
  if (c.next != kNone) chunks_[c.next - 1].prev = c.prev;
  if (c.prev != kNone)
    chunks_[c.prev - 1].next = c.next;
  else
    heads_[c.list] = c.next;
  c.list = 0;
}

// Puts a chunk in the list that its free pages ask for.
void ChunkMap::relist(u32 index) {
  Chunk& c = chunks_[index];
  u32 list = 0;
  if (c.free_pages == kChunkPages)
    list = c.dirty ? kDirtyList : kCleanList;
  else if (c.free_pages != 0)
    list = static_cast<u32>(std::bit_width(c.free_pages));
  if (list == c.list) return;
  unlink(index);
  if (list != 0) link(index, list);
}

PageRange ChunkMap::cut(u32 index, PageRange within) {
  Chunk& c = chunks_[index];
  set_bits(c.free, within.first, within.count, false);
  c.free_pages -= static_cast<u32>(within.count);
  c.dirty = true;
  relist(index);
  return {index * kChunkPages + within.first, within.count};
}

PageRange ChunkMap::take_partial(u64 pages) {
  for (u32 list = static_cast<u32>(std::bit_width(pages)); list < kDirtyList; list++) {
    u32 at = heads_[list];
    for (int probe = 0; at != kNone && probe < kProbes; probe++, at = chunks_[at - 1].next) {
      PageRange run = find_run(chunks_[at - 1], pages);
      if (run.count >= pages) return cut(at - 1, {run.first, pages});
    }
  }
  return {};
}

PageRange ChunkMap::take_any_gap(u64 pages) {
  for (u32 list = kDirtyList - 1; list > 0; list--) {
    u32 at = heads_[list];
    if (at == kNone) continue;
    PageRange run = find_run(chunks_[at - 1], pages);
    return cut(at - 1, {run.first, std::min(run.count, pages)});
  }
  return {};
}

// Adds a chunk to the memory file.
bool ChunkMap::grow() {
  u64 wanted = (u64{in_file_} / kGrowStep + 1) * kGrowStep;
  if (in_file_ == kChunks || !memory_.extend(wanted * kHugePageSize)) return false;
  Chunk& c = chunks_[in_file_];
  std::memset(c.free, 0xff, sizeof c.free);
  c.free_pages = kChunkPages;
  link(in_file_, kCleanList);
  in_file_++;
  return true;
}

PageRange ChunkMap::take(u64 pages) {
  SpinGuard guard(lock_);
  if (PageRange r = take_partial(pages); r.count != 0) return r;
  for (u32 list : {kDirtyList, kCleanList})
    if (heads_[list] != kNone) return cut(heads_[list] - 1, {0, pages});
  bool roomy = in_file_ < soft_limit_chunks_;
  if (roomy && grow()) return cut(heads_[kCleanList] - 1, {0, pages});
  if (PageRange r = take_any_gap(pages); r.count != 0) return r;
  if (!roomy && grow()) return cut(heads_[kCleanList] - 1, {0, pages});
  return {};
}

PageRange ChunkMap::take_whole() {
  SpinGuard guard(lock_);
  for (u32 list : {kDirtyList, kCleanList})
    if (heads_[list] != kNone) return cut(heads_[list] - 1, {0, kChunkPages});
  if (in_file_ < soft_limit_chunks_ && grow()) return cut(heads_[kCleanList] - 1, {0, kChunkPages});
  return {};
}

void ChunkMap::give_back(PageRange range) {
  SpinGuard guard(lock_);
  auto index = static_cast<u32>(range.first / kChunkPages);
  Chunk& c = chunks_[index];
  set_bits(c.free, range.first % kChunkPages, range.count, true);
  c.free_pages += static_cast<u32>(range.count);
  RF_CHECK(c.free_pages <= kChunkPages, "frames freed twice");
  relist(index);
}

u64 ChunkMap::reset_low_water() {
  SpinGuard guard(lock_);
  return std::exchange(low_water_, free_dirty_.load(std::memory_order_relaxed));
}

std::vector<u32> ChunkMap::detach_free_dirty(u64 keep) {
  std::vector<u32> out;
  SpinGuard guard(lock_);
  while (free_dirty_.load(std::memory_order_relaxed) > keep) {
    u32 index = heads_[kDirtyList] - 1;
    unlink(index);
    out.push_back(index);
  }
  return out;
}

void ChunkMap::attach_clean(const std::vector<u32>& chunks) {
  SpinGuard guard(lock_);
  for (u32 index : chunks) {
    chunks_[index].dirty = false;
    link(index, kCleanList);
  }
}

}  // namespace rf::mm
