#include "trap/address_space.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>

#include "core/check.h"

namespace rf::trap {

using platform::Access;
using platform::Invalidation;
using platform::kGuestAddressLimit;
using platform::Prot;

namespace {

constexpr u64 kPresent = PageMap::kPresent, kWrite = PageMap::kWrite, kExec = PageMap::kExec;
constexpr u64 kInstalled = PageMap::kInstalled;
constexpr u64 kRights = kWrite | kExec;
constexpr int kInstalledShift = 3;  // from kWrite to kInstalledWrite
constexpr u64 kInstalledAll = kInstalled | PageMap::kInstalledWrite | PageMap::kInstalledExec;
static_assert(kWrite << kInstalledShift == PageMap::kInstalledWrite);
static_assert(kExec << kInstalledShift == PageMap::kInstalledExec);

u64 rights_of(Prot p) { return (p.write ? kWrite : 0) | (p.exec ? kExec : 0); }
Prot prot_of(u64 entry) { return {.read = true, .write = (entry & kWrite) != 0, .exec = (entry & kExec) != 0}; }
Phys phys_of(u64 entry) { return entry & ~PageMap::kFlags; }
u64 installed_rights(u64 entry) { return (entry >> kInstalledShift) & kRights; }
u64 host_prot(u64 rights) { return PROT_READ | (rights & kWrite ? PROT_WRITE : 0) | (rights & kExec ? PROT_EXEC : 0); }

}  // namespace

Result<void> AddressSpace::map(u64 va, Phys phys, u64 len, Prot prot) {
  RF_CHECK(len != 0 && va + len <= kGuestAddressLimit && phys + len <= GuestMemory::kWindowEnd, "bad range to map");
  SpinGuard guard(lock_);
  const u64 rights = rights_of(prot);
  u64* e = nullptr;
  for (u64 done = 0; done < len; done += kPageSize, ++e) {
    if (!e || (va + done) % PageMap::kLeafSpan == 0) e = pages_.make(va + done);
    if (!e) return err(ENOMEM);
    const u64 old = PageMap::load(*e);
    RF_CHECK(!(old & kPresent) || (phys_of(old) == phys + done && !(old & kRights & ~rights)),
             "mapping over a page that is still mapped");
    PageMap::store(*e, (phys + done) | kPresent | rights | (old & kInstalledAll));
  }
  return {};
}

// Notes that the stub process is to lose rights to a page that it maps.
void AddressSpace::narrow(u64 va, u64 rights) {
  if (!pending_.empty()) {
    Range& last = pending_.back();
    if (last.rights == rights && last.end <= va && (last.end == va || rights == kUnmapped)) {
      last.end = va + kPageSize;
      return;
    }
  }
  pending_.push_back({va, va + kPageSize, rights});
}

void AddressSpace::unmap(u64 va, u64 len, Invalidation& inval) {
  SpinGuard guard(lock_);
  bool any = false;
  // Consecutive pages of one call may be taken away in one go: between them is nothing that is to stay.
  if (!pending_.empty()) pending_.push_back({0, 0, 0});
  pages_.visit(va, va + len, [&](u64 at, u64& entry) {
    if (PageMap::load(entry) & kInstalled) narrow(at, kUnmapped);
    PageMap::store(entry, 0);
    any = true;
  });
  if (any) inval.ranges.push_back({va, 0, len});
}

void AddressSpace::protect(u64 va, u64 len, Prot prot, Invalidation& inval) {
  if (!prot.any()) return unmap(va, len, inval);
  SpinGuard guard(lock_);
  const u64 rights = rights_of(prot);
  bool any = false;
  pages_.visit(va, va + len, [&](u64 at, u64& entry) {
    const u64 old = PageMap::load(entry);
    u64 now = (old & ~kRights) | rights;
    if ((old & kInstalled) && (installed_rights(old) & ~rights)) {
      const u64 left = installed_rights(old) & rights;
      narrow(at, left);
      now = (now & ~kInstalledAll) | kInstalled | left << kInstalledShift;
      any = true;
    }
    PageMap::store(entry, now);
  });
  if (any) inval.ranges.push_back({va, 0, len});
}

void AddressSpace::commit(Invalidation& inval) {
  inval.ranges.clear();
  SpinGuard guard(lock_);
  std::vector<Command> commands;
  for (const Range& r : pending_) {
    if (r.start == r.end) continue;
    if (r.rights == kUnmapped)
      commands.push_back({SYS_munmap, {r.start, r.end - r.start, 0, 0, 0, 0}});
    else
      commands.push_back({SYS_mprotect, {r.start, r.end - r.start, host_prot(r.rights), 0, 0, 0}});
  }
  pending_.clear();
  if (commands.empty() || retired_) return;
  // ENOMEM: a mapping too many to split one.
  if (auto r = process_->execute(commands); !r && errno_value(r.error()) == ENOMEM) drop_all();
}

// The stub process forgets all mappings; guest code faults them in again.
void AddressSpace::drop_all() {
  pages_.visit(0, kGuestAddressLimit,
               [&](u64, u64& entry) { PageMap::store(entry, PageMap::load(entry) & ~kInstalledAll); });
  const Command all{SYS_munmap, {0, kGuestAddressLimit, 0, 0, 0, 0}};
  if (auto r = process_->execute({&all, 1}); !r) process_->kill();
}

void AddressSpace::retire() {
  SpinGuard guard(lock_);
  retired_ = true;
}

platform::AddressSpace::Mapping AddressSpace::lookup(u64 va) const {
  if (va >= kGuestAddressLimit) return {};
  const u64* e = pages_.find(va);
  if (!e) return {};
  const u64 v = PageMap::load(*e);
  if (!(v & kPresent)) return {};
  return {phys_of(v) | (va & kPageMask), prot_of(v)};
}

void AddressSpace::for_each(u64 va, u64 len, const std::function<void(u64, Phys, u64, Prot)>& f) const {
  u64 start = 0, next = 0, first = 0;
  pages_.visit(va, va + len, [&](u64 at, u64& entry) {
    const u64 v = PageMap::load(entry);
    if (next == at && start != next && phys_of(v) == phys_of(first) + (at - start) && ((v ^ first) & kRights) == 0 &&
        phys_of(v) % GuestMemory::kWindowChunk != 0) {
      next += kPageSize;
      return;
    }
    if (start != next) f(start, phys_of(first), next - start, prot_of(first));
    start = at, next = at + kPageSize, first = v;
  });
  if (start != next) f(start, phys_of(first), next - start, prot_of(first));
}

// The host call that maps the page of va and what is around it: as far as pages follow one another, are alike and not
// mapped yet.
Command AddressSpace::mapping_of(u64 va, u64 entry) {
  const u64 phys = phys_of(entry), rights = entry & kRights;
  const platform::Backing backing = memory_.backing(phys);
  const u64 leaf = va & ~(PageMap::kLeafSpan - 1);
  u64* const table = pages_.find(leaf);
  const u64 place = (va - leaf) >> kPageShift;
  const auto fits = [&](u64 i) {
    const u64 v = PageMap::load(table[i]);
    return (v & kPresent) && (v & kRights) == rights && phys_of(v) == phys + ((i - place) << kPageShift) &&
           (!(v & kInstalled) || installed_rights(v) != rights);
  };
  u64 first = place, end = place + 1;
  // The backing is known from this page on; what comes before in the same file window chunk is the same file.
  const u64 room = GuestMemory::in_window(phys) ? phys % GuestMemory::kWindowChunk : phys;
  while (first > 0 && ((place - first + 1) << kPageShift) <= room && fits(first - 1)) --first;
  while (end < 512 && ((end - place) << kPageShift) < backing.len && fits(end)) ++end;
  for (u64 i = first; i < end; ++i) {
    const u64 v = PageMap::load(table[i]) & ~kInstalledAll;
    PageMap::store(table[i], v | kInstalled | (v & kRights) << kInstalledShift);
  }
  const u64 before = (place - first) << kPageShift;
  // Pages that are written are about to be: fill the host's tables in at once. Others are perhaps a file's, and many.
  const u64 populate = (rights & kWrite) && !GuestMemory::in_window(phys) ? MAP_POPULATE : 0;
  return {SYS_mmap,
          {va - before, (end - first) << kPageShift, host_prot(rights), MAP_SHARED | MAP_FIXED | populate,
           static_cast<u64>(backing.fd), backing.offset - before}};
}

AddressSpace::Install AddressSpace::install(u64 va, Access access) {
  if (va >= kGuestAddressLimit) return Install::kNothing;
  va = page_down(va);
  SpinGuard guard(lock_);
  const u64* e = pages_.find(va);
  const u64 v = e ? PageMap::load(*e) : 0;
  const u64 needed = access == Access::kWrite ? kWrite : access == Access::kExec ? kExec : 0;
  if (!(v & kPresent) || (needed & ~v)) return Install::kNothing;
  if ((v & kInstalled) && !(needed & ~installed_rights(v))) return Install::kNothing;
  const Command command = mapping_of(va, v);
  auto r = process_->execute({&command, 1});
  if (r) return Install::kDone;
  if (errno_value(r.error()) == ESRCH) return Install::kDone;  // the next run() sees it
  // Perhaps there were too many mappings: all go, this one comes.
  drop_all();
  const Command again = mapping_of(va, PageMap::load(*e));
  if (process_->execute({&again, 1})) return Install::kDone;
  drop_all();
  return Install::kRefused;
}

}  // namespace rf::trap
