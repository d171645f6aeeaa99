// mlock(2) and its family, mincore(2), msync(2).
#include <sys/mman.h>

#include <algorithm>

#include "mm/memory_manager_impl.h"

namespace rf::mm {
namespace {

constexpr int kMlockFlags = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;

// The page range of [addr, addr + len); EINVAL when it wraps.
Result<std::pair<UserAddr, UserAddr>> page_range(UserAddr addr, u64 len) {
  UserAddr start = page_down(addr);
  u64 whole = len + (addr - start);
  if (whole < len || whole > ~u64{0} - kPageMask) return err(EINVAL);
  UserAddr end = start + page_up(whole);
  if (end < start) return err(EINVAL);
  return std::pair{start, end};
}

}  // namespace

// Sets or clears the lock flags of what is in [start, end); ENOMEM where nothing is mapped.
Result<void> MemoryManager::Impl::change_lock(UserAddr start, UserAddr end, u32 flags) {
  MapEdit edit(*this);
  if (start >= kGuestAddressLimit) return err(ENOMEM);
  UserAddr limit = std::min(end, kGuestAddressLimit);
  if ((flags & kVmaLocked) != 0) {
    if (limits.memlock == 0) return err(EPERM);
    u64 more = end - start;
    for (Vma* v = first_in(start, limit); v; v = next_in(*v, limit))
      if (v->has(kVmaLocked)) more -= std::min(limit, v->end) - std::max(start, v->start);
    if (!may_lock(more)) return err(ENOMEM);
  }
  TRY(split_at(start, limit));
  for (Vma* v = first_in(start, limit); v; v = next_in(*v, limit))
    if (!v->has(kVmaSpecial)) set_attributes(*v, v->prot, (v->flags & ~(kVmaLocked | kVmaLockOnFault)) | flags);
  bool whole = covered(start, end);
  merge_range(start, limit, edit);
  return whole ? Result<void>() : err(ENOMEM);
}

Result<void> MemoryManager::mlock(UserAddr addr, u64 len, bool on_fault) {
  auto [start, end] = TRY(page_range(addr, len));
  if (start == end) return {};
  TRY(impl_->change_lock(start, end, on_fault ? kVmaLocked | kVmaLockOnFault : kVmaLocked));
  if (!on_fault) impl_->populate(start, end);
  return {};
}

Result<void> MemoryManager::munlock(UserAddr addr, u64 len) {
  auto [start, end] = TRY(page_range(addr, len));
  if (start == end) return {};
  return impl_->change_lock(start, end, 0);
}

Result<void> MemoryManager::mlockall(int flags) {
  if (flags == 0 || (flags & ~kMlockFlags) != 0 || flags == MCL_ONFAULT) return err(EINVAL);
  u32 lock = kVmaLocked;
  if ((flags & MCL_ONFAULT) != 0) lock |= kVmaLockOnFault;
  UserAddr end = 0;
  {
    Impl::MapEdit edit(*impl_);
    if (impl_->limits.memlock == 0) return err(EPERM);
    if ((flags & MCL_CURRENT) != 0 && pages_to_bytes(impl_->totals.all) > impl_->limits.memlock) return err(ENOMEM);
    impl_->lock_future = (flags & MCL_FUTURE) != 0 ? lock : 0;
    if ((flags & MCL_CURRENT) == 0) return {};
    for (Vma* v = impl_->vmas.first(); v; v = impl_->vmas.next(*v)) {
      if (!v->has(kVmaSpecial)) impl_->set_attributes(*v, v->prot, (v->flags & ~(kVmaLocked | kVmaLockOnFault)) | lock);
      end = v->end;
    }
  }
  if ((flags & MCL_ONFAULT) == 0) impl_->populate(0, end);
  return {};
}

Result<void> MemoryManager::munlockall() {
  Impl::MapEdit edit(*impl_);
  impl_->lock_future = 0;
  for (Vma* v = impl_->vmas.first(); v; v = impl_->vmas.next(*v))
    impl_->set_attributes(*v, v->prot, v->flags & ~(kVmaLocked | kVmaLockOnFault));
  impl_->merge_range(0, kGuestAddressLimit, edit);
  return {};
}

Result<void> MemoryManager::mincore(UserAddr addr, u64 len, const std::function<Result<void>(u64, bool)>& put) {
  if (!page_aligned(addr)) return err(EINVAL);
  if (addr >= kGuestAddressLimit || len > kGuestAddressLimit - addr) return err(ENOMEM);
  // In pieces, so that `put` (which writes to guest memory) runs without our locks.
  constexpr u64 kPiece = 512 * kPageSize;
  UserAddr end = addr + page_up(len);
  for (UserAddr at = addr; at < end; at += kPiece) {
    UserAddr stop = std::min(end, at + kPiece);
    std::vector<bool> in((stop - at) >> kPageShift);
    {
      std::shared_lock lock(impl_->map_lock);
      if (!impl_->covered(at, stop)) return err(ENOMEM);
      std::shared_lock guard(impl_->page_lock);
      auto mark = [&](const PageEntry& e) {
        for (u64 i = 0; i < e.run.len; i += kPageSize) in[(e.va + i - at) >> kPageShift] = true;
      };
      for (const PageEntry& e : impl_->present(at, stop)) mark(e);
      for (const PageEntry& e : impl_->list_hidden(at, stop)) mark(e);
    }
    for (u64 i = 0; i < in.size(); i++) TRY(put(((at - addr) >> kPageShift) + i, in[i]));
  }
  return {};
}

Result<void> MemoryManager::msync(UserAddr addr, u64 len, int flags) {
  if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) != 0) return err(EINVAL);
  if (!page_aligned(addr) || (flags & (MS_ASYNC | MS_SYNC)) == (MS_ASYNC | MS_SYNC)) return err(EINVAL);
  if (len > ~u64{0} - kPageMask || addr + page_up(len) < addr) return err(ENOMEM);
  UserAddr end = addr + page_up(len);
  if (addr == end) return {};
  struct Part {
    Ref<MapObject> object;
    u64 offset, len;
  };
  std::vector<Part> parts;
  Result<void> result;
  {
    std::shared_lock lock(impl_->map_lock);
    if (!impl_->covered(addr, end)) result = err(ENOMEM);  // told after the rest is written
    for (Vma* v = impl_->first_in(addr, end); v; v = impl_->next_in(*v, end)) {
      if ((flags & MS_INVALIDATE) != 0 && v->has(kVmaLocked)) return err(EBUSY);
      if ((flags & MS_SYNC) == 0 || !v->shared()) continue;
      UserAddr low = std::max(addr, v->start), high = std::min(end, v->end);
      parts.push_back({v->object, v->object_offset(low), high - low});
    }
  }
  for (auto& p : parts) TRY(p.object->mappable().sync(p.offset, p.len));
  return result;
}

}  // namespace rf::mm
