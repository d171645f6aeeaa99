// The entries of a directory that lives in memory: found by name in constant time, listed in an order that stays while
// others come and go (each gets the next cookie). Guarded by the directory's Inode::lock.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fs/inode.h"

namespace rf::fs {

class MemDirectory {
 public:
  struct Entry {
    std::string name;
    Ref<Inode> inode;  // null: a whiteout
    u64 ino = 0;
    u64 cookie = 0;
    bool over_lower = false;  // overlay: the lower directory has the name too
  };

  // Cookies begin here; what is below is for ".", "..", and an overlay's lower entries.
  explicit MemDirectory(u64 first_cookie) : next_cookie_(first_cookie) {}

  Entry* find(std::string_view name) const;
  // The name is not there yet.
  Entry& add(std::string_view name, Ref<Inode> inode, u64 ino);
  // Returns what the entry held, for the caller to drop.
  Ref<Inode> remove(Entry& entry);
  // Gives the entry a new place at the end of the order.
  void move_to_end(Entry& entry);
  size_t size() const { return by_name_.size(); }

  // Calls f(entry) for entries with cookies from `from` on, in order, until it returns false.
  template <class F>
  void for_each(u64 from, F&& f) const {
    for (size_t i = position(from); i < order_.size(); ++i)
      if (order_[i].entry && !f(*order_[i].entry)) return;
  }
  // Takes everything out.
  std::vector<Ref<Inode>> clear();

 private:
  struct Slot {
    u64 cookie;
    Entry* entry;  // null: removed
  };
  size_t position(u64 cookie) const;
  void erase_slot(const Entry& entry);

  u64 next_cookie_;
  std::unordered_map<std::string_view, std::unique_ptr<Entry>> by_name_;  // keys lie in the entries
  std::vector<Slot> order_;                                               // ascending
  size_t removed_ = 0;                                                    // null slots in order_
};

}  // namespace rf::fs
