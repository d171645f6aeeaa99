// Path walks, path_resolution(7). Internal to the VFS.
#pragma once

#include <string>
#include <string_view>

#include "fs/mount_table.h"

namespace rf::fs {

class Walker {
 public:
  // `resolve`: openat2(2)'s RESOLVE_*.
  Walker(MountTable& mounts, const Context& ctx, u64 resolve = 0) : mounts_(mounts), ctx_(ctx), resolve_(resolve) {}

  // Sets out for `path`, which must stay valid. ENOENT when it is empty.
  Result<void> start(const Path* at, std::string_view path);

  // Walks all of it; a symlink at the end is followed on demand or when slashes come after it. ENOTDIR when slashes
  // come after something else that is not a directory.
  Result<void> to_end(bool follow) { return advance(Stop::kEnd, follow); }

  // Walks to the directory that holds the last component, which last() then tells. (Not when the path ends in
  // the root: place() is that.) The directory may be searched.
  Result<void> to_parent() { return advance(Stop::kParent, false); }
  struct Last {
    enum class Kind { kNormal, kDot, kDotDot, kRoot } kind = Kind::kRoot;
    std::string_view name;
    bool slash = false;  // slashes came after it
  };
  const Last& last() const { return last_; }

  // The entry for last() as it is now, perhaps negative, without following or crossing anything.
  Result<Ref<Dentry>> look_up_last() { return look_up(ctx_, place_.dentry, last_.name); }
  // Follows the symlink at last(); to_parent() or to_end() then goes on. `done` when it was a magic link: place() is
  // where it led.
  Result<void> follow_last(const Ref<Dentry>& link, bool& done);
  // Goes to `entry` of the directory, and across mounts. RESOLVE_NO_XDEV: EXDEV.
  Result<void> enter(const Ref<Dentry>& entry);

  const Path& place() const { return place_; }
  Path take_place() { return std::move(place_); }

  // The entry `name` of `dir`, from the cache or the file system; negative when it is not there. ENAMETOOLONG; ENOENT
  // when `dir` itself has been removed. Takes the directory's lock shared when it must.
  static Result<Ref<Dentry>> look_up(const Context& ctx, const Ref<Dentry>& dir, std::string_view name);
  // The same for who holds the directory's lock.
  static Result<Ref<Dentry>> look_up_locked(const Context& ctx, const Ref<Dentry>& dir, std::string_view name);

 private:
  enum class Stop { kEnd, kParent };
  struct Component {
    std::string_view name;
    bool last = false;
    bool slash = false;
  };
  // The next component of rest_, without taking it off; `after` is the rest behind it. False: none is left.
  bool peek(Component& c, std::string_view& after) const;

  Result<void> advance(Stop stop, bool follow);
  // Walks over what the cache answers; returns true when it has arrived.
  Result<bool> advance_cached(Stop stop, bool follow);
  Result<bool> step(const Component& c, std::string_view after, bool follow);
  // Revalidated entries that held after this count as they are.
  Nanos horizon();
  void stop_at(const Component& c);
  void dot_dot(Mount*& mount, Dentry*& dentry, int& error) const;
  Result<void> jump_to_root();
  Result<void> check_search();
  // Puts the link's target before `after`. True when it was a magic link, which is followed already.
  Result<bool> push_link(const Ref<Dentry>& link, std::string_view after, bool slash);

  MountTable& mounts_;
  const Context& ctx_;
  const u64 resolve_;
  Path root_;   // "/", and where ".." stops
  Path place_;  // so far
  std::string_view rest_;
  std::string buffer_;  // holds rest_ once a symlink was followed
  int links_ = 0;
  Nanos horizon_ = 0;
  Last last_;
};

// inode_permission(): `mask` R_OK|W_OK|X_OK. EACCES, or EROFS for writes to files and directories of a read-only file
// system.
Result<void> inode_permission(const Context& ctx, Inode& inode, int mask);

}  // namespace rf::fs
