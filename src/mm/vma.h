// VMAs and their ordered map.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>

#include "mm/mappable.h"
#include "mm/memory_manager.h"

namespace rf::mm {

// The default of /proc/sys/vm/max_map_count.
inline constexpr size_t kMaxVmas = 65530;
// Linux's stack_guard_gap.
inline constexpr u64 kStackGuardGap = 256 * kPageSize;

enum VmaFlag : u32 {
  kVmaShared = 1 << 0,
  kVmaMayWrite = 1 << 1,
  kVmaMayExec = 1 << 2,
  kVmaGrowsDown = 1 << 3,
  kVmaLocked = 1 << 4,
  kVmaLockOnFault = 1 << 5,
  kVmaNoReserve = 1 << 6,
  kVmaDontFork = 1 << 7,
  kVmaWipeOnFork = 1 << 8,
  kVmaRandom = 1 << 9,  // MADV_RANDOM: no fault-around
  kVmaSequential = 1 << 10,
  kVmaHuge = 1 << 11,
  kVmaNoHuge = 1 << 12,  // MADV_NOHUGEPAGE: fault-around stays small
  kVmaDontDump = 1 << 13,
  kVmaSpecial = 1 << 14,  // the vDSO: not remapped in part, not advised
};

struct Vma {
  UserAddr start = 0, end = 0;
  int prot = 0;  // PROT_READ | PROT_WRITE | PROT_EXEC
  u32 flags = 0;
  Ref<MapObject> object;  // null: private anonymous
  u64 offset = 0;         // in the object, of start
  std::string name;       // of special mappings

  // Where a sequential reader or writer would fault next, and the pages to map then. Hints: faults of several threads
  // race on them harmlessly.
  std::atomic<u64> next_fault{0};
  std::atomic<u32> around_pages{0};

  u64 length() const { return end - start; }
  bool contains(UserAddr a) const { return a >= start && a < end; }
  bool has(u32 flag) const { return (flags & flag) != 0; }
  bool shared() const { return has(kVmaShared); }
  bool anonymous() const { return !object; }
  u64 object_offset(UserAddr a) const { return offset + (a - start); }
  // The rights that the page table may give at most.
  platform::Prot rights() const {
    return {(prot & (PROT_READ | PROT_WRITE | PROT_EXEC)) != 0, (prot & PROT_WRITE) != 0, (prot & PROT_EXEC) != 0};
  }
  platform::Prot read_only_rights() const {
    platform::Prot p = rights();
    p.write = false;
    return p;
  }
  // What RLIMIT_DATA counts.
  bool counts_as_data() const { return !shared() && (prot & PROT_WRITE) != 0 && !has(kVmaGrowsDown); }
  // A copy with the same attributes, for a split or a fork.
  std::unique_ptr<Vma> clone() const;
};

// Ordered by address; VMAs do not overlap. Not thread-safe: guarded by the map lock.
class VmaMap {
 public:
  using Tree = std::map<UserAddr, std::unique_ptr<Vma>>;

  size_t size() const { return tree_.size(); }
  bool empty() const { return tree_.empty(); }
  // The one that contains addr, or null.
  Vma* find(UserAddr addr) const;
  // The lowest that ends after addr (Linux's find_vma), or null.
  Vma* find_ending_after(UserAddr addr) const;
  Vma* prev(const Vma& v) const;
  Vma* next(const Vma& v) const;
  Vma* first() const { return tree_.empty() ? nullptr : tree_.begin()->second.get(); }
  Vma* last() const { return tree_.empty() ? nullptr : tree_.rbegin()->second.get(); }
  // Whether any overlaps [start, end).
  bool overlaps(UserAddr start, UserAddr end) const;

  Vma& insert(std::unique_ptr<Vma> v);
  std::unique_ptr<Vma> remove(Vma& v);
  // Changes the start of a VMA (which keeps its place in the order).
  void set_start(Vma& v, UserAddr start);

  // The highest (or lowest) address in [low, high) where `len` bytes are free, guard gaps below stacks kept; 0 when
  // there is none.
  UserAddr gap_top_down(u64 len, UserAddr low, UserAddr high);
  UserAddr gap_bottom_up(u64 len, UserAddr low, UserAddr high) const;
  // Whether [start, start+len) is free, with the guard gap of a stack above it.
  bool is_free(UserAddr start, u64 len) const;

 private:
  Tree tree_;
  // Where the last top-down search ended; nothing of hole_size_ bytes or more is free between there and hole_high_.
  UserAddr hole_from_ = 0, hole_high_ = 0;
  u64 hole_size_ = 0;
};

// Whether `b`, which starts where `a` ends, is the same mapping continued.
bool can_merge(const Vma& a, const Vma& b);

}  // namespace rf::mm
