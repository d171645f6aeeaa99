// The chunks of host files that are mapped in the file window: kept after their last use, the least recently used given
// up first, because each takes a mapping and a descriptor of the host.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/list.h"
#include "core/result.h"
#include "core/spinlock.h"
#include "mm/frames.h"

namespace rf::mm {

struct WindowChunk : ListNode<> {
  std::map<u64, std::unique_ptr<WindowChunk>>* home = nullptr;
  u64 index = 0;  // of 2 MiB in the file
  Phys phys = platform::kNoPhys;
};
// The chunks of one file, guarded by the cache's lock.
using WindowChunks = std::map<u64, std::unique_ptr<WindowChunk>>;

// Thread-safe; does not suspend.
class WindowCache {
 public:
  explicit WindowCache(Frames& frames) : frames_(frames) {}
  ~WindowCache();

  // The pages of [offset, offset + len), which lie in one chunk, each with a reference for the caller. Maps the
  // chunk if it is not there. ENOMEM: no room even without all idle chunks; or what the host's mmap says.
  Result<PhysRun> get(WindowChunks& chunks, int fd, bool writable, u64 offset, u64 len);
  // Gives all chunks of a file up; those still in use stay mapped until they are not.
  void drop_all(WindowChunks& chunks);
  size_t size() const;

 private:
  Result<Phys> map(int fd, bool writable, u64 index);
  // Unmaps idle chunks until at most `keep` are left, looking at no more than `tries`.
  void evict(size_t keep, size_t tries);

  Frames& frames_;
  mutable SpinLock lock_;
  List<WindowChunk> recent_;  // most recent first
  size_t count_ = 0;
};

}  // namespace rf::mm
