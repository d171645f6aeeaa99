// The file system object: its root, the table of inodes, and the cache of descriptors.

#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <linux/magic.h>

#include "fs/host_attributes.h"
#include "fs/hostfs_internal.h"

namespace rf::fs {
namespace {

constexpr u64 kBeneath = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
constexpr size_t kFewestDescriptors = 64;
constexpr size_t kMostDescriptors = 16384;
constexpr size_t kEvictAtOnce = 32;

// A quarter of what the process may have: others need descriptors too, and an inode can have more than one.
size_t descriptor_budget() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return kFewestDescriptors;
  return std::clamp<size_t>(limit.rlim_cur / 4, kFewestDescriptors, kMostDescriptors);
}

// File systems whose files are about the host's kernel and processes, the sentry among them.
bool pseudo_file_system(long magic) {
  switch (static_cast<unsigned long>(magic)) {
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case DEBUGFS_MAGIC:
    case TRACEFS_MAGIC:
    case SECURITYFS_MAGIC:
    case SELINUX_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case BPF_FS_MAGIC:
    case EFIVARFS_MAGIC:
    case NSFS_MAGIC:
    case BINFMTFS_MAGIC:
    case PSTOREFS_MAGIC:
    case 0x65735543:  // fusectl
    case 0x62656570:  // configfs
      return true;
    default:
      return false;
  }
}

SetupError root_error(const std::string& path, Errno e) {
  return {"cannot use " + path + " as a file tree: " + errno_text(errno_value(e))};
}

}  // namespace

HostId HostId::of(const struct ::statx& stx) {
  HostId id;
  id.dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
  id.ino = stx.stx_ino;
  if (stx.stx_mask & STATX_BTIME) id.birth = stx.stx_btime.tv_sec * kNanosPerSecond + stx.stx_btime.tv_nsec;
  return id;
}

HostFs::HostFs(mm::Frames& frames, const HostFsOptions& options)
    : frames_(frames),
      read_only_(options.read_only),
      exclusive_(options.exclusive),
      mapped_reads_(options.mapped_reads && options.read_only),
      max_descriptors_(descriptor_budget()) {}

HostFs::~HostFs() = default;

Setup<Ref<FileSystem>> make_hostfs(mm::Frames& frames, const HostFsOptions& options) {
  auto fs = make_ref<HostFs>(frames, options);
  TRY(fs->init(options.path));
  return fs;
}

// The given path is the user's: its symlinks are followed, once.
Setup<void> HostFs::init(const std::string& path) {
  auto root = hostio::host_call(SYS_openat, AT_FDCWD, path.c_str(), O_PATH | O_CLOEXEC, 0);
  if (!root) return std::unexpected(root_error(path, root.error()));
  root_handle_ = make_ref<HostHandle>(hostio::HostFd(static_cast<int>(*root)));
  auto stx = stat_fd(root_handle_->get());
  if (!stx) return std::unexpected(root_error(path, stx.error()));
  root_stx_ = *stx;
  root_dev_ = HostId::of(root_stx_).dev;
  struct ::statfs s {};
  auto found = hostio::host_call(SYS_fstatfs, root_handle_->get(), &s);
  if (!found) return std::unexpected(root_error(path, found.error()));
  if (pseudo_file_system(s.f_type))
    return setup_error("cannot use " + path +
                       " as a file tree: it belongs to the host's kernel (proc, sysfs or the like)");
  if (S_ISDIR(root_stx_.stx_mode)) return {};

  char* real = ::realpath(path.c_str(), nullptr);
  if (real == nullptr) return std::unexpected(root_error(path, Errno{ENOENT}));
  const std::string resolved = real;
  ::free(real);
  const size_t slash = resolved.rfind('/');
  root_name_ = resolved.substr(slash + 1);
  auto parent = hostio::host_call(SYS_openat, AT_FDCWD, resolved.substr(0, slash + 1).c_str(),
                                  O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  if (!parent) return std::unexpected(root_error(path, parent.error()));
  root_parent_ = make_ref<HostHandle>(hostio::HostFd(static_cast<int>(*parent)));
  return {};
}

Ref<Inode> HostFs::root() {
  // The first descriptor of the root is the file system's and never evicted: see HostInode::path_handle().
  auto inode = inode_for(root_stx_, {}, 0);
  return inode ? Ref<Inode>(*inode) : nullptr;
}

Result<struct ::statfs> HostFs::statfs() {
  struct ::statfs s {};
  TRY(hostio::host_call(SYS_fstatfs, root_handle_->get(), &s));
  return s;
}

std::string HostFs::options() const { return exclusive_ ? "exclusive" : ""; }

Result<void> HostFs::sync() {
  // syncfs(2) takes no O_PATH descriptor.
  if (read_only_ || !S_ISDIR(root_stx_.stx_mode)) return {};
  auto fd = TRY(open_beneath(root_handle_->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return hostio::host_call_void(SYS_syncfs, fd.get());
}

Result<void> HostFs::check_writable() const {
  if (read_only_) return err(EROFS);
  return {};
}

Result<struct ::statx> HostFs::stat_fd(int fd) {
  struct ::statx stx {};
  TRY(hostio::statx_now(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &stx));
  return stx;
}

Result<hostio::HostFd> HostFs::open_beneath(int directory, const char* name, u64 flags, u16 mode) {
  open_how how{};
  how.flags = flags;
  how.mode = mode;
  how.resolve = kBeneath;
  auto fd = hostio::openat2(directory, name, how);
  if (fd || (fd.error() != Errno{EMFILE} && fd.error() != Errno{ENFILE})) return fd;
  evict_all();
  fd = hostio::openat2(directory, name, how);
  // The limit is the sandbox's, not that of the process that asked.
  if (!fd && fd.error() == Errno{EMFILE}) return err(ENFILE);
  return fd;
}

Result<bool> HostFs::hidden_device(u64 dev, int fd) {
  {
    SpinGuard guard(devices_lock_);
    for (const Device& d : devices_)
      if (d.dev == dev) return d.hidden;
  }
  struct ::statfs s {};
  TRY(hostio::host_call(SYS_fstatfs, fd, &s));
  const bool hidden = pseudo_file_system(s.f_type);
  SpinGuard guard(devices_lock_);
  for (const Device& d : devices_)
    if (d.dev == dev) return d.hidden;
  devices_.push_back({dev, hidden});
  return hidden;
}

u64 HostFs::guest_ino(u64 dev, u64 ino) {
  if (dev == root_dev_) return ino;
  SpinGuard guard(devices_lock_);
  for (size_t i = 0; i < devices_.size(); ++i)
    if (devices_[i].dev == dev) return ino ^ (u64{i + 1} << 48);
  return ino;
}

Result<Ref<HostInode>> HostFs::inode_for(const struct ::statx& stx, hostio::HostFd path, Nanos when) {
  const HostId id = HostId::of(stx);
  bool hidden = false;
  if (id.dev != root_dev_ && path.valid()) hidden = TRY(hidden_device(id.dev, path.get()));
  Ref<HostInode> inode;
  {
    SpinGuard guard(table_lock_);
    auto& entry = table_[id];
    if (entry != nullptr && entry->type() == (stx.stx_mode & S_IFMT) && entry->try_ref()) {
      inode = Ref<HostInode>::adopt(entry);
    } else {
      inode = make_ref<HostInode>(*this, stx);
      inode->hidden_ = hidden;
      entry = inode.get();
    }
  }
  inode->remember(stx, when);
  if (!path.valid()) return inode;
  bool taken = false;
  {
    SpinGuard guard(inode->lock_);
    if (!inode->path_) {
      inode->path_ = make_ref<HostHandle>(std::move(path));
      taken = true;
    }
  }
  if (taken) note_descriptor(*inode);
  return inode;
}

void HostFs::forget(HostInode& inode) {
  {
    SpinGuard guard(table_lock_);
    auto found = table_.find(inode.id());
    if (found != table_.end() && found->second == &inode) table_.erase(found);
  }
  SpinGuard guard(lru_lock_);
  if (!inode.ListNode<HostLruTag>::linked()) return;
  inode.ListNode<HostLruTag>::unlink();
  --lru_size_;
}

void HostFs::note_descriptor(HostInode& inode) {
  bool full;
  {
    SpinGuard guard(lru_lock_);
    if (!inode.ListNode<HostLruTag>::linked()) {
      lru_.push_back(inode);
      ++lru_size_;
    }
    full = lru_size_ > max_descriptors_;
  }
  if (full) evict(max_descriptors_, kEvictAtOnce);
}

void HostFs::evict_all() { evict(0, ~size_t{0}); }

// Second chance: what was used since the last look goes round once more. Looks at `most` inodes, so that nobody waits
// long for the lock.
void HostFs::evict(size_t keep, size_t most) {
  for (size_t looked = 0; looked < most;) {
    std::vector<HandleRef> closing;  // outside the locks
    {
      SpinGuard guard(lru_lock_);
      most = std::min(most, 2 * lru_size_ + looked);
      for (size_t batch = 0; batch < kEvictAtOnce && looked < most && lru_size_ > keep; ++batch, ++looked) {
        HostInode& inode = lru_.front();
        SpinGuard inode_guard(inode.lock_);
        inode.ListNode<HostLruTag>::unlink();
        // Without a place there is no way back to the file.
        if (inode.used_ || (!inode.place_.directory && !inode.is_root())) {
          inode.used_ = false;
          lru_.push_back(inode);
          continue;
        }
        --lru_size_;
        closing.push_back(std::move(inode.path_));
        closing.push_back(std::move(inode.read_));
        closing.push_back(std::move(inode.write_));
      }
      if (lru_size_ <= keep) looked = most;
    }
  }
}

}  // namespace rf::fs
