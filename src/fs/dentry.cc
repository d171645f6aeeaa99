#include "fs/dentry.h"

#include "fs/dentry_cache.h"

namespace rf::fs {

Dentry::Dentry(Ref<Dentry> parent, std::string name, Ref<Inode> inode)
    : inode_(std::move(inode)), type_(inode_ ? inode_->type() : 0), parent_(std::move(parent)), name_(std::move(name)) {
  revalidate_ = parent_ && parent_->inode_->fs().needs_revalidation();
}

Dentry::~Dentry() = default;

// A path may be as deep as memory allows, and the last reference to its end the last to all of it: a loop, for a
// recursion would leave the stack.
void Dentry::last_unref() {
  Dentry* d = this;
  do {
    Dentry* parent = d->parent_.release();
    delete d;
    d = parent;
  } while (d && d->unref_to_zero());
}

Ref<Dentry> Dentry::make_root(Ref<Inode> inode) {
  return Ref<Dentry>::adopt(new Dentry(nullptr, "/", std::move(inode)));
}

Ref<Dentry> Dentry::make_detached(std::string name, Ref<Inode> inode) {
  auto d = Ref<Dentry>::adopt(new Dentry(nullptr, std::move(name), std::move(inode)));
  d->detached_ = true;
  return d;
}

std::string Dentry::name() const {
  TreeReadLock guard(DentryCache::get().lock());
  return name_;
}

Ref<Dentry> Dentry::parent() const {
  TreeReadLock guard(DentryCache::get().lock());
  return parent_ ? parent_ : Ref<Dentry>(const_cast<Dentry*>(this));
}

bool Dentry::is_root() const {
  TreeReadLock guard(DentryCache::get().lock());
  return !parent_ && !detached_;
}

bool Dentry::unlinked() const {
  TreeReadLock guard(DentryCache::get().lock());
  return unlinked_;
}

Mount::Mount(Ref<FileSystem> f, Ref<Dentry> r) : fs(std::move(f)), root(std::move(r)) {
  static std::atomic<u32> last_id{0};
  id = last_id.fetch_add(1, std::memory_order_relaxed) + 1;
  fs->mounts_.fetch_add(1, std::memory_order_relaxed);
}

Mount::~Mount() {
  if (fs->mounts_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  DentryCache::get().drop(*fs);
  fs->unmounted();
}

}  // namespace rf::fs
