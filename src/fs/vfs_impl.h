// What the path calls (vfs*.cc, open.cc) share. Internal to the VFS; its lock order is in fs/dentry_cache.h.
#pragma once

#include <mutex>

#include "fs/vfs.h"
#include "fs/walk.h"

namespace rf::fs {

struct Vfs::Impl {
  explicit Impl(Ref<Mount> root) : mounts(std::move(root)) {}
  MountTable mounts;
  FiberMutex rename_lock;  // s_vfs_rename_mutex: held by renames between directories, so that none moves meanwhile
};

// Vfs::path_of(); without a root, from the root of all mounts.
std::string path_text(const Path& path, const Path* root);

// Whether `ctx` owns the inode or may act as if it did (CAP_FOWNER).
bool owner_or_capable(const Context& ctx, const Attributes& attr);

// may_create(): whether entries may be made in `dir`. The directory's lock is held.
Result<void> may_create(const Context& ctx, const Dentry& dir);
// may_delete(): whether `victim`, which is there, may be taken out of `dir`; `as_dir` is what the call removes. The
// directory's lock is held.
Result<void> may_delete(const Context& ctx, const Dentry& dir, const Dentry& victim, bool as_dir);

// Whether something is mounted on `d`. Takes the tree lock.
bool is_mount_point(const Dentry& d);

// notify_change(): setattr() under the inode's lock.
Result<void> change_attributes(const Context& ctx, Inode& inode, const AttributeChange& change);
// Sets the size of a regular file, its times, and takes set-user-ID bits off: what truncate(2), ftruncate(2) and
// O_TRUNC share. EFBIG over RLIMIT_FSIZE.
Result<void> change_size(const Context& ctx, Inode& inode, u64 size);
// The mode without set-user-ID, and without set-group-ID where that is more than a mark or the caller has nothing to do
// with the group (ATTR_KILL_SUID, setattr_should_drop_sgid()).
u16 without_privileges(const Context& ctx, const Attributes& attr);

// Counts an opener for writing (ETXTBSY while the file is executed) or an execution (ETXTBSY while it is open for
// writing) in Inode::exec_denials.
Result<void> get_write_access(Inode& inode);
Result<void> deny_write_access(Inode& inode);

}  // namespace rf::fs
