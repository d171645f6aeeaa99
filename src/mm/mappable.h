// What a VMA maps when it is not private anonymous memory. Implemented by page stores (below), host files and
// devices; seen by mm through these two interfaces only.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/ref.h"
#include "core/spinlock.h"
#include "mm/frames.h"

namespace rf::mm {

class MemoryManager;

// The pages of one inode, the same whichever open file it is mapped through.
class Mappable {
 public:
  // Pages from `offset` (page-aligned) on: at least one, at most `len` bytes, contiguous; each with a reference that
  // becomes the caller's. With `write` the pages may be written through a shared mapping. Pages wholly beyond
  // the end of the file: err(ENXIO), which a fault turns into SIGBUS. ENOMEM, EIO. May suspend.
  virtual Result<PhysRun> pin(u64 offset, u64 len, bool write) = 0;

  // Writes shared-mapped changes back, msync(2). May suspend.
  virtual Result<void> sync(u64 /*offset*/, u64 /*len*/) { return {}; }

  // Frees the pages of a range, which then reads as zeros: madvise(MADV_REMOVE). EOPNOTSUPP. May suspend.
  virtual Result<void> punch_hole(u64 /*offset*/, u64 /*len*/) { return err(EOPNOTSUPP); }

  // Drops every guest mapping of [offset, offset+len) (len ~0: to the end): called by truncation and hole
  // punching after the pages left the object, so that a fault cannot find them again. Includes private copies
  // when `even_private` (truncation). Takes the address spaces' locks, under which pin() is called: a lock held here
  // must not be taken in pin(). May suspend.
  void unmap_mappings(u64 offset, u64 len, bool even_private);

  // mm's bookkeeping: called as VMAs of this object come and go.
  void add_mapper(MemoryManager& mm);
  void remove_mapper(MemoryManager& mm);

 protected:
  virtual ~Mappable() = default;

 private:
  SpinLock lock_;
  std::vector<std::pair<MemoryManager*, u32>> mappers_;  // with the number of VMAs each
};

// What a VMA holds: keeps the Mappable alive, and names it for /proc/PID/maps.
class MapObject : public RefCounted {
 public:
  virtual Mappable& mappable() = 0;
  struct Identity {
    u32 dev_major = 0, dev_minor = 0;
    u64 inode = 0;
    std::string path;  // "/lib/x.so", "/memfd:name (deleted)", "/dev/zero (deleted)"
  };
  virtual Identity identity() const = 0;
};

// Pages kept in the memory file, by offset, allocated when first written: the contents of tmpfs files, memfds,
// SysV segments and shared anonymous mappings. Sparse; holes read as zeros. Thread-safe; does not suspend, except
// resize() and punch() when they unmap.
class PageStore final : public Mappable {
 public:
  explicit PageStore(Frames& frames);
  ~PageStore() override;

  u64 size() const;  // of the file, bytes
  // Sets the size. Shrinking frees pages and zeroes the rest of the last one. May suspend.
  void resize(u64 size);
  void punch(u64 offset, u64 len);             // may suspend
  Result<void> allocate(u64 offset, u64 len);  // pages for fallocate(2); does not change size()
  u64 allocated_bytes() const;                 // for st_blocks
  // Next offset >= `offset` that is data (or hole); ENXIO past the end, as lseek(2) SEEK_DATA/SEEK_HOLE.
  Result<u64> seek_data(u64 offset) const;
  Result<u64> seek_hole(u64 offset) const;

  // Copies; read() stops at the end of the file, write() extends it. ENOSPC at the memory limit.
  Result<size_t> read(u64 offset, std::span<std::byte> out) const;
  Result<size_t> write(u64 offset, std::span<const std::byte> in);

  Result<PhysRun> pin(u64 offset, u64 len, bool write) override;
  Result<void> punch_hole(u64 offset, u64 len) override {
    punch(offset, len);
    return {};
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Pages of a host file, mapped in place through the file window, in chunks that are kept while used and for
// a while after. Reads of the mapped pages may meet SIGBUS: mm's copies survive it.
class HostFilePages final : public Mappable {
 public:
  // `fd` is borrowed and must outlive this. `writable`: shared mappings may be written (the fd is O_RDWR).
  HostFilePages(Frames& frames, int fd, bool writable);
  ~HostFilePages() override;
  Result<PhysRun> pin(u64 offset, u64 len, bool write) override;
  Result<void> sync(u64 offset, u64 len) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rf::mm
