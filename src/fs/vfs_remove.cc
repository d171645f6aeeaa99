// Calls that take names away: unlink(2), rmdir(2).
#include <unistd.h>

#include "fs/vfs_impl.h"

namespace rf::fs {

Result<void> may_delete(const Context& ctx, const Dentry& dir, const Dentry& victim, bool as_dir) {
  Inode& inode = *dir.inode();
  TRY(inode_permission(ctx, inode, W_OK | X_OK));
  Attributes dir_attr = TRY(inode.getattr(ctx));
  if ((dir_attr.mode & S_ISVTX) && ctx.creds.fsuid != dir_attr.uid && !ctx.creds.capable(CAP_FOWNER)) {
    if (TRY(victim.inode()->getattr(ctx)).uid != ctx.creds.fsuid) return err(EPERM);
  }
  if (as_dir && !victim.inode()->is_dir()) return err(ENOTDIR);
  if (!as_dir && victim.inode()->is_dir()) return err(EISDIR);
  if (dir.unlinked()) return err(ENOENT);
  return {};
}

bool is_mount_point(const Dentry& d) {
  TreeReadLock guard(DentryCache::get().lock());
  return DentryCache::is_mount_point(d);
}

Result<void> Vfs::unlink(const Context& ctx, const Path* at, std::string_view path) {
  Walker walker(impl_->mounts, ctx);
  TRY(walker.start(at, path));
  TRY(walker.to_parent());
  const Walker::Last& last = walker.last();
  if (last.kind != Walker::Last::Kind::kNormal) return err(EISDIR);
  const Path& dir = walker.place();
  TRY(want_write(dir));
  Ref<Dentry> victim;  // outlives the locks: its inode may go with it
  Inode& inode = *dir.dentry->inode();
  std::lock_guard guard(inode.lock);
  victim = TRY(Walker::look_up_locked(ctx, dir.dentry, last.name));
  if (!victim->inode()) return err(ENOENT);
  if (last.slash) return err(victim->inode()->is_dir() ? EISDIR : ENOTDIR);
  TRY(may_delete(ctx, *dir.dentry, *victim, false));
  if (is_mount_point(*victim)) return err(EBUSY);
  {
    std::lock_guard victim_guard(victim->inode()->lock);
    TRY(inode.unlink(ctx, last.name, *victim->inode()));
  }
  DentryCache::get().remove(*victim);
  return {};
}

Result<void> Vfs::rmdir(const Context& ctx, const Path* at, std::string_view path) {
  Walker walker(impl_->mounts, ctx);
  TRY(walker.start(at, path));
  TRY(walker.to_parent());
  const Walker::Last& last = walker.last();
  switch (last.kind) {
    case Walker::Last::Kind::kDotDot:
      return err(ENOTEMPTY);
    case Walker::Last::Kind::kDot:
      return err(EINVAL);
    case Walker::Last::Kind::kRoot:
      return err(EBUSY);
    case Walker::Last::Kind::kNormal:
      break;
  }
  const Path& dir = walker.place();
  TRY(want_write(dir));
  Ref<Dentry> victim;
  Inode& inode = *dir.dentry->inode();
  std::lock_guard guard(inode.lock);
  victim = TRY(Walker::look_up_locked(ctx, dir.dentry, last.name));
  if (!victim->inode()) return err(ENOENT);
  TRY(may_delete(ctx, *dir.dentry, *victim, true));
  if (is_mount_point(*victim)) return err(EBUSY);
  // With its own lock held until the entry says unlinked, nobody creates anything in it after it was found empty.
  std::lock_guard victim_guard(victim->inode()->lock);
  TRY(inode.rmdir(ctx, last.name, *victim->inode()));
  DentryCache::get().remove(*victim);
  return {};
}

}  // namespace rf::fs
