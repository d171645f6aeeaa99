#include "fs/tmpfs.h"

#include <linux/fs.h>
#include <linux/magic.h>

#include "fs/devices.h"
#include "fs/mem_files.h"
#include "fs/vfs.h"

namespace rf::fs {
namespace {

constexpr u64 kFirstCookie = 2;    // 0 and 1 are "." and ".."
constexpr u64 kDirentSize = 20;    // BOGO_DIRENT_SIZE: what an entry counts in a directory's size
constexpr u64 kInlineTarget = 64;  // link targets up to here are not charged

TmpInode& as_tmp(Inode& inode) { return static_cast<TmpInode&>(inode); }

bool searchable_by_all(u16 mode) { return (mode & 0111) == 0111; }

}  // namespace

Ref<FileSystem> make_tmpfs(mm::Frames& frames, u64 size_limit, u16 mode) {
  return make_ref<TmpFs>(frames, size_limit, mode);
}

Ref<Inode> TmpFs::root() {
  {
    SpinGuard guard(root_lock_);
    if (root_) return root_;
  }
  Attributes a;
  a.mode = S_IFDIR | (root_mode_ & 07777);
  a.nlink = 2;
  a.ino = new_ino();
  a.atime = a.mtime = a.ctime = a.btime = Timestamp::now();
  a.has_btime = true;
  space_.charge_inode();
  auto root = make_ref<TmpInode>(*this, a);
  SpinGuard guard(root_lock_);
  if (!root_) root_ = root;
  return root_;
}

void TmpFs::unmounted() {
  std::vector<Ref<Inode>> doomed;
  {
    SpinGuard guard(root_lock_);
    if (root_) doomed.push_back(std::exchange(root_, nullptr));
  }
  // One directory at a time: a tree may be deeper than a stack.
  while (!doomed.empty()) {
    Ref<Inode> inode = std::move(doomed.back());
    doomed.pop_back();
    if (MemDirectory* d = as_tmp(*inode).directory()) {
      std::lock_guard guard(inode->lock);
      for (auto& child : d->clear()) doomed.push_back(std::move(child));
    }
  }
}

Result<struct ::statfs> TmpFs::statfs() {
  struct ::statfs s = {};
  u64 total = space_.limit() != 0 ? space_.limit() : space_.frames().limit();
  s.f_type = TMPFS_MAGIC;
  s.f_bsize = s.f_frsize = kPageSize;
  s.f_blocks = total / kPageSize;
  s.f_bfree = s.f_bavail = std::min(total, space_.available()) / kPageSize;
  s.f_files = space_.max_inodes();
  s.f_ffree = space_.max_inodes() - std::min(space_.max_inodes(), space_.inodes());
  s.f_fsid.__val[0] = static_cast<int>(dev_minor());
  s.f_namelen = 255;
  return s;
}

std::string TmpFs::options() const {
  std::string text;
  if (space_.limit() != 0) text = "size=" + std::to_string(space_.limit() / 1024) + "k";
  if (root_mode_ != 01777) {
    char mode[16];
    snprintf(mode, sizeof mode, "%smode=%03o", text.empty() ? "" : ",", root_mode_);
    text += mode;
  }
  return text;
}

TmpInode::TmpInode(TmpFs& fs, const Attributes& attributes)
    : Inode(fs), type_(attributes.mode & S_IFMT), attr_(fs.space(), attributes) {
  if (type_ == S_IFREG) data_ = std::make_unique<MemData>(fs.space());
  if (type_ == S_IFDIR) {
    directory_ = std::make_unique<MemDirectory>(kFirstCookie);
    search_for_all = searchable_by_all(attributes.mode);
  }
}

TmpInode::~TmpInode() {
  MemSpace& space = tmpfs().space();
  if (target_.size() > kInlineTarget) space.release_metadata(target_.size());
  space.release_inode();
}

Result<Attributes> TmpInode::getattr(const Context&) {
  Attributes a = attr_.get();
  switch (type_) {
    case S_IFREG:
      a.size = data_->size();
      a.blocks = data_->blocks();
      break;
    case S_IFLNK:
      a.size = target_.size();
      break;
    default:
      break;  // a directory's is kept with the rest
  }
  return a;
}

Result<void> TmpInode::setattr(const Context&, const AttributeChange& change) {
  if (change.mask & AttributeChange::kSize) {
    if (!data_) return err(EINVAL);
    TRY(data_->truncate(change.size));
  }
  attr_.apply(change);
  if (is_dir() && (change.mask & AttributeChange::kMode)) search_for_all = searchable_by_all(change.mode);
  return {};
}

Result<void> TmpInode::permission(const Context& ctx, int mask) { return check_mode(ctx, attr_.get(), mask); }

Result<Ref<Inode>> TmpInode::lookup(const Context&, std::string_view name) {
  if (!directory_) return err(ENOTDIR);
  MemDirectory::Entry* e = directory_->find(name);
  if (!e) return err(ENOENT);
  return e->inode;
}

Result<Ref<TmpInode>> TmpInode::make(const Context& ctx, u16 mode) {
  if (!directory_) return err(ENOTDIR);
  TmpFs& fs = tmpfs();
  if (!fs.space().charge_inode()) return err(ENOSPC);
  Attributes a = new_inode_attributes(ctx, attr_.get(), mode);
  a.ino = fs.new_ino();
  if (S_ISDIR(mode)) a.size = 2 * kDirentSize;
  return make_ref<TmpInode>(fs, a);
}

Ref<Inode> TmpInode::enter(std::string_view name, Ref<TmpInode> inode) {
  directory_->add(name, inode, inode->attr_.ino());
  attr_.set_size((directory_->size() + 2) * kDirentSize);
  attr_.touch_contents();
  return inode;
}

// Takes an entry out. What it held is held by the caller of the operation too.
void TmpInode::forget(std::string_view name) {
  if (MemDirectory::Entry* e = directory_->find(name)) directory_->remove(*e);
  attr_.set_size((directory_->size() + 2) * kDirentSize);
  attr_.touch_contents();
}

Result<Ref<Inode>> TmpInode::mknod(const Context& ctx, std::string_view name, u16 mode, u32 major, u32 minor) {
  Ref<TmpInode> made = TRY(make(ctx, mode));
  if (S_ISCHR(mode) || S_ISBLK(mode)) made->attr_.set_device(major, minor);
  return enter(name, std::move(made));
}

Result<Ref<Inode>> TmpInode::mkdir(const Context& ctx, std::string_view name, u16 mode) {
  Ref<TmpInode> made = TRY(make(ctx, S_IFDIR | (mode & 07777)));
  attr_.add_links(1);
  return enter(name, std::move(made));
}

Result<Ref<Inode>> TmpInode::symlink(const Context& ctx, std::string_view name, std::string_view target) {
  Ref<TmpInode> made = TRY(make(ctx, S_IFLNK | 0777));
  if (target.size() > kInlineTarget && !tmpfs().space().charge_metadata(target.size())) return err(ENOSPC);
  made->target_ = target;
  return enter(name, std::move(made));
}

Result<Ref<Inode>> TmpInode::tmpfile(const Context& ctx, u16 mode) {
  Ref<TmpInode> made = TRY(make(ctx, mode));
  made->attr_.add_links(-1);
  made->linkable_ = true;
  return Ref<Inode>(std::move(made));
}

Result<void> TmpInode::link(const Context&, std::string_view name, Inode& target) {
  TmpInode& t = as_tmp(target);
  if (t.attr_.nlink() == 0 && !t.linkable_) return err(ENOENT);
  if (t.attr_.nlink() == ~0u) return err(EMLINK);
  t.linkable_ = false;
  t.attr_.add_links(1);
  enter(name, Ref<TmpInode>(&t));
  return {};
}

Result<void> TmpInode::unlink(const Context&, std::string_view name, Inode& victim) {
  forget(name);
  as_tmp(victim).attr_.add_links(-1);
  return {};
}

Result<void> TmpInode::rmdir(const Context&, std::string_view name, Inode& victim) {
  TmpInode& v = as_tmp(victim);
  if (v.directory_->size() != 0) return err(ENOTEMPTY);
  forget(name);
  v.attr_.add_links(-2);
  attr_.add_links(-1);
  return {};
}

Result<void> TmpInode::exchange(std::string_view name, TmpInode& moved, TmpInode& new_dir, std::string_view new_name,
                                TmpInode& other) {
  MemDirectory::Entry* a = directory_->find(name);
  MemDirectory::Entry* b = new_dir.directory_->find(new_name);
  if (!a || !b) return err(ENOENT);
  std::swap(a->inode, b->inode);
  std::swap(a->ino, b->ino);
  if (int delta = int{other.is_dir()} - int{moved.is_dir()}; delta != 0 && this != &new_dir) {
    attr_.add_links(delta);
    new_dir.attr_.add_links(-delta);
  }
  attr_.touch_contents();
  new_dir.attr_.touch_contents();
  moved.attr_.touch_ctime();
  other.attr_.touch_ctime();
  return {};
}

Result<void> TmpInode::rename(const Context&, std::string_view name, Inode& moved, Inode& new_dir,
                              std::string_view new_name, Inode* replaced, u32 flags) {
  TmpInode& to = as_tmp(new_dir);
  TmpInode& source = as_tmp(moved);
  if (flags & RENAME_EXCHANGE) return exchange(name, source, to, new_name, as_tmp(*replaced));
  if (replaced) {
    TmpInode& r = as_tmp(*replaced);
    if (r.directory_ && r.directory_->size() != 0) return err(ENOTEMPTY);
    MemDirectory::Entry* e = to.directory_->find(new_name);
    if (!e) return err(ENOENT);
    // The target's place in the listing, so that one who lists meanwhile sees the name once.
    e->inode = Ref<Inode>(&moved);
    e->ino = source.attr_.ino();
    r.attr_.add_links(r.directory_ ? -2 : -1);
    if (r.directory_) to.attr_.add_links(-1);
    to.attr_.touch_contents();
  } else {
    to.enter(new_name, Ref<TmpInode>(&source));
  }
  forget(name);
  if (source.directory_ && this != &to) {
    attr_.add_links(-1);
    to.attr_.add_links(1);
  }
  source.attr_.touch_ctime();
  return {};
}

Result<std::string> TmpInode::readlink(const Context&) {
  if (type_ != S_IFLNK) return err(EINVAL);
  return target_;
}

Result<Ref<File>> TmpInode::open(const Context& ctx, const Path& path, const OpenArgs& args) {
  switch (type_) {
    case S_IFREG:
      return Ref<File>(make_ref<MemFile>(path, args.flags, *data_, attr_));
    case S_IFDIR:
      return Ref<File>(make_ref<MemDirectoryFile>(path, args.flags, *directory_, attr_));
    case S_IFCHR:
    case S_IFBLK: {
      Attributes a = attr_.get();
      return open_device(ctx, path, type_ == S_IFBLK, a.rdev_major, a.rdev_minor, args.flags);
    }
    default:
      return err(ENXIO);
  }
}

Result<std::string> TmpInode::getxattr(const Context&, const std::string& name) { return attr_.getxattr(name); }
Result<void> TmpInode::setxattr(const Context&, const std::string& name, std::string_view value, int flags) {
  TRY(attr_.setxattr(name, value, flags));
  attr_.touch_ctime();
  return {};
}
Result<void> TmpInode::removexattr(const Context&, const std::string& name) {
  TRY(attr_.removexattr(name));
  attr_.touch_ctime();
  return {};
}
Result<std::vector<std::string>> TmpInode::listxattr(const Context&) { return attr_.listxattr(); }

}  // namespace rf::fs
