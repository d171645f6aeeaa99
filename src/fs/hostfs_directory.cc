// Open directories of a host tree. Positions are the host's cookies (d_off), which stay good while the directory
// changes.

#include <dirent.h>

#include <array>
#include <memory>

#include "fs/hostfs_internal.h"

namespace rf::fs {
namespace {

constexpr size_t kBufferSize = 32 << 10;

// struct linux_dirent64 up to its name, getdents64(2).
struct [[gnu::packed]] HostEntry {
  u64 ino;
  s64 next;
  u16 length;
  u8 type;
};

class HostDirectory final : public File {
 public:
  HostDirectory(const Path& path, int flags, Ref<HostInode> inode, hostio::HostFd fd)
      : File(path, flags), inode_(std::move(inode)), fd_(std::move(fd)) {}

  Result<size_t> read(const Context&, mm::IoBuffer&) override { return err(EISDIR); }
  Result<size_t> pread(const Context&, mm::IoBuffer&, u64) override { return err(EISDIR); }
  Result<u64> seek(const Context& ctx, s64 offset, int whence) override;
  Result<void> readdir(const Context& ctx, const std::function<bool(const DirEntry&)>& emit) override;
  Result<void> fsync(bool data_only) override {
    if (!fd_.valid()) return {};
    return hostio::fsync(fd_.get(), data_only);
  }

 private:
  Result<void> fill();
  Result<void> read_hidden(const std::function<bool(const DirEntry&)>& emit);

  const Ref<HostInode> inode_;
  const hostio::HostFd fd_;  // invalid: an empty directory
  // Guarded by position_lock_: entries read and not given out yet, the first of them at position_.
  std::unique_ptr<std::array<std::byte, kBufferSize>> buffer_;
  size_t begin_ = 0, end_ = 0;
  bool moved_ = false;  // position_ was set: the buffer and the host's position are not there
};

Result<u64> HostDirectory::seek(const Context&, s64 offset, int whence) {
  FiberGuard guard(position_lock_);
  if (whence == SEEK_CUR)
    offset += static_cast<s64>(position_);
  else if (whence != SEEK_SET)
    return err(EINVAL);
  if (offset < 0) return err(EINVAL);
  // Even to where it is: rewinddir(3) wants to see what changed.
  position_ = static_cast<u64>(offset);
  moved_ = true;
  return position_;
}

Result<void> HostDirectory::fill() {
  if (moved_) {
    TRY(hostio::host_call(SYS_lseek, fd_.get(), position_, SEEK_SET));
    moved_ = false;
  }
  if (!buffer_) buffer_ = std::make_unique<std::array<std::byte, kBufferSize>>();
  begin_ = end_ = 0;
  end_ = TRY(hostio::host_call(SYS_getdents64, fd_.get(), buffer_->data(), buffer_->size()));
  return {};
}

Result<void> HostDirectory::readdir(const Context&, const std::function<bool(const DirEntry&)>& emit) {
  FiberGuard guard(position_lock_);
  if (!fd_.valid()) return read_hidden(emit);
  HostFs& fs = inode_->host_fs();
  for (;;) {
    if (moved_ || begin_ == end_) {
      TRY(fill());
      if (end_ == 0) return {};
    }
    HostEntry entry;
    memcpy(&entry, buffer_->data() + begin_, sizeof entry);
    const char* name = reinterpret_cast<const char*>(buffer_->data() + begin_ + sizeof entry);
    DirEntry out{fs.guest_ino(inode_->id().dev, entry.ino), entry.next, entry.type, name};
    if (!emit(out)) return {};
    position_ = static_cast<u64>(entry.next);
    begin_ += entry.length;
  }
}

Result<void> HostDirectory::read_hidden(const std::function<bool(const DirEntry&)>& emit) {
  const u64 ino = inode_->host_fs().guest_ino(inode_->id().dev, inode_->id().ino);
  constexpr std::array<std::string_view, 2> kNames{".", ".."};
  while (position_ < kNames.size()) {
    if (!emit({ino, static_cast<s64>(position_) + 1, DT_DIR, kNames[position_]})) break;
    ++position_;
  }
  return {};
}

}  // namespace

Ref<File> make_host_directory(const Path& path, int flags, Ref<HostInode> inode, hostio::HostFd fd) {
  return make_ref<HostDirectory>(path, flags, std::move(inode), std::move(fd));
}

}  // namespace rf::fs
