// madvise(2).
#include <sys/mman.h>

#include <algorithm>

#include "mm/memory_manager_impl.h"

namespace rf::mm {
namespace {

// linux/mman.h of the build machine may be older than these.
constexpr int kMadvCollapse = 25;

// Advice that only sets or clears flags of the VMA.
bool flag_change(int advice, u32& set, u32& clear) {
  set = clear = 0;
  switch (advice) {
    case MADV_NORMAL:
      clear = kVmaRandom | kVmaSequential;
      return true;
    case MADV_RANDOM:
      set = kVmaRandom, clear = kVmaSequential;
      return true;
    case MADV_SEQUENTIAL:
      set = kVmaSequential, clear = kVmaRandom;
      return true;
    case MADV_DONTFORK:
      set = kVmaDontFork;
      return true;
    case MADV_DOFORK:
      clear = kVmaDontFork;
      return true;
    case MADV_WIPEONFORK:
      set = kVmaWipeOnFork;
      return true;
    case MADV_KEEPONFORK:
      clear = kVmaWipeOnFork;
      return true;
    case MADV_HUGEPAGE:
      set = kVmaHuge, clear = kVmaNoHuge;
      return true;
    case MADV_NOHUGEPAGE:
      set = kVmaNoHuge, clear = kVmaHuge;
      return true;
    case MADV_DONTDUMP:
      set = kVmaDontDump;
      return true;
    case MADV_DODUMP:
      clear = kVmaDontDump;
      return true;
    default:
      return false;
  }
}

// Advice that Linux carries out and that changes nothing a program can see here.
bool accepted(int advice) {
  switch (advice) {
    case MADV_WILLNEED:
    case MADV_COLD:
    case MADV_PAGEOUT:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case kMadvCollapse:
      return true;
    default:
      return false;
  }
}

bool zaps(int advice) {
  return advice == MADV_DONTNEED || advice == MADV_DONTNEED_LOCKED || advice == MADV_FREE || advice == MADV_REMOVE;
}

}  // namespace

// The effect of DONTNEED, FREE and REMOVE on the part [start, end) of a VMA.
Result<void> MemoryManager::Impl::discard_pages(const Vma& v, UserAddr start, UserAddr end, int advice,
                                                std::vector<HoleToPunch>& punch) {
  if (v.has(kVmaSpecial)) return err(EINVAL);
  if (v.has(kVmaLocked) && advice != MADV_DONTNEED_LOCKED) return err(EINVAL);
  switch (advice) {
    case MADV_FREE:
      if (!v.anonymous()) return err(EINVAL);
      [[fallthrough]];
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
      zap(start, end);
      return {};
    default:  // MADV_REMOVE
      if (!v.shared() || !v.object) return err(EINVAL);
      if (!v.has(kVmaMayWrite)) return err(EACCES);
      punch.push_back({v.object, v.object_offset(start), end - start});
      return {};
  }
}

Result<void> MemoryManager::Impl::populate_checked(UserAddr start, UserAddr end, Access access) {
  for (UserAddr at = start; at < end; at += kPageSize) {
    auto r = mm.handle_fault(at, access);
    if (r) continue;
    switch (r.error().kind) {
      case FaultFailure::Kind::kMapErr:
        return err(ENOMEM);
      case FaultFailure::Kind::kAccErr:
        return err(EINVAL);
      case FaultFailure::Kind::kBusAdrErr:
        return err(EFAULT);
      case FaultFailure::Kind::kInterrupted:
        return err(EINTR);
      case FaultFailure::Kind::kOutOfMemory:
        return err(ENOMEM);
    }
  }
  return {};
}

Result<void> MemoryManager::madvise(UserAddr addr, u64 len, int advice) {
  u32 set, clear;
  bool flags = flag_change(advice, set, clear);
  bool populates = advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE;
  if (!flags && !populates && !accepted(advice) && !zaps(advice)) return err(EINVAL);
  if (!page_aligned(addr)) return err(EINVAL);
  if (len > ~u64{0} - kPageMask) return err(EINVAL);
  len = page_up(len);
  if (addr + len < addr) return err(EINVAL);
  if (len == 0) return {};
  if (addr > kGuestAddressLimit || len > kGuestAddressLimit - addr) return err(ENOMEM);
  UserAddr start = addr, end = addr + len;
  if (populates)
    return impl_->populate_checked(start, end, advice == MADV_POPULATE_READ ? Access::kRead : Access::kWrite);

  std::vector<Impl::HoleToPunch> punch;
  // Holes are skipped, and reported at the end.
  Result<void> result;
  {
    Impl::MapEdit edit(*impl_);
    if (flags) TRY(impl_->split_at(start, end));
    UserAddr at = start;
    bool hole = false;
    for (Vma* v = impl_->first_in(start, end); v && result; v = impl_->next_in(*v, end)) {
      UserAddr low = std::max(start, v->start), high = std::min(end, v->end);
      if (low > at) hole = true;
      at = high;
      if (flags) {
        if (advice == MADV_WIPEONFORK && !v->anonymous()) result = err(EINVAL);
        if (advice == MADV_DOFORK && v->has(kVmaSpecial)) result = err(EINVAL);
        if (result) impl_->set_attributes(*v, v->prot, (v->flags | set) & ~clear);
      } else if (zaps(advice)) {
        result = impl_->discard_pages(*v, low, high, advice, punch);
      }
    }
    if (flags) impl_->merge_range(start, end, edit);
    if (result && (hole || at < end)) result = err(ENOMEM);
  }
  // The file's pages go without our lock: that walks every address space that maps it.
  for (auto& p : punch) {
    auto r = p.object->mappable().punch_hole(p.offset, p.len);
    if (!r && result) result = r;
  }
  return result;
}

}  // namespace rf::mm
