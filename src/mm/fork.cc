// fork(2): the child's page table is filled from the parent's, range by range.
#include <algorithm>

#include "mm/memory_manager_impl.h"
#include "mm/safe_copy.h"

namespace rf::mm {
namespace {

using platform::Invalidation;
using platform::Prot;

}  // namespace

// Gives `child` the pages of an entry. page_lock is held.
Result<void> MemoryManager::Impl::share_entry(const Vma& v, const PageEntry& e, Impl& child) {
  Prot prot = e.prot;
  if (!v.shared()) prot.write = false;
  frames.ref(e.run.phys, e.run.len >> kPageShift);
  if (auto r = child.map_whole(e.va, e.run, prot); !r) {
    frames.unref(e.run.phys, e.run.len >> kPageShift);
    return r;
  }
  child.count_pages(e.run, true);
  return {};
}

// Host I/O is writing to some of these pages: the child gets a copy of them as they are now, so that the parent
// stays their only owner and sees the rest of the data.
Result<void> MemoryManager::Impl::copy_pinned_entry(const Vma& v, const PageEntry& e, Impl& child) {
  for (u64 i = 0; i < e.run.len; i += kPageSize) {
    PageEntry page{e.va + i, {e.run.phys + i, kPageSize}, e.prot};
    if (frames.is_file(page.run.phys) || !frames.any_pinned(page.run.phys, 1)) {
      TRY(share_entry(v, page, child));
      continue;
    }
    PhysRun copy = TRY(frames.allocate(1, Fill::kUninitialised));
    safe_copy(frames.host_ptr(copy.phys), frames.host_ptr(page.run.phys), kPageSize);
    if (auto r = child.map_whole(page.va, copy, v.rights()); !r) {
      frames.unref(copy.phys);
      return r;
    }
    child.count_pages(copy, true);
  }
  return {};
}

Result<void> MemoryManager::Impl::copy_vma_pages(const Vma& v, Impl& child, Invalidation& inval) {
  bool narrow = false;
  Result<void> result;
  for (const PageEntry& e : present(v.start, v.end)) {
    narrow |= !v.shared() && e.prot.write;
    if (!v.shared() && frames.any_pinned(e.run.phys, e.run.len >> kPageShift))
      result = copy_pinned_entry(v, e, child);
    else
      result = share_entry(v, e, child);
    if (!result) break;
  }
  // Even after a failure: some pages are shared now.
  if (narrow) space.protect(v.start, v.length(), v.read_only_rights(), inval);
  if (!result) return result;
  for (const PageEntry& e : list_hidden(v.start, v.end)) {
    frames.ref(e.run.phys, e.run.len >> kPageShift);
    child.count_pages(e.run, true);
    child.hide(e);
  }
  return {};
}

Result<Ref<MemoryManager>> MemoryManager::fork() {
  Ref<MemoryManager> child = TRY(create(env_));
  Impl& to = *child->impl_;
  {
    std::lock_guard lock(impl_->map_lock);
    child->layout_ = layout_;
    to.limits = impl_->limits;
    to.executable = executable();
    for (Vma* v = impl_->vmas.first(); v; v = impl_->vmas.next(*v)) {
      if (v->has(kVmaDontFork)) continue;
      std::unique_ptr<Vma> copy = v->clone();
      copy->flags &= ~(kVmaLocked | kVmaLockOnFault);
      to.insert_vma(std::move(copy));
    }
    // To the commit under one hold of the lock: a page must not be copied on write while a guest may
    // still write to it.
    std::lock_guard guard(impl_->page_lock);
    Invalidation inval;
    Result<void> result;
    for (Vma* v = impl_->vmas.first(); v && result; v = impl_->vmas.next(*v))
      if (!v->has(kVmaDontFork) && !v->has(kVmaWipeOnFork)) result = impl_->copy_vma_pages(*v, to, inval);
    space_->commit(inval);
    if (!result) return std::unexpected(result.error());  // the child's end frees what it got
  }
  return child;
}

}  // namespace rf::mm
