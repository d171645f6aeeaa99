#include "trap/page_map.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace rf::trap {
namespace {

u64 index_of(u64 va, int level) { return (va >> (kPageShift + 9 * level)) & 511; }

u64* new_table() {
  void* p = std::aligned_alloc(kPageSize, kPageSize);
  if (p) std::memset(p, 0, kPageSize);
  return static_cast<u64*>(p);
}

// Entries of the upper levels are pointers.
u64* below(const u64& entry) {
  return reinterpret_cast<u64*>(std::atomic_ref(const_cast<u64&>(entry)).load(std::memory_order_acquire));
}

}  // namespace

PageMap::~PageMap() {
  if (top_) free_below(top_, kTopLevel);
}

// Depth is bounded by the levels.
void PageMap::free_below(u64* table, int level) {
  if (level > 0)
    for (u64 i = 0; i < 512; ++i)
      if (u64* t = below(table[i])) free_below(t, level - 1);
  std::free(table);
}

u64 PageMap::load(const u64& entry) { return std::atomic_ref(const_cast<u64&>(entry)).load(std::memory_order_acquire); }

void PageMap::store(u64& entry, u64 v) { std::atomic_ref(entry).store(v, std::memory_order_release); }

u64* PageMap::make(u64 va) {
  if (!top_ && !(top_ = new_table())) return nullptr;
  u64* table = top_;
  for (int level = kTopLevel; level > 0; --level) {
    u64& entry = table[index_of(va, level)];
    u64* next = below(entry);
    if (!next) {
      next = new_table();
      if (!next) return nullptr;
      store(entry, reinterpret_cast<u64>(next));
    }
    table = next;
  }
  return &table[index_of(va, 0)];
}

u64* PageMap::lookup(u64 va, u64& skip) const {
  u64* table = top_;
  for (int level = kTopLevel; table && level > 0; --level) {
    skip = kPageSize << (9 * level);
    table = below(table[index_of(va, level)]);
  }
  return table ? &table[index_of(va, 0)] : nullptr;
}

u64* PageMap::find(u64 va) const {
  u64 skip;
  return lookup(va, skip);
}

}  // namespace rf::trap
