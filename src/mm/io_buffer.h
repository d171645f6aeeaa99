// The data argument of a read or write: a cursor over guest memory (one range or an iovec) or over a buffer of the
// sentry's. Files copy to or from it, or pin it for host I/O; both advance it.
#pragma once

#include <sys/uio.h>

#include <span>
#include <vector>

#include "mm/memory_manager.h"

namespace rf::mm {

class IoBuffer {
 public:
  // One range of guest memory. `len` is already clamped to MAX_RW_COUNT by the call.
  IoBuffer(MemoryManager& mm, UserAddr addr, u64 len);
  // readv(2)'s vector: reads `count` iovecs (EINVAL if over IOV_MAX or a length is negative; the total is
  // clamped to MAX_RW_COUNT as Linux does).
  static Result<IoBuffer> from_iovec(MemoryManager& mm, UserAddr iov, u64 count);
  // Memory of the sentry's own.
  explicit IoBuffer(std::span<std::byte> buffer);
  static IoBuffer from_const(std::span<const std::byte> buffer);  // only read from

  u64 remaining() const { return remaining_; }
  bool is_user() const { return mm_ != nullptr; }

  // Copy between `data` and the buffer at the cursor, advancing by what was copied: less than asked for at the end of
  // the buffer or at an unreachable page; EFAULT if nothing could be copied for that reason. Suspend on faults.
  Result<size_t> put(std::span<const std::byte> data);  // into the buffer (a read(2) delivers)
  Result<size_t> get(std::span<std::byte> data);        // out of the buffer (a write(2) collects)
  Result<size_t> put_zeros(u64 len);

  // Host iovecs for at most `max` bytes at the cursor, without advancing: guest pages are pinned (dropped with the
  // returned object). `access`: kWrite if the host will write into the buffer. EFAULT if the first page is unreachable.
  class Pinned {
   public:
    Pinned() = default;
    Pinned(Pinned&&) noexcept;
    Pinned& operator=(Pinned&&) noexcept;
    ~Pinned();
    std::span<const iovec> iov() const { return iov_; }
    u64 bytes() const { return bytes_; }

   private:
    friend class IoBuffer;
    Frames* frames_ = nullptr;
    std::vector<PhysRun> runs_;
    std::vector<iovec> iov_;
    u64 bytes_ = 0;
  };
  Result<Pinned> pin(u64 max, Access access);
  void advance(u64 n);

  // A buffer over the next `n` bytes only (an independent cursor; advance this one by hand).
  IoBuffer prefix(u64 n) const;

 private:
  IoBuffer() = default;
  const iovec& range(size_t i) const;
  template <class F>
  Result<size_t> transfer(u64 len, F&& f);
  MemoryManager* mm_ = nullptr;
  // Guest ranges, or host ones when mm_ is null. first_ is the common case, without an allocation.
  iovec first_{};
  std::vector<iovec> rest_;
  size_t index_ = 0;  // of the current range
  u64 done_ = 0;      // bytes of it already used
  u64 remaining_ = 0;
};

}  // namespace rf::mm
