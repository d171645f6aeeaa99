// What is known about files: stat(2) and its relatives, permissions, owners, times, extended attributes.
#include <asm/unistd_64.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <linux/xattr.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <utime.h>

#include "task/call_helpers.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

fs::Vfs& vfs(Task& t) { return *t.kernel.vfs; }

// The place that (dirfd, path, AT_* flags) names. An empty path with AT_EMPTY_PATH is the descriptor itself, of any
// kind; "" and AT_FDCWD is the working directory.
Result<fs::Path> place_at(Task& t, const fs::Context& ctx, int dirfd, mm::UserAddr addr, int flags) {
  const std::string path = TRY(mm::read_path(*t.mm, addr));
  const Dirfd dir = TRY(Dirfd::resolve(t, dirfd, path));
  return vfs(t).walk(ctx, dir.at(), path,
                     {.follow = (flags & AT_SYMLINK_NOFOLLOW) == 0, .empty_path = (flags & AT_EMPTY_PATH) != 0});
}

// --- stat ---

struct stat to_stat(const fs::Attributes& a, u32 dev_minor) {
  struct stat s {};
  s.st_dev = makedev(0, dev_minor);
  s.st_ino = a.ino;
  s.st_nlink = a.nlink;
  s.st_mode = a.mode;
  s.st_uid = a.uid;
  s.st_gid = a.gid;
  s.st_rdev = makedev(a.rdev_major, a.rdev_minor);
  s.st_size = static_cast<s64>(a.size);
  s.st_blksize = a.block_size;
  s.st_blocks = static_cast<s64>(a.blocks);
  s.st_atim = {a.atime.sec, a.atime.nsec};
  s.st_mtim = {a.mtime.sec, a.mtime.nsec};
  s.st_ctim = {a.ctime.sec, a.ctime.nsec};
  return s;
}

SysResult stat_place(Task& t, const fs::Context& ctx, const fs::Path& place, mm::UserPtr<struct stat> out) {
  const fs::Attributes attr = TRY(vfs(t).getattr(ctx, place));
  return out.write(*t.mm, to_stat(attr, place.dentry->inode()->fs().dev_minor()));
}

SysResult stat_at(Task& t, int dirfd, mm::UserAddr path, mm::UserPtr<struct stat> out, int flags) {
  const fs::Context ctx = t.fs_context();
  return stat_place(t, ctx, TRY(place_at(t, ctx, dirfd, path, flags)), out);
}

SysResult sys_stat(Task& t, const SyscallArgs& a) { return stat_at(t, AT_FDCWD, a.addr(0), a.ptr<struct stat>(1), 0); }
SysResult sys_lstat(Task& t, const SyscallArgs& a) {
  return stat_at(t, AT_FDCWD, a.addr(0), a.ptr<struct stat>(1), AT_SYMLINK_NOFOLLOW);
}
SysResult sys_fstat(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  return stat_place(t, t.fs_context(), f->path(), a.ptr<struct stat>(1));
}
SysResult sys_newfstatat(Task& t, const SyscallArgs& a) {
  if ((a.i(3) & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH)) != 0) return err(EINVAL);
  return stat_at(t, a.fd(0), a.addr(1), a.ptr<struct stat>(2), a.i(3));
}

statx_timestamp to_statx_time(const fs::Timestamp& ts) {
  return {.tv_sec = ts.sec, .tv_nsec = ts.nsec, .__reserved = 0};
}

SysResult sys_statx(Task& t, const SyscallArgs& a) {
  constexpr int kFlags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
  if ((a.i(2) & ~kFlags) != 0 || (a.i(2) & AT_STATX_SYNC_TYPE) == AT_STATX_SYNC_TYPE) return err(EINVAL);
  if ((a.u32_(3) & STATX__RESERVED) != 0) return err(EINVAL);
  const fs::Context ctx = t.fs_context();
  const fs::Path place = TRY(place_at(t, ctx, a.fd(0), a.addr(1), a.i(2)));
  const fs::Attributes attr = TRY(vfs(t).getattr(ctx, place));
  struct statx s {};
  s.stx_mask = STATX_BASIC_STATS | (attr.has_btime ? STATX_BTIME : 0) | (place.mount ? STATX_MNT_ID : 0);
  s.stx_blksize = attr.block_size;
  s.stx_nlink = attr.nlink;
  s.stx_uid = attr.uid;
  s.stx_gid = attr.gid;
  s.stx_mode = attr.mode;
  s.stx_ino = attr.ino;
  s.stx_size = attr.size;
  s.stx_blocks = attr.blocks;
  s.stx_atime = to_statx_time(attr.atime);
  s.stx_mtime = to_statx_time(attr.mtime);
  s.stx_ctime = to_statx_time(attr.ctime);
  s.stx_btime = to_statx_time(attr.btime);
  s.stx_rdev_major = attr.rdev_major;
  s.stx_rdev_minor = attr.rdev_minor;
  s.stx_dev_minor = place.dentry->inode()->fs().dev_minor();
  s.stx_mnt_id = place.mount ? place.mount->id : 0;
  s.stx_attributes_mask = STATX_ATTR_MOUNT_ROOT;
  if (place.mount && place.mount->root == place.dentry) s.stx_attributes |= STATX_ATTR_MOUNT_ROOT;
  return a.ptr<struct statx>(4).write(*t.mm, s);
}

SysResult statfs_place(Task& t, const fs::Path& place, mm::UserPtr<struct statfs> out) {
  return out.write(*t.mm, TRY(vfs(t).statfs(place)));
}
SysResult sys_statfs(Task& t, const SyscallArgs& a) {
  return statfs_place(t, TRY(place_at(t, t.fs_context(), AT_FDCWD, a.addr(0), 0)), a.ptr<struct statfs>(1));
}
SysResult sys_fstatfs(Task& t, const SyscallArgs& a) {
  return statfs_place(t, TRY(t.file(a.fd(0)))->path(), a.ptr<struct statfs>(1));
}

// --- Permissions and owners ---

SysResult access_at(Task& t, int dirfd, mm::UserAddr path, int mode, int flags) {
  if ((mode & ~7) != 0 || (flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return err(EINVAL);
  const fs::Context ctx = t.fs_context();
  return vfs(t).access(ctx, TRY(place_at(t, ctx, dirfd, path, flags)), mode, (flags & AT_EACCESS) != 0);
}
SysResult sys_access(Task& t, const SyscallArgs& a) { return access_at(t, AT_FDCWD, a.addr(0), a.i(1), 0); }
SysResult sys_faccessat(Task& t, const SyscallArgs& a) { return access_at(t, a.fd(0), a.addr(1), a.i(2), 0); }
SysResult sys_faccessat2(Task& t, const SyscallArgs& a) { return access_at(t, a.fd(0), a.addr(1), a.i(2), a.i(3)); }

SysResult chmod_at(Task& t, int dirfd, mm::UserAddr path, u32 mode, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return err(EINVAL);
  const fs::Context ctx = t.fs_context();
  const fs::Path place = TRY(place_at(t, ctx, dirfd, path, flags));
  if (place.dentry->inode()->is_symlink()) return err(EOPNOTSUPP);
  return vfs(t).chmod(ctx, place, mode & 07777);
}
SysResult sys_chmod(Task& t, const SyscallArgs& a) { return chmod_at(t, AT_FDCWD, a.addr(0), a.u32_(1), 0); }
SysResult sys_fchmodat(Task& t, const SyscallArgs& a) { return chmod_at(t, a.fd(0), a.addr(1), a.u32_(2), 0); }
SysResult sys_fchmodat2(Task& t, const SyscallArgs& a) { return chmod_at(t, a.fd(0), a.addr(1), a.u32_(2), a.i(3)); }
SysResult sys_fchmod(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  return vfs(t).chmod(t.fs_context(), f->path(), a.u32_(1) & 07777);
}

SysResult chown_at(Task& t, int dirfd, mm::UserAddr path, u32 uid, u32 gid, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return err(EINVAL);
  const fs::Context ctx = t.fs_context();
  return vfs(t).chown(ctx, TRY(place_at(t, ctx, dirfd, path, flags)), uid, gid);
}
SysResult sys_chown(Task& t, const SyscallArgs& a) { return chown_at(t, AT_FDCWD, a.addr(0), a.u32_(1), a.u32_(2), 0); }
SysResult sys_lchown(Task& t, const SyscallArgs& a) {
  return chown_at(t, AT_FDCWD, a.addr(0), a.u32_(1), a.u32_(2), AT_SYMLINK_NOFOLLOW);
}
SysResult sys_fchownat(Task& t, const SyscallArgs& a) {
  return chown_at(t, a.fd(0), a.addr(1), a.u32_(2), a.u32_(3), a.i(4));
}
SysResult sys_fchown(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  return vfs(t).chown(t.fs_context(), f->path(), a.u32_(1), a.u32_(2));
}

// --- Times and size ---

Result<fs::Vfs::TimeChange> to_time_change(s64 sec, s64 nsec) {
  using What = fs::Vfs::TimeChange::What;
  if (nsec == UTIME_OMIT) return fs::Vfs::TimeChange{What::kOmit, {}};
  if (nsec == UTIME_NOW) return fs::Vfs::TimeChange{What::kNow, {}};
  if (nsec < 0 || nsec >= kNanosPerSecond) return err(EINVAL);
  return fs::Vfs::TimeChange{What::kSet, {sec, static_cast<u32>(nsec)}};
}

constexpr fs::Vfs::TimeChange kTimeNow{fs::Vfs::TimeChange::What::kNow, {}};

SysResult sys_utimensat(Task& t, const SyscallArgs& a) {
  fs::Vfs::TimeChange atime = kTimeNow, mtime = kTimeNow;
  if (a.addr(2) != 0) {
    const auto times = TRY(a.ptr<std::array<__kernel_timespec, 2>>(2).read(*t.mm));
    atime = TRY(to_time_change(times[0].tv_sec, times[0].tv_nsec));
    mtime = TRY(to_time_change(times[1].tv_sec, times[1].tv_nsec));
    using What = fs::Vfs::TimeChange::What;
    if (atime.what == What::kOmit && mtime.what == What::kOmit) return 0;
  }
  const fs::Context ctx = t.fs_context();
  if (a.addr(1) == 0) {  // futimens(3)
    if (a.i(3) != 0) return err(EINVAL);
    return vfs(t).utimens(ctx, TRY(t.file(a.fd(0)))->path(), atime, mtime);
  }
  if ((a.i(3) & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return err(EINVAL);
  return vfs(t).utimens(ctx, TRY(place_at(t, ctx, a.fd(0), a.addr(1), a.i(3))), atime, mtime);
}

SysResult utimes_at(Task& t, int dirfd, mm::UserAddr path, mm::UserAddr times_addr) {
  fs::Vfs::TimeChange atime = kTimeNow, mtime = kTimeNow;
  if (times_addr != 0) {
    const auto times = TRY(mm::UserPtr<std::array<timeval, 2>>(times_addr).read(*t.mm));
    for (const timeval& tv : times)
      if (tv.tv_usec < 0 || tv.tv_usec >= 1'000'000) return err(EINVAL);
    atime = TRY(to_time_change(times[0].tv_sec, times[0].tv_usec * 1000));
    mtime = TRY(to_time_change(times[1].tv_sec, times[1].tv_usec * 1000));
  }
  const fs::Context ctx = t.fs_context();
  return vfs(t).utimens(ctx, TRY(place_at(t, ctx, dirfd, path, 0)), atime, mtime);
}
SysResult sys_utimes(Task& t, const SyscallArgs& a) { return utimes_at(t, AT_FDCWD, a.addr(0), a.addr(1)); }
SysResult sys_futimesat(Task& t, const SyscallArgs& a) { return utimes_at(t, a.fd(0), a.addr(1), a.addr(2)); }

SysResult sys_utime(Task& t, const SyscallArgs& a) {
  fs::Vfs::TimeChange atime = kTimeNow, mtime = kTimeNow;
  if (a.addr(1) != 0) {
    const utimbuf times = TRY(a.ptr<utimbuf>(1).read(*t.mm));
    atime = TRY(to_time_change(times.actime, 0));
    mtime = TRY(to_time_change(times.modtime, 0));
  }
  const fs::Context ctx = t.fs_context();
  return vfs(t).utimens(ctx, TRY(place_at(t, ctx, AT_FDCWD, a.addr(0), 0)), atime, mtime);
}

SysResult sys_truncate(Task& t, const SyscallArgs& a) {
  if (a.s(1) < 0) return err(EINVAL);
  const fs::Context ctx = t.fs_context();
  const fs::Path place = TRY(place_at(t, ctx, AT_FDCWD, a.addr(0), 0));
  if (place.dentry->inode()->is_dir()) return err(EISDIR);
  if (!place.dentry->inode()->is_regular()) return err(EINVAL);
  if (a.u(1) > ctx.file_size_limit) return file_too_big(t);
  return vfs(t).truncate(ctx, place, a.u(1));
}

// --- Extended attributes. Three forms of each call: by path, by path without following, by descriptor. ---

enum class By { kPath, kLink, kFd };

template <By by>
Result<fs::Path> xattr_place(Task& t, const fs::Context& ctx, const SyscallArgs& a) {
  if constexpr (by == By::kFd) {
    Ref<fs::File> f = TRY(t.file(a.fd(0)));
    if ((f->flags() & O_PATH) != 0) return err(EBADF);
    return f->path();
  }
  return place_at(t, ctx, AT_FDCWD, a.addr(0), by == By::kLink ? AT_SYMLINK_NOFOLLOW : 0);
}

Result<std::string> xattr_name(Task& t, mm::UserAddr addr) {
  Result<std::string> name = mm::read_string(*t.mm, addr, XATTR_NAME_MAX + 1);
  if (!name) return err(name.error() == Errno{ENAMETOOLONG} ? ERANGE : errno_value(name.error()));
  if (name->empty()) return err(ERANGE);
  return name;
}

// Size 0 asks for the length alone.
SysResult give_bytes(Task& t, std::string_view value, mm::UserAddr out, u64 size) {
  if (size == 0) return value.size();
  if (value.size() > size) return err(ERANGE);
  TRY(mm::UserPtr<const char>(out).write_array(*t.mm, value));
  return value.size();
}

template <By by>
SysResult getxattr(Task& t, const SyscallArgs& a) {
  const std::string name = TRY(xattr_name(t, a.addr(1)));
  const fs::Context ctx = t.fs_context();
  const fs::Path place = TRY(xattr_place<by>(t, ctx, a));
  return give_bytes(t, TRY(vfs(t).getxattr(ctx, place, name)), a.addr(2), a.u(3));
}

template <By by>
SysResult setxattr(Task& t, const SyscallArgs& a) {
  if ((a.i(4) & ~(XATTR_CREATE | XATTR_REPLACE)) != 0) return err(EINVAL);
  const std::string name = TRY(xattr_name(t, a.addr(1)));
  if (a.u(3) > XATTR_SIZE_MAX) return err(E2BIG);
  std::string value(a.u(3), '\0');
  TRY(mm::UserPtr<char>(a.addr(2)).read_array(*t.mm, value));
  const fs::Context ctx = t.fs_context();
  return vfs(t).setxattr(ctx, TRY(xattr_place<by>(t, ctx, a)), name, value, a.i(4));
}

template <By by>
SysResult removexattr(Task& t, const SyscallArgs& a) {
  const std::string name = TRY(xattr_name(t, a.addr(1)));
  const fs::Context ctx = t.fs_context();
  return vfs(t).removexattr(ctx, TRY(xattr_place<by>(t, ctx, a)), name);
}

template <By by>
SysResult listxattr(Task& t, const SyscallArgs& a) {
  const fs::Context ctx = t.fs_context();
  std::string list;
  for (const std::string& name : TRY(vfs(t).listxattr(ctx, TRY(xattr_place<by>(t, ctx, a)))))
    list.append(name).push_back('\0');
  if (list.size() > XATTR_LIST_MAX) return err(E2BIG);
  return give_bytes(t, list, a.addr(1), a.u(2));
}

constexpr SyscallEntry kEntries[] = {
    {__NR_stat, "stat", sys_stat, Support::kFull, "", {Arg::kPath, Arg::kStat}},
    {__NR_lstat, "lstat", sys_lstat, Support::kFull, "", {Arg::kPath, Arg::kStat}},
    {__NR_fstat, "fstat", sys_fstat, Support::kFull, "", {Arg::kFd, Arg::kStat}},
    {__NR_newfstatat,
     "newfstatat",
     sys_newfstatat,
     Support::kFull,
     "",
     {Arg::kDirFd, Arg::kPath, Arg::kStat, Arg::kAtFlags}},
    {__NR_statx,
     "statx",
     sys_statx,
     Support::kFull,
     "",
     {Arg::kDirFd, Arg::kPath, Arg::kAtFlags, Arg::kHex, Arg::kAddr}},
    {__NR_statfs, "statfs", sys_statfs, Support::kFull, "", {Arg::kPath, Arg::kAddr}},
    {__NR_fstatfs, "fstatfs", sys_fstatfs, Support::kFull, "", {Arg::kFd, Arg::kAddr}},
    {__NR_access, "access", sys_access, Support::kFull, "", {Arg::kPath, Arg::kOct}},
    {__NR_faccessat, "faccessat", sys_faccessat, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kOct}},
    {__NR_faccessat2,
     "faccessat2",
     sys_faccessat2,
     Support::kFull,
     "",
     {Arg::kDirFd, Arg::kPath, Arg::kOct, Arg::kAtFlags}},
    {__NR_chmod, "chmod", sys_chmod, Support::kFull, "", {Arg::kPath, Arg::kMode}},
    {__NR_fchmod, "fchmod", sys_fchmod, Support::kFull, "", {Arg::kFd, Arg::kMode}},
    {__NR_fchmodat, "fchmodat", sys_fchmodat, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kMode}},
    {452, "fchmodat2", sys_fchmodat2, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kMode, Arg::kAtFlags}},
    {__NR_chown, "chown", sys_chown, Support::kFull, "", {Arg::kPath, Arg::kInt, Arg::kInt}},
    {__NR_lchown, "lchown", sys_lchown, Support::kFull, "", {Arg::kPath, Arg::kInt, Arg::kInt}},
    {__NR_fchown, "fchown", sys_fchown, Support::kFull, "", {Arg::kFd, Arg::kInt, Arg::kInt}},
    {__NR_fchownat,
     "fchownat",
     sys_fchownat,
     Support::kFull,
     "",
     {Arg::kDirFd, Arg::kPath, Arg::kInt, Arg::kInt, Arg::kAtFlags}},
    {__NR_utimensat,
     "utimensat",
     sys_utimensat,
     Support::kFull,
     "",
     {Arg::kDirFd, Arg::kPath, Arg::kAddr, Arg::kAtFlags}},
    {__NR_utimes, "utimes", sys_utimes, Support::kFull, "", {Arg::kPath, Arg::kAddr}},
    {__NR_futimesat, "futimesat", sys_futimesat, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kAddr}},
    {__NR_utime, "utime", sys_utime, Support::kFull, "", {Arg::kPath, Arg::kAddr}},
    {__NR_truncate, "truncate", sys_truncate, Support::kFull, "", {Arg::kPath, Arg::kOffset}},
    {__NR_getxattr,
     "getxattr",
     getxattr<By::kPath>,
     Support::kFull,
     "",
     {Arg::kPath, Arg::kString, Arg::kAddr, Arg::kSize}},
    {__NR_lgetxattr,
     "lgetxattr",
     getxattr<By::kLink>,
     Support::kFull,
     "",
     {Arg::kPath, Arg::kString, Arg::kAddr, Arg::kSize}},
    {__NR_fgetxattr,
     "fgetxattr",
     getxattr<By::kFd>,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kString, Arg::kAddr, Arg::kSize}},
    {__NR_setxattr,
     "setxattr",
     setxattr<By::kPath>,
     Support::kFull,
     "",
     {Arg::kPath, Arg::kString, Arg::kBufIn, Arg::kSize, Arg::kHex}},
    {__NR_lsetxattr,
     "lsetxattr",
     setxattr<By::kLink>,
     Support::kFull,
     "",
     {Arg::kPath, Arg::kString, Arg::kBufIn, Arg::kSize, Arg::kHex}},
    {__NR_fsetxattr,
     "fsetxattr",
     setxattr<By::kFd>,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kString, Arg::kBufIn, Arg::kSize, Arg::kHex}},
    {__NR_removexattr, "removexattr", removexattr<By::kPath>, Support::kFull, "", {Arg::kPath, Arg::kString}},
    {__NR_lremovexattr, "lremovexattr", removexattr<By::kLink>, Support::kFull, "", {Arg::kPath, Arg::kString}},
    {__NR_fremovexattr, "fremovexattr", removexattr<By::kFd>, Support::kFull, "", {Arg::kFd, Arg::kString}},
    {__NR_listxattr, "listxattr", listxattr<By::kPath>, Support::kFull, "", {Arg::kPath, Arg::kAddr, Arg::kSize}},
    {__NR_llistxattr, "llistxattr", listxattr<By::kLink>, Support::kFull, "", {Arg::kPath, Arg::kAddr, Arg::kSize}},
    {__NR_flistxattr, "flistxattr", listxattr<By::kFd>, Support::kFull, "", {Arg::kFd, Arg::kAddr, Arg::kSize}},
};

}  // namespace

Family metadata_family() { return kEntries; }

}  // namespace rf::task
