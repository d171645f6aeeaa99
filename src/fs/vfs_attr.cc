// Attributes: chmod(2), chown(2), utimensat(2), truncate(2), access(2), stat(2), statfs(2).
#include <unistd.h>

#include "fs/vfs_impl.h"

namespace rf::fs {

bool owner_or_capable(const Context& ctx, const Attributes& attr) {
  return ctx.creds.fsuid == attr.uid || ctx.creds.capable(CAP_FOWNER);
}

u16 without_privileges(const Context& ctx, const Attributes& attr) {
  u16 mode = attr.mode & ~S_ISUID;
  if ((mode & S_IXGRP) || (!ctx.creds.in_group(attr.gid) && !ctx.creds.capable(CAP_FSETID))) mode &= ~S_ISGID;
  return mode;
}

Result<void> change_attributes(const Context& ctx, Inode& inode, const AttributeChange& change) {
  std::lock_guard guard(inode.lock);
  return inode.setattr(ctx, change);
}

Result<void> change_size(const Context& ctx, Inode& inode, u64 size) {
  std::lock_guard guard(inode.lock);
  Attributes attr = TRY(inode.getattr(ctx));
  if (size > attr.size && size > ctx.file_size_limit) return err(EFBIG);
  AttributeChange change;
  change.mask = AttributeChange::kSize | AttributeChange::kMtime | AttributeChange::kCtime;
  change.size = size;
  change.mtime = change.ctime = Timestamp::now();
  if (u16 mode = without_privileges(ctx, attr); mode != attr.mode && !ctx.creds.capable(CAP_FSETID)) {
    change.mask |= AttributeChange::kMode;
    change.mode = mode & 07777;
  }
  return inode.setattr(ctx, change);
}

Result<Attributes> Vfs::getattr(const Context& ctx, const Path& path) { return path.dentry->inode()->getattr(ctx); }

Result<void> Vfs::chmod(const Context& ctx, const Path& path, u16 mode) {
  Inode& inode = *path.dentry->inode();
  TRY(want_write(path));
  if (inode.is_symlink()) return err(EOPNOTSUPP);
  std::lock_guard guard(inode.lock);
  Attributes attr = TRY(inode.getattr(ctx));
  if (!owner_or_capable(ctx, attr)) return err(EPERM);
  AttributeChange change;
  change.mask = AttributeChange::kMode | AttributeChange::kCtime;
  change.mode = mode & 07777;
  change.ctime = Timestamp::now();
  if (!ctx.creds.in_group(attr.gid) && !ctx.creds.capable(CAP_FSETID)) change.mode &= ~S_ISGID;
  return inode.setattr(ctx, change);
}

Result<void> Vfs::chown(const Context& ctx, const Path& path, u32 uid, u32 gid) {
  constexpr u32 kLeave = ~0u;
  Inode& inode = *path.dentry->inode();
  TRY(want_write(path));
  std::lock_guard guard(inode.lock);
  Attributes attr = TRY(inode.getattr(ctx));
  const Credentials& creds = ctx.creds;
  const bool owner = creds.fsuid == attr.uid, may = creds.capable(CAP_CHOWN);
  AttributeChange change;
  change.mask = AttributeChange::kCtime;
  change.ctime = Timestamp::now();
  if (uid != kLeave) {
    if (!may && !(owner && uid == attr.uid)) return err(EPERM);
    change.mask |= AttributeChange::kUid;
    change.uid = uid;
  }
  if (gid != kLeave) {
    if (!may && !(owner && (gid == attr.gid || creds.in_group(gid)))) return err(EPERM);
    change.mask |= AttributeChange::kGid;
    change.gid = gid;
  }
  // Even for the superuser.
  if (!inode.is_dir()) {
    u16 mode = without_privileges(ctx, attr);
    if (mode != attr.mode) {
      if (!owner_or_capable(ctx, attr)) return err(EPERM);
      change.mask |= AttributeChange::kMode;
      change.mode = mode & 07777;
    }
    if (auto gone = inode.removexattr(ctx, "security.capability");
        !gone && gone.error() != Errno{ENODATA} && gone.error() != Errno{EOPNOTSUPP})
      return gone;
  }
  return inode.setattr(ctx, change);
}

Result<void> Vfs::utimens(const Context& ctx, const Path& path, TimeChange atime, TimeChange mtime) {
  using What = TimeChange::What;
  if (atime.what == What::kOmit && mtime.what == What::kOmit) return {};
  Inode& inode = *path.dentry->inode();
  TRY(want_write(path));
  std::lock_guard guard(inode.lock);
  Attributes attr = TRY(inode.getattr(ctx));
  if (!owner_or_capable(ctx, attr)) {
    if (atime.what != What::kNow || mtime.what != What::kNow) return err(EPERM);
    TRY(inode_permission(ctx, inode, W_OK));
  }
  AttributeChange change;
  change.mask = AttributeChange::kCtime;
  change.ctime = Timestamp::now();
  if (atime.what != What::kOmit) {
    change.mask |= AttributeChange::kAtime;
    change.atime = atime.what == What::kNow ? change.ctime : atime.time;
  }
  if (mtime.what != What::kOmit) {
    change.mask |= AttributeChange::kMtime;
    change.mtime = mtime.what == What::kNow ? change.ctime : mtime.time;
  }
  return inode.setattr(ctx, change);
}

Result<void> Vfs::truncate(const Context& ctx, const Path& path, u64 size) {
  Inode& inode = *path.dentry->inode();
  if (inode.is_dir()) return err(EISDIR);
  if (!inode.is_regular()) return err(EINVAL);
  TRY(want_write(path));
  TRY(inode_permission(ctx, inode, W_OK));
  TRY(get_write_access(inode));
  auto done = change_size(ctx, inode, size);
  inode.exec_denials.fetch_add(1, std::memory_order_acq_rel);
  return done;
}

namespace {

// The credentials that access(2) asks with: the real ids, and the capabilities these would have. Null: those of the
// caller will do.
Ref<Credentials> real_credentials(const Credentials& c) {
  u64 effective = c.uid == 0 ? c.permitted : 0;
  if (c.fsuid == c.uid && c.fsgid == c.gid && c.effective == effective) return nullptr;
  Ref<Credentials> real = c.copy();
  real->fsuid = c.uid;
  real->fsgid = c.gid;
  real->effective = effective;
  return real;
}

Result<void> check_access(const Context& ctx, const Path& path, int mode) {
  Inode& inode = *path.dentry->inode();
  if ((mode & X_OK) && inode.is_regular() && (path.mount->flags & MS_NOEXEC)) return err(EACCES);
  TRY(inode_permission(ctx, inode, mode));
  if ((mode & W_OK) && (inode.is_regular() || inode.is_dir() || inode.is_symlink())) return want_write(path);
  return {};
}

}  // namespace

Result<void> Vfs::access(const Context& ctx, const Path& path, int mode, bool effective) {
  if (mode == F_OK) return {};
  Ref<Credentials> real = effective ? nullptr : real_credentials(ctx.creds);
  if (!real) return check_access(ctx, path, mode);
  Context as_real{.creds = *real,
                  .root = ctx.root,
                  .cwd = ctx.cwd,
                  .umask = ctx.umask,
                  .pid = ctx.pid,
                  .tid = ctx.tid,
                  .file_size_limit = ctx.file_size_limit,
                  .mm = ctx.mm,
                  .task = ctx.task};
  return check_access(as_real, path, mode);
}

Result<struct ::statfs> Vfs::statfs(const Path& path) {
  struct ::statfs s = TRY(path.mount->fs->statfs());
  constexpr long kValid = 0x20;  // ST_VALID: f_flags means something
  // ST_RDONLY, ST_NOSUID, ST_NODEV and ST_NOEXEC have the values of their MS_ fellows.
  s.f_flags = kValid | static_cast<long>(path.mount->flags & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC));
  return s;
}

}  // namespace rf::fs
