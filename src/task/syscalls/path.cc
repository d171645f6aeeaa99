// The tree of names: open(2), directories, links, renames, mounts and the process's place in it.
#include <asm/unistd_64.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>

#include <cstring>

#include "fs/filesystems.h"
#include "task/call_helpers.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

fs::Vfs& vfs(Task& t) { return *t.kernel.vfs; }

u16 apply_umask(Task& t, u32 mode) {
  return static_cast<u16>(mode & 07777 & ~t.fs_state->umask.load(std::memory_order_relaxed));
}

SysResult open_at(Task& t, int dirfd, mm::UserAddr path_addr, int flags, u32 mode, u64 resolve) {
  const std::string path = TRY(mm::read_path(*t.mm, path_addr));
  const Dirfd dir = TRY(Dirfd::resolve(t, dirfd, path));
  const fs::Context ctx = t.fs_context();
  Ref<fs::File> f = TRY(vfs(t).open(ctx, dir.at(), path, flags & ~O_CLOEXEC, apply_umask(t, mode), resolve));
  return t.files->install(std::move(f), (flags & O_CLOEXEC) != 0, 0, t.group->limit(RLIMIT_NOFILE).rlim_cur);
}

// open(2) and openat(2) ignore flags they do not know, and mode without O_CREAT or O_TMPFILE.
constexpr int kOpenFlags = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC |
                           O_DSYNC | FASYNC | O_DIRECT | O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME |
                           O_CLOEXEC | O_PATH | O_TMPFILE;  // NOLINT(misc-redundant-expression): O_LARGEFILE is 0

SysResult sys_open(Task& t, const SyscallArgs& a) {
  return open_at(t, AT_FDCWD, a.addr(0), a.i(1) & kOpenFlags, a.u32_(2), 0);
}
SysResult sys_openat(Task& t, const SyscallArgs& a) {
  return open_at(t, a.fd(0), a.addr(1), a.i(2) & kOpenFlags, a.u32_(3), 0);
}
SysResult sys_creat(Task& t, const SyscallArgs& a) {
  return open_at(t, AT_FDCWD, a.addr(0), O_CREAT | O_WRONLY | O_TRUNC, a.u32_(1), 0);
}

SysResult sys_openat2(Task& t, const SyscallArgs& a) {
  open_how how{};
  const u64 size = a.u(3);
  if (size < sizeof how) return err(EINVAL);
  if (size > kPageSize) return err(E2BIG);
  how = TRY(a.ptr<open_how>(2).read(*t.mm));
  // A longer struct is of a newer kernel: what we do not know must be zero.
  for (u64 at = sizeof how; at < size; ++at)
    if (TRY(mm::UserPtr<u8>(a.addr(2) + at).read(*t.mm)) != 0) return err(E2BIG);
  constexpr u64 kResolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH |
                           RESOLVE_IN_ROOT | RESOLVE_CACHED;
  if ((how.flags & ~static_cast<u64>(kOpenFlags)) != 0 || (how.resolve & ~kResolve) != 0) return err(EINVAL);
  if ((how.resolve & RESOLVE_BENEATH) != 0 && (how.resolve & RESOLVE_IN_ROOT) != 0) return err(EINVAL);
  const bool creates = (how.flags & O_CREAT) != 0 || (how.flags & O_TMPFILE) == O_TMPFILE;
  if (creates ? (how.mode & ~07777ull) != 0 : how.mode != 0) return err(EINVAL);
  if ((how.resolve & RESOLVE_CACHED) != 0) return err(EAGAIN);  // allowed at any time: openat2(2)
  return open_at(t, a.fd(0), a.addr(1), static_cast<int>(how.flags), static_cast<u32>(how.mode), how.resolve);
}

SysResult mkdir_at(Task& t, int dirfd, mm::UserAddr addr, u32 mode) {
  const std::string path = TRY(mm::read_path(*t.mm, addr));
  const Dirfd dir = TRY(Dirfd::resolve(t, dirfd, path));
  return vfs(t).mkdir(t.fs_context(), dir.at(), path, apply_umask(t, mode) & 01777);
}
SysResult sys_mkdir(Task& t, const SyscallArgs& a) { return mkdir_at(t, AT_FDCWD, a.addr(0), a.u32_(1)); }
SysResult sys_mkdirat(Task& t, const SyscallArgs& a) { return mkdir_at(t, a.fd(0), a.addr(1), a.u32_(2)); }

SysResult mknod_at(Task& t, int dirfd, mm::UserAddr addr, u32 mode, u32 dev) {
  const std::string path = TRY(mm::read_path(*t.mm, addr));
  u16 type = mode & S_IFMT;
  if (type == 0) type = S_IFREG;
  if (type == S_IFDIR) return err(EPERM);
  if (type != S_IFREG && type != S_IFCHR && type != S_IFBLK && type != S_IFIFO && type != S_IFSOCK) return err(EINVAL);
  const fs::Context ctx = t.fs_context();
  if ((type == S_IFCHR || type == S_IFBLK) && !ctx.creds.capable(CAP_MKNOD)) return err(EPERM);
  const Dirfd dir = TRY(Dirfd::resolve(t, dirfd, path));
  // new_decode_dev() of Linux.
  const u32 major = (dev & 0xfff00) >> 8, minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);
  TRY(vfs(t).mknod(ctx, dir.at(), path, type | apply_umask(t, mode), major, minor));
  return 0;
}
SysResult sys_mknod(Task& t, const SyscallArgs& a) { return mknod_at(t, AT_FDCWD, a.addr(0), a.u32_(1), a.u32_(2)); }
SysResult sys_mknodat(Task& t, const SyscallArgs& a) { return mknod_at(t, a.fd(0), a.addr(1), a.u32_(2), a.u32_(3)); }

SysResult unlink_at(Task& t, int dirfd, mm::UserAddr addr, bool directory) {
  const std::string path = TRY(mm::read_path(*t.mm, addr));
  const Dirfd dir = TRY(Dirfd::resolve(t, dirfd, path));
  const fs::Context ctx = t.fs_context();
  return directory ? vfs(t).rmdir(ctx, dir.at(), path) : vfs(t).unlink(ctx, dir.at(), path);
}
SysResult sys_unlink(Task& t, const SyscallArgs& a) { return unlink_at(t, AT_FDCWD, a.addr(0), false); }
SysResult sys_rmdir(Task& t, const SyscallArgs& a) { return unlink_at(t, AT_FDCWD, a.addr(0), true); }
SysResult sys_unlinkat(Task& t, const SyscallArgs& a) {
  if ((a.i(2) & ~AT_REMOVEDIR) != 0) return err(EINVAL);
  return unlink_at(t, a.fd(0), a.addr(1), (a.i(2) & AT_REMOVEDIR) != 0);
}

SysResult symlink_at(Task& t, mm::UserAddr target_addr, int dirfd, mm::UserAddr addr) {
  const std::string target = TRY(mm::read_path(*t.mm, target_addr));
  if (target.empty()) return err(ENOENT);
  const std::string path = TRY(mm::read_path(*t.mm, addr));
  const Dirfd dir = TRY(Dirfd::resolve(t, dirfd, path));
  return vfs(t).symlink(t.fs_context(), target, dir.at(), path);
}
SysResult sys_symlink(Task& t, const SyscallArgs& a) { return symlink_at(t, a.addr(0), AT_FDCWD, a.addr(1)); }
SysResult sys_symlinkat(Task& t, const SyscallArgs& a) { return symlink_at(t, a.addr(0), a.fd(1), a.addr(2)); }

SysResult link_at(Task& t, int old_fd, mm::UserAddr old_addr, int new_fd, mm::UserAddr new_addr, int flags) {
  if ((flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)) != 0) return err(EINVAL);
  const std::string old_path = TRY(mm::read_path(*t.mm, old_addr));
  const std::string new_path = TRY(mm::read_path(*t.mm, new_addr));
  const Dirfd old_dir = TRY(Dirfd::resolve(t, old_fd, old_path)), new_dir = TRY(Dirfd::resolve(t, new_fd, new_path));
  const fs::Context ctx = t.fs_context();
  const bool empty = (flags & AT_EMPTY_PATH) != 0;
  if (empty && old_path.empty() && !ctx.creds.capable(CAP_DAC_READ_SEARCH)) return err(ENOENT);
  const fs::Path target =
      TRY(vfs(t).walk(ctx, old_dir.at(), old_path, {.follow = (flags & AT_SYMLINK_FOLLOW) != 0, .empty_path = empty}));
  return vfs(t).link(ctx, target, new_dir.at(), new_path);
}
SysResult sys_link(Task& t, const SyscallArgs& a) { return link_at(t, AT_FDCWD, a.addr(0), AT_FDCWD, a.addr(1), 0); }
SysResult sys_linkat(Task& t, const SyscallArgs& a) {
  return link_at(t, a.fd(0), a.addr(1), a.fd(2), a.addr(3), a.i(4));
}

SysResult rename_at(Task& t, int old_fd, mm::UserAddr old_addr, int new_fd, mm::UserAddr new_addr, u32 flags) {
  if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) return err(EINVAL);  // WHITEOUT: not offered
  if (flags == (RENAME_NOREPLACE | RENAME_EXCHANGE)) return err(EINVAL);
  const std::string old_path = TRY(mm::read_path(*t.mm, old_addr));
  const std::string new_path = TRY(mm::read_path(*t.mm, new_addr));
  const Dirfd old_dir = TRY(Dirfd::resolve(t, old_fd, old_path)), new_dir = TRY(Dirfd::resolve(t, new_fd, new_path));
  return vfs(t).rename(t.fs_context(), old_dir.at(), old_path, new_dir.at(), new_path, flags);
}
SysResult sys_rename(Task& t, const SyscallArgs& a) {
  return rename_at(t, AT_FDCWD, a.addr(0), AT_FDCWD, a.addr(1), 0);
}
SysResult sys_renameat(Task& t, const SyscallArgs& a) {
  return rename_at(t, a.fd(0), a.addr(1), a.fd(2), a.addr(3), 0);
}
SysResult sys_renameat2(Task& t, const SyscallArgs& a) {
  return rename_at(t, a.fd(0), a.addr(1), a.fd(2), a.addr(3), a.u32_(4));
}

SysResult readlink_at(Task& t, int dirfd, mm::UserAddr addr, mm::UserAddr out, s32 size) {
  if (size <= 0) return err(EINVAL);
  const std::string path = TRY(mm::read_path(*t.mm, addr));
  const Dirfd dir = TRY(Dirfd::resolve(t, dirfd, path));
  const std::string target = TRY(vfs(t).readlink(t.fs_context(), dir.at(), path));
  const size_t n = std::min<size_t>(target.size(), static_cast<size_t>(size));
  TRY(mm::UserPtr<const char>(out).write_array(*t.mm, std::span(target.data(), n)));
  return n;
}
SysResult sys_readlink(Task& t, const SyscallArgs& a) { return readlink_at(t, AT_FDCWD, a.addr(0), a.addr(1), a.i(2)); }
SysResult sys_readlinkat(Task& t, const SyscallArgs& a) {
  return readlink_at(t, a.fd(0), a.addr(1), a.addr(2), a.i(3));
}

// --- getdents ---

struct LinuxDirent {  // struct linux_dirent: the type is the record's last byte
  u64 ino;
  s64 off;
  u16 reclen;
};

template <bool k64>
SysResult getdents(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  if (!f->inode().is_dir()) return err(ENOTDIR);
  const u64 size = std::min<u64>(a.u32_(2), 1 << 20);
  const fs::Context ctx = t.fs_context();
  const u64 start = TRY(f->seek(ctx, 0, SEEK_CUR));
  std::vector<std::byte> out;
  out.reserve(std::min<u64>(size, 32 << 10));
  bool too_small = false;
  constexpr size_t kHeader = k64 ? 19 : 18;  // up to the name
  TRY(f->readdir(ctx, [&](const fs::DirEntry& e) {
    const size_t reclen = (kHeader + e.name.size() + (k64 ? 1 : 2) + 7) & ~size_t{7};
    if (out.size() + reclen > size) {
      too_small = out.empty();
      return false;
    }
    const size_t at = out.size();
    out.resize(at + reclen);
    const LinuxDirent head{e.ino, e.next_offset, static_cast<u16>(reclen)};
    memcpy(&out[at], &head, 18);
    if (k64)
      out[at + 18] = std::byte{e.type};
    else
      out[at + reclen - 1] = std::byte{e.type};
    memcpy(&out[at + kHeader], e.name.data(), e.name.size());
    return true;
  }));
  if (too_small) return err(EINVAL);
  if (auto written = mm::UserPtr<const std::byte>(a.addr(1)).write_array(*t.mm, out); !written) {
    (void)f->seek(ctx, static_cast<s64>(start), SEEK_SET);  // the next call gives these entries again
    return err(written.error());
  }
  return out.size();
}

// --- The process's place ---

SysResult change_directory(Task& t, const fs::Path& place) {
  if (!place.dentry->inode() || !place.dentry->inode()->is_dir()) return err(ENOTDIR);
  TRY(vfs(t).access(t.fs_context(), place, X_OK, true));
  t.fs_state->set_cwd(place);
  return 0;
}
SysResult sys_chdir(Task& t, const SyscallArgs& a) {
  const std::string path = TRY(mm::read_path(*t.mm, a.addr(0)));
  return change_directory(t, TRY(vfs(t).walk(t.fs_context(), nullptr, path, {})));
}
SysResult sys_fchdir(Task& t, const SyscallArgs& a) { return change_directory(t, TRY(t.file(a.fd(0)))->path()); }

SysResult sys_chroot(Task& t, const SyscallArgs& a) {
  const std::string path = TRY(mm::read_path(*t.mm, a.addr(0)));
  const fs::Context ctx = t.fs_context();
  const fs::Path place = TRY(vfs(t).walk(ctx, nullptr, path, {}));
  if (!place.dentry->inode() || !place.dentry->inode()->is_dir()) return err(ENOTDIR);
  TRY(vfs(t).access(ctx, place, X_OK, true));
  if (!ctx.creds.capable(CAP_SYS_CHROOT)) return err(EPERM);
  t.fs_state->set_root(place);
  return 0;
}

SysResult sys_getcwd(Task& t, const SyscallArgs& a) {
  const fs::Path cwd = t.fs_state->cwd();
  if (cwd.dentry->unlinked()) return err(ENOENT);
  const std::string path = vfs(t).path_of(cwd, t.fs_state->root());
  if (path.size() + 1 > a.u(1)) return err(ERANGE);
  TRY(mm::UserPtr<const char>(a.addr(0)).write_array(*t.mm, std::span(path.c_str(), path.size() + 1)));
  return path.size() + 1;
}

SysResult sys_umask(Task& t, const SyscallArgs& a) {
  return static_cast<u64>(t.fs_state->umask.exchange(a.u32_(0) & 0777));
}

// --- Mounts ---

SysResult sys_mount(Task& t, const SyscallArgs& a) {
  const fs::Context ctx = t.fs_context();
  if (!ctx.creds.capable(CAP_SYS_ADMIN)) return err(EPERM);
  const std::string source = a.addr(0) ? TRY(mm::read_path(*t.mm, a.addr(0))) : "none";
  const std::string target = TRY(mm::read_path(*t.mm, a.addr(1)));
  const fs::Path point = TRY(vfs(t).walk(ctx, nullptr, target, {}));
  const u64 flags = a.u(3);
  if ((flags & MS_BIND) != 0) return vfs(t).bind(ctx, TRY(vfs(t).walk(ctx, nullptr, source, {})), point, flags);
  if ((flags & (MS_PRIVATE | MS_SHARED | MS_SLAVE | MS_UNBINDABLE)) != 0) return 0;  // one namespace: no propagation
  if ((flags & (MS_REMOUNT | MS_MOVE)) != 0) return err(EINVAL);
  const std::string type = a.addr(2) ? TRY(mm::read_string(*t.mm, a.addr(2), kPageSize)) : "";
  if (type != "tmpfs") return err(ENODEV);
  return vfs(t).mount(ctx, point, fs::make_tmpfs(t.kernel.frames, 0, 01777), source, flags);
}

SysResult sys_umount2(Task& t, const SyscallArgs& a) {
  if ((a.i(1) & ~(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW)) != 0) return err(EINVAL);
  const fs::Context ctx = t.fs_context();
  const std::string path = TRY(mm::read_path(*t.mm, a.addr(0)));
  const fs::Path place = TRY(vfs(t).walk(ctx, nullptr, path, {.follow = (a.i(1) & UMOUNT_NOFOLLOW) == 0}));
  if (!ctx.creds.capable(CAP_SYS_ADMIN)) return err(EPERM);
  return vfs(t).umount(ctx, place, a.i(1));
}

constexpr SyscallEntry kEntries[] = {
    {__NR_open, "open", sys_open, Support::kFull, "", {Arg::kPath, Arg::kOpenFlags, Arg::kMode}},
    {__NR_openat, "openat", sys_openat, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kOpenFlags, Arg::kMode}},
    {__NR_openat2,
     "openat2",
     sys_openat2,
     Support::kPartial,
     "RESOLVE_CACHED always gives EAGAIN",
     {Arg::kDirFd, Arg::kPath, Arg::kAddr, Arg::kSize}},
    {__NR_creat, "creat", sys_creat, Support::kFull, "", {Arg::kPath, Arg::kMode}},
    {__NR_mkdir, "mkdir", sys_mkdir, Support::kFull, "", {Arg::kPath, Arg::kMode}},
    {__NR_mkdirat, "mkdirat", sys_mkdirat, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kMode}},
    {__NR_mknod, "mknod", sys_mknod, Support::kFull, "", {Arg::kPath, Arg::kMode, Arg::kHex}},
    {__NR_mknodat, "mknodat", sys_mknodat, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kMode, Arg::kHex}},
    {__NR_unlink, "unlink", sys_unlink, Support::kFull, "", {Arg::kPath}},
    {__NR_rmdir, "rmdir", sys_rmdir, Support::kFull, "", {Arg::kPath}},
    {__NR_unlinkat, "unlinkat", sys_unlinkat, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kAtFlags}},
    {__NR_symlink, "symlink", sys_symlink, Support::kFull, "", {Arg::kPath, Arg::kPath}},
    {__NR_symlinkat, "symlinkat", sys_symlinkat, Support::kFull, "", {Arg::kPath, Arg::kDirFd, Arg::kPath}},
    {__NR_link, "link", sys_link, Support::kFull, "", {Arg::kPath, Arg::kPath}},
    {__NR_linkat,
     "linkat",
     sys_linkat,
     Support::kFull,
     "",
     {Arg::kDirFd, Arg::kPath, Arg::kDirFd, Arg::kPath, Arg::kAtFlags}},
    {__NR_rename, "rename", sys_rename, Support::kFull, "", {Arg::kPath, Arg::kPath}},
    {__NR_renameat, "renameat", sys_renameat, Support::kFull, "", {Arg::kDirFd, Arg::kPath, Arg::kDirFd, Arg::kPath}},
    {__NR_renameat2,
     "renameat2",
     sys_renameat2,
     Support::kPartial,
     "no RENAME_WHITEOUT",
     {Arg::kDirFd, Arg::kPath, Arg::kDirFd, Arg::kPath, Arg::kHex}},
    {__NR_readlink, "readlink", sys_readlink, Support::kFull, "", {Arg::kPath, Arg::kBufOut, Arg::kSize}},
    {__NR_readlinkat,
     "readlinkat",
     sys_readlinkat,
     Support::kFull,
     "",
     {Arg::kDirFd, Arg::kPath, Arg::kBufOut, Arg::kSize}},
    {__NR_getdents, "getdents", getdents<false>, Support::kFull, "", {Arg::kFd, Arg::kAddr, Arg::kSize}},
    {__NR_getdents64, "getdents64", getdents<true>, Support::kFull, "", {Arg::kFd, Arg::kAddr, Arg::kSize}},
    {__NR_chdir, "chdir", sys_chdir, Support::kFull, "", {Arg::kPath}},
    {__NR_fchdir, "fchdir", sys_fchdir, Support::kFull, "", {Arg::kFd}},
    {__NR_chroot, "chroot", sys_chroot, Support::kFull, "", {Arg::kPath}},
    {__NR_getcwd, "getcwd", sys_getcwd, Support::kFull, "", {Arg::kAddr, Arg::kSize}},
    {__NR_umask, "umask", sys_umask, Support::kFull, "", {Arg::kMode}},
    {__NR_mount,
     "mount",
     sys_mount,
     Support::kPartial,
     "tmpfs and bind mounts; no remount, no move",
     {Arg::kPath, Arg::kPath, Arg::kString, Arg::kHex, Arg::kAddr}},
    {__NR_umount2,
     "umount2",
     sys_umount2,
     Support::kPartial,
     "flags other than MNT_DETACH have no effect",
     {Arg::kPath, Arg::kHex}},
};

}  // namespace

Family path_family() { return kEntries; }

}  // namespace rf::task
