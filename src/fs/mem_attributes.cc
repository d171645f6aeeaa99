#include "fs/mem_attributes.h"

#include <linux/xattr.h>

#include "fs/mem_data.h"
#include "fs/vfs_impl.h"

namespace rf::fs {
namespace {

// All xattrs of one file together; ext4 and tmpfs have limits of this order.
constexpr u64 kMaxXattrBytes = 256 << 10;

bool before(const Timestamp& a, const Timestamp& b) { return a.sec < b.sec || (a.sec == b.sec && a.nsec <= b.nsec); }

}  // namespace

MemAttributes::~MemAttributes() { space_.release_metadata(xattr_bytes_); }

Attributes MemAttributes::get() const {
  SpinGuard guard(lock_);
  return attr_;
}

u16 MemAttributes::mode() const {
  SpinGuard guard(lock_);
  return attr_.mode;
}

u32 MemAttributes::nlink() const {
  SpinGuard guard(lock_);
  return attr_.nlink;
}

void MemAttributes::apply(const AttributeChange& c) {
  SpinGuard guard(lock_);
  if (c.mask & AttributeChange::kMode) attr_.mode = (attr_.mode & S_IFMT) | (c.mode & 07777);
  if (c.mask & AttributeChange::kUid) attr_.uid = c.uid;
  if (c.mask & AttributeChange::kGid) attr_.gid = c.gid;
  if (c.mask & AttributeChange::kAtime) attr_.atime = c.atime;
  if (c.mask & AttributeChange::kMtime) attr_.mtime = c.mtime;
  if (c.mask & AttributeChange::kCtime) attr_.ctime = c.ctime;
}

void MemAttributes::touch_contents() {
  Timestamp now = Timestamp::now();
  SpinGuard guard(lock_);
  attr_.mtime = attr_.ctime = now;
}

void MemAttributes::touch_ctime() {
  Timestamp now = Timestamp::now();
  SpinGuard guard(lock_);
  attr_.ctime = now;
}

u32 MemAttributes::add_links(int delta) {
  Timestamp now = Timestamp::now();
  SpinGuard guard(lock_);
  attr_.ctime = now;
  return attr_.nlink += static_cast<u32>(delta);
}

void MemAttributes::set_size(u64 size) {
  SpinGuard guard(lock_);
  attr_.size = size;
}

void MemAttributes::set_device(u32 major, u32 minor) {
  SpinGuard guard(lock_);
  attr_.rdev_major = major;
  attr_.rdev_minor = minor;
}

void MemAttributes::touch_atime() {
  constexpr s64 kDay = 24 * 60 * 60;
  Timestamp now = Timestamp::now();
  SpinGuard guard(lock_);
  if (before(attr_.atime, attr_.mtime) || before(attr_.atime, attr_.ctime) || now.sec - attr_.atime.sec >= kDay)
    attr_.atime = now;
}

void MemAttributes::note_write(const Context& ctx) {
  Timestamp now = Timestamp::now();
  SpinGuard guard(lock_);
  attr_.mtime = attr_.ctime = now;
  if ((attr_.mode & (S_ISUID | S_ISGID)) && !ctx.creds.capable(CAP_FSETID)) [[unlikely]]
    attr_.mode = without_privileges(ctx, attr_);
  if (xattrs_) [[unlikely]]
    xattrs_->erase(XATTR_NAME_CAPS);
}

Result<std::string> MemAttributes::getxattr(const std::string& name) const {
  SpinGuard guard(lock_);
  if (!xattrs_) return err(ENODATA);
  auto it = xattrs_->find(name);
  if (it == xattrs_->end()) return err(ENODATA);
  return it->second;
}

Result<void> MemAttributes::setxattr(const std::string& name, std::string_view value, int flags) {
  std::string copy(value);
  SpinGuard guard(lock_);
  if (!xattrs_) xattrs_ = std::make_unique<Xattrs>();
  auto it = xattrs_->find(name);
  bool there = it != xattrs_->end();
  if (there && (flags & XATTR_CREATE)) return err(EEXIST);
  if (!there && (flags & XATTR_REPLACE)) return err(ENODATA);
  // Never given back before the file goes, so that this stays one number.
  u64 bytes = name.size() + value.size();
  if (xattr_bytes_ + bytes > kMaxXattrBytes) {
    u64 now = bytes;
    for (auto& [n, v] : *xattrs_)
      if (n != name) now += n.size() + v.size();
    if (now > kMaxXattrBytes) return err(ENOSPC);
    bytes = now > xattr_bytes_ ? now - xattr_bytes_ : 0;
  }
  if (!space_.charge_metadata(bytes)) return err(ENOSPC);
  xattr_bytes_ += bytes;
  if (there) {
    it->second.swap(copy);
  } else {
    xattrs_->emplace(name, std::move(copy));
  }
  return {};
}

Result<void> MemAttributes::removexattr(const std::string& name) {
  SpinGuard guard(lock_);
  if (!xattrs_ || xattrs_->erase(name) == 0) return err(ENODATA);
  return {};
}

std::vector<std::string> MemAttributes::listxattr() const {
  std::vector<std::string> names;
  SpinGuard guard(lock_);
  if (!xattrs_) return names;
  for (auto& [name, value] : *xattrs_) names.push_back(name);
  return names;
}

Attributes new_inode_attributes(const Context& ctx, const Attributes& dir, u16 mode) {
  Attributes a;
  a.uid = ctx.creds.fsuid;
  a.gid = ctx.creds.fsgid;
  if (dir.mode & S_ISGID) {
    a.gid = dir.gid;
    if (S_ISDIR(mode)) {
      mode |= S_ISGID;
    } else if ((mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && !ctx.creds.in_group(dir.gid) &&
               !ctx.creds.capable(CAP_FSETID)) {
      mode &= ~S_ISGID;
    }
  }
  a.mode = mode;
  a.nlink = S_ISDIR(mode) ? 2 : 1;
  a.atime = a.mtime = a.ctime = a.btime = Timestamp::now();
  a.has_btime = true;
  return a;
}

}  // namespace rf::fs
