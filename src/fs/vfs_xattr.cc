// Extended attributes, xattr(7): which namespaces may be used by whom.
#include <limits.h>
#include <linux/xattr.h>
#include <unistd.h>

#include "fs/vfs_impl.h"

namespace rf::fs {
namespace {

bool has_prefix(std::string_view name, std::string_view prefix) {
  return name.starts_with(prefix) && name.size() > prefix.size();
}

// xattr_permission(), and which namespaces there are. `write`: to set or remove.
Result<void> check_xattr(const Context& ctx, Inode& inode, const std::string& name, bool write) {
  if (name.empty() || name.size() > XATTR_NAME_MAX) return err(ERANGE);
  const Credentials& creds = ctx.creds;
  if (has_prefix(name, XATTR_TRUSTED_PREFIX)) {
    if (!creds.capable(CAP_SYS_ADMIN)) return err(write ? EPERM : ENODATA);
    return {};
  }
  if (has_prefix(name, XATTR_SECURITY_PREFIX)) {
    if (!write) return {};
    bool may = creds.capable(CAP_SYS_ADMIN) || (name == XATTR_NAME_CAPS && creds.capable(CAP_SETFCAP));
    if (!may) return err(EPERM);
    return {};
  }
  if (!has_prefix(name, XATTR_USER_PREFIX)) return err(EOPNOTSUPP);
  if (!inode.is_regular() && !inode.is_dir()) return err(write ? EPERM : ENODATA);
  if (write && inode.is_dir()) {
    Attributes attr = TRY(inode.getattr(ctx));
    if ((attr.mode & S_ISVTX) && !owner_or_capable(ctx, attr)) return err(EPERM);
  }
  return inode_permission(ctx, inode, write ? W_OK : R_OK);
}

}  // namespace

Result<std::string> Vfs::getxattr(const Context& ctx, const Path& path, const std::string& name) {
  Inode& inode = *path.dentry->inode();
  TRY(check_xattr(ctx, inode, name, false));
  return inode.getxattr(ctx, name);
}

Result<void> Vfs::setxattr(const Context& ctx, const Path& path, const std::string& name, std::string_view value,
                           int flags) {
  if (flags & ~(XATTR_CREATE | XATTR_REPLACE)) return err(EINVAL);
  if (value.size() > XATTR_SIZE_MAX) return err(E2BIG);
  Inode& inode = *path.dentry->inode();
  TRY(want_write(path));
  std::lock_guard guard(inode.lock);
  TRY(check_xattr(ctx, inode, name, true));
  return inode.setxattr(ctx, name, value, flags);
}

Result<void> Vfs::removexattr(const Context& ctx, const Path& path, const std::string& name) {
  Inode& inode = *path.dentry->inode();
  TRY(want_write(path));
  std::lock_guard guard(inode.lock);
  TRY(check_xattr(ctx, inode, name, true));
  return inode.removexattr(ctx, name);
}

Result<std::vector<std::string>> Vfs::listxattr(const Context& ctx, const Path& path) {
  auto names = path.dentry->inode()->listxattr(ctx);
  if (!names) {
    // No attributes at all is no error.
    if (names.error() == Errno{EOPNOTSUPP}) return std::vector<std::string>();
    return names;
  }
  if (!ctx.creds.capable(CAP_SYS_ADMIN))
    std::erase_if(*names, [](const std::string& n) { return n.starts_with(XATTR_TRUSTED_PREFIX); });
  return names;
}

}  // namespace rf::fs
