// The overlay file system and its nodes: attributes, look-ups, what opens.
#include "fs/overlay.h"

#include <linux/magic.h>

#include <shared_mutex>

#include "fs/dentry.h"
#include "fs/devices.h"

namespace rf::fs {
namespace {

// The inode numbers of files made here must not be those of lower ones; these are host numbers, mostly.
constexpr u64 kFirstIno = u64{1} << 40;

bool searchable_by_all(u16 mode) { return (mode & 0111) == 0111; }

Ref<Mount> make_lower_mount(const Ref<FileSystem>& lower) {
  auto mount = make_ref<Mount>(lower, Dentry::make_root(lower->root()));
  mount->flags = MS_RDONLY;
  return mount;
}

}  // namespace

Ref<FileSystem> make_overlay(Ref<FileSystem> lower, const Ref<FileSystem>& upper) {
  Ref<TmpFs> tmpfs = ref_cast<TmpFs>(upper);
  RF_CHECK(tmpfs, "an overlay keeps its changes in a tmpfs");
  return make_ref<OverlayFs>(std::move(lower), std::move(tmpfs));
}

OverlayFs::OverlayFs(Ref<FileSystem> lower, Ref<TmpFs> upper)
    : lower_(std::move(lower)),
      upper_(std::move(upper)),
      lower_mount_(make_lower_mount(lower_)),
      last_ino_(kFirstIno) {}

OverlayFs::~OverlayFs() = default;

Ref<Inode> OverlayFs::root() {
  Ref<OverlayInode> node = node_for(lower_mount_->root->inode());
  SpinGuard guard(nodes_lock_);
  if (!root_) root_ = node;
  return root_;
}

Result<struct ::statfs> OverlayFs::statfs() {
  struct ::statfs s = TRY(upper_->statfs());
  s.f_type = OVERLAYFS_SUPER_MAGIC;
  s.f_fsid.__val[0] = static_cast<int>(dev_minor());
  return s;
}

Ref<OverlayInode> OverlayFs::node_for(Ref<Inode> lower) {
  SpinGuard guard(nodes_lock_);
  OverlayInode*& node = nodes_[lower.get()];
  // One whose last reference is just going is no use; it finds that the entry is no longer its own.
  if (node && node->try_ref()) return Ref<OverlayInode>::adopt(node);
  auto fresh = make_ref<OverlayInode>(*this, std::move(lower));
  node = fresh.get();
  return fresh;
}

void OverlayFs::forget(OverlayInode& node) {
  SpinGuard guard(nodes_lock_);
  auto it = nodes_.find(node.lower_.get());
  if (it != nodes_.end() && it->second == &node) nodes_.erase(it);
}

Path OverlayFs::lower_path(const Ref<Inode>& lower) const {
  return Path(lower_mount_, Dentry::make_detached("", lower));
}

void OverlayFs::pin(OverlayInode& node) {
  SpinGuard guard(nodes_lock_);
  if (std::exchange(node.pinned_, true)) return;
  node.ref();
}

void OverlayFs::unpin(OverlayInode& node) {
  {
    SpinGuard guard(nodes_lock_);
    if (!std::exchange(node.pinned_, false)) return;
  }
  node.unref();
}

void OverlayFs::unmounted() {
  std::vector<Ref<Inode>> doomed;
  {
    SpinGuard guard(nodes_lock_);
    if (root_) doomed.push_back(std::exchange(root_, nullptr));
    for (auto& [lower, node] : nodes_)
      if (std::exchange(node->pinned_, false)) doomed.push_back(Ref<Inode>::adopt(node));
  }
  // One directory at a time: a tree may be deeper than a stack.
  while (!doomed.empty()) {
    Ref<Inode> inode = std::move(doomed.back());
    doomed.pop_back();
    auto& node = static_cast<OverlayInode&>(*inode);
    std::lock_guard guard(node.lock);
    if (!node.directory_) continue;
    for (auto& child : node.directory_->clear()) doomed.push_back(std::move(child));
  }
}

OverlayInode::OverlayInode(OverlayFs& fs, Ref<Inode> lower)
    : Inode(fs), type_(lower->type()), lower_(std::move(lower)) {
  search_for_all = lower_->search_for_all.load();
}

OverlayInode::OverlayInode(OverlayFs& fs, const Attributes& attributes)
    : Inode(fs), type_(attributes.mode & S_IFMT), upper_(new Upper(fs.space(), attributes)) {
  upper()->own_xattrs = true;
  if (type_ == S_IFREG) data_ = new MemData(fs.space());
  if (type_ == S_IFDIR) search_for_all = searchable_by_all(attributes.mode);
}

OverlayInode::~OverlayInode() {
  if (lower_) overlay().forget(*this);
  delete data_.load();
  if (Upper* u = upper_.load()) {
    overlay().space().release_metadata(u->target.size());
    overlay().space().release_inode();
    delete u;
  }
}

MemAttributes* OverlayInode::attributes() const {
  Upper* u = upper();
  return u ? &u->attributes : nullptr;
}

Result<Attributes> OverlayInode::getattr(const Context& ctx) {
  Upper* u = upper();
  if (!u) {
    Attributes a = TRY(lower_->getattr(ctx));
    if (is_dir() && !search_for_all && lower_->search_for_all) adopt_search_hint();
    return a;
  }
  Attributes a = u->attributes.get();
  if (MemData* d = data()) {
    a.size = d->size();
    a.blocks = d->blocks();
  }
  return a;
}

// The lower file system learned late that everybody may search this directory.
void OverlayInode::adopt_search_hint() {
  // The lock keeps this before a change() and so before what a chmod of ours says.
  FiberGuard guard(copy_up_lock_);
  if (!upper()) search_for_all = lower_->search_for_all.load();
}

Result<void> OverlayInode::setattr(const Context& ctx, const AttributeChange& change) {
  if (change.mask & AttributeChange::kSize) {
    if (type_ != S_IFREG) return err(EINVAL);
    MemData* d = TRY(writable_data(ctx, change.size));
    TRY(d->truncate(change.size));
  }
  Upper* u = TRY(this->change(ctx));
  u->attributes.apply(change);
  if (is_dir() && (change.mask & AttributeChange::kMode)) search_for_all = searchable_by_all(change.mode);
  return {};
}

Result<Ref<Inode>> OverlayInode::lookup(const Context& ctx, std::string_view name) {
  if (type_ != S_IFDIR) return err(ENOTDIR);
  if (directory_) {
    if (MemDirectory::Entry* e = directory_->find(name)) {
      if (!e->inode) return err(ENOENT);
      return e->inode;
    }
  }
  if (!lower_) return err(ENOENT);
  Ref<Inode> found;
  {
    std::shared_lock guard(lower_->lock);
    found = TRY(lower_->lookup(ctx, name));
  }
  return Ref<Inode>(overlay().node_for(std::move(found)));
}

bool OverlayInode::revalidate(const Context& ctx, std::string_view name, Inode* child) {
  if (directory_) {
    if (MemDirectory::Entry* e = directory_->find(name)) return e->inode == child;
  }
  if (!lower_) return child == nullptr;
  Inode* lower_child = child ? static_cast<OverlayInode*>(child)->lower_.get() : nullptr;
  if (child && !lower_child) return false;
  std::shared_lock guard(lower_->lock);
  return lower_->revalidate(ctx, name, lower_child);
}

Result<std::string> OverlayInode::readlink(const Context& ctx) {
  if (type_ != S_IFLNK) return err(EINVAL);
  if (lower_) return lower_->readlink(ctx);
  return upper()->target;
}

Result<Ref<File>> OverlayInode::open_lower(const Context& ctx) const {
  RF_CHECK(lower_, "open_lower() of a file that is only in the upper layer");
  return lower_->open(ctx, overlay().lower_path(lower_), {O_RDONLY});
}

Result<Ref<File>> OverlayInode::open(const Context& ctx, const Path& path, const OpenArgs& args) {
  switch (type_) {
    case S_IFREG: {
      if (MemData* d = data()) return Ref<File>(make_ref<MemFile>(path, args.flags, *d, *attributes()));
      // What is to be truncated at once need not be opened. Otherwise errors of the host are open's.
      Ref<File> lower;
      if (!(args.flags & O_TRUNC)) lower = TRY(open_lower(ctx));
      return make_overlay_file(path, args.flags, *this, std::move(lower));
    }
    case S_IFDIR:
      return make_overlay_directory(path, args.flags, *this);
    case S_IFCHR:
    case S_IFBLK: {
      Attributes a = TRY(getattr(ctx));
      return open_device(ctx, path, type_ == S_IFBLK, a.rdev_major, a.rdev_minor, args.flags);
    }
    default:
      return err(ENXIO);
  }
}

mm::Mappable* OverlayInode::mappable() {
  if (type_ != S_IFREG) return nullptr;
  // Always the same one for a node, whatever happens to it.
  if (lower_) return this;
  return data();
}

Result<mm::PhysRun> OverlayInode::pin(u64 offset, u64 len, bool write) {
  if (MemData* d = data()) return d->pin(offset, len, write);
  // Shared mappings that may be written copied the contents up when they were made.
  mm::Mappable* pages = lower_->mappable();
  if (write || !pages) return err(EIO);
  return pages->pin(offset, len, false);
}

Result<void> OverlayInode::punch_hole(u64 offset, u64 len) {
  MemData* d = data();
  if (!d) return err(EOPNOTSUPP);
  return d->punch_hole(offset, len);
}

}  // namespace rf::fs
