// Inodes and file systems: what a file system type implements. Path walking, permission checks, mounts and the
// dentry cache are the VFS's (fs/vfs.h, fs/dentry.h).
//
// The VFS calls the directory operations with the directory's `lock` held (exclusively for changes), after the
// permission checks, with names that are valid components (not empty, ".", "..", no '/', at most NAME_MAX). All
// operations may suspend.
//
// A file system returns the same Inode object for the same file as long as one is alive, whatever name it was looked up
// by: locks, FIFOs, open-for-execution counts and an overlay's changes hang on it.
#pragma once

#include <sys/stat.h>
#include <sys/statfs.h>

#include <linux/stat.h>

#include <atomic>
#include <string>
#include <string_view>
#include <vector>

#include "core/mutex.h"
#include "core/ref.h"
#include "core/result.h"
#include "core/time.h"
#include "fs/context.h"
#include "mm/mappable.h"

namespace rf::fs {

class Dentry;
class File;
class FileSystem;
class Inode;

// Seconds and nanoseconds since the epoch.
struct Timestamp {
  s64 sec = 0;
  u32 nsec = 0;
  static Timestamp now();
};

// statx(2)'s fields.
struct Attributes {
  u64 ino = 0;
  u16 mode = 0;  // type and permissions, S_IFREG | 0644
  u32 nlink = 1;
  u32 uid = 0, gid = 0;
  u64 size = 0;
  u64 blocks = 0;  // of 512 bytes
  u32 block_size = 4096;
  u32 rdev_major = 0, rdev_minor = 0;
  Timestamp atime, mtime, ctime, btime;
  bool has_btime = false;
};

// What setattr() is to change; permission checks are done.
struct AttributeChange {
  enum : u32 { kMode = 1, kUid = 2, kGid = 4, kSize = 8, kAtime = 16, kMtime = 32, kCtime = 64 };
  u32 mask = 0;
  u16 mode = 0;  // permission bits
  u32 uid = 0, gid = 0;
  u64 size = 0;
  Timestamp atime, mtime, ctime;
};

// A mounted file system instance (super block).
class FileSystem : public RefCounted {
 public:
  virtual const char* type() const = 0;  // "tmpfs", for /proc/mounts
  virtual Ref<Inode> root() = 0;
  virtual Result<struct ::statfs> statfs() = 0;
  virtual std::string options() const { return ""; }  // for /proc/mounts, after rw/ro
  virtual bool read_only() const { return false; }
  virtual Result<void> sync() { return {}; }
  // Whether cached dentries must be checked with Inode::revalidate() before use.
  virtual bool needs_revalidation() const { return false; }
  // Whether look-ups may be cached at all (proc's may not).
  virtual bool cacheable() const { return true; }
  // Whether the look-up of an unknown name finds a place where something could be made (proc's fails: ENOENT for all).
  virtual bool has_free_names() const { return true; }

  // The last mount of it has gone, and with it every open file and path: drop what makes cycles of references (the
  // tree of an in-memory file system). It may be mounted again all the same. May suspend.
  virtual void unmounted() {}

  u32 dev_minor() const { return dev_minor_; }  // st_dev is makedev(0, dev_minor)

 protected:
  FileSystem();

 private:
  friend class Mount;
  u32 dev_minor_;
  std::atomic<u32> mounts_{0};
};

struct OpenArgs {
  int flags = 0;  // O_*, as Linux keeps them in f_flags plus the creation flags
};

class Inode : public RefCounted {
 public:
  explicit Inode(FileSystem& fs) : fs_(&fs) {}
  FileSystem& fs() const { return *fs_.get(); }

  // Type bits of the mode; never changes.
  virtual u16 type() const = 0;
  bool is_dir() const { return type() == S_IFDIR; }
  bool is_regular() const { return type() == S_IFREG; }
  bool is_symlink() const { return type() == S_IFLNK; }

  virtual Result<Attributes> getattr(const Context& ctx) = 0;
  virtual Result<void> setattr(const Context& ctx, const AttributeChange& change) = 0;
  // Permission beyond mode bits; the default checks mode, owner, groups and capabilities. `mask`: R_OK|W_OK|X_OK.
  virtual Result<void> permission(const Context& ctx, int mask);

  // --- Directories (the defaults: ENOTDIR for look-ups, EPERM for changes) ---
  virtual Result<Ref<Inode>> lookup(const Context& ctx, std::string_view name);  // ENOENT
  // Creates a regular file, FIFO, socket or device node. `mode` has the type, umask applied.
  virtual Result<Ref<Inode>> mknod(const Context& ctx, std::string_view name, u16 mode, u32 major, u32 minor);
  virtual Result<Ref<Inode>> mkdir(const Context& ctx, std::string_view name, u16 mode);
  virtual Result<Ref<Inode>> symlink(const Context& ctx, std::string_view name, std::string_view target);
  virtual Result<void> link(const Context& ctx, std::string_view name, Inode& target);
  virtual Result<void> unlink(const Context& ctx, std::string_view name, Inode& victim);
  virtual Result<void> rmdir(const Context& ctx, std::string_view name, Inode& victim);
  // Within one file system. `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE. `replaced` is null when there is no target.
  virtual Result<void> rename(const Context& ctx, std::string_view name, Inode& moved, Inode& new_dir,
                              std::string_view new_name, Inode* replaced, u32 flags);
  // An unnamed regular file, O_TMPFILE.
  virtual Result<Ref<Inode>> tmpfile(const Context& ctx, u16 mode);
  // Whether a cached look-up of `name` (null: negative) still holds; see FileSystem::needs_revalidation().
  virtual bool revalidate(const Context& ctx, std::string_view name, Inode* child);

  // --- Symbolic links ---
  virtual Result<std::string> readlink(const Context& ctx);
  // "Magic" links of proc: the place itself, not text. A null Path means readlink() applies.
  virtual Result<Path> follow(const Context& ctx);

  // --- Open ---
  // Makes an open file description for `path`, which leads here. Permission checked, O_TRUNC done by the VFS.
  virtual Result<Ref<File>> open(const Context& ctx, const Path& path, const OpenArgs& args) = 0;

  // --- Extended attributes; the defaults: EOPNOTSUPP ---
  virtual Result<std::string> getxattr(const Context& ctx, const std::string& name);
  virtual Result<void> setxattr(const Context& ctx, const std::string& name, std::string_view value, int flags);
  virtual Result<void> removexattr(const Context& ctx, const std::string& name);
  virtual Result<std::vector<std::string>> listxattr(const Context& ctx);

  // The pages behind shared and private file mappings, exec and sendfile; null if not mappable.
  virtual mm::Mappable* mappable() { return nullptr; }

  // Directories: everybody may search it (x for owner, group and others), and that changes only through setattr(). A
  // path walk then goes on without asking permission(). A hint that the file system sets; false is always right.
  std::atomic<bool> search_for_all{false};

  // Serialises directory changes and, for regular files, writes with O_APPEND and truncation.
  FiberRwMutex lock;

  // Kernel objects bound to the inode, made on first use by whoever needs them (a bound AF_UNIX socket, a FIFO's pipe,
  // file locks). Guarded by attached_lock.
  SpinLock attached_lock;
  Ref<RefCounted> bound_socket;
  Ref<RefCounted> fifo;
  Ref<RefCounted> file_locks;
  std::atomic<s32> exec_denials{0};  // >0: being executed (ETXTBSY on write opens); <0: open for writing

 private:
  Ref<FileSystem> fs_;
};

}  // namespace rf::fs
