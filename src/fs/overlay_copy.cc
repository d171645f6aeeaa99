// Copy-up: what makes a file of the lower file system one that may be changed.
#include <linux/xattr.h>
#include <unistd.h>

#include "fs/overlay.h"

namespace rf::fs {

Result<OverlayInode::Upper*> OverlayInode::change(const Context& ctx, bool free) {
  if (Upper* u = upper()) return u;
  FiberGuard guard(copy_up_lock_);
  if (Upper* u = upper()) return u;
  Attributes a = TRY(lower_->getattr(ctx));
  MemSpace& space = overlay().space();
  if (!space.charge_inode()) {
    if (!free) return err(ENOSPC);
    space.charge_inode_beyond_limit();
  }
  auto* made = new Upper(space, a);
  overlay().pin(*this);
  upper_.store(made, std::memory_order_release);
  return made;
}

Result<void> OverlayInode::copy_data(const Context& ctx, MemData& data, u64 size) const {
  TRY(data.truncate(size));
  if (size == 0) return {};
  Attributes a = TRY(lower_->getattr(ctx));
  Ref<File> lower = TRY(open_lower(ctx));
  auto read = [&](std::span<std::byte> to, u64 offset) {
    mm::IoBuffer buffer(to);
    return lower->pread(ctx, buffer, offset);
  };
  const bool sparse = a.blocks * 512 < page_up(size);
  for (u64 at = 0; at < size;) {
    u64 begin = at, end = size;
    if (sparse) {
      auto data_at = lower->seek(ctx, static_cast<s64>(at), SEEK_DATA);
      if (!data_at && data_at.error() == Errno{ENXIO}) break;
      auto hole_at = data_at ? lower->seek(ctx, static_cast<s64>(*data_at), SEEK_HOLE) : data_at;
      // A file system that cannot tell is read in full.
      if (hole_at && *hole_at > *data_at) begin = *data_at, end = std::min(*hole_at, size);
    }
    if (begin >= size) break;
    TRY(data.load(begin, end - begin, read));
    at = end;
  }
  return {};
}

Result<MemData*> OverlayInode::writable_data(const Context& ctx, u64 keep) {
  if (MemData* d = data()) return d;
  TRY(change(ctx));
  {
    FiberGuard guard(copy_up_lock_);
    if (MemData* d = data()) return d;
    u64 size = std::min(TRY(lower_->getattr(ctx)).size, keep);
    auto copy = std::make_unique<MemData>(overlay().space(), this);
    TRY(copy_data(ctx, *copy, size));
    data_.store(copy.release(), std::memory_order_release);
  }
  // A capability does not survive a write: have it where the write finds it.
  if (!has_own_xattrs() && lower_->getxattr(ctx, XATTR_NAME_CAPS)) TRY(own_xattrs(ctx));
  // Mappings show the lower file's pages, if any; from the next fault on they show these.
  unmap_mappings(0, ~u64{0}, false);
  return data();
}

bool OverlayInode::has_own_xattrs() {
  Upper* u = upper();
  if (!u) return false;
  FiberGuard guard(copy_up_lock_);
  return u->own_xattrs;
}

Result<void> OverlayInode::own_xattrs(const Context& ctx) {
  Upper* u = TRY(change(ctx));
  FiberGuard guard(copy_up_lock_);
  if (u->own_xattrs) return {};
  auto names = lower_->listxattr(ctx);
  if (!names && names.error() != Errno{EOPNOTSUPP}) return err(names.error());
  if (names) {
    for (const std::string& name : *names) {
      auto value = lower_->getxattr(ctx, name);
      // Not all that is listed can be read by everybody.
      if (value) TRY(u->attributes.setxattr(name, *value, 0));
    }
  }
  u->own_xattrs = true;
  return {};
}

Result<std::string> OverlayInode::getxattr(const Context& ctx, const std::string& name) {
  if (has_own_xattrs()) return upper()->attributes.getxattr(name);
  return lower_->getxattr(ctx, name);
}

Result<void> OverlayInode::setxattr(const Context& ctx, const std::string& name, std::string_view value, int flags) {
  TRY(own_xattrs(ctx));
  TRY(upper()->attributes.setxattr(name, value, flags));
  upper()->attributes.touch_ctime();
  return {};
}

Result<void> OverlayInode::removexattr(const Context& ctx, const std::string& name) {
  // Nothing is copied up to find that there is nothing to remove.
  if (!has_own_xattrs()) TRY(lower_->getxattr(ctx, name));
  TRY(own_xattrs(ctx));
  TRY(upper()->attributes.removexattr(name));
  upper()->attributes.touch_ctime();
  return {};
}

Result<std::vector<std::string>> OverlayInode::listxattr(const Context& ctx) {
  if (has_own_xattrs()) return upper()->attributes.listxattr();
  return lower_->listxattr(ctx);
}

}  // namespace rf::fs
