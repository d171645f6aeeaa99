// Calls that make names: mkdir(2), mknod(2), symlink(2), link(2).
#include <limits.h>
#include <unistd.h>

#include "fs/vfs_impl.h"

namespace rf::fs {
namespace {

// filename_create(): walks to the parent of `path`, sees that nothing is there, that check(directory) has no objection
// and that something may be made, and calls make(directory inode, name) with the directory locked. Errors in Linux's
// order.
template <class Check, class Make>
Result<Path> create_at(MountTable& mounts, const Context& ctx, const Path* at, std::string_view path, bool directory,
                       Check&& check, Make&& make) {
  Walker walker(mounts, ctx);
  TRY(walker.start(at, path));
  TRY(walker.to_parent());
  const Walker::Last& last = walker.last();
  if (last.kind != Walker::Last::Kind::kNormal) return err(EEXIST);
  const Path& dir = walker.place();
  Inode& inode = *dir.dentry->inode();
  std::lock_guard guard(inode.lock);
  Ref<Dentry> entry = TRY(Walker::look_up_locked(ctx, dir.dentry, last.name));
  if (entry->inode()) return err(EEXIST);
  if (last.slash && !directory) return err(ENOENT);
  TRY(want_write(dir));
  TRY(check(dir));
  TRY(may_create(ctx, *dir.dentry));
  Ref<Inode> made = TRY(make(inode, last.name));
  return Path(dir.mount, DentryCache::get().insert(dir.dentry, last.name, std::move(made)));
}

Result<void> no_objection(const Path&) { return {}; }

// may_linkat() with fs.protected_hardlinks on, as distributions have it: files of others must be such that a link to
// them is no way around their permissions.
Result<void> may_link(const Context& ctx, Inode& target) {
  Attributes attr = TRY(target.getattr(ctx));
  if (owner_or_capable(ctx, attr)) return {};
  bool safe = S_ISREG(attr.mode) && !(attr.mode & S_ISUID) &&
              (attr.mode & (S_ISGID | S_IXGRP)) != (S_ISGID | S_IXGRP) && inode_permission(ctx, target, R_OK | W_OK);
  if (!safe) return err(EPERM);
  return {};
}

}  // namespace

Result<void> may_create(const Context& ctx, const Dentry& dir) {
  if (dir.unlinked() || !dir.inode()->fs().has_free_names()) return err(ENOENT);
  return inode_permission(ctx, *dir.inode(), W_OK | X_OK);
}

Result<void> Vfs::mkdir(const Context& ctx, const Path* at, std::string_view path, u16 mode) {
  mode = S_IFDIR | (mode & (S_IRWXU | S_IRWXG | S_IRWXO | S_ISVTX) & ~ctx.umask);
  TRY(create_at(impl_->mounts, ctx, at, path, true, no_objection,
                [&](Inode& dir, std::string_view name) { return dir.mkdir(ctx, name, mode); }));
  return {};
}

Result<Path> Vfs::mknod(const Context& ctx, const Path* at, std::string_view path, u16 mode, u32 major, u32 minor) {
  u16 type = mode & S_IFMT;
  switch (type) {
    case 0:
      type = S_IFREG;
      break;
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK:
      break;
    case S_IFDIR:
      return err(EPERM);
    default:
      return err(EINVAL);
  }
  bool device = type == S_IFCHR || type == S_IFBLK;
  u16 permissions = mode & 07777 & ~ctx.umask;
  return create_at(impl_->mounts, ctx, at, path, false, no_objection,
                   [&](Inode& dir, std::string_view name) -> Result<Ref<Inode>> {
                     if (device && !ctx.creds.capable(CAP_MKNOD)) return err(EPERM);
                     return dir.mknod(ctx, name, type | permissions, device ? major : 0, device ? minor : 0);
                   });
}

Result<void> Vfs::symlink(const Context& ctx, std::string_view target, const Path* at, std::string_view path) {
  if (target.empty()) return err(ENOENT);
  if (target.size() >= PATH_MAX) return err(ENAMETOOLONG);
  TRY(create_at(impl_->mounts, ctx, at, path, false, no_objection,
                [&](Inode& dir, std::string_view name) { return dir.symlink(ctx, name, target); }));
  return {};
}

Result<void> Vfs::link(const Context& ctx, const Path& target, const Path* at, std::string_view path) {
  const Ref<Inode>& inode = target.dentry->inode();
  auto check = [&](const Path& dir) -> Result<void> {
    if (!(dir.mount == target.mount)) return err(EXDEV);
    return may_link(ctx, *inode);
  };
  TRY(create_at(impl_->mounts, ctx, at, path, false, check,
                [&](Inode& dir, std::string_view name) -> Result<Ref<Inode>> {
                  if (&inode->fs() != &dir.fs()) return err(EXDEV);
                  if (inode->is_dir()) return err(EPERM);
                  std::lock_guard guard(inode->lock);
                  TRY(dir.link(ctx, name, *inode));
                  return inode;
                }));
  return {};
}

}  // namespace rf::fs
