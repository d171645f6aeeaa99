#include "fs/walk.h"

#include <limits.h>
#include <linux/openat2.h>
#include <unistd.h>

#include "fs/host_news.h"

namespace rf::fs {
namespace {

constexpr int kMaxSymlinks = 40;  // MAXSYMLINKS

bool scoped(u64 resolve) { return (resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)) != 0; }

// Whether `inode` may be searched for sure, told without suspending. Asked for cached entries only, so that file
// systems with rules of their own (proc), which are not cached, are not bypassed.
bool may_search(const Context& ctx, const Inode& inode) {
  return inode.search_for_all.load(std::memory_order_relaxed) || ctx.creds.capable(CAP_DAC_READ_SEARCH) ||
         ctx.creds.capable(CAP_DAC_OVERRIDE);
}

std::string_view skip_slashes(std::string_view s) {
  size_t n = s.find_first_not_of('/');
  return n == s.npos ? std::string_view() : s.substr(n);
}

}  // namespace

Result<void> inode_permission(const Context& ctx, Inode& inode, int mask) {
  if ((mask & W_OK) && inode.fs().read_only() && (inode.is_regular() || inode.is_dir() || inode.is_symlink()))
    return err(EROFS);
  return inode.permission(ctx, mask);
}

Result<void> Walker::start(const Path* at, std::string_view path) {
  if (path.empty()) return err(ENOENT);
  if (path.size() >= PATH_MAX) return err(ENAMETOOLONG);
  const Path& begin = at ? *at : ctx_.cwd;
  root_ = scoped(resolve_) ? begin : ctx_.root;
  rest_ = skip_slashes(path);
  if (path[0] == '/') {
    if (resolve_ & RESOLVE_BENEATH) return err(EXDEV);
    place_ = root_;
  } else {
    place_ = begin;
    if (!place_.dentry->inode()->is_dir()) return err(ENOTDIR);
  }
  return {};
}

bool Walker::peek(Component& c, std::string_view& after) const {
  if (rest_.empty()) return false;
  size_t n = rest_.find('/');
  if (n == rest_.npos) {
    c = {rest_, true, false};
    after = {};
  } else {
    after = skip_slashes(rest_.substr(n));
    c = {rest_.substr(0, n), after.empty(), true};
  }
  return true;
}

// Taken once: what comes in during the walk the caller cannot know of.
Nanos Walker::horizon() {
  if (horizon_ == 0) horizon_ = HostNews::horizon(monotonic_now());
  return horizon_;
}

void Walker::stop_at(const Component& c) {
  using Kind = Last::Kind;
  last_ = {c.name == "." ? Kind::kDot : c.name == ".." ? Kind::kDotDot : Kind::kNormal, c.name, c.slash};
}

Result<void> Walker::advance(Stop stop, bool follow) {
  for (;;) {
    if (TRY(advance_cached(stop, follow))) return {};
    if (resolve_ & RESOLVE_CACHED) return err(EAGAIN);
    Component c;
    std::string_view after;
    peek(c, after);
    TRY(check_search());
    if (c.last && stop == Stop::kParent) {
      stop_at(c);
      return {};
    }
    if (TRY(step(c, after, follow))) return {};
  }
}

Result<bool> Walker::advance_cached(Stop stop, bool follow) {
  auto& cache = DentryCache::get();
  Mount* mount = place_.mount.get();
  Dentry* dentry = place_.dentry.get();
  Path former;  // dropped after the lock
  Result<bool> result = false;
  TreeReadLock guard(cache.lock());
  for (;;) {
    Component c;
    std::string_view after;
    if (!peek(c, after)) {
      // Nothing but slashes: the path was "/", or a symlink to it.
      last_ = {};
      result = true;
      break;
    }
    if (DentryCache::type_of(*dentry) != S_IFDIR) {
      result = err(ENOTDIR);
      break;
    }
    if (!may_search(ctx_, *dentry->inode())) break;
    if (c.last && stop == Stop::kParent) {
      stop_at(c);
      result = true;
      break;
    }
    Mount* next_mount = mount;
    Dentry* next = dentry;
    if (c.name == "..") {
      int error = 0;
      dot_dot(next_mount, next, error);
      if (error != 0) {
        result = err(error);
        break;
      }
    } else if (c.name != ".") {
      next = cache.find(*dentry, c.name);
      if (!next || (DentryCache::revalidated(*next) && !DentryCache::held_after(*next, horizon()))) break;
      DentryCache::mark_used(*next);
      if (DentryCache::type_of(*next) == 0) {
        result = err(ENOENT);
        break;
      }
      mounts_.cross(next_mount, next);
      if (next_mount != mount && (resolve_ & RESOLVE_NO_XDEV)) {
        result = err(EXDEV);
        break;
      }
      if (DentryCache::type_of(*next) == S_IFLNK && (!c.last || c.slash || follow)) break;
    }
    if (c.slash && DentryCache::type_of(*next) != S_IFDIR) {
      result = err(ENOTDIR);
      break;
    }
    mount = next_mount;
    dentry = next;
    rest_ = after;
    if (c.last) {
      result = true;
      break;
    }
  }
  if (dentry != place_.dentry.get() || mount != place_.mount.get()) {
    former = std::move(place_);
    place_ = Path(Ref<Mount>(mount), Ref<Dentry>(dentry));
  }
  guard.unlock();
  return result;
}

// "..", with the tree lock held.
void Walker::dot_dot(Mount*& mount, Dentry*& dentry, int& error) const {
  auto at_root = [&] { return dentry == root_.dentry.get() && mount == root_.mount.get(); };
  Mount* before = mount;
  for (;;) {
    if (at_root()) {
      if (resolve_ & RESOLVE_BENEATH) error = EXDEV;
      break;
    }
    if (dentry != mount->root.get()) {
      if (Dentry* parent = DentryCache::parent_of(*dentry)) dentry = parent;
      break;
    }
    if (!mount->parent) break;
    dentry = mount->point.get();
    mount = mount->parent.get();
  }
  mounts_.cross(mount, dentry);
  if (mount != before && (resolve_ & RESOLVE_NO_XDEV)) error = EXDEV;
  // A rename may have carried the place out from under the root of a scoped walk: then ".." would never meet it.
  if (scoped(resolve_) && error == 0) {
    const Mount* m = mount;
    const Dentry* d = dentry;
    while (!(m == root_.mount.get() && DentryCache::is_below(d, root_.dentry.get()))) {
      if (!m->parent) {
        error = EXDEV;
        return;
      }
      d = m->point.get();
      m = m->parent.get();
    }
  }
}

// Search permission on the place, asked in full.
Result<void> Walker::check_search() {
  Inode& dir = *place_.dentry->inode();
  if (!dir.is_dir()) return err(ENOTDIR);
  return inode_permission(ctx_, dir, X_OK);
}

// One component, asking the file system. True when that was the end of the walk.
Result<bool> Walker::step(const Component& c, std::string_view after, bool follow) {
  if (c.name == "..") {
    Mount* mount = place_.mount.get();
    Dentry* dentry = place_.dentry.get();
    int error = 0;
    Path next;
    {
      TreeReadLock guard(DentryCache::get().lock());
      dot_dot(mount, dentry, error);
      if (error == 0) next = Path(Ref<Mount>(mount), Ref<Dentry>(dentry));
    }
    if (error != 0) return err(error);
    place_ = std::move(next);
  } else if (c.name != ".") {
    Ref<Dentry> entry = TRY(look_up(ctx_, place_.dentry, c.name));
    if (!entry->inode()) return err(ENOENT);
    if (entry->inode()->is_symlink() && (!c.last || c.slash || follow)) {
      bool magic = TRY(push_link(entry, after, c.slash));
      if (magic && (!c.last || c.slash) && !place_.dentry->inode()->is_dir()) return err(ENOTDIR);
      return magic && c.last;
    }
    TRY(enter(entry));
  }
  if (c.slash && !place_.dentry->inode()->is_dir()) return err(ENOTDIR);
  rest_ = after;
  return c.last;
}

Result<void> Walker::enter(const Ref<Dentry>& entry) {
  Path next = mounts_.crossed(Path(place_.mount, entry));
  if (!(next.mount == place_.mount) && (resolve_ & RESOLVE_NO_XDEV)) return err(EXDEV);
  place_ = std::move(next);
  return {};
}

Result<void> Walker::jump_to_root() {
  if (resolve_ & RESOLVE_BENEATH) return err(EXDEV);
  if ((resolve_ & RESOLVE_NO_XDEV) && !(place_.mount == root_.mount)) return err(EXDEV);
  place_ = root_;
  return {};
}

Result<bool> Walker::push_link(const Ref<Dentry>& link, std::string_view after, bool slash) {
  if (links_++ >= kMaxSymlinks || (resolve_ & RESOLVE_NO_SYMLINKS)) return err(ELOOP);
  Inode& inode = *link->inode();
  if (Path target = TRY(inode.follow(ctx_))) {
    if (resolve_ & RESOLVE_NO_MAGICLINKS) return err(ELOOP);
    if (scoped(resolve_)) return err(EXDEV);
    if ((resolve_ & RESOLVE_NO_XDEV) && !(target.mount == place_.mount)) return err(EXDEV);
    place_ = std::move(target);
    rest_ = after;
    return true;
  }
  std::string target = TRY(inode.readlink(ctx_));
  if (target.empty()) return err(ENOENT);
  if (target.size() >= PATH_MAX) return err(ENAMETOOLONG);
  bool absolute = target[0] == '/';
  if (slash) target += '/';
  target += after;
  buffer_ = std::move(target);  // `after` lay in the old one
  rest_ = skip_slashes(buffer_);
  if (absolute) TRY(jump_to_root());
  return false;
}

Result<void> Walker::follow_last(const Ref<Dentry>& link, bool& done) {
  done = TRY(push_link(link, {}, last_.slash));
  return {};
}

Result<Ref<Dentry>> Walker::look_up(const Context& ctx, const Ref<Dentry>& dir, std::string_view name) {
  if (name.size() > NAME_MAX) return err(ENAMETOOLONG);
  Ref<Dentry> cached = DentryCache::get().lookup(*dir, name);
  if (cached &&
      (!DentryCache::revalidated(*cached) || DentryCache::held_after(*cached, HostNews::horizon(monotonic_now()))))
    return cached;
  Inode& inode = *dir->inode();
  std::shared_lock guard(inode.lock);
  return look_up_locked(ctx, dir, name);
}

Result<Ref<Dentry>> Walker::look_up_locked(const Context& ctx, const Ref<Dentry>& dir, std::string_view name) {
  if (name.size() > NAME_MAX) return err(ENAMETOOLONG);
  auto& cache = DentryCache::get();
  Inode& inode = *dir->inode();
  if (!inode.is_dir()) return err(ENOTDIR);
  if (Ref<Dentry> cached = cache.lookup(*dir, name)) {
    if (!DentryCache::revalidated(*cached)) return cached;
    const Nanos now = monotonic_now();
    if (inode.revalidate(ctx, name, cached->inode().get())) {
      DentryCache::note_held(*cached, now);
      return cached;
    }
    cache.remove(*cached);
    HostNews::arrived();  // where one thing has changed others have
  }
  if (dir->unlinked()) return err(ENOENT);
  const Nanos now = inode.fs().needs_revalidation() ? monotonic_now() : 0;
  auto found = inode.lookup(ctx, name);
  if (!found && found.error() != Errno{ENOENT}) return err(found.error());
  Ref<Dentry> entry = cache.insert(dir, name, found ? *std::move(found) : nullptr);
  if (now != 0) DentryCache::note_held(*entry, now);
  return entry;
}

}  // namespace rf::fs
