// Changes to a host tree: every one is one host call on a directory's descriptor and a component, or on a file's own
// descriptor. None follows a symlink.

#include <fcntl.h>
#include <stdio.h>

#include <array>

#include "fs/hostfs_internal.h"
#include "mm/mappable.h"

namespace rf::fs {
namespace {

// Not in every libc: chmod of what an O_PATH descriptor refers to, Linux 6.6.
constexpr long kFchmodat2 = 452;
constexpr u64 kOpenNew = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;

timespec host_time(const AttributeChange& change, u32 bit, const Timestamp& t) {
  if ((change.mask & bit) == 0) return {0, UTIME_OMIT};
  return {t.sec, static_cast<long>(t.nsec)};
}

}  // namespace

// As on any file system, a new file belongs to who made it. Where the sentry may not give files away they stay its
// own user's, as on a file system mounted for one user.
void HostInode::give_to_caller(const Context& ctx, HostInode& child, u16 mode) {
  auto made = child.attributes();
  auto parent = attributes();
  HandleRef handle = child.any_handle();
  if (!made || !parent || !handle) return;
  const u32 gid = (parent->mode & S_ISGID) != 0 ? made->gid : ctx.creds.fsgid;
  if (made->uid == ctx.creds.fsuid && made->gid == gid) return;
  if (!hostio::host_call(SYS_fchownat, handle->get(), "", ctx.creds.fsuid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
    return;
  child.forget_attributes();
  // A change of owner takes these away.
  if ((mode & (S_ISUID | S_ISGID)) != 0 && !child.is_symlink()) (void)child.change_mode(mode & 07777);
}

Result<Ref<HostInode>> HostInode::adopt(const Context& ctx, std::string_view name, hostio::HostFd data, u16 mode) {
  const Nanos now = monotonic_now();
  Ref<HostInode> inode;
  if (data.valid()) {
    const struct ::statx stx = TRY(HostFs::stat_fd(data.get()));
    inode = TRY(host_fs().inode_for(stx, {}, now));
    {
      SpinGuard guard(inode->lock_);
      inode->write_ = make_ref<HostHandle>(std::move(data));
    }
    if (!name.empty()) inode->set_place(Ref<HostInode>(this), name);
    host_fs().note_descriptor(*inode);
  } else {
    inode = ref_cast<HostInode>(TRY(lookup(ctx, name)));
  }
  forget_attributes();
  give_to_caller(ctx, *inode, mode);
  return inode;
}

Result<Ref<Inode>> HostInode::mknod(const Context& ctx, std::string_view name, u16 mode, u32, u32) {
  TRY(host_fs().check_writable());
  if (hidden_) return err(EACCES);
  HandleRef directory = TRY(path_handle());
  const ComponentName component(name);
  switch (mode & S_IFMT) {
    case 0:
    case S_IFREG: {
      auto fd = TRY(host_fs().open_beneath(directory->get(), component.c_str(), kOpenNew, mode & 07777));
      return adopt(ctx, name, std::move(fd), mode);
    }
    case S_IFIFO:
    case S_IFSOCK:
      // Names on the host; what goes through them stays in the sandbox.
      TRY(hostio::host_call(SYS_mknodat, directory->get(), component.c_str(), mode, 0));
      return adopt(ctx, name, {}, mode);
    default:
      return err(EPERM);  // device nodes would mean something to the host
  }
}

Result<Ref<Inode>> HostInode::mkdir(const Context& ctx, std::string_view name, u16 mode) {
  TRY(host_fs().check_writable());
  if (hidden_) return err(EACCES);
  HandleRef directory = TRY(path_handle());
  TRY(hostio::host_call(SYS_mkdirat, directory->get(), ComponentName(name).c_str(), mode & 07777));
  return adopt(ctx, name, {}, mode);
}

Result<Ref<Inode>> HostInode::symlink(const Context& ctx, std::string_view name, std::string_view target) {
  TRY(host_fs().check_writable());
  if (hidden_) return err(EACCES);
  HandleRef directory = TRY(path_handle());
  const std::string text(target);
  TRY(hostio::host_call(SYS_symlinkat, text.c_str(), directory->get(), ComponentName(name).c_str()));
  return adopt(ctx, name, {}, S_IFLNK | 0777);
}

Result<Ref<Inode>> HostInode::tmpfile(const Context& ctx, u16 mode) {
  TRY(host_fs().check_writable());
  if (hidden_) return err(EACCES);
  HandleRef directory = TRY(path_handle());
  auto fd = TRY(host_fs().open_beneath(directory->get(), ".", O_RDWR | O_TMPFILE | O_CLOEXEC, mode & 07777));
  return adopt(ctx, "", std::move(fd), mode);
}

Result<void> HostInode::link(const Context&, std::string_view name, Inode& target) {
  TRY(host_fs().check_writable());
  auto& inode = static_cast<HostInode&>(target);
  HandleRef directory = TRY(path_handle());
  const ComponentName component(name);
  Place place = inode.place();
  if (!place.directory) {
    // No name to link from: the host lets some callers link a descriptor.
    HandleRef handle = inode.any_handle();
    if (!handle) return err(ENOENT);
    TRY(hostio::host_call(SYS_linkat, handle->get(), "", directory->get(), component.c_str(), AT_EMPTY_PATH));
  } else {
    HandleRef from = TRY(place.directory->path_handle());
    TRY(hostio::host_call(SYS_linkat, from->get(), place.name.c_str(), directory->get(), component.c_str(), 0));
    // The name may have come to mean another file between the walk and the call.
    struct ::statx stx {};
    auto found = hostio::statx_now(directory->get(), component.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
                                   STATX_BASIC_STATS | STATX_BTIME, &stx);
    if (found && HostId::of(stx) != inode.id_) {
      (void)hostio::host_call(SYS_unlinkat, directory->get(), component.c_str(), 0);
      return err(ESTALE);
    }
  }
  if (!place.directory) inode.set_place(Ref<HostInode>(this), name);
  inode.forget_attributes();
  forget_attributes();
  return {};
}

Result<void> HostInode::unlink(const Context&, std::string_view name, Inode& victim) {
  TRY(host_fs().check_writable());
  auto& inode = static_cast<HostInode&>(victim);
  HandleRef directory = TRY(path_handle());
  // Whoever still has the file needs a descriptor that outlives the name.
  if (!inode.any_handle()) (void)inode.path_handle();
  TRY(hostio::host_call(SYS_unlinkat, directory->get(), ComponentName(name).c_str(), 0));
  inode.forget_place(*this, name);
  inode.forget_attributes();
  forget_attributes();
  return {};
}

Result<void> HostInode::rmdir(const Context&, std::string_view name, Inode& victim) {
  TRY(host_fs().check_writable());
  auto& inode = static_cast<HostInode&>(victim);
  HandleRef directory = TRY(path_handle());
  if (!inode.any_handle()) (void)inode.path_handle();
  TRY(hostio::host_call(SYS_unlinkat, directory->get(), ComponentName(name).c_str(), AT_REMOVEDIR));
  inode.forget_place(*this, name);
  inode.forget_attributes();
  forget_attributes();
  return {};
}

Result<void> HostInode::rename(const Context&, std::string_view name, Inode& moved, Inode& new_dir,
                               std::string_view new_name, Inode* replaced, u32 flags) {
  TRY(host_fs().check_writable());
  auto& inode = static_cast<HostInode&>(moved);
  auto& to = static_cast<HostInode&>(new_dir);
  auto* old = static_cast<HostInode*>(replaced);
  if (hidden_ || to.hidden_) return err(EACCES);
  HandleRef from_handle = TRY(path_handle());
  HandleRef to_handle = TRY(to.path_handle());
  if (old != nullptr && !old->any_handle()) (void)old->path_handle();
  TRY(hostio::host_call(SYS_renameat2, from_handle->get(), ComponentName(name).c_str(), to_handle->get(),
                        ComponentName(new_name).c_str(), u64{flags}));
  // The same file under both names: nothing was renamed.
  if (old == &inode) return {};
  inode.set_place(Ref<HostInode>(&to), new_name);
  inode.forget_attributes();
  if (old != nullptr) {
    if ((flags & RENAME_EXCHANGE) != 0)
      old->set_place(Ref<HostInode>(this), name);
    else
      old->forget_place(to, new_name);
    old->forget_attributes();
  }
  forget_attributes();
  to.forget_attributes();
  return {};
}

Result<void> HostInode::change_mode(u16 mode) {
  HandleRef handle = any_handle();
  if (!handle) handle = TRY(path_handle());
  auto changed = hostio::host_call_void(kFchmodat2, handle->get(), "", mode, AT_EMPTY_PATH);
  if (changed || (changed.error() != Errno{ENOSYS} && changed.error() != Errno{EINVAL})) return changed;
  // Older hosts want a descriptor that is open for data, which the mode may forbid to get.
  if (is_regular()) return hostio::host_call_void(SYS_fchmod, TRY(data_handle(DataAccess::kRead))->get(), mode);
  if (is_dir()) return hostio::host_call_void(SYS_fchmod, TRY(open_directory()).get(), mode);
  return err(EOPNOTSUPP);
}

Result<void> HostInode::change_owner(const AttributeChange& change) {
  HandleRef handle = any_handle();
  if (!handle) handle = TRY(path_handle());
  const u32 uid = (change.mask & AttributeChange::kUid) != 0 ? change.uid : ~0u;
  const u32 gid = (change.mask & AttributeChange::kGid) != 0 ? change.gid : ~0u;
  return hostio::host_call_void(SYS_fchownat, handle->get(), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}

Result<void> HostInode::change_times(const AttributeChange& change) {
  HandleRef handle = any_handle();
  if (!handle) handle = TRY(path_handle());
  const std::array<timespec, 2> times{host_time(change, AttributeChange::kAtime, change.atime),
                                      host_time(change, AttributeChange::kMtime, change.mtime)};
  return hostio::host_call_void(SYS_utimensat, handle->get(), "", times.data(), AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}

Result<void> HostInode::change_size(u64 size) {
  if (!is_regular()) return err(is_dir() ? EISDIR : EINVAL);
  HandleRef handle = TRY(data_handle(DataAccess::kWrite));
  TRY(hostio::host_call(SYS_ftruncate, handle->get(), size));
  if (auto* pages = pages_pointer_.load(std::memory_order_acquire)) pages->unmap_mappings(page_up(size), ~u64{0}, true);
  return {};
}

Result<void> HostInode::setattr(const Context&, const AttributeChange& change) {
  TRY(host_fs().check_writable());
  constexpr u32 kOwner = AttributeChange::kUid | AttributeChange::kGid;
  constexpr u32 kTimes = AttributeChange::kAtime | AttributeChange::kMtime;
  Result<void> done;
  if ((change.mask & AttributeChange::kSize) != 0) done = change_size(change.size);
  // In this order: a change of owner takes set-user-id bits away.
  if (done && (change.mask & kOwner) != 0) done = change_owner(change);
  if (done && (change.mask & AttributeChange::kMode) != 0) done = change_mode(change.mode & 07777);
  if (done && (change.mask & kTimes) != 0) done = change_times(change);
  search_for_all.store(false, std::memory_order_relaxed);
  forget_attributes();
  return done;
}

// --- Extended attributes: user.* is the guest's, security.* can be looked at ---

namespace {

constexpr size_t kLargest = 64 << 10;  // XATTR_SIZE_MAX, XATTR_LIST_MAX

bool is_user(std::string_view name) { return name.starts_with("user."); }
bool is_visible(std::string_view name) { return is_user(name) || name.starts_with("security."); }

}  // namespace

Result<HandleRef> HostInode::xattr_handle(const std::string& name) {
  if (!is_visible(name)) return err(EOPNOTSUPP);
  if (is_regular()) {
    auto handle = data_handle(DataAccess::kRead);
    // A file that the sentry cannot read tells nothing; security modules are asked about every file there is.
    if (!handle && handle.error() == Errno{EACCES} && !is_user(name)) return err(ENODATA);
    return handle;
  }
  if (is_dir() && !hidden_) return make_ref<HostHandle>(TRY(open_directory()));
  return err(is_user(name) ? EPERM : ENODATA);  // user.* is for files and directories, xattr(7)
}

Result<std::string> HostInode::getxattr(const Context&, const std::string& name) {
  auto handle = xattr_handle(name);
  if (!handle) return err(handle.error() == Errno{EPERM} ? Errno{ENODATA} : handle.error());
  std::string value(256, '\0');
  auto n = hostio::host_call(SYS_fgetxattr, (*handle)->get(), name.c_str(), value.data(), value.size());
  if (!n && n.error() == Errno{ERANGE}) {
    value.resize(kLargest);
    n = hostio::host_call(SYS_fgetxattr, (*handle)->get(), name.c_str(), value.data(), value.size());
  }
  if (!n) return err(n.error());
  value.resize(*n);
  return value;
}

Result<void> HostInode::setxattr(const Context&, const std::string& name, std::string_view value, int flags) {
  TRY(host_fs().check_writable());
  HandleRef handle = TRY(xattr_handle(name));
  if (!is_user(name)) return err(EPERM);
  TRY(hostio::host_call(SYS_fsetxattr, handle->get(), name.c_str(), value.data(), value.size(), flags));
  forget_attributes();
  return {};
}

Result<void> HostInode::removexattr(const Context&, const std::string& name) {
  TRY(host_fs().check_writable());
  HandleRef handle = TRY(xattr_handle(name));
  // Taking a file's capabilities away is what a change of owner does first.
  if (!is_user(name) && name != "security.capability") return err(EPERM);
  TRY(hostio::host_call(SYS_fremovexattr, handle->get(), name.c_str()));
  forget_attributes();
  return {};
}

Result<std::vector<std::string>> HostInode::listxattr(const Context&) {
  std::vector<std::string> names;
  auto handle = xattr_handle("security.");
  if (!handle && handle.error() == Errno{ENODATA}) return names;
  if (!handle) return err(handle.error());
  std::string list(kLargest, '\0');
  list.resize(TRY(hostio::host_call(SYS_flistxattr, (*handle)->get(), list.data(), list.size())));
  for (size_t at = 0; at < list.size();) {
    std::string_view name(list.c_str() + at);
    if (is_visible(name)) names.emplace_back(name);
    at += name.size() + 1;
  }
  return names;
}

}  // namespace rf::fs
