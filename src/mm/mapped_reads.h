// Reads of a host file without a host call, for a sentry that a host call takes out of the guest: what is read again is
// mapped, through the file window, and copied from there. The mapping shows the host's page cache itself, so there is
// nothing to be kept coherent but the file's size.
#pragma once

#include <sys/uio.h>

#include <array>
#include <map>
#include <span>

#include "core/spinlock.h"
#include "mm/window_cache.h"

namespace rf::mm {

// Of one file, which must not be one that shrinks as a matter of course: in the page in which a file was cut short
// since it was mapped, bytes behind its new end read as zeros. Thread-safe; does not suspend.
class MappedReads {
 public:
  explicit MappedReads(Frames& frames) : frames_(frames) {}
  ~MappedReads() { frames_.window_cache().drop_all(chunks_); }

  // Copies what is mapped from `offset` on; 0 where nothing is, or where the read may reach the file's end: then the
  // host has to be asked. `fd`: the file, open for reading.
  size_t read(int fd, std::span<const iovec> into, u64 offset);
  // The host was asked, and gave this much. What it gives again and again is mapped.
  void note(int fd, u64 offset, u64 len);

 private:
  static constexpr u64 kChunk = GuestMemory::kWindowChunk;
  // So often a page is asked for before it is mapped, which costs an exit by itself, at its first use.
  static constexpr u8 kMapAfter = 4;
  static constexpr size_t kMostChunks = 512;         // that are looked at
  using Times = std::array<u8, kChunk / kPageSize>;  // that the host was asked for a page, up to kMapAfter
  size_t copy(int fd, std::byte* to, u64 offset, u64 len);
  void forget();

  Frames& frames_;
  WindowChunks chunks_;
  SpinLock lock_;               // guards what follows
  std::map<u64, Times> times_;  // by chunk
  u64 size_ = 0;                // of the file when a page of it was last found worth mapping
};

}  // namespace rf::mm
