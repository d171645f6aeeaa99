// open(2), openat2(2) and opening for execution.
#include <linux/openat2.h>
#include <unistd.h>

#include "fs/special_files.h"
#include "fs/vfs_impl.h"

namespace rf::fs {
namespace {

constexpr int kTmpfile = O_TMPFILE & ~O_DIRECTORY;
constexpr int kLargeFile = 0100000;  // what F_GETFL shows; glibc's O_LARGEFILE is 0 on x86-64
constexpr u16 kModeBits = 07777;

// An O_PATH description: a place, and nothing to do with it.
class PathFile final : public File {
 public:
  using File::File;
  EventMask poll() override { return POLLNVAL; }
  bool seekable() const override { return false; }
};

// build_open_flags(): the flags that count, or EINVAL for combinations that make no sense.
Result<int> check_open_flags(int flags, u64 resolve) {
  if (flags & O_PATH) return flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW);
  if (flags & kTmpfile) {
    if (!(flags & O_DIRECTORY) || (flags & O_CREAT) || (flags & O_ACCMODE) == O_RDONLY) return err(EINVAL);
  } else if ((flags & O_CREAT) && (flags & O_DIRECTORY)) {
    return err(EINVAL);
  }
  if ((resolve & RESOLVE_CACHED) && (flags & (O_TRUNC | O_CREAT | kTmpfile))) return err(EAGAIN);
  return flags & ~O_CLOEXEC;
}

// ACC_MODE(): what the flags ask of permission(). Mode 3 asks for both and gives neither.
int access_mask(int flags) {
  int mask = 0;
  switch (flags & O_ACCMODE) {
    case O_RDONLY:
      mask = R_OK;
      break;
    case O_WRONLY:
      mask = W_OK;
      break;
    default:
      mask = R_OK | W_OK;
      break;
  }
  if (flags & O_TRUNC) mask |= W_OK;
  return mask;
}

}  // namespace

class Opener {
 public:
  Opener(MountTable& mounts, const Context& ctx, int flags, u16 mode)
      : mounts_(mounts), ctx_(ctx), flags_(flags), mode_(mode & kModeBits) {}

  Result<Ref<File>> open(const Path* at, std::string_view path, u64 resolve);
  // What is there already, after the walk.
  Result<Ref<File>> open_place(const Path& place);
  static Result<Ref<File>> open_for_exec(const Context& ctx, const Path& place);

 private:
  // `created`: it is ours and new, whatever its mode; nothing is to be truncated.
  Result<Ref<File>> finish(const Path& place, bool created);
  Result<void> may_open(Inode& inode, const Path& place);
  Result<Ref<File>> open_or_create(Walker& walker);
  Result<Ref<Dentry>> look_up_or_create(Walker& walker, bool& created);
  Result<Ref<File>> open_tmpfile(const Path& dir);
  static Result<Ref<File>> open_inode(const Context& ctx, const Path& place, int flags);

  MountTable& mounts_;
  const Context& ctx_;
  const int flags_;
  const u16 mode_;
};

Result<Ref<File>> Opener::open(const Path* at, std::string_view path, u64 resolve) {
  Walker walker(mounts_, ctx_, resolve);
  TRY(walker.start(at, path));
  if (flags_ & O_CREAT) return open_or_create(walker);
  TRY(walker.to_end((flags_ & O_NOFOLLOW) == 0));
  if (flags_ & kTmpfile) return open_tmpfile(walker.place());
  return open_place(walker.place());
}

Result<Ref<File>> Opener::open_place(const Path& place) { return finish(place, false); }

Result<Ref<File>> Opener::open_or_create(Walker& walker) {
  for (;;) {
    TRY(walker.to_parent());
    const Walker::Last last = walker.last();
    if (last.kind != Walker::Last::Kind::kNormal) return err((flags_ & O_EXCL) ? EEXIST : EISDIR);
    if (last.slash) return err(EISDIR);
    bool created = false;
    Ref<Dentry> entry = TRY(look_up_or_create(walker, created));
    if (created) return finish(Path(walker.place().mount, entry), true);
    if (flags_ & O_EXCL) return err(EEXIST);
    if (entry->inode()->is_symlink() && !(flags_ & O_NOFOLLOW)) {
      bool done = false;
      TRY(walker.follow_last(entry, done));
      if (!done) continue;
    } else {
      TRY(walker.enter(entry));
    }
    if (walker.place().dentry->inode()->is_dir()) return err(EISDIR);
    return finish(walker.place(), false);
  }
}

// lookup_open(): the entry, or a new regular file in its place.
Result<Ref<Dentry>> Opener::look_up_or_create(Walker& walker, bool& created) {
  Ref<Dentry> entry = TRY(walker.look_up_last());
  if (entry->inode()) return entry;
  const Path& dir = walker.place();
  const std::string_view name = walker.last().name;
  Inode& inode = *dir.dentry->inode();
  std::lock_guard guard(inode.lock);
  entry = TRY(Walker::look_up_locked(ctx_, dir.dentry, name));
  if (entry->inode()) return entry;
  TRY(want_write(dir));
  TRY(may_create(ctx_, *dir.dentry));
  Ref<Inode> made = TRY(inode.mknod(ctx_, name, S_IFREG | (mode_ & ~ctx_.umask), 0, 0));
  created = true;
  return DentryCache::get().insert(dir.dentry, name, std::move(made));
}

Result<Ref<File>> Opener::open_tmpfile(const Path& dir) {
  Inode& inode = *dir.dentry->inode();
  if (!inode.is_dir()) return err(ENOTDIR);
  TRY(want_write(dir));
  TRY(inode_permission(ctx_, inode, W_OK | X_OK));
  Ref<Inode> made;
  {
    std::lock_guard guard(inode.lock);
    made = TRY(inode.tmpfile(ctx_, S_IFREG | (mode_ & ~ctx_.umask)));
  }
  u64 ino = TRY(made->getattr(ctx_)).ino;
  Path place(dir.mount, Dentry::make_detached("/#" + std::to_string(ino) + " (deleted)", std::move(made)));
  return finish(place, true);
}

Result<Ref<File>> Opener::finish(const Path& place, bool created) {
  Inode& inode = *place.dentry->inode();
  if ((flags_ & O_DIRECTORY) && !(flags_ & kTmpfile) && !inode.is_dir()) return err(ENOTDIR);
  if (flags_ & O_PATH) return Ref<File>(make_ref<PathFile>(place, flags_));
  if (!created) TRY(may_open(inode, place));
  bool writes = inode.is_regular() && (flags_ & O_ACCMODE) != O_RDONLY;
  bool truncates = inode.is_regular() && (flags_ & O_TRUNC) && !created;
  if (writes || truncates) TRY(get_write_access(inode));
  auto opened = [&]() -> Result<Ref<File>> {
    Ref<File> file = TRY(open_inode(ctx_, place, flags_));
    if (truncates) TRY(change_size(ctx_, inode, 0));
    return file;
  }();
  if (opened && writes) {
    (*opened)->exec_denial_ = -1;
  } else if (writes || truncates) {
    inode.exec_denials.fetch_add(1, std::memory_order_acq_rel);
  }
  return opened;
}

Result<void> Opener::may_open(Inode& inode, const Path& place) {
  int mask = access_mask(flags_);
  switch (inode.type()) {
    case S_IFLNK:
      return err(ELOOP);
    case S_IFDIR:
      if (mask & W_OK) return err(EISDIR);
      break;
    case S_IFBLK:
    case S_IFCHR:
      if (place.mount->flags & MS_NODEV) return err(EACCES);
      break;
    default:
      break;
  }
  // Devices and FIFOs may be written on a read-only file system.
  if ((mask & W_OK) && inode.is_regular()) TRY(want_write(place));
  TRY(inode_permission(ctx_, inode, mask));
  if ((flags_ & O_NOATIME) && !owner_or_capable(ctx_, TRY(inode.getattr(ctx_)))) return err(EPERM);
  return {};
}

Result<Ref<File>> Opener::open_inode(const Context& ctx, const Path& place, int flags) {
  Inode& inode = *place.dentry->inode();
  if (inode.type() == S_IFSOCK) return err(ENXIO);
  Ref<File> file = TRY(inode.type() == S_IFIFO ? open_fifo(ctx, place, flags) : inode.open(ctx, place, {flags}));
  file->set_flags((flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC)) | kLargeFile);
  return file;
}

Result<Ref<File>> Opener::open_for_exec(const Context& ctx, const Path& place) {
  Inode& inode = *place.dentry->inode();
  if (inode.is_symlink()) return err(ELOOP);
  if (!inode.is_regular() || (place.mount->flags & MS_NOEXEC)) return err(EACCES);
  TRY(inode_permission(ctx, inode, X_OK));
  TRY(deny_write_access(inode));
  auto file = open_inode(ctx, place, O_RDONLY);
  if (file) {
    (*file)->exec_denial_ = 1;
  } else {
    inode.exec_denials.fetch_sub(1, std::memory_order_acq_rel);
  }
  return file;
}

Result<void> get_write_access(Inode& inode) {
  s32 n = inode.exec_denials.load(std::memory_order_relaxed);
  do {
    if (n > 0) return err(ETXTBSY);
  } while (!inode.exec_denials.compare_exchange_weak(n, n - 1, std::memory_order_acq_rel));
  return {};
}

Result<void> deny_write_access(Inode& inode) {
  s32 n = inode.exec_denials.load(std::memory_order_relaxed);
  do {
    if (n < 0) return err(ETXTBSY);
  } while (!inode.exec_denials.compare_exchange_weak(n, n + 1, std::memory_order_acq_rel));
  return {};
}

Result<Ref<File>> Vfs::open(const Context& ctx, const Path* at, std::string_view path, int flags, u16 mode,
                            u64 resolve) {
  if ((resolve & RESOLVE_BENEATH) && (resolve & RESOLVE_IN_ROOT)) return err(EINVAL);
  return Opener(impl_->mounts, ctx, TRY(check_open_flags(flags, resolve)), mode).open(at, path, resolve);
}

Result<Ref<File>> Vfs::open_path(const Context& ctx, const Path& path, int flags) {
  if (flags & (O_CREAT | kTmpfile)) return err(EINVAL);
  return Opener(impl_->mounts, ctx, TRY(check_open_flags(flags, 0)), 0).open_place(path);
}

Result<Ref<File>> Vfs::open_exec(const Context& ctx, const Path* at, std::string_view path, WalkFlags flags) {
  return Opener::open_for_exec(ctx, TRY(walk(ctx, at, path, flags)));
}

}  // namespace rf::fs
