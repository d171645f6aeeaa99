// Host inodes: finding, opening and describing them. Changes are in hostfs_changes.cc.

#include "fs/devices.h"
#include "fs/host_attributes.h"
#include "fs/host_news.h"
#include "fs/hostfs_internal.h"
#include "fs/special_files.h"
#include "mm/mappable.h"

namespace rf::fs {
HostInode::HostInode(HostFs& fs, const struct ::statx& stx)
    : Inode(fs),
      id_(HostId::of(stx)),
      type_(stx.stx_mode & S_IFMT),
      rdev_major_(stx.stx_rdev_major),
      rdev_minor_(stx.stx_rdev_minor) {}

HostInode::~HostInode() = default;

// Iterative, because places form chains as deep as the guest makes its directories.
void HostInode::last_unref() {
  Ref<FileSystem> fs(&this->fs());
  for (HostInode* dying = this; dying != nullptr;) {
    static_cast<HostFs&>(*fs).forget(*dying);
    HostInode* parent = dying->place_.directory.release();
    delete dying;
    dying = parent != nullptr && parent->unref_to_zero() ? parent : nullptr;
  }
}

HostFs& HostInode::host_fs() const { return static_cast<HostFs&>(fs()); }

bool HostInode::is_root() const { return id_ == HostId::of(host_fs().root_stx_); }

HostInode::Place HostInode::place() const {
  SpinGuard guard(lock_);
  return place_;
}

void HostInode::set_place(Ref<HostInode> directory, std::string_view name) {
  Place old;  // dropped without the lock
  SpinGuard guard(lock_);
  if (place_.directory == directory && place_.name == name) return;
  // A root found again inside itself, through a bind mount, stays the root; no place leads to itself.
  if (directory == this || is_root()) return;
  old = std::exchange(place_, {std::move(directory), std::string(name)});
}

void HostInode::forget_place(const HostInode& directory, std::string_view name) {
  Place old;
  SpinGuard guard(lock_);
  if (place_.directory.get() == &directory && place_.name == name) old = std::exchange(place_, {});
}

HandleRef HostInode::any_handle() {
  SpinGuard guard(lock_);
  used_ = true;
  return path_ ? path_ : write_ ? write_ : read_;
}

Result<void> HostInode::verify(int fd) const {
  if (HostId::of(TRY(HostFs::stat_fd(fd))) != id_) return err(ESTALE);
  return {};
}

Result<HandleRef> HostInode::reopen_path(HostHandle& directory, const std::string& name) {
  auto fd = TRY(host_fs().open_beneath(directory.get(), name.c_str(), kOpenPath));
  TRY(verify(fd.get()));
  auto handle = make_ref<HostHandle>(std::move(fd));
  {
    SpinGuard guard(lock_);
    if (path_) return path_;
    path_ = handle;
    used_ = true;
  }
  host_fs().note_descriptor(*this);
  return handle;
}

Result<HandleRef> HostInode::path_handle() {
  {
    SpinGuard guard(lock_);
    if (path_) {
      used_ = true;
      return path_;
    }
  }
  if (is_root()) return host_fs().root_handle_;
  // Up to the first directory that has a descriptor, then down again. The chain is finite: no place leads to itself,
  // but a host that moves directories about under a shared tree could close a circle of stale ones.
  constexpr size_t kDeepest = 4096;
  std::vector<std::pair<Ref<HostInode>, std::string>> missing;  // inode, name in its parent
  HandleRef at;
  for (Ref<HostInode> inode(this); !at;) {
    Place place = inode->place();
    if (!place.directory || missing.size() == kDeepest) return err(ESTALE);
    missing.emplace_back(std::move(inode), std::move(place.name));
    inode = std::move(place.directory);
    SpinGuard guard(inode->lock_);
    inode->used_ = true;
    at = inode->path_ ? inode->path_ : inode->is_root() ? host_fs().root_handle_ : nullptr;
  }
  for (; !missing.empty(); missing.pop_back()) at = TRY(missing.back().first->reopen_path(*at, missing.back().second));
  return at;
}

Result<hostio::HostFd> HostInode::open_at_place(u64 flags) {
  Place place = this->place();
  hostio::HostFd fd;
  if (place.directory) {
    HandleRef directory = TRY(place.directory->path_handle());
    fd = TRY(host_fs().open_beneath(directory->get(), place.name.c_str(), flags));
  } else if (is_root() && host_fs().root_parent_) {
    fd = TRY(host_fs().open_beneath(host_fs().root_parent_->get(), host_fs().root_name_.c_str(), flags));
  } else {
    return err(ESTALE);
  }
  TRY(verify(fd.get()));
  return fd;
}

Result<HandleRef> HostInode::data_handle(DataAccess access) {
  if (hidden_) return err(EACCES);
  if (access != DataAccess::kRead) TRY(host_fs().check_writable());
  {
    SpinGuard guard(lock_);
    used_ = true;
    if (write_) return write_;
    if (access == DataAccess::kRead && read_) return read_;
  }
  const u64 mode = access == DataAccess::kRead ? O_RDONLY : O_RDWR;
  auto fd = open_at_place(mode | kOpenData);
  // Not kept: later opens may want to read.
  if (!fd && fd.error() == Errno{EACCES} && access == DataAccess::kWrite)
    return make_ref<HostHandle>(TRY(open_at_place(O_WRONLY | kOpenData)));
  if (!fd) return err(fd.error());
  auto handle = make_ref<HostHandle>(std::move(*fd));
  {
    SpinGuard guard(lock_);
    HandleRef& slot = access == DataAccess::kRead ? read_ : write_;
    if (slot) return slot;
    slot = handle;
  }
  host_fs().note_descriptor(*this);
  return handle;
}

Result<hostio::HostFd> HostInode::open_directory() {
  HandleRef path = TRY(path_handle());
  return host_fs().open_beneath(path->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void HostInode::remember(const struct ::statx& stx, Nanos when) {
  Attributes a = attributes_from(stx);
  a.ino = host_fs().guest_ino(id_.dev, id_.ino);
  // Nobody but the sandbox changes an exclusive tree, so the hint holds until a setattr().
  if (is_dir() && host_fs().exclusive()) search_for_all.store((a.mode & 0111) == 0111, std::memory_order_relaxed);
  SpinGuard guard(lock_);
  if (when <= forgotten_at_ || when < attributes_at_) return;
  attributes_ = a;
  attributes_at_ = when;
}

void HostInode::forget_attributes() {
  const Nanos now = monotonic_now();
  SpinGuard guard(lock_);
  attributes_at_ = 0;
  forgotten_at_ = now;
  if (!host_fs().exclusive()) HostNews::arrived();
}

Result<Attributes> HostInode::attributes() {
  const Nanos now = monotonic_now();
  {
    SpinGuard guard(lock_);
    if (attributes_at_ != 0 && (host_fs().exclusive() || attributes_at_ > HostNews::horizon(now))) return attributes_;
  }
  HandleRef handle = any_handle();
  if (!handle) handle = TRY(path_handle());
  const struct ::statx stx = TRY(HostFs::stat_fd(handle->get()));
  remember(stx, now);
  Attributes a = attributes_from(stx);
  a.ino = host_fs().guest_ino(id_.dev, id_.ino);
  return a;
}

Result<Attributes> HostInode::getattr(const Context&) { return attributes(); }

Result<Ref<Inode>> HostInode::lookup(const Context&, std::string_view name) {
  if (!is_dir()) return err(ENOTDIR);
  if (hidden_) return err(ENOENT);
  HandleRef directory = TRY(path_handle());
  const Nanos now = monotonic_now();
  auto fd = TRY(host_fs().open_beneath(directory->get(), ComponentName(name).c_str(), kOpenPath));
  const struct ::statx stx = TRY(HostFs::stat_fd(fd.get()));
  Ref<HostInode> inode = TRY(host_fs().inode_for(stx, std::move(fd), now));
  inode->set_place(Ref<HostInode>(this), name);
  return inode;
}

bool HostInode::revalidate(const Context&, std::string_view name, Inode* child) {
  if (host_fs().exclusive() || hidden_) return true;
  auto directory = path_handle();
  if (!directory) return false;
  const Nanos now = monotonic_now();
  struct ::statx stx {};
  // By name and not through the ring: the host has looked this name up before, and has it in memory.
  auto found = hostio::statx_now((*directory)->get(), ComponentName(name).c_str(),
                                 AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_BTIME, &stx);
  if (child == nullptr) return !found && found.error() == Errno{ENOENT};
  auto& inode = static_cast<HostInode&>(*child);
  if (!found || HostId::of(stx) != inode.id_ || (stx.stx_mode & S_IFMT) != inode.type_) return false;
  inode.remember(stx, now);
  inode.set_place(Ref<HostInode>(this), name);
  return true;
}

Result<std::string> HostInode::readlink(const Context&) {
  if (!is_symlink()) return err(EINVAL);
  HandleRef handle = TRY(path_handle());
  std::string target(PATH_MAX, '\0');
  target.resize(TRY(hostio::host_call(SYS_readlinkat, handle->get(), "", target.data(), target.size())));
  return target;
}

Result<Ref<File>> HostInode::open(const Context& ctx, const Path& path, const OpenArgs& args) {
  switch (type_) {
    case S_IFREG: {
      const int mode = args.flags & O_ACCMODE;
      HandleRef handle = TRY(data_handle(mode == O_RDONLY   ? DataAccess::kRead
                                         : mode == O_WRONLY ? DataAccess::kWrite
                                                            : DataAccess::kReadWrite));
      return make_host_file(path, args.flags, Ref<HostInode>(this), std::move(handle));
    }
    case S_IFDIR: {
      hostio::HostFd fd;
      if (!hidden_) fd = TRY(open_directory());
      return make_host_directory(path, args.flags, Ref<HostInode>(this), std::move(fd));
    }
    case S_IFCHR:
    case S_IFBLK:
      return open_device(ctx, path, type_ == S_IFBLK, rdev_major_, rdev_minor_, args.flags);
    case S_IFIFO:
      return open_fifo(ctx, path, args.flags);
    case S_IFLNK:
      return err(ELOOP);
    default:
      return err(ENXIO);
  }
}

mm::MappedReads* HostInode::mapped_reads() {
  if (auto* reads = mapped_reads_pointer_.load(std::memory_order_acquire)) return reads;
  if (!host_fs().mapped_reads()) return nullptr;
  auto made = std::make_unique<mm::MappedReads>(host_fs().frames());
  SpinGuard guard(lock_);
  if (!mapped_reads_) {
    mapped_reads_ = std::move(made);
    mapped_reads_pointer_.store(mapped_reads_.get(), std::memory_order_release);
  }
  return mapped_reads_.get();
}

mm::Mappable* HostInode::mappable() {
  if (auto* pages = pages_pointer_.load(std::memory_order_acquire)) return pages;
  if (!is_regular() || hidden_) return nullptr;
  FiberGuard guard(pages_mutex_);
  if (pages_) return pages_.get();
  // One object serves all mappings, so it should be able to write where any may come to. Not for programs: while they
  // are open for writing the host cannot run them.
  bool write = !host_fs().read_only();
  if (write) {
    auto now = attributes();
    SpinGuard inode_guard(lock_);
    write = write_ || (now && (now->mode & 0111) == 0);
  }
  auto handle = write ? data_handle(DataAccess::kReadWrite) : err(EACCES);
  const bool writable = handle.has_value();
  if (!handle) handle = data_handle(DataAccess::kRead);
  if (!handle) return nullptr;
  pages_handle_ = std::move(*handle);
  pages_ = std::make_unique<mm::HostFilePages>(host_fs().frames(), pages_handle_->get(), writable);
  pages_pointer_.store(pages_.get(), std::memory_order_release);
  return pages_.get();
}

}  // namespace rf::fs
