// The VFS: path walking, permissions, mounts and the calls that take paths. One Vfs per sandbox.
//
// Walks follow path_resolution(7): symlinks (40 at most, ELOOP), "..", trailing slashes, mounts, search permission on
// each directory, ENAMETOOLONG. `at` is where a relative path starts (the caller resolved dirfd; null: ctx.cwd). All
// may suspend; an interrupted walk gives ERESTARTSYS or EINTR.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "fs/dentry.h"
#include "fs/file.h"

namespace rf::fs {

// AT_* flags each call accepts are checked by the call layer; here they are booleans.
struct WalkFlags {
  bool follow = true;       // the last component's symlink
  bool empty_path = false;  // AT_EMPTY_PATH: "" is `at` itself
  // openat2(2)'s RESOLVE_* bits.
  u64 resolve = 0;
};

class Vfs {
 public:
  // `root` is mounted at "/".
  static Result<std::unique_ptr<Vfs>> create(const Ref<FileSystem>& root, std::string source, u64 flags);
  virtual ~Vfs();

  Path root() const;

  Result<Path> walk(const Context& ctx, const Path* at, std::string_view path, WalkFlags flags);
  Result<Ref<File>> open(const Context& ctx, const Path* at, std::string_view path, int flags, u16 mode,
                         u64 resolve = 0);
  // Opens what a Path leads to (O_PATH reopen, exec, /proc/self/fd): permission checked.
  Result<Ref<File>> open_path(const Context& ctx, const Path& path, int flags);
  // Opens for execution: regular, executable, not on a noexec mount. EACCES. The file denies writers (ETXTBSY).
  Result<Ref<File>> open_exec(const Context& ctx, const Path* at, std::string_view path, WalkFlags flags);

  Result<void> mkdir(const Context& ctx, const Path* at, std::string_view path, u16 mode);
  // Returns the new place (AF_UNIX bind wants it).
  Result<Path> mknod(const Context& ctx, const Path* at, std::string_view path, u16 mode, u32 major, u32 minor);
  Result<void> symlink(const Context& ctx, std::string_view target, const Path* at, std::string_view path);
  Result<void> link(const Context& ctx, const Path& target, const Path* at, std::string_view path);
  Result<void> unlink(const Context& ctx, const Path* at, std::string_view path);
  Result<void> rmdir(const Context& ctx, const Path* at, std::string_view path);
  Result<void> rename(const Context& ctx, const Path* old_at, std::string_view old_path, const Path* new_at,
                      std::string_view new_path, u32 flags);
  Result<std::string> readlink(const Context& ctx, const Path* at, std::string_view path);

  // On places already walked to; permissions and read-only mounts are checked here.
  Result<Attributes> getattr(const Context& ctx, const Path& path);
  Result<void> chmod(const Context& ctx, const Path& path, u16 mode);
  Result<void> chown(const Context& ctx, const Path& path, u32 uid, u32 gid);  // ~0: leave
  struct TimeChange {
    enum class What { kOmit, kNow, kSet } what = What::kOmit;
    Timestamp time;
  };
  Result<void> utimens(const Context& ctx, const Path& path, TimeChange atime, TimeChange mtime);
  Result<void> truncate(const Context& ctx, const Path& path, u64 size);
  // access(2): with the real or, when `effective`, the effective ids.
  Result<void> access(const Context& ctx, const Path& path, int mode, bool effective);
  Result<struct ::statfs> statfs(const Path& path);
  Result<std::string> getxattr(const Context& ctx, const Path& path, const std::string& name);
  Result<void> setxattr(const Context& ctx, const Path& path, const std::string& name, std::string_view value,
                        int flags);
  Result<void> removexattr(const Context& ctx, const Path& path, const std::string& name);
  Result<std::vector<std::string>> listxattr(const Context& ctx, const Path& path);

  // Mounts `fs` over a directory (or a file over a file). umount: EBUSY, EINVAL.
  Result<void> mount(const Context& ctx, const Path& point, Ref<FileSystem> fs, std::string source, u64 flags);
  Result<void> bind(const Context& ctx, const Path& from, const Path& point, u64 flags);
  Result<void> umount(const Context& ctx, const Path& path, int flags);
  std::vector<Ref<Mount>> mounts() const;

  // The absolute path as seen from `root` ("(unreachable)" prefix when it is not below it, " (deleted)" suffix when
  // unlinked), as getcwd(2) and /proc show it.
  std::string path_of(const Path& path, const Path& root) const;

 protected:
  Vfs();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The checks every mode-bit file system shares (inode_permission): ctx's fsuid, groups and capabilities.
Result<void> check_mode(const Context& ctx, const Attributes& attr, int mask);

}  // namespace rf::fs
