// Open regular files of a host tree.

#include <array>

#include "fs/hostfs_internal.h"

namespace rf::fs {
namespace {

constexpr size_t kSmall = 4096;         // copied through the stack, which is cheaper than pinning
constexpr u64 kChunk = u64{1} << 20;    // pinned at once
constexpr u64 kDirectWrite = 64 << 10;  // see write_some()

class HostFile final : public File {
 public:
  HostFile(const Path& path, int flags, Ref<HostInode> inode, HandleRef handle)
      : File(path, flags), inode_(std::move(inode)), handle_(std::move(handle)) {}

  Result<size_t> pread(const Context&, mm::IoBuffer& dst, u64 offset) override;
  Result<size_t> pwrite(const Context&, mm::IoBuffer& src, u64 offset) override;
  Result<u64> seek(const Context& ctx, s64 offset, int whence) override;
  Result<void> fsync(bool data_only) override { return hostio::fsync(handle_->get(), data_only); }
  Result<void> fallocate(const Context&, int mode, u64 offset, u64 len) override;

 private:
  // Asked anew each time: others may append, too.
  Result<u64> size(const Context&) override { return TRY(HostFs::stat_fd(handle_->get())).stx_size; }
  Result<size_t> read_some(std::span<const iovec> iov, u64 offset);
  Result<size_t> write_some(std::span<const iovec> iov, u64 bytes, u64 offset);
  Result<size_t> read_small(mm::IoBuffer& dst, u64 offset);
  Result<size_t> write_small(mm::IoBuffer& src, u64 offset);

  const Ref<HostInode> inode_;  // path() may lead to an overlay's inode instead
  const HandleRef handle_;
};

Result<size_t> HostFile::read_some(std::span<const iovec> iov, u64 offset) {
  mm::MappedReads* mapped = inode_->mapped_reads();
  if (mapped) {
    if (const size_t n = mapped->read(handle_->get(), iov, offset)) return n;
  }
  auto n = hostio::preadv2_now(handle_->get(), iov, static_cast<s64>(offset), RWF_NOWAIT);
  if (!n && (n.error() == Errno{EAGAIN} || n.error() == Errno{EOPNOTSUPP}))
    n = hostio::readv(handle_->get(), iov, static_cast<s64>(offset));
  if (n && mapped) mapped->note(handle_->get(), offset, *n);
  return n;
}

Result<size_t> HostFile::write_some(std::span<const iovec> iov, u64 bytes, u64 offset) {
  // Few file systems can tell whether a buffered write would wait, and for the others the ring turns to a kernel
  // thread, which costs tens of microseconds. The page cache takes a write of this size in one or two.
  auto n = bytes <= kDirectWrite ? hostio::pwritev2_now(handle_->get(), iov, static_cast<s64>(offset), 0)
                                 : hostio::writev(handle_->get(), iov, static_cast<s64>(offset));
  return n;
}

Result<size_t> HostFile::read_small(mm::IoBuffer& dst, u64 offset) {
  std::array<std::byte, kSmall> bytes;
  const iovec iov{bytes.data(), dst.remaining()};
  const size_t n = TRY(read_some({&iov, 1}, offset));
  return dst.put(std::span(bytes).first(n));
}

Result<size_t> HostFile::pread(const Context&, mm::IoBuffer& dst, u64 offset) {
  if (offset > static_cast<u64>(INT64_MAX)) return err(EINVAL);
  size_t done = 0;
  // A short read may mean that the rest is not in the page cache: only a read of nothing is the end.
  while (dst.remaining() > 0) {
    Result<size_t> n;
    if (dst.remaining() <= kSmall) {
      n = read_small(dst, offset + done);
    } else {
      auto pinned = dst.pin(kChunk, mm::Access::kWrite);
      n = pinned ? read_some(pinned->iov(), offset + done) : err(pinned.error());
      if (n) dst.advance(*n);
    }
    if (!n && done == 0) return n;
    if (!n || *n == 0) break;
    done += *n;
  }
  return done;
}

Result<size_t> HostFile::write_small(mm::IoBuffer& src, u64 offset) {
  std::array<std::byte, kSmall> bytes;
  mm::IoBuffer cursor = src.prefix(src.remaining());
  const size_t have = TRY(cursor.get(std::span(bytes).first(src.remaining())));
  const iovec iov{bytes.data(), have};
  const size_t n = TRY(write_some({&iov, 1}, have, offset));
  src.advance(n);
  return n;
}

Result<size_t> HostFile::pwrite(const Context&, mm::IoBuffer& src, u64 offset) {
  if (offset > static_cast<u64>(INT64_MAX)) return err(EINVAL);
  size_t done = 0;
  Result<size_t> n = size_t{0};
  while (src.remaining() > 0) {
    if (src.remaining() <= kSmall) {
      n = write_small(src, offset + done);
    } else {
      auto pinned = src.pin(kChunk, mm::Access::kRead);
      n = pinned ? write_some(pinned->iov(), pinned->bytes(), offset + done) : err(pinned.error());
      if (n) src.advance(*n);
    }
    if (!n || *n == 0) break;
    done += *n;
  }
  inode_->forget_attributes();
  if (done == 0 && !n) return n;
  if ((flags() & (O_SYNC | O_DSYNC)) != 0) TRY(hostio::fsync(handle_->get(), (flags() & O_SYNC) != O_SYNC));
  return done;
}

Result<u64> HostFile::seek(const Context& ctx, s64 offset, int whence) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return File::seek(ctx, offset, whence);
  // The host descriptor's own position is used for nothing else.
  const u64 found = TRY(hostio::host_call(SYS_lseek, handle_->get(), offset, whence));
  FiberGuard guard(position_lock_);
  position_ = found;
  return found;
}

Result<void> HostFile::fallocate(const Context&, int mode, u64 offset, u64 len) {
  TRY(hostio::fallocate(handle_->get(), mode, offset, len));
  inode_->forget_attributes();
  return {};
}

}  // namespace

Ref<File> make_host_file(const Path& path, int flags, Ref<HostInode> inode, HandleRef handle) {
  return make_ref<HostFile>(path, flags, std::move(inode), std::move(handle));
}

}  // namespace rf::fs
