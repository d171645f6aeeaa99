#include "fs/mount_table.h"

#include <algorithm>

namespace rf::fs {

// Children before their parents, so that no chain of mounts is taken down by recursion.
MountTable::~MountTable() {
  auto mounts = all();
  std::ranges::sort(mounts, [](auto& a, auto& b) { return a->id > b->id; });
  for (auto& m : mounts) {
    Path place;
    Ref<Mount> taken;
    {
      TreeWriteLock guard(DentryCache::get().lock());
      taken = take(*m, place);
    }
    m.reset();
  }
}

Mount* MountTable::at(const Mount* mount, const Dentry* point) const {
  auto it = mounts_.find({mount, point});
  return it == mounts_.end() ? nullptr : it->second.get();
}

void MountTable::cross(Mount*& mount, Dentry*& dentry) const {
  while (DentryCache::is_mount_point(*dentry)) {
    Mount* m = at(mount, dentry);
    if (!m) return;  // mounted on in another view of the same file system
    mount = m;
    dentry = m->root.get();
  }
}

Path MountTable::crossed(Path path) const {
  Mount* mount = path.mount.get();
  Dentry* dentry = path.dentry.get();
  {
    TreeReadLock guard(DentryCache::get().lock());
    if (!DentryCache::is_mount_point(*dentry)) return path;
    cross(mount, dentry);
    if (dentry == path.dentry.get()) return path;
    Path result{Ref<Mount>(mount), Ref<Dentry>(dentry)};
    std::swap(result, path);
  }
  return path;
}

Result<void> MountTable::add(Ref<Mount> mount, const Path& point) {
  auto& cache = DentryCache::get();
  cache.pin(point.dentry);
  TreeWriteLock guard(cache.lock());
  Mount* m = point.mount.get();
  Dentry* d = point.dentry.get();
  cross(m, d);
  if (DentryCache::unlinked(*d)) return err(ENOENT);
  mount->parent = Ref<Mount>(m);
  mount->point = Ref<Dentry>(d);
  DentryCache::add_mount(*d, 1);
  mounts_.emplace(Key{m, d}, std::move(mount));
  return {};
}

bool MountTable::has_children(const Mount& mount) const {
  return std::ranges::any_of(mounts_, [&](auto& entry) { return entry.first.mount == &mount; });
}

Ref<Mount> MountTable::take(Mount& mount, Path& place) {
  auto it = mounts_.find({mount.parent.get(), mount.point.get()});
  if (it == mounts_.end() || it->second.get() != &mount) return nullptr;
  Ref<Mount> taken = std::move(it->second);
  mounts_.erase(it);
  DentryCache::add_mount(*mount.point, -1);
  // The references go to the caller, who drops them without the lock.
  place.mount = std::move(mount.parent);
  place.dentry = std::move(mount.point);
  return taken;
}

Result<void> MountTable::remove(Mount& mount, bool detach) {
  Path place;
  Ref<Mount> taken;
  TreeWriteLock guard(DentryCache::get().lock());
  if (&mount == root_.get()) return err(EINVAL);
  if (has_children(mount)) return err(EBUSY);
  // The table's reference and the caller's.
  if (!detach && mount.ref_count() > 2) return err(EBUSY);
  taken = take(mount, place);
  if (!taken) return err(EINVAL);
  return {};
}

std::vector<Ref<Mount>> MountTable::all() const {
  std::vector<Ref<Mount>> mounts;
  TreeReadLock guard(DentryCache::get().lock());
  mounts.reserve(mounts_.size() + 1);
  mounts.push_back(root_);
  for (auto& [key, mount] : mounts_) mounts.push_back(mount);
  std::ranges::sort(mounts, [](auto& a, auto& b) { return a->id < b->id; });
  return mounts;
}

Result<void> want_write(const Path& path) {
  if ((path.mount->flags & MS_RDONLY) || path.mount->fs->read_only()) return err(EROFS);
  return {};
}

}  // namespace rf::fs
