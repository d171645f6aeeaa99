// What a guest address space maps: the sentry's own table, in the shape of x86 page tables. The host's kernel has
// another, made of the stub process's mappings, which lags behind: an entry tells what it knows of the page.
#pragma once

#include <functional>

#include "core/result.h"
#include "platform/platform.h"

namespace rf::trap {

class PageMap {
 public:
  // An entry: the page's Phys, and these bits. Absent pages are 0.
  static constexpr u64 kPresent = 1, kWrite = 2, kExec = 4;
  // The stub process maps it, with these rights at the most.
  static constexpr u64 kInstalled = 8, kInstalledWrite = 16, kInstalledExec = 32;
  // What it maps is a patched copy (code_patches.h).
  static constexpr u64 kPatched = 64;
  static constexpr u64 kFlags = kPageMask;

  PageMap() = default;
  ~PageMap();
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;

  // The entry of va; its table is made if there is none. Null: no memory.
  u64* make(u64 va);
  // The entry of va, or null if there is no table for it. Other threads may change entries meanwhile: see load().
  u64* find(u64 va) const;
  static u64 load(const u64& entry);
  static void store(u64& entry, u64 v);

  // Calls f(va, entry) for each present page of [va, end), in order.
  template <class F>
  void visit(u64 va, u64 end, F&& f) const {
    while (va < end) {
      u64 skip = kPageSize;
      u64* e = lookup(va, skip);
      if (!e) {
        va = (va | (skip - 1)) + 1;
        continue;
      }
      const u64 stop = std::min(end, (va | (kLeafSpan - 1)) + 1);
      for (; va < stop; va += kPageSize, ++e)
        if (load(*e) & kPresent) f(va, *e);
    }
  }

  static constexpr u64 kLeafSpan = u64{512} << kPageShift;  // what a table of entries covers

 private:
  static constexpr int kTopLevel = 3;
  // The entry; or null, and `skip` the span of what is absent around va.
  u64* lookup(u64 va, u64& skip) const;
  void free_below(u64* table, int level);

  u64* top_ = nullptr;
};

}  // namespace rf::trap
