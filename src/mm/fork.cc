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

// Gives `child` the pages of a private entry. It gets copies of those that host I/O is writing to, so that the parent
// stays their only owner and sees the rest of the data; and of those that both are going to write. What was copied
// needs no protection in the parent: `copied`.
Result<void> MemoryManager::Impl::share_private_entry(const Vma& v, const PageEntry& e, Impl& child,
                                                      std::vector<UserAddr>& copied) {
  const bool pinned = frames.any_pinned(e.run.phys, e.run.len >> kPageShift);
  const bool hot =
      e.prot.write && std::ranges::any_of(hot_pages, [&](UserAddr va) { return va >= e.va && va < e.va + e.run.len; });
  const auto to_copy = [&](UserAddr va, Phys p) {
    if (frames.is_file(p)) return false;
    if (pinned && frames.any_pinned(p, 1)) return true;
    return hot && std::ranges::find(hot_pages, va) != hot_pages.end() && frames.owners(p) == 1;
  };
  u64 shared = 0;
  for (u64 at = 0; (pinned || hot) && at < e.run.len; at += kPageSize) {
    if (!to_copy(e.va + at, e.run.phys + at)) continue;
    if (at != shared) TRY(share_entry(v, {e.va + shared, {e.run.phys + shared, at - shared}, e.prot}, child));
    TRY(copy_for_child(v, {e.va + at, {e.run.phys + at, kPageSize}, e.prot}, child));
    copied.push_back(e.va + at);
    shared = at + kPageSize;
  }
  if (shared == e.run.len) return {};
  return share_entry(v, {e.va + shared, {e.run.phys + shared, e.run.len - shared}, e.prot}, child);
}

// The child gets a copy of a page.
Result<void> MemoryManager::Impl::copy_for_child(const Vma& v, const PageEntry& page, Impl& child) {
  PhysRun copy = TRY(frames.allocate(1, Fill::kUninitialised));
  auto r = copy_pages(copy.phys, page.run.phys, kPageSize) == kPageSize ? child.map_whole(page.va, copy, v.rights())
                                                                        : err(ENOMEM);
  if (r)
    child.count_pages(copy, true);
  else
    frames.unref(copy.phys);
  return r;
}

Result<void> MemoryManager::Impl::copy_vma_pages(const Vma& v, Impl& child, Invalidation& inval) {
  bool narrow = false;
  std::vector<UserAddr> copied;
  Result<void> result;
  for (const PageEntry& e : present(v.start, v.end)) {
    narrow |= !v.shared() && e.prot.write;
    result = v.shared() ? share_entry(v, e, child) : share_private_entry(v, e, child, copied);
    if (!result) break;
  }
  // Even after a failure: some pages are shared now.
  if (narrow) {
    UserAddr start = v.start;
    copied.push_back(v.end);
    for (UserAddr end : copied) {
      if (end != start) space.protect(start, end - start, v.read_only_rights(), inval);
      start = end + kPageSize;
    }
  }
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
    TRY(to.space.reserve());
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
    to.hot_pages = impl_->hot_pages;
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
