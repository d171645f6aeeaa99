// The sandbox's physical memory, as mm hands it out and platforms map it: one reserved range of the sentry's
// addresses, in two parts.
//
//   [0, window_base)           the memory file (a memfd): anonymous pages, tmpfs, page tables
//   [window_base, window_end)  the file window: host files mapped in place, chunk by chunk
//   [window_end, size)         kept free, so that a platform can place memory of its own beside a guest's
//
// A Phys is an offset into that range; host_ptr(phys) is where the sentry sees it. Platforms map guest pages from
// backing(phys) (an fd and offset) or, as KVM does, from the range itself as guest-physical memory.
#pragma once

#include <memory>

#include "core/result.h"
#include "core/types.h"
#include "hostio/fd.h"

namespace rf::platform {

using Phys = u64;
inline constexpr Phys kNoPhys = ~Phys{0};

struct Backing {
  int fd;         // borrowed
  u64 offset;     // in fd, of the phys asked for
  u64 len;        // bytes from there that are contiguous in fd
  bool writable;  // the sandbox may write there
};

class GuestMemory {
 public:
  static constexpr u64 kSize = u64{512} << 30;  // of the whole range
  static constexpr Phys kWindowBase = u64{256} << 30;
  static constexpr Phys kWindowEnd = kSize - (u64{2} << 30);
  static constexpr u64 kWindowChunk = u64{2} << 20;  // unit of window allocation

  // Creates the memfd and reserves the range. What fails: memfd_create, address-space limits (RLIMIT_AS).
  static Setup<std::unique_ptr<GuestMemory>> create();
  ~GuestMemory();

  std::byte* base() const { return base_; }
  std::byte* host_ptr(Phys p) const { return base_ + p; }
  static bool in_window(Phys p) { return p >= kWindowBase; }
  int memory_file() const { return memory_file_.get(); }
  Backing backing(Phys p) const;

  // Grows the memory file so that [0, size) is usable. Cheap: nothing is committed.
  Result<void> extend(u64 size);
  // Gives the host pages of a range of the memory file back; it reads as zeros after.
  void decommit(Phys p, u64 len);

  // Copies whole pages into the memory file by host calls. Slower than memcpy() between pages that the sentry has
  // touched before, and many times faster than the host's page faults where it has not. Returns the bytes copied: fewer
  // if `from` is in a file that has become shorter.
  u64 copy_pages(Phys to, Phys from, u64 len) const;

  // Maps [offset, offset+len) of a host file at a free, chunk-aligned place of the window and returns it.
  // `offset` is page-aligned; `writable` maps it shared and writable. The fd is duplicated. Reading pages beyond
  // the file's end is a SIGBUS: use the fault-proof copies in mm. ENOMEM when the window is full.
  Result<Phys> map_window(int fd, u64 offset, u64 len, bool writable);
  void unmap_window(Phys p, u64 len);

 private:
  GuestMemory() = default;
  struct Window;
  std::byte* base_ = nullptr;
  std::byte* reserved_ = nullptr;  // what mmap gave; base_ is aligned within it
  hostio::HostFd memory_file_;
  std::unique_ptr<Window> window_;
};

}  // namespace rf::platform
