// The Vfs itself: walks, mounts and the names of places.
#include "fs/vfs.h"

#include "fs/vfs_impl.h"

namespace rf::fs {

Vfs::Vfs() = default;
Vfs::~Vfs() = default;

Result<std::unique_ptr<Vfs>> Vfs::create(const Ref<FileSystem>& root, std::string source, u64 flags) {
  auto mount = make_ref<Mount>(root, Dentry::make_root(root->root()));
  mount->source = std::move(source);
  mount->flags = flags;
  std::unique_ptr<Vfs> vfs(new Vfs);
  vfs->impl_ = std::make_unique<Impl>(std::move(mount));
  return vfs;
}

Path Vfs::root() const {
  const Ref<Mount>& m = impl_->mounts.root();
  return impl_->mounts.crossed(Path(m, m->root));
}

Result<Path> Vfs::walk(const Context& ctx, const Path* at, std::string_view path, WalkFlags flags) {
  if (path.empty() && flags.empty_path) return at ? *at : ctx.cwd;
  Walker walker(impl_->mounts, ctx, flags.resolve);
  TRY(walker.start(at, path));
  TRY(walker.to_end(flags.follow));
  return walker.take_place();
}

Result<std::string> Vfs::readlink(const Context& ctx, const Path* at, std::string_view path) {
  // "" means `at` itself, an O_PATH descriptor of a link.
  Path place = TRY(walk(ctx, at, path, {.follow = false, .empty_path = true}));
  Inode& inode = *place.dentry->inode();
  if (!inode.is_symlink()) return err(path.empty() ? ENOENT : EINVAL);
  if (path.empty() && !at) return err(ENOENT);
  return inode.readlink(ctx);
}

Result<void> Vfs::mount(const Context& ctx, const Path& point, Ref<FileSystem> fs, std::string source, u64 flags) {
  if (!ctx.creds.capable(CAP_SYS_ADMIN)) return err(EPERM);
  Ref<Inode> root = fs->root();
  if (root->is_dir() != point.dentry->inode()->is_dir()) return err(ENOTDIR);
  auto mount = make_ref<Mount>(std::move(fs), Dentry::make_root(std::move(root)));
  mount->source = std::move(source);
  mount->flags = flags;
  return impl_->mounts.add(std::move(mount), point);
}

Result<void> Vfs::bind(const Context& ctx, const Path& from, const Path& point, u64 flags) {
  if (!ctx.creds.capable(CAP_SYS_ADMIN)) return err(EPERM);
  if (from.dentry->detached()) return err(EINVAL);
  if (from.dentry->inode()->is_dir() != point.dentry->inode()->is_dir()) return err(ENOTDIR);
  auto mount = make_ref<Mount>(from.mount->fs, from.dentry);
  mount->source = from.mount->source;
  mount->flags = flags;
  return impl_->mounts.add(std::move(mount), point);
}

Result<void> Vfs::umount(const Context& ctx, const Path& path, int flags) {
  if (!ctx.creds.capable(CAP_SYS_ADMIN)) return err(EPERM);
  if (!(path.dentry == path.mount->root)) return err(EINVAL);
  return impl_->mounts.remove(*path.mount, (flags & (MNT_DETACH | MNT_FORCE)) != 0);
}

std::vector<Ref<Mount>> Vfs::mounts() const { return impl_->mounts.all(); }

std::string path_text(const Path& path, const Path* root) {
  if (!path.dentry) return "";
  TreeReadLock guard(DentryCache::get().lock());
  const Dentry* d = path.dentry.get();
  const Mount* m = path.mount.get();
  if (d->detached()) return DentryCache::name_of(*d);
  const bool deleted = DentryCache::unlinked(*d);
  std::vector<const std::string*> names;
  size_t length = 0;
  bool reachable = true;
  while (!root || !(d == root->dentry.get() && m == root->mount.get())) {
    if (d != m->root.get() && DentryCache::parent_of(*d)) {
      names.push_back(&DentryCache::name_of(*d));
      length += names.back()->size() + 1;
      d = DentryCache::parent_of(*d);
    } else if (d == m->root.get() && m->parent) {
      d = m->point.get();
      m = m->parent.get();
    } else {
      // The root of the tree of mounts, and the caller's was not on the way. (It is what "/" means to most; whoever
      // is in a chroot does not see what lies outside.)
      reachable = !root;
      break;
    }
  }
  std::string text = reachable ? "" : "(unreachable)";
  text.reserve(text.size() + length + 16);
  for (size_t i = names.size(); i-- > 0;) {
    text += '/';
    text += *names[i];
  }
  if (names.empty()) text += '/';
  if (deleted) text += " (deleted)";
  return text;
}

std::string Vfs::path_of(const Path& path, const Path& root) const { return path_text(path, &root); }

}  // namespace rf::fs
