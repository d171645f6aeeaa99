#include "fs/mem_directory.h"

#include <algorithm>

namespace rf::fs {

MemDirectory::Entry* MemDirectory::find(std::string_view name) const {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second.get();
}

MemDirectory::Entry& MemDirectory::add(std::string_view name, Ref<Inode> inode, u64 ino) {
  auto entry = std::make_unique<Entry>(Entry{std::string(name), std::move(inode), ino, next_cookie_++});
  Entry& e = *entry;
  order_.push_back({e.cookie, &e});
  by_name_.emplace(e.name, std::move(entry));
  return e;
}

size_t MemDirectory::position(u64 cookie) const {
  auto it = std::ranges::lower_bound(order_, cookie, {}, &Slot::cookie);
  return static_cast<size_t>(it - order_.begin());
}

void MemDirectory::erase_slot(const Entry& entry) {
  order_[position(entry.cookie)].entry = nullptr;
  if (++removed_ <= 32 || removed_ < order_.size() / 2) return;
  std::erase_if(order_, [](const Slot& s) { return !s.entry; });
  removed_ = 0;
}

Ref<Inode> MemDirectory::remove(Entry& entry) {
  erase_slot(entry);
  auto it = by_name_.find(entry.name);
  // The key lies in the entry: out of the map first, then destroyed.
  auto node = by_name_.extract(it);
  return std::move(node.mapped()->inode);
}

void MemDirectory::move_to_end(Entry& entry) {
  erase_slot(entry);
  entry.cookie = next_cookie_++;
  order_.push_back({entry.cookie, &entry});
}

std::vector<Ref<Inode>> MemDirectory::clear() {
  std::vector<Ref<Inode>> inodes;
  for (auto& [name, entry] : by_name_)
    if (entry->inode) inodes.push_back(std::move(entry->inode));
  order_.clear();
  by_name_.clear();
  removed_ = 0;
  return inodes;
}

}  // namespace rf::fs
