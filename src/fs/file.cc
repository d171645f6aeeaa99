// What an open file description does when its type does not say otherwise.
#include "fs/file.h"

#include <unistd.h>

#include <algorithm>

#include "fs/dentry.h"
#include "fs/epoll.h"
#include "fs/special_files.h"
#include "fs/vfs.h"
#include "fs/vfs_impl.h"

namespace rf::fs {

namespace {

constexpr u64 kMaxFileSize = ~u64{0} >> 1;  // MAX_LFS_FILESIZE

// A mapping of a file: holds the description, as Linux's VMAs do.
class FileMapping final : public mm::MapObject {
 public:
  FileMapping(Ref<File> file, mm::Mappable& mappable, u64 ino)
      : file_(std::move(file)), mappable_(mappable), ino_(ino) {}
  mm::Mappable& mappable() override { return mappable_; }
  Identity identity() const override {
    Inode& inode = file_->inode();
    return {0, inode.fs().dev_minor(), ino_, path_text(file_->path(), nullptr)};
  }

 private:
  const Ref<File> file_;
  mm::Mappable& mappable_;
  const u64 ino_;
};

}  // namespace

Inode& File::inode() const { return *path_.dentry->inode(); }

File::~File() = default;

void File::last_unref() {
  epoll_file_closed(*this);
  Inode& i = inode();
  bool locked;
  {
    SpinGuard guard(i.attached_lock);
    locked = static_cast<bool>(i.file_locks);
  }
  if (locked) {
    release_flock(*this);
    release_record_locks(i, this);
  }
  release();
  if (exec_denial_ != 0) i.exec_denials.fetch_sub(exec_denial_, std::memory_order_acq_rel);
  delete this;
}

Result<size_t> File::read(const Context& ctx, mm::IoBuffer& dst) {
  FiberGuard guard(position_lock_);
  size_t n = TRY(pread(ctx, dst, position_));
  position_ += n;
  return n;
}

Result<size_t> File::write(const Context& ctx, mm::IoBuffer& src) {
  FiberGuard guard(position_lock_);
  u64 offset = position_;
  size_t n = TRY(write_at(ctx, src, offset));
  position_ = offset;
  return n;
}

Result<size_t> File::pread(const Context&, mm::IoBuffer&, u64) { return err(inode().is_dir() ? EISDIR : EINVAL); }
Result<size_t> File::pwrite(const Context&, mm::IoBuffer&, u64) { return err(EINVAL); }

Result<size_t> File::write_at(const Context& ctx, mm::IoBuffer& src, u64& offset) {
  Inode& i = inode();
  if (!i.is_regular()) {
    size_t n = TRY(pwrite(ctx, src, offset));
    offset += n;
    return n;
  }
  std::unique_lock<FiberRwMutex> append_guard;
  if (flags() & O_APPEND) {
    append_guard = std::unique_lock(i.lock);
    offset = TRY(size(ctx));
  }
  if (src.remaining() == 0) return size_t{0};
  u64 limit = std::min(ctx.file_size_limit, kMaxFileSize);
  if (offset >= limit) return err(EFBIG);
  if (src.remaining() <= limit - offset) {
    size_t n = TRY(pwrite(ctx, src, offset));
    offset += n;
    return n;
  }
  mm::IoBuffer allowed = src.prefix(limit - offset);
  size_t n = TRY(pwrite(ctx, allowed, offset));
  src.advance(n);
  offset += n;
  return n;
}

Result<u64> File::size(const Context& ctx) { return TRY(inode().getattr(ctx)).size; }

Result<u64> File::seek(const Context& ctx, s64 offset, int whence) {
  if (!seekable()) return err(ESPIPE);
  FiberGuard guard(position_lock_);
  s64 base = 0;
  switch (whence) {
    case SEEK_SET:
      break;
    case SEEK_CUR:
      base = static_cast<s64>(position_);
      break;
    case SEEK_END:
      base = static_cast<s64>(TRY(size(ctx)));
      break;
    // All of a file is data, unless its type knows better.
    case SEEK_DATA:
    case SEEK_HOLE: {
      const s64 end = static_cast<s64>(TRY(size(ctx)));
      if (offset < 0 || offset >= end) return err(ENXIO);
      return position_ = static_cast<u64>(whence == SEEK_DATA ? offset : end);
    }
    default:
      return err(EINVAL);
  }
  s64 target;
  if (__builtin_add_overflow(base, offset, &target)) return err(EOVERFLOW);
  if (target < 0) return err(EINVAL);
  return position_ = static_cast<u64>(target);
}

Result<void> File::readdir(const Context&, const std::function<bool(const DirEntry&)>&) { return err(ENOTDIR); }
Result<u64> File::ioctl(const Context&, u32, u64) { return err(ENOTTY); }

Result<void> File::truncate(const Context& ctx, u64 size) {
  if (!inode().is_regular()) return err(EINVAL);
  return change_size(ctx, inode(), size);
}

Result<void> File::fallocate(const Context&, int, u64, u64) {
  switch (inode().type()) {
    case S_IFIFO:
      return err(ESPIPE);
    case S_IFDIR:
      return err(EISDIR);
    case S_IFREG:
      return err(EOPNOTSUPP);
    default:
      return err(ENODEV);
  }
}

Result<Ref<mm::MapObject>> File::map_object() {
  mm::Mappable* mappable = inode().mappable();
  if (!mappable) return err(ENODEV);
  static const Credentials kernel;
  u64 ino = TRY(inode().getattr(Context{.creds = kernel})).ino;
  return Ref<mm::MapObject>(make_ref<FileMapping>(Ref<File>(this), *mappable, ino));
}

}  // namespace rf::fs
