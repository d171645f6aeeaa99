// The inside of a MemoryManager, shared by its source files.
//
// Structure changes hold map_lock exclusively (through MapEdit); faults hold it shared. Whoever edits the page table
// holds page_lock exclusively, commits the invalidation, releases the lock and only then drops page references.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "core/spinlock.h"
#include "mm/memory_manager.h"
#include "mm/vma.h"

namespace rf::mm {

using platform::kGuestAddressLimit;

// Pages mapped at va: contiguous, alike in rights.
struct PageEntry {
  UserAddr va;
  PhysRun run;
  platform::Prot prot;
};

struct MemoryManager::Impl {
  using Fault = std::expected<void, FaultFailure>;

  explicit Impl(MemoryManager& owner) : mm(owner), frames(owner.env_.frames), space(*owner.space_) {}

  MemoryManager& mm;
  Frames& frames;
  platform::AddressSpace& space;

  FiberRwMutex map_lock;
  SpinRwLock page_lock;

  // --- guarded by map_lock ---
  VmaMap vmas;
  Limits limits;
  u32 lock_future = 0;  // kVmaLocked, kVmaLockOnFault: mlockall(MCL_FUTURE)
  // Pages, by kind, of all VMAs.
  struct Totals {
    u64 all = 0, data = 0, stack = 0, exec = 0, locked = 0, peak = 0;
  } totals;

  // Pages of PROT_NONE mappings, which the page table cannot hold, by address; guarded by page_lock.
  std::map<UserAddr, PhysRun> hidden;

  // Pages in the page table and hidden ones.
  std::atomic<u64> rss_anon{0}, rss_file{0}, rss_shmem{0}, peak_rss{0};

  // Private pages that were written when a fork had shared them: the next fork copies them at once, which saves the
  // faults of both. Guarded by page_lock.
  static constexpr size_t kMostHotPages = 16;
  std::vector<UserAddr> hot_pages;  // the newest last

  mutable SpinLock executable_lock;
  Ref<RefCounted> executable;

  // What an exclusive hold of map_lock removed is let go of after the lock: the end of a file may suspend and take
  // locks that come before it.
  class MapEdit {
   public:
    explicit MapEdit(Impl& impl) : impl_(impl) { impl_.map_lock.lock(); }
    ~MapEdit() { impl_.map_lock.unlock(); }
    MapEdit(const MapEdit&) = delete;
    void discard(std::unique_ptr<Vma> v) { dead_.push_back(std::move(v)); }

   private:
    Impl& impl_;
    std::vector<std::unique_ptr<Vma>> dead_;
  };

  // --- vma_edit.cc: structure; map_lock held exclusively ---
  void account(const Vma& v, bool add);
  Vma& insert_vma(std::unique_ptr<Vma> v);
  void remove_vma(Vma& v, MapEdit& edit);
  // Cuts v at `addr`, inside it; returns the upper part.
  Vma& split_vma(Vma& v, UserAddr addr);
  // Cuts VMAs so that none crosses start or end. ENOMEM at the limit on their number.
  Result<void> split_at(UserAddr start, UserAddr end);
  // Joins what can be joined within [start, end] and at its borders.
  void merge_range(UserAddr start, UserAddr end, MapEdit& edit);
  // Changes the attributes of a whole VMA.
  void set_attributes(Vma& v, int prot, u32 flags);
  Result<void> unmap_range(UserAddr start, UserAddr end, MapEdit& edit);
  // RLIMIT_AS and RLIMIT_DATA for `len` more bytes.
  bool may_expand(u64 len, bool data) const;
  bool may_lock(u64 len) const;
  // First VMA that has a part in [start, end), or null.
  Vma* first_in(UserAddr start, UserAddr end) const {
    Vma* v = vmas.find_ending_after(start);
    return v && v->start < end ? v : nullptr;
  }
  Vma* next_in(const Vma& v, UserAddr end) const {
    Vma* n = vmas.next(v);
    return n && n->start < end ? n : nullptr;
  }
  // Whether VMAs cover [start, end) without a hole.
  bool covered(UserAddr start, UserAddr end) const;

  // --- mmap.cc ---
  Result<UserAddr> find_unmapped(UserAddr hint, u64 len, int flags);
  Result<UserAddr> place(const MmapArgs& args, u64 len);
  Result<std::unique_ptr<Vma>> make_vma(const MmapArgs& args, u64 len);
  // Faults in all of [start, end) that is accessible, for mlock and MAP_POPULATE; stops at the first failure.
  // Without map_lock. Suspends.
  void populate(UserAddr start, UserAddr end);

  // --- mremap.cc: map_lock held exclusively ---
  Result<Vma*> resizable(UserAddr addr, u64 old_len, u64 new_len);
  Result<void> move_vma(UserAddr addr, u64 old_len, UserAddr to, u64 new_len, bool keep_old, MapEdit& edit);
  Result<UserAddr> remap_to(UserAddr addr, u64 old_len, u64 new_len, int flags, UserAddr to, MapEdit& edit);
  bool grow_in_place(Vma& v, u64 more, MapEdit& edit);

  // --- page_edit.cc: pages; takes page_lock itself unless it says otherwise ---
  // The present pages of [start, end), as runs contiguous in both and alike in rights. page_lock is held.
  std::vector<PageEntry> present(UserAddr start, UserAddr end) const;
  // Takes hidden pages out, or lists them. page_lock is held.
  std::vector<PageEntry> take_hidden(UserAddr start, UserAddr end);
  std::vector<PageEntry> list_hidden(UserAddr start, UserAddr end) const;
  void hide(const PageEntry& e);
  void hide_pages(UserAddr start, UserAddr end);
  // Drops references; page_lock is not held.
  void release(const std::vector<PhysRun>& runs);
  // Maps all of a run or nothing. page_lock is held.
  Result<void> map_whole(UserAddr va, const PhysRun& run, platform::Prot prot);
  // Whether v may write to this present page without a fault: it is shared, or v's alone.
  bool writable_now(const Vma& v, platform::Phys p) const {
    return (v.prot & PROT_WRITE) != 0 && (v.shared() || (!frames.is_file(p) && frames.owners(p) == 1));
  }
  void count_pages(const PhysRun& run, bool add);
  // Maps run at va where nothing is mapped yet; pages that lost a race against another fault are freed. Takes the
  // references over. ENOMEM: no memory for page tables (and the run is freed).
  Result<void> map_new(UserAddr va, PhysRun run, platform::Prot prot);
  void zap(UserAddr start, UserAddr end);
  // zap() for the end of the address space, over VMAs and what lies between them.
  void zap_all();
  // Those pages of [start, end) that are file pages, for a private mapping that keeps its copies.
  void zap_file_pages(UserAddr start, UserAddr end);
  // Gives the pages the rights of `v`: private pages that are shared copy-on-write stay read-only. Pages are lost when
  // there is no memory for page tables: ENOMEM.
  Result<void> update_rights(const Vma& v);
  // Moves page-table entries. Nothing is mapped at `to`.
  Result<void> move_pages(UserAddr from, UserAddr to, u64 len);
  struct Hole {
    UserAddr start = 0, end = 0;
    bool empty() const { return start == end; }
  };
  // What is not mapped around va within [low, high); empty when va is mapped.
  Hole hole_around(UserAddr va, UserAddr low, UserAddr high);

  // --- fault.cc: map_lock held shared ---
  // `limit_pages`: most pages to map at once; 0: as the VMA's pattern suggests.
  Fault fault_in(Vma& v, UserAddr page, Access access, u64 limit_pages);
  Fault fault_anonymous(Vma& v, UserAddr page, u64 limit_pages);
  Fault fault_file_read(Vma& v, UserAddr page, u64 limit_pages);
  Fault fault_file_copy(Vma& v, UserAddr page);
  std::pair<UserAddr, UserAddr> copy_window(Vma& v, UserAddr page) const;
  Result<PageEntry> pin_around(const Vma& v, UserAddr page, Hole hole);
  Fault fault_present(Vma& v, UserAddr page, Access access, const platform::AddressSpace::Mapping& mapping);
  Fault break_cow(Vma& v, UserAddr page);
  void note_hot_page(UserAddr page);
  u64 copy_pages(Phys to, Phys from, u64 len);
  bool scarce(u64 pages) const;
  // Takes map_lock itself. Whether a VMA contains addr now.
  bool grow_stack(UserAddr addr);

  // --- madvise.cc ---
  struct HoleToPunch {
    Ref<MapObject> object;
    u64 offset, len;
  };
  Result<void> discard_pages(const Vma& v, UserAddr start, UserAddr end, int advice, std::vector<HoleToPunch>& punch);
  Result<void> populate_checked(UserAddr start, UserAddr end, Access access);  // takes map_lock itself

  // --- mlock.cc; takes map_lock itself ---
  Result<void> change_lock(UserAddr start, UserAddr end, u32 flags);

  // --- copy.cc; no lock held ---
  template <class F>
  size_t walk(UserAddr addr, size_t len, Access access, F&& f);
  bool poke_page(UserAddr at, const std::byte* in, size_t len);

  // --- fork.cc ---
  Result<void> share_entry(const Vma& v, const PageEntry& e, Impl& child);
  Result<void> share_private_entry(const Vma& v, const PageEntry& e, Impl& child, std::vector<UserAddr>& copied);
  Result<void> copy_for_child(const Vma& v, const PageEntry& page, Impl& child);
  Result<void> copy_vma_pages(const Vma& v, Impl& child, platform::Invalidation& inval);

  // Drops what maps [offset, offset + len) of `object`, for Mappable::unmap_mappings.
  void unmap_object(const Mappable& object, u64 offset, u64 len, bool even_private);
};

// A page count as bytes of a range.
constexpr u64 pages_to_bytes(u64 pages) { return pages << kPageShift; }

}  // namespace rf::mm
