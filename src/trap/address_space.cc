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
constexpr u64 kInstalledAll = kInstalled | PageMap::kInstalledWrite | PageMap::kInstalledExec | PageMap::kPatched;
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
    const u64 old = PageMap::load(entry);
    if (old & kInstalled) narrow(at, kUnmapped);
    forget_patches(at, old);
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
    if ((old & PageMap::kPatched) && rights != kExec) {
      // No code any more, or code that is written to: the program's own bytes are to be seen.
      narrow(at, kUnmapped);
      forget_patches(at, old);
      now &= ~kInstalledAll;
      any = true;
    } else if ((old & kInstalled) && (installed_rights(old) & ~rights)) {
      const u64 left = installed_rights(old) & rights;
      narrow(at, left);
      now = (now & ~kInstalledAll) | (old & PageMap::kPatched) | kInstalled | left << kInstalledShift;
      any = true;
    }
    PageMap::store(entry, now);
  });
  if (any) inval.ranges.push_back({va, 0, len});
}

// What has been mapped anew there since takes the place of the old.
void AddressSpace::add_removal(const Range& range, std::vector<Command>& commands) {
  u64 at = range.start;
  const auto remove_to = [&](u64 end) {
    if (at < end) commands.push_back({SYS_munmap, {at, end - at, 0, 0, 0, 0}});
  };
  pages_.visit(range.start, range.end, [&](u64 va, u64& entry) {
    remove_to(va);
    if (const u64 v = PageMap::load(entry); !(v & kInstalled)) add_mapping(va, v, commands);
    at = va + kPageSize;
  });
  remove_to(range.end);
}

void AddressSpace::commit(Invalidation& inval) {
  inval.ranges.clear();
  SpinGuard guard(lock_);
  std::vector<Command> commands;
  for (const Range& r : pending_) {
    if (r.start == r.end) continue;
    if (r.rights == kUnmapped)
      add_removal(r, commands);
    else
      commands.push_back({SYS_mprotect, {r.start, r.end - r.start, host_prot(r.rights), 0, 0, 0}});
  }
  pending_.clear();
  if (commands.empty() || retired_) return;
  take_away(commands);
}

// Afterwards the process has less, or nothing, or is gone.
void AddressSpace::take_away(std::span<const Command> commands) {
  const auto r = process_->execute(commands, Process::Commands::kTakeAway);
  if (r) return;
  // ENOMEM: a mapping too many to split one. Else it has been killed, which takes its time.
  if (errno_value(r.error()) == ENOMEM)
    drop_all();
  else
    process_->await_end();
}

// The stub process forgets all mappings; guest code faults them in again.
void AddressSpace::drop_all() {
  pages_.visit(0, kGuestAddressLimit,
               [&](u64, u64& entry) { PageMap::store(entry, PageMap::load(entry) & ~kInstalledAll); });
  patched_pages_.clear();
  trampolines_.clear();
  empty_process();
}

// All of the guest's pages are taken from the process, or it is gone.
void AddressSpace::empty_process() {
  const Command all{SYS_munmap, {0, kGuestAddressLimit, 0, 0, 0, 0}};
  if (process_->execute({&all, 1}, Process::Commands::kTakeAway)) return;
  process_->kill();
  process_->await_end();
}

// The pages are about to be somebody else's. A thread of the process can have lied about having stopped, so it must not
// have them any more.
void AddressSpace::retire() {
  SpinGuard guard(lock_);
  retired_ = true;
  if (process_) empty_process();
}

Result<void> AddressSpace::reserve() {
  SpinGuard guard(lock_);
  if (!process_) process_ = TRY(family_->create_process());
  return {};
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

// Adds the host calls that map the page of va and what is around it: as far as pages follow one another, are alike and
// not mapped yet.
void AddressSpace::add_mapping(u64 va, u64 entry, std::vector<Command>& commands) {
  const u64 phys = phys_of(entry), rights = entry & kRights;
  const platform::Backing backing = memory_.backing(phys);
  const u64 leaf = va & ~(PageMap::kLeafSpan - 1);
  u64* const table = pages_.find(leaf);
  const u64 place = (va - leaf) >> kPageShift;
  // There already, with other rights.
  const auto is_there = [](u64 v) { return (v & (kInstalled | PageMap::kPatched)) == kInstalled; };
  const bool there = is_there(entry);
  const auto fits = [&](u64 i) {
    const u64 v = PageMap::load(table[i]);
    return (v & kPresent) && (v & kRights) == rights && phys_of(v) == phys + ((i - place) << kPageShift) &&
           (there ? is_there(v) && installed_rights(v) != rights : !(v & kInstalled));
  };
  u64 first = place, end = place + 1;
  // The backing is known from this page on; what comes before in the same file window chunk is the same file.
  const u64 room = GuestMemory::in_window(phys) ? phys % GuestMemory::kWindowChunk : phys;
  while (first > 0 && ((place - first + 1) << kPageShift) <= room && fits(first - 1)) --first;
  while (end < 512 && ((end - place) << kPageShift) < backing.len && fits(end)) ++end;
  const u64 before = (place - first) << kPageShift;
  // Pages that are written are about to be: fill the host's tables in at once, unless they are many and not written one
  // after another. Others are perhaps a file's, and many.
  constexpr u64 kFew = 64;
  const bool soon = (rights & kWrite) && (end - first <= kFew || first == place);
  const u64 populate = soon && !GuestMemory::in_window(phys) ? MAP_POPULATE : 0;
  const u64 start = va - before, len = (end - first) << kPageShift;
  if (there)
    commands.push_back({SYS_mprotect, {start, len, host_prot(rights), 0, 0, 0}});
  else
    commands.push_back({SYS_mmap,
                        {start, len, host_prot(rights), MAP_SHARED | MAP_FIXED | populate, static_cast<u64>(backing.fd),
                         backing.offset - before}});
  const bool may_be_patched = rights == kExec && GuestMemory::in_window(phys) && !backing.writable && patches_.any() &&
                              !no_patches_.load(std::memory_order_relaxed);
  for (u64 i = first; i < end; ++i) {
    const u64 old = PageMap::load(table[i]), at = leaf + (i << kPageShift);
    forget_patches(at, old);
    u64 now = (old & ~kInstalledAll) | kInstalled | (old & kRights) << kInstalledShift;
    if (may_be_patched && patches_.may_know(phys_of(old))) {
      const platform::Backing part{backing.fd, backing.offset + phys_of(old) - phys, kPageSize, false};
      const auto page = patches_.find(phys_of(old), part);
      if (page && add_patched(at, page, commands)) now |= PageMap::kPatched;
    }
    PageMap::store(table[i], now);
  }
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
  std::vector<Command> commands;
  add_mapping(va, v, commands);
  auto r = process_->execute(commands);
  if (r) return Install::kDone;
  if (errno_value(r.error()) == ESRCH) return Install::kDone;  // the next run() sees it
  // Perhaps there were too many mappings: all go, this one comes.
  drop_all();
  commands.clear();
  add_mapping(va, PageMap::load(*e), commands);
  if (process_->execute(commands)) return Install::kDone;
  drop_all();
  return Install::kRefused;
}

void AddressSpace::install_early(std::initializer_list<u64> vas) {
  SpinGuard guard(lock_);
  std::vector<Command> commands;
  for (const u64 va : vas) {
    const u64* e = va < kGuestAddressLimit ? pages_.find(va) : nullptr;
    const u64 v = e ? PageMap::load(*e) : 0;
    if ((v & (kPresent | kInstalled)) == kPresent) add_mapping(page_down(va), v, commands);
  }
  if (auto r = process_->execute(commands); !r && errno_value(r.error()) == ENOMEM) drop_all();
}

// --- Patched code ---------------------------------------------------------------------------------

Command AddressSpace::map_patches(u64 va, u64 offset) const {
  return {SYS_mmap,
          {va, kPageSize, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, static_cast<u64>(patches_.fd()), offset}};
}

// Adds the host calls that map a patched page and its trampolines. False: there is no room for those.
bool AddressSpace::add_patched(u64 va, const std::shared_ptr<const PatchedPage>& page, std::vector<Command>& commands) {
  const u64 trampolines = va + kTrampolineDistance;
  if (trampolines > kGuestAddressLimit - kPageSize || !vacant_) return false;
  // Whoever maps something there after this look comes to occupy(), and waits there for the lock.
  if (!trampolines_.contains(trampolines) && !vacant_(trampolines, kPageSize)) return false;
  commands.push_back(map_patches(trampolines, page->trampolines_offset()));
  commands.push_back(map_patches(va, page->code_offset()));
  trampolines_[trampolines] = page;
  patched_pages_[va] = page;
  patched_once_.store(true, std::memory_order_relaxed);
  return true;
}

void AddressSpace::patch(u64 after, u64 number) {
  constexpr u64 kSyscallSize = 2;
  const u64 va = page_down(after - kSyscallSize);
  if (va >= kGuestAddressLimit) return;
  SpinGuard guard(lock_);
  if (no_patches_.load(std::memory_order_relaxed)) return;
  u64* e = pages_.find(va);
  const u64 entry = e ? PageMap::load(*e) : 0;
  // Not code that the sandbox itself could write by another way: nobody would tell.
  if (!(entry & kPresent) || (entry & kRights) != kExec || !(entry & kInstalled)) return;
  const u64 phys = phys_of(entry);
  if (!GuestMemory::in_window(phys)) return;
  const platform::Backing backing = memory_.backing(phys);
  if (backing.writable) return;
  const auto page =
      patches_.patch(phys, backing, static_cast<u32>(after - kSyscallSize - va), number, process_->single_threaded());
  if (!page) return;
  if (auto it = patched_pages_.find(va); it != patched_pages_.end() && it->second == page) return;
  std::vector<Command> commands;
  if (!add_patched(va, page, commands)) return;
  PageMap::store(*e, entry | PageMap::kPatched);
  if (auto r = process_->execute(commands); !r && errno_value(r.error()) == ENOMEM) drop_all();
}

void AddressSpace::stop_patching() {
  if (no_patches_.load(std::memory_order_relaxed)) return;
  SpinGuard guard(lock_);
  no_patches_.store(true, std::memory_order_relaxed);
  std::vector<Command> commands;
  for (const auto& [va, page] : PatchedPages(patched_pages_)) {
    u64* e = pages_.find(va);
    PageMap::store(*e, PageMap::load(*e) & ~kInstalledAll);
    patched_pages_.erase(va);
    add_mapping(va, PageMap::load(*e), commands);
  }
  if (commands.empty()) return;
  if (auto r = process_->execute(commands); !r && errno_value(r.error()) == ENOMEM) drop_all();
}

// The guest maps something where trampolines are. What leads there goes first.
void AddressSpace::occupy(u64 va, u64 len) {
  if (!patched()) return;
  SpinGuard guard(lock_);
  std::vector<Command> commands;
  auto it = trampolines_.lower_bound(page_down(va));
  while (it != trampolines_.end() && it->first < va + len) {
    const u64 code = it->first - kTrampolineDistance;
    if (patched_pages_.erase(code) != 0) {
      u64* e = pages_.find(code);
      PageMap::store(*e, PageMap::load(*e) & ~kInstalledAll);
      commands.push_back({SYS_munmap, {code, kPageSize, 0, 0, 0, 0}});
    }
    commands.push_back({SYS_munmap, {it->first, kPageSize, 0, 0, 0, 0}});
    it = trampolines_.erase(it);
  }
  take_away(commands);
}

u64 AddressSpace::original_place(u64 rip) {
  const u64 page = page_down(rip);
  SpinGuard guard(lock_);
  const auto it = trampolines_.find(page);
  if (it == trampolines_.end()) return rip;
  const auto place = it->second->original_of(static_cast<u32>(rip - page));
  return place ? page - kTrampolineDistance + *place : rip;
}

u64 AddressSpace::patched_place(u64 rip) {
  const u64 page = page_down(rip);
  SpinGuard guard(lock_);
  const auto it = patched_pages_.find(page);
  if (it == patched_pages_.end()) return rip;
  const auto place = it->second->moved(static_cast<u32>(rip - page));
  return place ? page + kTrampolineDistance + *place : rip;
}

}  // namespace rf::trap
