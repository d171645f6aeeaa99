#include "mm/vma.h"

#include <algorithm>

#include "core/check.h"

namespace rf::mm {
namespace {

// Linux's vm_start_gap: where the room below a VMA begins to be its own.
UserAddr guarded_start(const Vma& v) {
  if (!v.has(kVmaGrowsDown)) return v.start;
  return v.start > kStackGuardGap ? v.start - kStackGuardGap : 0;
}

}  // namespace

std::unique_ptr<Vma> Vma::clone() const {
  auto v = std::make_unique<Vma>();
  v->start = start;
  v->end = end;
  v->prot = prot;
  v->flags = flags;
  v->object = object;
  v->offset = offset;
  v->name = name;
  return v;
}

bool can_merge(const Vma& a, const Vma& b) {
  if (a.end != b.start || a.prot != b.prot || a.flags != b.flags || a.object.get() != b.object.get()) return false;
  if (a.has(kVmaSpecial) || a.name != b.name) return false;
  return a.anonymous() || a.offset + a.length() == b.offset;
}

Vma* VmaMap::find(UserAddr addr) const {
  auto it = tree_.upper_bound(addr);
  if (it == tree_.begin()) return nullptr;
  Vma* v = std::prev(it)->second.get();
  return addr < v->end ? v : nullptr;
}

Vma* VmaMap::find_ending_after(UserAddr addr) const {
  if (Vma* v = find(addr)) return v;
  auto it = tree_.upper_bound(addr);
  return it == tree_.end() ? nullptr : it->second.get();
}

Vma* VmaMap::prev(const Vma& v) const {
  auto it = tree_.lower_bound(v.start);
  return it == tree_.begin() ? nullptr : std::prev(it)->second.get();
}

Vma* VmaMap::next(const Vma& v) const {
  auto it = tree_.upper_bound(v.start);
  return it == tree_.end() ? nullptr : it->second.get();
}

bool VmaMap::overlaps(UserAddr start, UserAddr end) const {
  Vma* v = find_ending_after(start);
  return v && v->start < end;
}

Vma& VmaMap::insert(std::unique_ptr<Vma> v) {
  Vma& r = *v;
  bool inserted = tree_.emplace(r.start, std::move(v)).second;
  RF_CHECK(inserted, "two VMAs at one address");
  return r;
}

std::unique_ptr<Vma> VmaMap::remove(Vma& v) {
  auto it = tree_.find(v.start);
  RF_CHECK(it != tree_.end() && it->second.get() == &v, "a VMA that is not in its map");
  std::unique_ptr<Vma> out = std::move(it->second);
  tree_.erase(it);
  // The hole grew: what a search skipped may fit now.
  if (out->end > hole_from_) hole_size_ = 0;
  return out;
}

void VmaMap::set_start(Vma& v, UserAddr start) {
  auto node = tree_.extract(v.start);
  RF_CHECK(!node.empty(), "a VMA that is not in its map");
  if (start > v.start) hole_size_ = 0;
  v.start = start;
  node.key() = start;
  tree_.insert(std::move(node));
}

bool VmaMap::is_free(UserAddr start, u64 len) const {
  Vma* next = find_ending_after(start);
  return !next || start + len <= guarded_start(*next);
}

UserAddr VmaMap::gap_top_down(u64 len, UserAddr low, UserAddr high) {
  // Programs that map many small pieces would walk all of them each time: start where the last search ended when
  // nothing above is large enough. hole_size_ is 0 when that is not known.
  bool resume = hole_size_ != 0 && high == hole_high_ && len >= hole_size_ && hole_from_ <= high;
  UserAddr top = resume ? hole_from_ : high;
  u64 largest = resume ? hole_size_ - 1 : 0;
  auto it = tree_.lower_bound(top);
  // A VMA at or above `top` may be a stack whose guard gap reaches below it.
  if (it != tree_.end()) top = std::min(top, guarded_start(*it->second));
  for (;;) {
    UserAddr floor = low;
    const Vma* below = nullptr;
    if (it != tree_.begin()) {
      below = std::prev(it)->second.get();
      floor = std::max(low, below->end);
    }
    if (top > floor && top - floor >= len) {
      hole_high_ = high;
      hole_from_ = top;
      hole_size_ = largest + 1;
      return top - len;
    }
    if (top > floor) largest = std::max(largest, top - floor);
    if (!below || below->start <= low) return 0;
    top = std::min(top, guarded_start(*below));
    --it;
  }
}

UserAddr VmaMap::gap_bottom_up(u64 len, UserAddr low, UserAddr high) const {
  UserAddr at = low;
  for (Vma* v = find_ending_after(low); at + len <= high; v = next(*v)) {
    if (!v || at + len <= guarded_start(*v)) return at;
    at = std::max(at, v->end);
  }
  return 0;
}

}  // namespace rf::mm
