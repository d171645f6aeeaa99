// Page faults: of guest code, and of the sentry's copies to and from guest memory.
#include <algorithm>
#include <bit>
#include <tuple>

#include "mm/memory_manager_impl.h"
#include "mm/safe_copy.h"

namespace rf::mm {
namespace {

using platform::Invalidation;
using platform::Phys;
using platform::Prot;
using Kind = FaultFailure::Kind;

// A fault costs an exit of the virtual machine; a page of zeros costs a tenth of that. So faults map around: anonymous
// memory by 32 KiB, more as long as faults follow one another upwards; file pages, which cost nothing, by a
// whole chunk of the file window; copies of file pages by a little, as they use memory. Small writable file mappings
// are the data of programs and libraries, which is written soon after it is read: they are copied at the first touch.
constexpr u64 kAnonAround = 8;
constexpr u64 kAnonAroundMax = 512;
// Where pages that are mapped and never touched cost next to nothing, but a fault ten times as much: faults that do not
// follow one another map more each time, too.
constexpr u64 kAnonAroundLazyMax = 64;
constexpr u64 kFileAround = 512;
constexpr u64 kCopyAround = 4;
constexpr u64 kCopyAroundSmallVma = 16, kCopyAroundLazy = 16, kCopyAroundLazyMax = 64;
constexpr u64 kSmallVma = 256 << 10;
constexpr u64 kCopyOnReadVma = 64 << 10;
// Around a write to a page shared after fork: copies cost memory, widening the rights of pages that are nobody
// else's any more is free.
constexpr u64 kCowCopyAround = 4;
constexpr u64 kCowWidenAround = 32;

std::unexpected<FaultFailure> fail(Kind kind) { return std::unexpected(FaultFailure{kind}); }

std::unexpected<FaultFailure> fail(Errno e) {
  return fail(errno_value(e) == ENOMEM ? Kind::kOutOfMemory : Kind::kBusAdrErr);
}

// The aligned window of `pages` (a power of two) pages around va, within the VMA.
std::pair<UserAddr, UserAddr> window(const Vma& v, UserAddr va, u64 pages) {
  u64 size = pages << kPageShift;
  UserAddr low = va & ~(size - 1);
  return {std::max(low, v.start), std::min(low + size, v.end)};
}

bool allows(const Vma& v, Access access) {
  switch (access) {
    case Access::kWrite:
      return (v.prot & PROT_WRITE) != 0;
    case Access::kExec:
      return (v.prot & PROT_EXEC) != 0;
    default:
      return (v.prot & (PROT_READ | PROT_WRITE | PROT_EXEC)) != 0;
  }
}

bool satisfies(Prot p, Access access) {
  switch (access) {
    case Access::kWrite:
      return p.write;
    case Access::kExec:
      return p.exec;
    default:
      return p.read;
  }
}

}  // namespace

std::expected<void, FaultFailure> MemoryManager::handle_fault(UserAddr addr, Access access) {
  if (addr >= kGuestAddressLimit) return fail(Kind::kMapErr);
  // A stack that grew can be unmapped by another thread before the second look: not more often than it grows.
  for (;;) {
    {
      std::shared_lock lock(impl_->map_lock);
      if (Vma* v = impl_->vmas.find(addr)) {
        if (!allows(*v, access)) return fail(Kind::kAccErr);
        return impl_->fault_in(*v, page_down(addr), access, 0);
      }
    }
    if (!impl_->grow_stack(addr)) return fail(Kind::kMapErr);
  }
}

// Linux's expand_downwards().
bool MemoryManager::Impl::grow_stack(UserAddr addr) {
  MapEdit edit(*this);
  Vma* v = vmas.find_ending_after(addr);
  if (!v) return false;
  if (v->start <= addr) return true;
  UserAddr start = page_down(addr);
  if (!v->has(kVmaGrowsDown) || start < kMmapMinAddr) return false;
  Vma* below = vmas.prev(*v);
  if (below && !below->has(kVmaGrowsDown) && below->prot != PROT_NONE && start - below->end < kStackGuardGap)
    return false;
  if (v->end - start > limits.stack) return false;
  u64 more = v->start - start;
  if (!may_expand(more, false)) return false;
  if (v->has(kVmaLocked) && !may_lock(more)) return false;
  account(*v, false);
  if (!v->anonymous()) v->offset -= more;
  space.occupy(start, more);
  vmas.set_start(*v, start);
  account(*v, true);
  return true;
}

bool MemoryManager::Impl::scarce(u64 pages) const {
  return frames.used() + pages_to_bytes(pages) > frames.limit() / 8 * 7;
}

MemoryManager::Impl::Fault MemoryManager::Impl::fault_in(Vma& v, UserAddr page, Access access, u64 limit_pages) {
  platform::AddressSpace::Mapping mapping;
  {
    std::shared_lock guard(page_lock);
    mapping = space.lookup(page);
  }
  if (mapping.present()) return fault_present(v, page, access, mapping);
  if (v.anonymous()) return fault_anonymous(v, page, limit_pages);
  bool copy = access == Access::kWrite || ((v.prot & PROT_WRITE) != 0 && v.length() <= kCopyOnReadVma);
  if (!v.shared() && copy) return fault_file_copy(v, page);
  return fault_file_read(v, page, limit_pages);
}

MemoryManager::Impl::Fault MemoryManager::Impl::fault_present(Vma& v, UserAddr page, Access access,
                                                              const platform::AddressSpace::Mapping& mapping) {
  // Another thread was faster.
  if (satisfies(mapping.prot, access)) return {};
  if (access == Access::kWrite && !v.shared()) return break_cow(v, page);
  std::lock_guard guard(page_lock);
  auto now = space.lookup(page);
  if (!now.present()) return {};  // the guest faults again
  // Rights are only ever added here; what a private page may not have yet is break_cow()'s affair.
  Prot prot = v.shared() || now.prot.write ? v.rights() : v.read_only_rights();
  if (auto r = space.map(page, now.phys, kPageSize, prot); !r) return fail(r.error());
  return {};
}

MemoryManager::Impl::Fault MemoryManager::Impl::fault_anonymous(Vma& v, UserAddr page, u64 limit_pages) {
  u64 want = limit_pages;
  if (want == 0) {
    const u64 before = v.around_pages.load(std::memory_order_relaxed);
    const bool follows = !v.has(kVmaNoHuge) && v.next_fault.load(std::memory_order_relaxed) == page;
    if (follows)
      want = std::min(before * 2, kAnonAroundMax);
    else if (space.maps_lazily())
      want = std::min(before * 2, kAnonAroundLazyMax);
    want = std::max(want, kAnonAround);
    if (v.has(kVmaRandom) || scarce(want)) want = 1;
  }
  auto [low, high] = window(v, page, want);
  Hole hole = hole_around(page, low, high);
  if (hole.empty()) return {};
  auto run = frames.allocate((hole.end - hole.start) >> kPageShift, Fill::kZero);
  if (!run) return fail(run.error());
  // A shorter run than asked for goes where it holds the page, and upwards from there as far as there is room.
  UserAddr at = std::min(page, hole.end - run->len);
  if (run->len == hole.end - hole.start) at = hole.start;
  v.next_fault.store(at + run->len, std::memory_order_relaxed);
  v.around_pages.store(static_cast<u32>(std::bit_floor(want)), std::memory_order_relaxed);
  if (auto r = map_new(at, *run, v.rights()); !r) return fail(r.error());
  return {};
}

// A shared mapping, or a private one that is only read.
MemoryManager::Impl::Fault MemoryManager::Impl::fault_file_read(Vma& v, UserAddr page, u64 limit_pages) {
  u64 want = limit_pages != 0 ? limit_pages : v.has(kVmaRandom) ? 1 : kFileAround;
  auto [low, high] = window(v, page, want);
  bool write = v.shared() && (v.prot & PROT_WRITE) != 0;
  // Pages of a store may have to be made: not far ahead.
  auto pinned = v.object->mappable().pin(v.object_offset(page), high - page, write);
  if (!pinned) return fail(pinned.error());
  PhysRun run = *pinned;
  UserAddr at = page;
  if (GuestMemory::in_window(run.phys)) {
    // What is before the page in the same chunk of the window is there as well.
    u64 before = std::min(page - low, run.phys % GuestMemory::kWindowChunk);
    frames.ref(run.phys - before, before >> kPageShift);
    run = {run.phys - before, run.len + before};
    at -= before;
  }
  if (auto r = map_new(at, run, write ? v.rights() : v.read_only_rights()); !r) return fail(r.error());
  return {};
}

// What is copied at once around a write to a private file mapping.
std::pair<UserAddr, UserAddr> MemoryManager::Impl::copy_window(Vma& v, UserAddr page) const {
  u64 want = v.length() <= kSmallVma ? kCopyAroundSmallVma : kCopyAround;
  if (space.maps_lazily()) {
    const u64 before = v.around_pages.load(std::memory_order_relaxed);
    want = std::clamp(before * 2, kCopyAroundLazy, kCopyAroundLazyMax);
    v.around_pages.store(static_cast<u32>(want), std::memory_order_relaxed);
  }
  if (v.has(kVmaRandom) || scarce(want)) want = 1;
  return window(v, page, want);
}

// The pages of the object that a hole around `page` in v shows: from the hole's start if they come in one run that
// holds the page, else from the page on. The references are the caller's.
Result<PageEntry> MemoryManager::Impl::pin_around(const Vma& v, UserAddr page, Hole hole) {
  Mappable& object = v.object->mappable();
  auto run = object.pin(v.object_offset(hole.start), hole.end - hole.start, false);
  if (run && hole.start + run->len > page) return PageEntry{hole.start, *run, {}};
  if (run) frames.unref(run->phys, run->len >> kPageShift);
  return PageEntry{page, TRY(object.pin(v.object_offset(page), hole.end - page, false)), {}};
}

// The first write to pages of a private file mapping.
MemoryManager::Impl::Fault MemoryManager::Impl::fault_file_copy(Vma& v, UserAddr page) {
  auto [low, high] = copy_window(v, page);
  Hole hole = hole_around(page, low, high);
  if (hole.empty()) return {};
  auto source = pin_around(v, page, hole);
  if (!source) return fail(source.error());
  u64 skip = 0;
  auto copy = frames.allocate(source->run.len >> kPageShift, Fill::kUninitialised);
  if (copy && copy->len < source->run.len) {
    // No room side by side: the page alone.
    frames.unref(copy->phys + kPageSize, (copy->len - kPageSize) >> kPageShift);
    copy->len = kPageSize;
    skip = page - source->va;
  }
  u64 good = 0;
  if (copy) {
    good =
        copy_pages(copy->phys, source->run.phys + skip, copy->len);  // less when the host file was cut short under us
    frames.unref(copy->phys + good, (copy->len - good) >> kPageShift);
  }
  frames.unref(source->run.phys, source->run.len >> kPageShift);
  if (!copy) return fail(copy.error());
  UserAddr at = source->va + skip;
  if (good != 0)
    if (auto r = map_new(at, {copy->phys, good}, v.rights()); !r) return fail(r.error());
  if (at + good <= page) return fail(Kind::kBusAdrErr);
  return {};
}

// Whole pages; returns the bytes that were copied.
u64 MemoryManager::Impl::copy_pages(Phys to, Phys from, u64 len) {
  // Where guest code touches pages by itself, the sentry seldom has.
  if (space.maps_lazily()) return frames.memory().copy_pages(to, from, len);
  return page_down(len - safe_copy(frames.host_ptr(to), frames.host_ptr(from), len));
}

void MemoryManager::Impl::note_hot_page(UserAddr page) {
  if (std::ranges::find(hot_pages, page) != hot_pages.end()) return;
  if (hot_pages.size() == kMostHotPages) hot_pages.erase(hot_pages.begin());
  hot_pages.push_back(page);
}

// A write to a present page of a private mapping that may not be written yet.
MemoryManager::Impl::Fault MemoryManager::Impl::break_cow(Vma& v, UserAddr page) {
  struct Replaced {
    UserAddr va;
    Phys from, to;
  };
  std::vector<Replaced> replaced;
  Fault result;
  {
    std::lock_guard guard(page_lock);
    auto shared_page = [&](Phys p) { return frames.is_file(p) || frames.owners(p) != 1; };
    auto now = space.lookup(page);
    if (!now.present() || now.prot.write) return {};
    bool copy = shared_page(now.phys);
    auto [low, high] = window(v, page, copy ? kCowCopyAround : kCowWidenAround);
    bool file = frames.is_file(now.phys);
    if (!file) note_hot_page(page);
    if (file)
      std::tie(low, high) = copy_window(v, page);
    else if (copy && (v.has(kVmaRandom) || scarce(kCowCopyAround)))
      std::tie(low, high) = std::pair{page, page + kPageSize};
    // Neighbours in the same state are treated alike. The page itself is, whatever its state: the other owner may have
    // let go of it meanwhile.
    std::vector<Replaced> same;
    space.for_each(low, high - low, [&](u64 va, Phys phys, u64 len, Prot prot) {
      if (prot.write) return;
      for (u64 i = 0; i < len; i += kPageSize)
        if (va + i == page || (shared_page(phys + i) == copy && frames.is_file(phys + i) == file))
          same.push_back({va + i, phys + i, platform::kNoPhys});
    });
    if (!copy) {
      for (size_t i = 0, j; i < same.size() && result; i = j) {
        for (j = i + 1; j < same.size(); j++)
          if (same[j].va != same[j - 1].va + kPageSize || same[j].from != same[j - 1].from + kPageSize) break;
        if (auto r = space.map(same[i].va, same[i].from, (j - i) << kPageShift, v.rights()); !r)
          result = fail(r.error());
      }
      return result;
    }
    Invalidation inval;
    for (size_t i = 0; i < same.size();) {
      auto run = frames.allocate(same.size() - i, Fill::kUninitialised);
      if (!run) break;
      for (u64 done = 0; done < run->len;) {
        // As many as come one after another.
        u64 len = kPageSize;
        while (done + len < run->len && same[i + (len >> kPageShift)].from == same[i].from + len) len += kPageSize;
        const u64 good = copy_pages(run->phys + done, same[i].from, len);
        for (u64 at = 0; at < len; at += kPageSize, ++i) {
          const Phys to = run->phys + done + at;
          if (at >= good) {
            frames.unref(to);
            if (same[i].va == page) result = fail(Kind::kBusAdrErr);
            continue;
          }
          same[i].to = to;
          replaced.push_back(same[i]);
          space.unmap(same[i].va, kPageSize, inval);
        }
        done += len;
      }
    }
    bool done = false;
    for (const Replaced& r : replaced) done |= r.va == page;
    if (!done && result) result = fail(Kind::kOutOfMemory);
    if (!inval.empty() && !space.maps_lazily()) space.commit(inval);
    for (Replaced& r : replaced) {
      count_pages({r.from, kPageSize}, false);
      // The tables are there: the page was mapped a moment ago.
      if (space.map(r.va, r.to, kPageSize, v.rights()))
        count_pages({r.to, kPageSize}, true);
      else
        frames.unref(r.to);
    }
    if (!inval.empty()) space.commit(inval);
  }
  for (const Replaced& r : replaced) frames.unref(r.from);
  return result;
}

void MemoryManager::Impl::populate(UserAddr start, UserAddr end) {
  for (UserAddr at = start; at < end;) {
    std::shared_lock lock(map_lock);
    Vma* v = vmas.find_ending_after(at);
    if (!v || v->start >= end) return;
    at = std::max(at, v->start);
    // As Linux: a private writable mapping gets pages of its own.
    Access access = (v->prot & PROT_WRITE) != 0 && !v->shared() ? Access::kWrite : Access::kRead;
    if (!allows(*v, access)) {
      at = v->end;
      continue;
    }
    UserAddr stop = std::min(end, v->end);
    if (!fault_in(*v, at, access, kAnonAroundMax)) return;
    // What is writable (or readable) now needs no further fault.
    std::shared_lock guard(page_lock);
    UserAddr next = at;
    space.for_each(at, std::min<u64>(stop - at, kHugePageSize), [&](u64 va, Phys, u64 len, Prot prot) {
      if (va == next && satisfies(prot, access)) next = va + len;
    });
    at = std::max(next, at + kPageSize);
  }
}

}  // namespace rf::mm
