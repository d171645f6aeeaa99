// Frames: reference-counted 4 KiB pages of the sandbox's physical memory (platform::GuestMemory), and the sandbox's
// memory limit.
//
// A page of the memory file is owned by counts: VMAs' anonymous pages (shared copy-on-write after fork), page
// stores (tmpfs, memfd, shared anonymous memory) and pins of I/O in progress each hold one. A page of the file window
// is counted by its chunk. Freed pages are reused before new ones are touched; whole free chunks (2 MiB) are
// given back to the host.
#pragma once

#include <memory>

#include "core/result.h"
#include "core/types.h"
#include "platform/guest_memory.h"

namespace rf::mm {

using platform::GuestMemory;
using platform::Phys;

class WindowCache;

// Contiguous physical memory; len in bytes, a multiple of the page size.
struct PhysRun {
  Phys phys = platform::kNoPhys;
  u64 len = 0;
};

enum class Fill {
  kZero,
  kUninitialised
};  // kUninitialised only where every byte is overwritten before a guest sees it

class Frames {
 public:
  // `limit`: most bytes of memory-file pages in use at once.
  static std::unique_ptr<Frames> create(GuestMemory& memory, u64 limit);
  virtual ~Frames() = default;

  // Up to `max_pages` contiguous pages (at least 1), each with one reference. ENOMEM at the limit. Does not
  // suspend; per-worker caches keep it off shared locks.
  virtual Result<PhysRun> allocate(u64 max_pages, Fill fill) = 0;
  // A 2 MiB-aligned run of 512 pages, zeroed; ENOMEM when there is none at hand.
  virtual Result<PhysRun> allocate_huge() = 0;
  virtual void ref(Phys p, u64 pages = 1) = 0;
  virtual void unref(Phys p, u64 pages = 1) = 0;
  // Of one page, pins included. 1 means the caller is the only holder (nobody else can gain one meanwhile).
  virtual u32 ref_count(Phys p) const = 0;

  // References held by host I/O in progress. They do not count as owners: a page that one address space maps and
  // I/O writes to is not copied on write (the data would be lost), and fork gives the child a copy of it at once.
  virtual void pin(Phys p, u64 pages = 1) = 0;
  virtual void unpin(Phys p, u64 pages = 1) = 0;
  virtual bool any_pinned(Phys p, u64 pages) const = 0;
  // References that are not pins. 1: only the asking mapping's.
  virtual u32 owners(Phys p) const = 0;

  // Marks freshly allocated pages as the contents of a file (a page store's), so that a private mapping can
  // tell them from its own copies. The mark goes when the page is freed. Window pages are always file pages.
  virtual void mark_file(Phys p, u64 pages) = 0;
  virtual bool is_file(Phys p) const = 0;

  virtual u64 used() const = 0;   // bytes of the memory file in use
  virtual u64 limit() const = 0;  // bytes

  std::byte* host_ptr(Phys p) const { return memory_.host_ptr(p); }
  GuestMemory& memory() const { return memory_; }

  // Takes over a window range (at most one chunk) that was just mapped, with one reference (the mapper's) per
  // page; it is unmapped when the last goes.
  virtual void adopt_window(Phys p, u64 len) = 0;
  // Whether the only references to the window range at p are the mapper's.
  virtual bool window_idle(Phys p) const = 0;
  // Where host files keep their chunks (window_cache.h).
  virtual WindowCache& window_cache() = 0;

 protected:
  explicit Frames(GuestMemory& memory) : memory_(memory) {}
  GuestMemory& memory_;
};

}  // namespace rf::mm
