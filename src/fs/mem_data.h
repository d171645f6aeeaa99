// The contents of files that live in memory, and the limits on them: what tmpfs and the overlay share.
#pragma once

#include <atomic>
#include <functional>
#include <span>

#include "core/result.h"
#include "mm/io_buffer.h"
#include "mm/mappable.h"

namespace rf::fs {

// What one file system in memory may use. Thread-safe.
class MemSpace {
 public:
  // `limit`: bytes of file contents, 0 for none but the sandbox's. Inodes are limited as on Linux, to half the number
  // of pages there are; names, link targets and xattrs, which the sentry's own memory holds, to an eighth of the bytes.
  MemSpace(mm::Frames& frames, u64 limit);

  mm::Frames& frames() const { return frames_; }
  u64 limit() const { return limit_; }
  u64 used() const { return used_.load(std::memory_order_relaxed); }
  u64 available() const;  // bytes of contents
  u64 max_inodes() const { return max_inodes_; }
  u64 inodes() const { return inodes_.load(std::memory_order_relaxed); }

  void add_used(u64 delta) { used_.fetch_add(delta, std::memory_order_relaxed); }  // modulo 2^64: may be negative
  bool charge_inode() { return charge(inodes_, 1, max_inodes_); }
  // For inodes that must be: those that record what was removed.
  void charge_inode_beyond_limit() { inodes_.fetch_add(1, std::memory_order_relaxed); }
  void release_inode() { inodes_.fetch_sub(1, std::memory_order_relaxed); }
  bool charge_metadata(u64 bytes) { return charge(metadata_, bytes, max_metadata_); }
  void release_metadata(u64 bytes) { metadata_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  static bool charge(std::atomic<u64>& counter, u64 amount, u64 limit) {
    if (counter.fetch_add(amount, std::memory_order_relaxed) + amount <= limit) return true;
    counter.fetch_sub(amount, std::memory_order_relaxed);
    return false;
  }
  mm::Frames& frames_;
  const u64 limit_;
  const u64 max_inodes_, max_metadata_;
  std::atomic<u64> used_{0}, inodes_{0}, metadata_{0};
};

// The contents of one regular file. Thread-safe, without a lock of its own held across what suspends; truncation and
// hole punching suspend to drop guest mappings.
class MemData final : public mm::Mappable {
 public:
  // `mapped_as`: what VMAs map instead of this object itself, if not null.
  explicit MemData(MemSpace& space, mm::Mappable* mapped_as = nullptr)
      : space_(space), mapped_as_(mapped_as ? *mapped_as : *this), pages_(space.frames()) {}
  ~MemData() override { space_.add_used(-charged_.load(std::memory_order_relaxed)); }

  u64 size() const { return pages_.size(); }
  u64 blocks() const { return pages_.allocated_bytes() / 512; }

  // Suspend on faults of the buffer.
  Result<size_t> read(mm::IoBuffer& dst, u64 offset);
  Result<size_t> write(mm::IoBuffer& src, u64 offset);  // ENOSPC, EFBIG
  Result<void> truncate(u64 size);
  // fallocate(2) with mode 0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE. `max_size`: RLIMIT_FSIZE.
  Result<void> fallocate(int mode, u64 offset, u64 len, u64 max_size);
  // SEEK_DATA, SEEK_HOLE: ENXIO.
  Result<u64> seek(u64 offset, int whence) const;

  Result<mm::PhysRun> pin(u64 offset, u64 len, bool write) override;

  // Drops the pages of a range, which then reads as zeros.
  void punch(u64 offset, u64 len);
  Result<void> punch_hole(u64 offset, u64 len) override {
    punch(offset, len);
    return {};
  }

  // Fills [offset, offset+len), which lies within the size, by read(span, offset), which returns the bytes it had.
  using Reader = std::function<Result<size_t>(std::span<std::byte>, u64)>;
  Result<void> load(u64 offset, u64 len, const Reader& read);

 private:
  Result<void> allocate(u64 offset, u64 len);
  // Bytes of the pages of [offset, offset+len) that do not exist yet.
  u64 missing(u64 offset, u64 len) const;
  // How many of `len` bytes at `offset` may be written within the limit.
  u64 allowed(u64 offset, u64 len) const;
  Result<size_t> write_some(mm::IoBuffer& src, u64 offset, u64 len);
  // Brings the space's account up to date.
  void settle();

  MemSpace& space_;
  mm::Mappable& mapped_as_;
  mm::PageStore pages_;
  std::atomic<u64> charged_{0};
};

}  // namespace rf::fs
