#include "kvm/address_space.h"

#include <sys/mman.h>

#include <algorithm>

#include "core/check.h"
#include "kvm/sentry_map.h"
#include "kvm/vcpu.h"

namespace rf::kvm {

using platform::Invalidation;
using platform::kGuestAddressLimit;
using platform::Prot;

namespace {

constexpr u64 kPresent = 1, kWritable = 2, kUser = 4, kLarge = 1 << 7;
// Set from the start: the MMU (or KVM's walker) then never writes to the tables.
constexpr u64 kAccessed = 1 << 5, kDirty = 1 << 6;
constexpr u64 kNoExec = u64{1} << 63;
constexpr u64 kAddress = 0x000f'ffff'ffff'f000;
// Upper levels grant everything; rights are decided in the leaves. Shadow pages are shared by the rights of the
// levels above them, so these must never change.
constexpr u64 kTableBits = kPresent | kWritable | kUser | kAccessed;
constexpr int kTopLevel = 3;

// What invalidating costs with shadow paging, in microseconds: one madvise per range, or all shadows dropped and
// the busy part of all mapped pages faulted in again (KVM fills in up to eight neighbours at a time).
constexpr u64 kMadviseCost = 4, kDropCost = 60, kPagesRefilledPerMicrosecond = 4;

u64 load(const u64& entry) { return std::atomic_ref(const_cast<u64&>(entry)).load(std::memory_order_acquire); }
void store(u64& entry, u64 v) { std::atomic_ref(entry).store(v, std::memory_order_release); }

constexpr u64 span_of(int level) { return kPageSize << (9 * level); }
constexpr u64 index_of(u64 va, int level) { return (va >> (kPageShift + 9 * level)) & 511; }

u64 rights(Prot p) {
  return kPresent | kUser | kAccessed | kDirty | (p.write ? kWritable : 0) | (p.exec ? 0 : kNoExec);
}
Prot prot_of(u64 entry) { return {.read = true, .write = (entry & kWritable) != 0, .exec = (entry & kNoExec) == 0}; }
bool narrower(u64 now, u64 before) {
  return ((before & kWritable) && !(now & kWritable)) || (!(before & kNoExec) && (now & kNoExec));
}

void add_range(Invalidation& inval, u64 va, Phys phys, u64 len) {
  if (!inval.ranges.empty()) {
    auto& last = inval.ranges.back();
    if (last.va + last.len == va && last.phys + last.len == phys) {
      last.len += len;
      return;
    }
  }
  inval.ranges.push_back({va, phys, len});
}

u64 next_id() {
  static std::atomic<u64> id{1};
  return id.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

AddressSpace::AddressSpace(Vm& vm, VcpuSet& vcpus, Phys root) : vm_(vm), vcpus_(vcpus), root_(root), id_(next_id()) {}

Result<std::unique_ptr<AddressSpace>> AddressSpace::create(Vm& vm, VcpuSet& vcpus, u64 supervisor_entry,
                                                           const SentryMap* sentry) {
  Phys root = TRY(vm.allocate_page());
  std::unique_ptr<AddressSpace> as(new AddressSpace(vm, vcpus, root));
  store(as->table(root)[ring0::kTopIndex], supervisor_entry);
  if (sentry) sentry->add_to(as->table(root));
  return as;
}

AddressSpace::~AddressSpace() {
  std::vector<Phys> tables = std::move(unlinked_tables_);
  u64* top = table(root_);
  for (u64 i = 0; i < index_of(kGuestAddressLimit, kTopLevel); ++i) {
    u64 entry = load(top[i]);
    if (!(entry & kPresent)) continue;
    collect_tables(table(entry & kAddress), kTopLevel - 1, tables);
    tables.push_back(entry & kAddress);
    store(top[i], 0);
  }
  vm_.present_pages.fetch_sub(present_, std::memory_order_relaxed);
  vm_.free_pages(tables);
  vcpus_.retire_root(root_);
}

// Depth is bounded by the levels.
void AddressSpace::collect_tables(u64* t, int level, std::vector<Phys>& out) const {
  if (level == 0) return;
  for (u64 i = 0; i < 512; ++i) {
    u64 entry = load(t[i]);
    if (!(entry & kPresent) || (entry & kLarge)) continue;
    collect_tables(table(entry & kAddress), level - 1, out);
    out.push_back(entry & kAddress);
  }
}

Result<u64*> AddressSpace::table_below(u64& entry) {
  u64 v = load(entry);
  if (!(v & kPresent)) {
    v = TRY(vm_.allocate_page()) | kTableBits;
    store(entry, v);
  } else if (v & kLarge) {
    if (!split(entry)) return err(ENOMEM);
    v = load(entry);
  }
  return table(v & kAddress);
}

// Replaces a 2 MiB entry by a table of the same mappings. False: no memory.
bool AddressSpace::split(u64& entry) {
  auto page = vm_.allocate_page();
  if (!page) return false;
  u64 v = load(entry) & ~kLarge;
  u64* t = table(*page);
  for (u64 i = 0; i < 512; ++i) store(t[i], v + i * kPageSize);
  store(entry, *page | kTableBits);
  return true;
}

Result<void> AddressSpace::map(u64 va, Phys phys, u64 len, Prot prot) {
  RF_CHECK(len != 0 && va + len <= kGuestAddressLimit && phys + len <= GuestMemory::kWindowEnd, "bad range to map");
  TRY(vm_.require(phys, len));
  const u64 bits = rights(prot);
  // With shadow paging an entry must not turn from a page into a table under KVM's eyes.
  const bool large_ok = !vm_.kind().shadow_paging;
  const u64 end = va + len;
  u64 added = 0;
  Result<void> result;
  while (va < end) {
    u64* t = table(root_);
    for (int level = kTopLevel; level > 1 && t; --level) {
      auto next = table_below(t[index_of(va, level)]);
      t = next ? *next : nullptr;
    }
    if (!t) {
      result = err(ENOMEM);
      break;
    }
    u64& directory = t[index_of(va, 1)];
    u64 old = load(directory);
    bool aligned = ((va | phys) & (kHugePageSize - 1)) == 0 && end - va >= kHugePageSize;
    if (large_ok && aligned && (!(old & kPresent) || (old & kLarge))) {
      RF_CHECK(!(old & kPresent) || ((old & kAddress & ~(kHugePageSize - 1)) == phys && !narrower(bits, old)),
               "mapping over a page that is still mapped");
      if (!(old & kPresent)) added += kHugePageSize >> kPageShift;
      store(directory, phys | bits | kLarge);
      va += kHugePageSize, phys += kHugePageSize;
      continue;
    }
    auto leaf = table_below(directory);
    if (!leaf) {
      result = err(ENOMEM);
      break;
    }
    for (u64 i = index_of(va, 0); i < 512 && va < end; ++i, va += kPageSize, phys += kPageSize) {
      u64& entry = (*leaf)[i];
      old = load(entry);
      RF_CHECK(!(old & kPresent) || ((old & kAddress) == phys && !narrower(bits, old)),
               "mapping over a page that is still mapped");
      if (!(old & kPresent)) ++added;
      store(entry, phys | bits);
    }
  }
  present_ += added;
  vm_.present_pages.fetch_add(added, std::memory_order_relaxed);
  return result;
}

// Calls f(va, entry, bytes) for every leaf that is present and overlaps [va, end), in order. f may change the
// entry; va is the start of what the entry maps, which for a large one may lie before the range.
template <class F>
void AddressSpace::visit(u64 va, u64 end, F&& f) const {
  while (va < end) {
    u64* t = table(root_);
    for (int level = kTopLevel;; --level) {
      u64 span = span_of(level);
      u64& entry = t[index_of(va, level)];
      u64 v = load(entry);
      if (level == 0) {  // the rest of this table without walking again
        u64 stop = std::min(end, (va | (span_of(1) - 1)) + 1);
        for (u64 i = index_of(va, 0); va < stop; ++i, va += kPageSize)
          if (load(t[i]) & kPresent) f(va, t[i], kPageSize);
        break;
      }
      if (!(v & kPresent) || (v & kLarge)) {
        if (v & kPresent) f(va & ~(span - 1), entry, span);
        // A large entry may just have been split, and then the table below it is to be visited.
        v = load(entry);
        if (!(v & kPresent) || (v & kLarge)) {
          va = (va | (span - 1)) + 1;
          break;
        }
      }
      t = table(v & kAddress);
    }
  }
}

void AddressSpace::clear(u64 va, u64& entry, u64 span, Invalidation& inval) {
  u64 v = load(entry);
  store(entry, 0);
  u64 address = v & kAddress & ~(span - 1);
  add_range(inval, va, address, span);
  present_ -= span >> kPageShift;
  vm_.present_pages.fetch_sub(span >> kPageShift, std::memory_order_relaxed);
}

void AddressSpace::unmap(u64 va, u64 len, Invalidation& inval) {
  const u64 end = va + len;
  visit(va, end, [&](u64 at, u64& entry, u64 span) {
    // A large page of which a part stays is split; if that fails all of it goes, and what should have stayed
    // is faulted in again.
    if (span != kPageSize && (at < va || at + span > end) && split(entry)) return;
    clear(at, entry, span, inval);
  });
  unlink_covered_tables(va, end);
}

// Takes leaf tables out whose whole range has just been unmapped.
void AddressSpace::unlink_covered_tables(u64 va, u64 end) {
  va = (va + kHugePageSize - 1) & ~(kHugePageSize - 1);
  while (va + kHugePageSize <= end) {
    u64* t = table(root_);
    int level = kTopLevel;
    for (; level > 1; --level) {
      u64 v = load(t[index_of(va, level)]);
      if (!(v & kPresent)) break;
      t = table(v & kAddress);
    }
    if (level > 1) {
      va = (va | (span_of(level) - 1)) + 1;
      continue;
    }
    u64& directory = t[index_of(va, 1)];
    u64 v = load(directory);
    if (v & kPresent) {
      store(directory, 0);
      unlinked_tables_.push_back(v & kAddress);
    }
    va += kHugePageSize;
  }
}

void AddressSpace::protect(u64 va, u64 len, Prot prot, Invalidation& inval) {
  if (!prot.any()) return unmap(va, len, inval);
  const u64 end = va + len;
  const u64 bits = rights(prot);
  visit(va, end, [&](u64 at, u64& entry, u64 span) {
    u64 v = load(entry);
    if (span != kPageSize && (at < va || at + span > end)) {
      if (!split(entry)) clear(at, entry, span, inval);
      return;
    }
    u64 address = v & kAddress & ~(span - 1);
    u64 now = address | bits | (v & kLarge);
    if (now == v) return;
    store(entry, now);
    if (narrower(now, v)) add_range(inval, at, address, span);
  });
}

void AddressSpace::commit(Invalidation& inval) {
  if (retired_) {
    inval.ranges.clear();
  } else if (!inval.empty()) {
    vm_.counters.invalidations.fetch_add(1, std::memory_order_relaxed);
    vm_.counters.invalidated_ranges.fetch_add(inval.ranges.size(), std::memory_order_relaxed);
    if (vm_.kind().shadow_paging) {
      drop_shadows(inval);
    } else {
      const u64 before = generation_.fetch_add(1, std::memory_order_seq_cst);
      // Tables that go are in the CPU's walk caches too: for them, CR3 is reloaded.
      if (unlinked_tables_.empty())
        vm_.counters.single_pages.fetch_add(vcpus_.invalidate_pages_here(*this, before, inval.ranges),
                                            std::memory_order_relaxed);
      vcpus_.flush(*this);
    }
    inval.ranges.clear();
  } else if (!unlinked_tables_.empty() && !vm_.kind().shadow_paging) {
    // The walk caches of the CPU may still know the tables though nothing was mapped in them.
    generation_.fetch_add(1, std::memory_order_seq_cst);
    vcpus_.flush(*this);
  }
  if (!unlinked_tables_.empty()) {
    vm_.free_pages(unlinked_tables_);
    unlinked_tables_.clear();
  }
}

// The only thing that makes KVM's shadow MMU look at an entry again is that the host's mapping of the data page
// goes away for a moment. The page itself stays in its file.
void AddressSpace::drop_shadows(Invalidation& inval) {
  auto& ranges = inval.ranges;
  u64 refill = vm_.present_pages.load(std::memory_order_relaxed) / kPagesRefilledPerMicrosecond;
  if (ranges.size() * kMadviseCost > kDropCost + refill) return vm_.drop_all_shadows();
  std::ranges::sort(ranges, {}, &Invalidation::Range::phys);
  for (size_t i = 0; i < ranges.size();) {
    Phys start = ranges[i].phys, end = start + ranges[i].len;
    for (++i; i < ranges.size() && ranges[i].phys <= end; ++i) end = std::max(end, ranges[i].phys + ranges[i].len);
    int r = madvise(vm_.memory().host_ptr(start), end - start, MADV_DONTNEED);
    RF_CHECK(r == 0, "cannot drop shadow entries");
  }
}

platform::AddressSpace::Mapping AddressSpace::lookup(u64 va) const {
  if (va >= kGuestAddressLimit) return {};
  const u64* t = table(root_);
  for (int level = kTopLevel;; --level) {
    u64 v = load(t[index_of(va, level)]);
    if (!(v & kPresent)) return {};
    if (level == 0 || (v & kLarge)) {
      u64 mask = span_of(level) - 1;
      return {(v & kAddress & ~mask) | (va & mask), prot_of(v)};
    }
    t = table(v & kAddress);
  }
}

void AddressSpace::for_each(u64 va, u64 len, const std::function<void(u64, Phys, u64, Prot)>& f) const {
  const u64 end = va + len;
  visit(va, end, [&](u64 at, u64& entry, u64 span) {
    u64 v = load(entry);
    u64 first = std::max(at, va), last = std::min(at + span, end);
    f(first, (v & kAddress & ~(span - 1)) + (first - at), last - first, prot_of(v));
  });
}

std::optional<u64> AddressSpace::find(Phys phys) const {
  std::optional<u64> found;
  visit(0, kGuestAddressLimit, [&](u64 at, u64& entry, u64 span) {
    Phys start = load(entry) & kAddress & ~(span - 1);
    if (!found && phys >= start && phys - start < span) found = at + (phys - start);
  });
  return found;
}

}  // namespace rf::kvm
