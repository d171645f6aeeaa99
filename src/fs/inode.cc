// What an inode does when its file system does not say otherwise.
#include "fs/inode.h"

#include <unistd.h>

#include "fs/dentry.h"
#include "fs/file.h"
#include "fs/vfs.h"

namespace rf::fs {

Timestamp Timestamp::now() {
  Nanos ns = realtime_now();
  return {ns / kNanosPerSecond, static_cast<u32>(ns % kNanosPerSecond)};
}

FileSystem::FileSystem() {
  // Beginning where Linux's anonymous device numbers are on a running system: 0:0 means "none".
  static std::atomic<u32> last{20};
  dev_minor_ = last.fetch_add(1, std::memory_order_relaxed) + 1;
}

Result<void> check_mode(const Context& ctx, const Attributes& attr, int mask) {
  const Credentials& creds = ctx.creds;
  const bool is_dir = S_ISDIR(attr.mode);
  int granted = attr.mode & 7;
  if (creds.fsuid == attr.uid) {
    granted = attr.mode >> 6 & 7;
  } else if (creds.in_group(attr.gid)) {
    granted = attr.mode >> 3 & 7;
  }
  mask &= R_OK | W_OK | X_OK;
  if ((mask & ~granted) == 0) return {};
  if (is_dir) {
    if (!(mask & W_OK) && creds.capable(CAP_DAC_READ_SEARCH)) return {};
    if (creds.capable(CAP_DAC_OVERRIDE)) return {};
    return err(EACCES);
  }
  if (mask == R_OK && creds.capable(CAP_DAC_READ_SEARCH)) return {};
  // What nobody may execute even the superuser may not.
  bool executable = (attr.mode & (S_IXUSR | S_IXGRP | S_IXOTH)) != 0;
  if ((!(mask & X_OK) || executable) && creds.capable(CAP_DAC_OVERRIDE)) return {};
  return err(EACCES);
}

Result<void> Inode::permission(const Context& ctx, int mask) { return check_mode(ctx, TRY(getattr(ctx)), mask); }

Result<Ref<Inode>> Inode::lookup(const Context&, std::string_view) { return err(ENOTDIR); }
Result<Ref<Inode>> Inode::mknod(const Context&, std::string_view, u16, u32, u32) { return err(EPERM); }
Result<Ref<Inode>> Inode::mkdir(const Context&, std::string_view, u16) { return err(EPERM); }
Result<Ref<Inode>> Inode::symlink(const Context&, std::string_view, std::string_view) { return err(EPERM); }
Result<void> Inode::link(const Context&, std::string_view, Inode&) { return err(EPERM); }
Result<void> Inode::unlink(const Context&, std::string_view, Inode&) { return err(EPERM); }
Result<void> Inode::rmdir(const Context&, std::string_view, Inode&) { return err(EPERM); }
Result<void> Inode::rename(const Context&, std::string_view, Inode&, Inode&, std::string_view, Inode*, u32) {
  return err(EPERM);
}
Result<Ref<Inode>> Inode::tmpfile(const Context&, u16) { return err(EOPNOTSUPP); }
bool Inode::revalidate(const Context&, std::string_view, Inode*) { return true; }
Result<std::string> Inode::readlink(const Context&) { return err(EINVAL); }
Result<Path> Inode::follow(const Context&) { return Path(); }
Result<std::string> Inode::getxattr(const Context&, const std::string&) { return err(EOPNOTSUPP); }
Result<void> Inode::setxattr(const Context&, const std::string&, std::string_view, int) { return err(EOPNOTSUPP); }
Result<void> Inode::removexattr(const Context&, const std::string&) { return err(EOPNOTSUPP); }
Result<std::vector<std::string>> Inode::listxattr(const Context&) { return err(EOPNOTSUPP); }

}  // namespace rf::fs
