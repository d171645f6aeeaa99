// Open files and directories of the overlay.
#include <unistd.h>

#include "fs/overlay.h"

namespace rf::fs {
namespace {

// A regular file whose contents were the lower file's when it was opened.
class OverlayFile final : public File {
 public:
  OverlayFile(Path path, int flags, OverlayInode& node, Ref<File> lower)
      : File(std::move(path), flags), node_(node), lower_(std::move(lower)) {}

  Result<size_t> pread(const Context& ctx, mm::IoBuffer& dst, u64 offset) override;
  Result<size_t> pwrite(const Context& ctx, mm::IoBuffer& src, u64 offset) override;
  Result<u64> seek(const Context& ctx, s64 offset, int whence) override;
  Result<void> fallocate(const Context& ctx, int mode, u64 offset, u64 len) override;
  Result<Ref<mm::MapObject>> map_object_for(MapUse& use) override;

 private:
  // Null when the contents are no longer there.
  Result<Ref<File>> lower(const Context& ctx);

  OverlayInode& node_;  // held by the path
  SpinLock lower_lock_;
  Ref<File> lower_;  // guarded by lower_lock_; null until it is needed
};

Result<Ref<File>> OverlayFile::lower(const Context& ctx) {
  if (node_.data()) return Ref<File>();
  {
    SpinGuard guard(lower_lock_);
    if (lower_) return lower_;
  }
  Ref<File> opened = TRY(node_.open_lower(ctx));
  SpinGuard guard(lower_lock_);
  if (!lower_) lower_ = std::move(opened);
  return lower_;
}

Result<size_t> OverlayFile::pread(const Context& ctx, mm::IoBuffer& dst, u64 offset) {
  // What was copied up meanwhile is as it was: the old contents will do for this one call.
  if (Ref<File> lower = TRY(this->lower(ctx))) return lower->pread(ctx, dst, offset);
  size_t n = TRY(node_.data()->read(dst, offset));
  if (updates_atime(*this)) node_.attributes()->touch_atime();
  return n;
}

Result<size_t> OverlayFile::pwrite(const Context& ctx, mm::IoBuffer& src, u64 offset) {
  if (src.remaining() == 0) return size_t{0};
  MemData* data = TRY(node_.writable_data(ctx));
  size_t n = TRY(data->write(src, offset));
  if (n != 0) node_.attributes()->note_write(ctx);
  return n;
}

Result<u64> OverlayFile::seek(const Context& ctx, s64 offset, int whence) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return File::seek(ctx, offset, whence);
  if (offset < 0) return err(ENXIO);
  u64 found;
  if (Ref<File> lower = TRY(this->lower(ctx))) {
    found = TRY(lower->seek(ctx, offset, whence));
  } else {
    found = TRY(node_.data()->seek(static_cast<u64>(offset), whence));
  }
  FiberGuard guard(position_lock_);
  return position_ = found;
}

Result<void> OverlayFile::fallocate(const Context& ctx, int mode, u64 offset, u64 len) {
  std::lock_guard guard(node_.lock);
  MemData* data = TRY(node_.writable_data(ctx));
  TRY(data->fallocate(mode, offset, len, ctx.file_size_limit));
  node_.attributes()->note_write(ctx);
  return {};
}

Result<Ref<mm::MapObject>> OverlayFile::map_object_for(MapUse& use) {
  // A page fault is no place to copy the file, so what may come to be written is copied now.
  if (use.may_write || !node_.lower()->mappable()) {
    static const Credentials& kernel = *new Credentials;
    TRY(node_.writable_data(Context{.creds = kernel}));
  }
  return map_object();
}

// Lists the lower directory as far as its names are not taken or gone, then what was made here. A position below
// kUpperCookies is 2 plus the number of lower entries passed: the lower file system's own cookies may be any number.
class OverlayDirectory final : public DirectoryFile {
 public:
  OverlayDirectory(Path path, int flags, OverlayInode& node) : DirectoryFile(std::move(path), flags), node_(node) {}

 private:
  Result<void> list(const Context& ctx, u64& position, const Emit& emit) override;
  Result<bool> list_lower(const Context& ctx, u64& position, const Emit& emit);

  OverlayInode& node_;
  // Guarded by position_lock_.
  Ref<File> lower_;
  u64 lower_passed_ = 0;  // entries that lower_ has given out, without "." and ".."
};

Result<void> OverlayDirectory::list(const Context& ctx, u64& position, const Emit& emit) {
  if (position < kUpperCookies) {
    if (node_.lower() && !TRY(list_lower(ctx, position, emit))) return {};
    position = kUpperCookies;
  }
  if (node_.changes()) list_memory(*node_.changes(), position, emit);
  if (node_.attributes() && updates_atime(*this)) node_.attributes()->touch_atime();
  return {};
}

// True when all were listed.
Result<bool> OverlayDirectory::list_lower(const Context& ctx, u64& position, const Emit& emit) {
  const u64 wanted = position - 2;
  if (!lower_) {
    lower_ = TRY(node_.open_lower(ctx));
    lower_passed_ = 0;
  } else if (lower_passed_ > wanted || wanted == 0) {
    // Back to the start, as rewinddir(3) has it: the lower directory is read anew.
    TRY(lower_->seek(ctx, 0, SEEK_SET));
    lower_passed_ = 0;
  }
  bool more = true;
  TRY(lower_->readdir(ctx, [&](const DirEntry& e) {
    if (e.name == "." || e.name == "..") return true;
    const bool hidden = node_.changes() && node_.changes()->find(e.name);
    if (lower_passed_ >= wanted && !hidden) {
      more = emit({e.ino, static_cast<s64>(2 + lower_passed_ + 1), e.type, e.name});
      if (!more) return false;
    }
    ++lower_passed_;
    position = std::max(position, 2 + lower_passed_);
    return true;
  }));
  return more;
}

}  // namespace

Ref<File> make_overlay_file(const Path& path, int flags, OverlayInode& node, Ref<File> lower) {
  return make_ref<OverlayFile>(path, flags, node, std::move(lower));
}

Ref<File> make_overlay_directory(const Path& path, int flags, OverlayInode& node) {
  return make_ref<OverlayDirectory>(path, flags, node);
}

}  // namespace rf::fs
