#include "fs/mem_files.h"

#include <dirent.h>
#include <sys/mount.h>
#include <unistd.h>

#include <shared_mutex>

#include "fs/dentry.h"

namespace rf::fs {

bool updates_atime(const File& file) {
  return !(file.flags() & O_NOATIME) && !(file.path().mount->flags.load(std::memory_order_relaxed) & MS_RDONLY);
}

Result<size_t> MemFile::pread(const Context&, mm::IoBuffer& dst, u64 offset) {
  size_t n = TRY(data_.read(dst, offset));
  if (updates_atime(*this)) attributes_.touch_atime();
  return n;
}

Result<size_t> MemFile::pwrite(const Context& ctx, mm::IoBuffer& src, u64 offset) {
  size_t n = TRY(data_.write(src, offset));
  if (n != 0) attributes_.note_write(ctx);
  return n;
}

Result<u64> MemFile::seek(const Context& ctx, s64 offset, int whence) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return File::seek(ctx, offset, whence);
  if (offset < 0) return err(ENXIO);
  FiberGuard guard(position_lock_);
  return position_ = TRY(data_.seek(static_cast<u64>(offset), whence));
}

Result<void> MemFile::fallocate(const Context& ctx, int mode, u64 offset, u64 len) {
  std::lock_guard guard(inode().lock);
  TRY(data_.fallocate(mode, offset, len, ctx.file_size_limit));
  attributes_.note_write(ctx);
  return {};
}

Result<void> DirectoryFile::readdir(const Context& ctx, const Emit& emit) {
  FiberGuard position_guard(position_lock_);
  Inode& self = inode();
  std::shared_lock guard(self.lock);
  if (path().dentry->unlinked()) return err(ENOENT);
  if (position_ == 0) {
    u64 ino = TRY(self.getattr(ctx)).ino;
    if (!emit({ino, 1, DT_DIR, "."})) return {};
    position_ = 1;
  }
  if (position_ == 1) {
    Ref<Dentry> parent = path().dentry->parent();
    u64 ino = TRY(parent->inode()->getattr(ctx)).ino;
    if (!emit({ino, 2, DT_DIR, ".."})) return {};
    position_ = 2;
  }
  return list(ctx, position_, emit);
}

bool DirectoryFile::list_memory(const MemDirectory& directory, u64& position, const Emit& emit) {
  bool more = true;
  directory.for_each(position, [&](const MemDirectory::Entry& e) {
    if (e.inode) {
      more = emit({e.ino, static_cast<s64>(e.cookie + 1), static_cast<u8>(e.inode->type() >> 12), e.name});
      if (!more) return false;
    }
    position = e.cookie + 1;
    return true;
  });
  return more;
}

Result<void> MemDirectoryFile::list(const Context&, u64& position, const Emit& emit) {
  list_memory(directory_, position, emit);
  if (updates_atime(*this)) attributes_.touch_atime();
  return {};
}

}  // namespace rf::fs
