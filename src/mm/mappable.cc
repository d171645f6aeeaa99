#include "mm/mappable.h"

#include <algorithm>

#include "core/check.h"
#include "mm/memory_manager_impl.h"

namespace rf::mm {

void Mappable::add_mapper(MemoryManager& mm) {
  SpinGuard guard(lock_);
  auto it = std::ranges::find(mappers_, &mm, [](const auto& m) { return m.first; });
  if (it != mappers_.end())
    it->second++;
  else
    mappers_.emplace_back(&mm, 1);
}

void Mappable::remove_mapper(MemoryManager& mm) {
  SpinGuard guard(lock_);
  auto it = std::ranges::find(mappers_, &mm, [](const auto& m) { return m.first; });
  RF_CHECK(it != mappers_.end(), "a mapper that was never added");
  if (--it->second != 0) return;
  *it = mappers_.back();
  mappers_.pop_back();
}

void Mappable::unmap_mappings(u64 offset, u64 len, bool even_private) {
  // The address spaces are kept alive by references: their locks come before ours.
  std::vector<Ref<MemoryManager>> mms;
  {
    SpinGuard guard(lock_);
    mms.reserve(mappers_.size());
    for (auto& [mm, count] : mappers_)
      if (mm->try_ref()) mms.push_back(Ref<MemoryManager>::adopt(mm));
  }
  for (const Ref<MemoryManager>& mm : mms) mm->impl_->unmap_object(*this, offset, len, even_private);
}

void MemoryManager::Impl::unmap_object(const Mappable& object, u64 offset, u64 len, bool even_private) {
  // Exclusive, not for the VMAs' sake: a fault that has pinned a page and not mapped it yet must be over.
  MapEdit edit(*this);
  u64 end = len > ~u64{0} - offset ? ~u64{0} : offset + len;
  for (Vma* v = vmas.first(); v; v = vmas.next(*v)) {
    if (v->anonymous() || &v->object->mappable() != &object) continue;
    u64 v_end = v->offset + v->length();
    u64 from = std::max(offset, v->offset), to = std::min(end, v_end);
    if (from >= to) continue;
    UserAddr low = v->start + (from - v->offset), high = v->start + (to - v->offset);
    if (v->shared() || even_private)
      zap(low, high);
    else
      zap_file_pages(low, high);
  }
}

}  // namespace rf::mm
