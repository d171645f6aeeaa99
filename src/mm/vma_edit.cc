// Changes to the structure of an address space, and what they count.
#include <algorithm>

#include "core/check.h"
#include "mm/memory_manager_impl.h"

namespace rf::mm {

void MemoryManager::Impl::account(const Vma& v, bool add) {
  u64 pages = v.length() >> kPageShift;
  auto change = [&](u64& total) { total = add ? total + pages : total - pages; };
  change(totals.all);
  if (v.counts_as_data()) change(totals.data);
  if (v.has(kVmaGrowsDown)) change(totals.stack);
  if ((v.prot & PROT_EXEC) != 0) change(totals.exec);
  if (v.has(kVmaLocked)) change(totals.locked);
  totals.peak = std::max(totals.peak, totals.all);
}

Vma& MemoryManager::Impl::insert_vma(std::unique_ptr<Vma> v) {
  if (v->object) v->object->mappable().add_mapper(mm);
  account(*v, true);
  space.occupy(v->start, v->length());
  return vmas.insert(std::move(v));
}

void MemoryManager::Impl::remove_vma(Vma& v, MapEdit& edit) {
  account(v, false);
  std::unique_ptr<Vma> dead = vmas.remove(v);
  if (dead->object) dead->object->mappable().remove_mapper(mm);
  edit.discard(std::move(dead));
}

Vma& MemoryManager::Impl::split_vma(Vma& v, UserAddr addr) {
  RF_CHECK(addr > v.start && addr < v.end, "a split outside the VMA");
  std::unique_ptr<Vma> upper = v.clone();
  upper->start = addr;
  if (!upper->anonymous()) upper->offset = v.object_offset(addr);
  account(v, false);
  v.end = addr;
  account(v, true);
  return insert_vma(std::move(upper));
}

Result<void> MemoryManager::Impl::split_at(UserAddr start, UserAddr end) {
  Vma* at_start = vmas.find(start);
  Vma* at_end = vmas.find(end);
  bool cut_start = at_start && at_start->start < start;
  bool cut_end = at_end && at_end->start < end;
  if (vmas.size() + cut_start + cut_end > kMaxVmas) return err(ENOMEM);
  if (cut_end) split_vma(*at_end, end);
  if (cut_start) split_vma(*at_start, start);
  return {};
}

void MemoryManager::Impl::merge_range(UserAddr start, UserAddr end, MapEdit& edit) {
  Vma* v = vmas.find_ending_after(start == 0 ? 0 : start - 1);
  while (v && v->start <= end) {
    Vma* n = vmas.next(*v);
    if (!n) return;
    if (!can_merge(*v, *n)) {
      v = n;
      continue;
    }
    UserAddr joined_end = n->end;
    remove_vma(*n, edit);
    account(*v, false);
    v->end = joined_end;
    account(*v, true);
  }
}

void MemoryManager::Impl::set_attributes(Vma& v, int prot, u32 flags) {
  account(v, false);
  v.prot = prot;
  v.flags = flags;
  account(v, true);
}

Result<void> MemoryManager::Impl::unmap_range(UserAddr start, UserAddr end, MapEdit& edit) {
  Vma* v = first_in(start, end);
  if (!v) return {};
  TRY(split_at(start, end));
  zap(start, end);
  for (v = first_in(start, end); v;) {
    Vma* n = next_in(*v, end);
    remove_vma(*v, edit);
    v = n;
  }
  return {};
}

bool MemoryManager::Impl::may_expand(u64 len, bool data) const {
  u64 total = pages_to_bytes(totals.all);
  if (len > limits.as || total > limits.as - len) return false;
  if (!data) return true;
  u64 used = pages_to_bytes(totals.data);
  return len <= limits.data && used <= limits.data - len;
}

bool MemoryManager::Impl::may_lock(u64 len) const {
  u64 locked = pages_to_bytes(totals.locked);
  return len <= limits.memlock && locked <= limits.memlock - len;
}

bool MemoryManager::Impl::covered(UserAddr start, UserAddr end) const {
  UserAddr at = start;
  for (Vma* v = first_in(start, end); v && v->start <= at; v = next_in(*v, end)) {
    at = v->end;
    if (at >= end) return true;
  }
  return false;
}

}  // namespace rf::mm
