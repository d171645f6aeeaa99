// hostfs: a host tree as a file system. Internal to fs/hostfs*.cc.
//
// An inode is found at a place (a directory inode and a name) and held by an O_PATH descriptor; there is one Inode
// object for one host file, found by (device, inode number). Descriptors are a cache: the least recently used go when
// there are too many, and come back by the place, verified to lead to the same file. Every host path is one component,
// opened relative to a directory's descriptor with RESOLVE_BENEATH and no symlinks: nothing on the host, and no race of
// a guest's renames, leads out of the tree. Mounts of the host's pseudo file systems (proc, sysfs) are empty
// directories here: through them the sentry would show itself.
//
// Lock order: HostFs::lru_lock_ > HostInode::lock_; HostFs::table_lock_ and devices_lock_ are leaves. All spin locks.
#pragma once

#include <limits.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/list.h"
#include "fs/file.h"
#include "fs/filesystems.h"
#include "fs/inode.h"
#include "hostio/calls.h"
#include "hostio/ring.h"
#include "mm/mapped_reads.h"

namespace rf::fs {

class HostFs;
class HostInode;
struct HostLruTag;

// A shared host descriptor; closed with the last reference.
class HostHandle final : public RefCounted {
 public:
  explicit HostHandle(hostio::HostFd fd) : fd_(std::move(fd)) {}
  int get() const { return fd_.get(); }

 private:
  ~HostHandle() override = default;
  hostio::HostFd fd_;
};
using HandleRef = Ref<HostHandle>;

// What makes a host file the same file. The birth time tells a reused inode number from the old file, where the host
// file system has one.
struct HostId {
  u64 dev = 0;
  u64 ino = 0;
  s64 birth = 0;  // ns; 0: unknown
  bool operator==(const HostId&) const = default;
  static HostId of(const struct ::statx& stx);
};

// What data_handle() is to get at. kWrite: reading as well if the host allows it.
enum class DataAccess : u8 { kRead, kWrite, kReadWrite };

class HostInode final : public Inode, public ListNode<HostLruTag> {
 public:
  HostInode(HostFs& fs, const struct ::statx& stx);

  HostFs& host_fs() const;
  const HostId& id() const { return id_; }

  u16 type() const override { return type_; }
  Result<Attributes> getattr(const Context& ctx) override;
  Result<void> setattr(const Context& ctx, const AttributeChange& change) override;
  Result<Ref<Inode>> lookup(const Context& ctx, std::string_view name) override;
  Result<Ref<Inode>> mknod(const Context& ctx, std::string_view name, u16 mode, u32 major, u32 minor) override;
  Result<Ref<Inode>> mkdir(const Context& ctx, std::string_view name, u16 mode) override;
  Result<Ref<Inode>> symlink(const Context& ctx, std::string_view name, std::string_view target) override;
  Result<void> link(const Context& ctx, std::string_view name, Inode& target) override;
  Result<void> unlink(const Context& ctx, std::string_view name, Inode& victim) override;
  Result<void> rmdir(const Context& ctx, std::string_view name, Inode& victim) override;
  Result<void> rename(const Context& ctx, std::string_view name, Inode& moved, Inode& new_dir,
                      std::string_view new_name, Inode* replaced, u32 flags) override;
  Result<Ref<Inode>> tmpfile(const Context& ctx, u16 mode) override;
  bool revalidate(const Context& ctx, std::string_view name, Inode* child) override;
  Result<std::string> readlink(const Context& ctx) override;
  Result<Ref<File>> open(const Context& ctx, const Path& path, const OpenArgs& args) override;
  Result<std::string> getxattr(const Context& ctx, const std::string& name) override;
  Result<void> setxattr(const Context& ctx, const std::string& name, std::string_view value, int flags) override;
  Result<void> removexattr(const Context& ctx, const std::string& name) override;
  Result<std::vector<std::string>> listxattr(const Context& ctx) override;
  mm::Mappable* mappable() override;
  // Null where the host is to be asked for everything.
  mm::MappedReads* mapped_reads();

  // The O_PATH descriptor, opened anew if it was evicted: ESTALE, ENOENT when the place leads elsewhere by now.
  Result<HandleRef> path_handle();
  // A descriptor for data of a regular file (or, read-only, of a directory). EACCES, EROFS, ETXTBSY, ESTALE.
  Result<HandleRef> data_handle(DataAccess access);
  // A read-only directory descriptor with a position of its own.
  Result<hostio::HostFd> open_directory();

  // Something changed the host's attributes: what is cached no longer counts.
  void forget_attributes();
  // The attributes, from the host or as fresh as needed.
  Result<Attributes> attributes();
  void remember(const struct ::statx& stx, Nanos when);
  // Where it was found. `directory` null: nowhere (the root, unnamed files).
  void set_place(Ref<HostInode> directory, std::string_view name);
  void forget_place(const HostInode& directory, std::string_view name);

 private:
  friend class HostFs;
  struct Place {
    Ref<HostInode> directory;
    std::string name;
  };
  ~HostInode() override;
  void last_unref() override;

  Place place() const;
  bool is_root() const;
  // Any descriptor at hand, else null.
  HandleRef any_handle();
  Result<HandleRef> reopen_path(HostHandle& directory, const std::string& name);
  Result<hostio::HostFd> open_at_place(u64 flags);
  Result<void> verify(int fd) const;
  // The inode of a file just created in this directory, handed over to the caller's user.
  Result<Ref<HostInode>> adopt(const Context& ctx, std::string_view name, hostio::HostFd data, u16 mode);
  void give_to_caller(const Context& ctx, HostInode& child, u16 mode);
  Result<HandleRef> xattr_handle(const std::string& name);
  Result<void> change_mode(u16 mode);
  Result<void> change_owner(const AttributeChange& change);
  Result<void> change_times(const AttributeChange& change);
  Result<void> change_size(u64 size);

  const HostId id_;
  const u16 type_;
  const u32 rdev_major_, rdev_minor_;
  bool hidden_ = false;  // the root of a pseudo file system's mount; set before it is shared

  mutable SpinLock lock_;  // guards what follows
  Place place_;
  HandleRef path_, read_, write_;
  bool used_ = false;  // since the LRU last looked
  Attributes attributes_;
  Nanos attributes_at_ = 0;  // monotonic time they were asked for; 0: none
  Nanos forgotten_at_ = 0;   // what was asked for before this no longer counts

  FiberMutex pages_mutex_;  // makes pages_ once
  HandleRef pages_handle_;  // what it borrows
  std::unique_ptr<mm::HostFilePages> pages_;
  std::atomic<mm::HostFilePages*> pages_pointer_{nullptr};

  std::unique_ptr<mm::MappedReads> mapped_reads_;  // made once, with lock_ held
  std::atomic<mm::MappedReads*> mapped_reads_pointer_{nullptr};
};

class HostFs final : public FileSystem {
 public:
  HostFs(mm::Frames& frames, const HostFsOptions& options);
  // Opens the root.
  Setup<void> init(const std::string& path);

  const char* type() const override { return "hostfs"; }
  Ref<Inode> root() override;
  Result<struct ::statfs> statfs() override;
  std::string options() const override;
  bool read_only() const override { return read_only_; }
  Result<void> sync() override;
  bool needs_revalidation() const override { return !exclusive_; }
  void unmounted() override { evict_all(); }

  mm::Frames& frames() { return frames_; }
  bool exclusive() const { return exclusive_; }
  bool mapped_reads() const { return mapped_reads_; }
  Result<void> check_writable() const;

  // The inode for a host file that was just looked at: `path` (may be invalid) is an O_PATH descriptor of it.
  Result<Ref<HostInode>> inode_for(const struct ::statx& stx, hostio::HostFd path, Nanos when);
  // The last reference of `inode` went: no table knows it after this.
  void forget(HostInode& inode);

  // openat2 beneath, with the descriptors of this file system given up and a second try when the host has no more.
  Result<hostio::HostFd> open_beneath(int directory, const char* name, u64 flags, u16 mode = 0);

  // After `inode` got a descriptor: it takes part in the LRU.
  void note_descriptor(HostInode& inode);
  void evict_all();

  // The inode number guests see: those of different host devices must not collide.
  u64 guest_ino(u64 dev, u64 ino);
  // The file's attributes as the host has them now.
  static Result<struct ::statx> stat_fd(int fd);

 private:
  friend class HostInode;
  ~HostFs() override;
  void evict(size_t keep, size_t most);
  struct Device {
    u64 dev;
    bool hidden;
  };
  Result<bool> hidden_device(u64 dev, int fd);

  struct IdHash {
    size_t operator()(const HostId& id) const { return id.ino * 0x9e3779b97f4a7c15u ^ id.dev; }
  };

  mm::Frames& frames_;
  const bool read_only_;
  const bool exclusive_;
  const bool mapped_reads_;
  const size_t max_descriptors_;
  // The root: not as an Inode, which would hold this file system in a circle.
  HandleRef root_handle_;
  struct ::statx root_stx_ {};
  u64 root_dev_ = 0;
  HandleRef root_parent_;  // where a root that is a file is opened for data
  std::string root_name_;

  SpinLock table_lock_;
  std::unordered_map<HostId, HostInode*, IdHash> table_;
  SpinLock lru_lock_;
  List<HostInode, HostLruTag> lru_;
  size_t lru_size_ = 0;
  SpinLock devices_lock_;
  std::vector<Device> devices_;
};

// A component with the NUL that host calls want.
class ComponentName {
 public:
  explicit ComponentName(std::string_view name) {
    const size_t n = std::min(name.size(), sizeof text_ - 1);
    memcpy(text_, name.data(), n);
    text_[n] = '\0';
  }
  const char* c_str() const { return text_; }

 private:
  char text_[NAME_MAX + 2];  // one too long stays too long
};

inline constexpr u64 kOpenPath = O_PATH | O_NOFOLLOW | O_CLOEXEC;
inline constexpr u64 kOpenData = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

// Open files, hostfs_file.cc and hostfs_directory.cc.
Ref<File> make_host_file(const Path& path, int flags, Ref<HostInode> inode, HandleRef handle);
Ref<File> make_host_directory(const Path& path, int flags, Ref<HostInode> inode, hostio::HostFd fd);

}  // namespace rf::fs
