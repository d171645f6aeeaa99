// mremap(2), with Linux's order of checks.
#include <sys/mman.h>

#include <algorithm>

#include "mm/memory_manager_impl.h"

namespace rf::mm {
namespace {

constexpr int kFlags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;

}  // namespace

// Whether the mapping at addr may become new_len long (Linux's vma_to_resize()).
Result<Vma*> MemoryManager::Impl::resizable(UserAddr addr, u64 old_len, u64 new_len) {
  Vma* v = vmas.find(addr);
  if (!v) return err(EFAULT);
  // Zero duplicates a shared mapping.
  if (old_len == 0 && !v->shared()) return err(EINVAL);
  if (old_len > v->end - addr) return err(EFAULT);
  if (new_len == old_len) return v;
  if (v->has(kVmaSpecial)) return err(EFAULT);
  u64 more = new_len - old_len;
  if (!v->anonymous() && v->object_offset(addr) + new_len < new_len) return err(EINVAL);
  if (v->has(kVmaLocked) && !may_lock(more)) return err(EAGAIN);
  if (!may_expand(more, v->counts_as_data())) return err(ENOMEM);
  return v;
}

// Moves [addr, addr + old_len), which lies in one VMA, to [to, to + new_len), which is free.
Result<void> MemoryManager::Impl::move_vma(UserAddr addr, u64 old_len, UserAddr to, u64 new_len, bool keep_old,
                                           MapEdit& edit) {
  if (vmas.size() >= kMaxVmas - 3) return err(ENOMEM);
  if (old_len != 0) TRY(split_at(addr, addr + old_len));
  Vma* old = vmas.find(addr);
  std::unique_ptr<Vma> copy = old->clone();
  copy->start = to;
  copy->end = to + new_len;
  if (!copy->anonymous()) copy->offset = old->object_offset(addr);
  insert_vma(std::move(copy));
  if (old_len != 0) {
    if (auto r = move_pages(addr, to, old_len); !r) {
      // Without tables for all of it: what could not be moved is lost, as in an exhausted system it must be.
      return r;
    }
    if (keep_old) {
      set_attributes(*old, old->prot, old->flags & ~(kVmaLocked | kVmaLockOnFault));
      merge_range(old->start, old->end, edit);
    } else {
      remove_vma(*old, edit);
    }
  }
  merge_range(to, to + new_len, edit);
  return {};
}

Result<UserAddr> MemoryManager::Impl::remap_to(UserAddr addr, u64 old_len, u64 new_len, int flags, UserAddr to,
                                               MapEdit& edit) {
  bool fixed = (flags & MREMAP_FIXED) != 0, keep_old = (flags & MREMAP_DONTUNMAP) != 0;
  if (fixed) {
    if (!page_aligned(to) || new_len > kGuestAddressLimit || to > kGuestAddressLimit - new_len) return err(EINVAL);
    if (to < kMmapMinAddr) return err(EPERM);
    if (addr + old_len > to && to + new_len > addr) return err(EINVAL);
    if (vmas.size() + 2 >= kMaxVmas - 3) return err(ENOMEM);
    if (!vmas.find(addr)) return err(EFAULT);
    TRY(unmap_range(to, to + new_len, edit));
  }
  if (old_len > new_len) {
    TRY(unmap_range(addr + new_len, addr + old_len, edit));
    old_len = new_len;
  }
  Vma* v = TRY(resizable(addr, old_len, new_len));
  if (keep_old && !may_expand(old_len, v->counts_as_data())) return err(ENOMEM);
  if (!fixed) to = TRY(find_unmapped(to, new_len, 0));
  TRY(move_vma(addr, old_len, to, new_len, keep_old, edit));
  return to;
}

// Grows a mapping where it is; false when there is no room.
bool MemoryManager::Impl::grow_in_place(Vma& v, u64 more, MapEdit& edit) {
  if (v.end + more > kGuestAddressLimit || v.end + more < v.end) return false;
  Vma* above = vmas.next(v);
  if (above && above->start < v.end + more) return false;
  UserAddr start = v.start;
  space.occupy(v.end, more);
  account(v, false);
  v.end += more;
  account(v, true);
  merge_range(start, v.end, edit);
  return true;
}

Result<UserAddr> MemoryManager::mremap(UserAddr addr, u64 old_len, u64 new_len, int flags, UserAddr new_addr) {
  if ((flags & ~kFlags) != 0) return err(EINVAL);
  bool may_move = (flags & MREMAP_MAYMOVE) != 0;
  if ((flags & MREMAP_FIXED) != 0 && !may_move) return err(EINVAL);
  if ((flags & MREMAP_DONTUNMAP) != 0 && (!may_move || old_len != new_len)) return err(EINVAL);
  if (!page_aligned(addr) || new_len == 0) return err(EINVAL);
  if (old_len > ~u64{0} - kPageMask || new_len > ~u64{0} - kPageMask) return err(EINVAL);
  old_len = page_up(old_len);
  new_len = page_up(new_len);
  if (addr >= kGuestAddressLimit || old_len > kGuestAddressLimit - addr) return err(EFAULT);
  UserAddr result, populate_from = 0, populate_to = 0;
  {
    Impl::MapEdit edit(*impl_);
    Vma* v = impl_->vmas.find(addr);
    if (!v) return err(EFAULT);
    bool locked = v->has(kVmaLocked) && !v->has(kVmaLockOnFault);
    if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0) {
      result = TRY(impl_->remap_to(addr, old_len, new_len, flags, new_addr, edit));
    } else if (old_len >= new_len) {
      if (old_len > new_len) TRY(impl_->unmap_range(addr + new_len, addr + old_len, edit));
      return addr;
    } else {
      v = TRY(impl_->resizable(addr, old_len, new_len));
      u64 more = new_len - old_len;
      if (old_len != 0 && old_len == v->end - addr && impl_->grow_in_place(*v, more, edit)) {
        result = addr;
      } else {
        if (!may_move) return err(ENOMEM);
        result = TRY(impl_->find_unmapped(0, new_len, 0));
        TRY(impl_->move_vma(addr, old_len, result, new_len, false, edit));
      }
    }
    if (locked && new_len > old_len) {
      populate_from = result + old_len;
      populate_to = result + new_len;
    }
  }
  if (populate_to != 0) impl_->populate(populate_from, populate_to);
  return result;
}

}  // namespace rf::mm
