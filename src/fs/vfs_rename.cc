// rename(2), renameat2(2).
#include <linux/fs.h>
#include <unistd.h>

#include <functional>
#include <optional>

#include "fs/vfs_impl.h"

namespace rf::fs {
namespace {

bool is_below(const Dentry& d, const Dentry& ancestor) {
  TreeReadLock guard(DentryCache::get().lock());
  return DentryCache::is_below(&d, &ancestor);
}

// lock_rename(): both directories, the upper one first, and while they are two the topology of the tree.
class RenameLocks {
 public:
  RenameLocks(FiberMutex& topology, const Ref<Dentry>& a, const Ref<Dentry>& b) {
    Inode *first = a->inode().get(), *second = b->inode().get();
    if (first == second) {
      first_ = std::unique_lock(first->lock);
      return;
    }
    topology_ = std::unique_lock(topology);
    if (is_below(*a, *b) || (!is_below(*b, *a) && std::less<>()(second, first))) std::swap(first, second);
    first_ = std::unique_lock(first->lock);
    second_ = std::unique_lock(second->lock);
  }

 private:
  std::unique_lock<FiberMutex> topology_;
  std::unique_lock<FiberRwMutex> first_, second_;
};

// Locks up to two inodes that are no directories, and a directory that is about to be replaced.
class VictimLocks {
 public:
  VictimLocks(Inode* a, Inode* b) {
    if (a && b && std::less<>()(b, a)) std::swap(a, b);
    if (a) first_ = std::unique_lock(a->lock);
    if (b) second_ = std::unique_lock(b->lock);
  }

 private:
  std::unique_lock<FiberRwMutex> first_, second_;
};

class Rename {
 public:
  Rename(const Context& ctx, Walker& from, Walker& to, u32 flags) : ctx_(ctx), from_(from), to_(to), flags_(flags) {}

  // With the locks of RenameLocks held.
  Result<void> run();

  // What was looked up; kept until the locks are gone.
  Ref<Dentry> moved, target;

 private:
  Result<void> look_up();
  Result<void> check_permissions();
  const Ref<Dentry>& old_dir() const { return from_.place().dentry; }
  const Ref<Dentry>& new_dir() const { return to_.place().dentry; }
  bool exchange() const { return (flags_ & RENAME_EXCHANGE) != 0; }

  const Context& ctx_;
  Walker &from_, &to_;
  const u32 flags_;
};

// The entries, and what do_renameat2() checks about them.
Result<void> Rename::look_up() {
  moved = TRY(Walker::look_up_locked(ctx_, old_dir(), from_.last().name));
  if (!moved->inode()) return err(ENOENT);
  target = TRY(Walker::look_up_locked(ctx_, new_dir(), to_.last().name));
  if ((flags_ & RENAME_NOREPLACE) && target->inode()) return err(EEXIST);
  if (exchange()) {
    if (!target->inode()) return err(ENOENT);
    if (to_.last().slash && !target->inode()->is_dir()) return err(ENOTDIR);
  }
  if (!moved->inode()->is_dir() && (from_.last().slash || (!exchange() && to_.last().slash))) return err(ENOTDIR);
  if (is_below(*new_dir(), *moved)) return err(EINVAL);
  if (is_below(*old_dir(), *target)) return err(exchange() ? EINVAL : ENOTEMPTY);
  return {};
}

Result<void> Rename::check_permissions() {
  const bool is_dir = moved->inode()->is_dir();
  TRY(may_delete(ctx_, *old_dir(), *moved, is_dir));
  if (!target->inode()) {
    TRY(may_create(ctx_, *new_dir()));
  } else {
    TRY(may_delete(ctx_, *new_dir(), *target, exchange() ? target->inode()->is_dir() : is_dir));
  }
  // A directory that changes its parent is written: its ".." changes.
  if (!(old_dir() == new_dir())) {
    if (is_dir) TRY(inode_permission(ctx_, *moved->inode(), W_OK));
    if (exchange() && target->inode()->is_dir()) TRY(inode_permission(ctx_, *target->inode(), W_OK));
  }
  if (is_mount_point(*moved) || is_mount_point(*target)) return err(EBUSY);
  return {};
}

Result<void> Rename::run() {
  TRY(look_up());
  if (moved->inode() == target->inode()) return {};
  TRY(check_permissions());
  Inode* source = moved->inode().get();
  Inode* replaced = target->inode().get();
  VictimLocks locks(source->is_dir() ? nullptr : source,
                    replaced && (!replaced->is_dir() || !exchange()) ? replaced : nullptr);
  Inode& to = *new_dir()->inode();
  TRY(old_dir()->inode()->rename(ctx_, from_.last().name, *source, to, to_.last().name, replaced, flags_));
  auto& cache = DentryCache::get();
  if (exchange()) {
    cache.exchange(*moved, *target);
  } else {
    cache.move(*moved, new_dir(), to_.last().name, target.get());
  }
  return {};
}

}  // namespace

Result<void> Vfs::rename(const Context& ctx, const Path* old_at, std::string_view old_path, const Path* new_at,
                         std::string_view new_path, u32 flags) {
  if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) return err(EINVAL);
  if (flags == (RENAME_NOREPLACE | RENAME_EXCHANGE)) return err(EINVAL);
  Walker from(impl_->mounts, ctx), to(impl_->mounts, ctx);
  TRY(from.start(old_at, old_path));
  TRY(from.to_parent());
  TRY(to.start(new_at, new_path));
  TRY(to.to_parent());
  if (!(from.place().mount == to.place().mount)) return err(EXDEV);
  if (from.last().kind != Walker::Last::Kind::kNormal) return err(EBUSY);
  if (to.last().kind != Walker::Last::Kind::kNormal) return err((flags & RENAME_NOREPLACE) ? EEXIST : EBUSY);
  TRY(want_write(from.place()));
  Rename rename(ctx, from, to, flags);
  RenameLocks locks(impl_->rename_lock, from.place().dentry, to.place().dentry);
  return rename.run();
}

}  // namespace rf::fs
