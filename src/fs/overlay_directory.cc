// Changes to directories of the overlay.
#include <linux/fs.h>

#include <shared_mutex>

#include "fs/overlay.h"

namespace rf::fs {
namespace {

OverlayInode& as_node(Inode& inode) { return static_cast<OverlayInode&>(inode); }

}  // namespace

MemDirectory& OverlayInode::own_directory() {
  if (!directory_) directory_ = std::make_unique<MemDirectory>(kUpperCookies);
  return *directory_;
}

Result<Ref<OverlayInode>> OverlayInode::make(const Context& ctx, u16 mode) {
  if (type_ != S_IFDIR) return err(ENOTDIR);
  Upper* u = TRY(change(ctx));
  if (!overlay().space().charge_inode()) return err(ENOSPC);
  Attributes a = new_inode_attributes(ctx, u->attributes.get(), mode);
  a.ino = overlay().new_ino();
  if (S_ISDIR(mode)) a.size = kPageSize;
  return make_ref<OverlayInode>(overlay(), a);
}

// The directory's attributes are up here already.
Ref<Inode> OverlayInode::enter(std::string_view name, Ref<OverlayInode> node) {
  MemDirectory& d = own_directory();
  u64 ino = node->attributes()->ino();
  if (MemDirectory::Entry* whiteout = d.find(name)) {
    whiteout->inode = node;
    whiteout->ino = ino;
    d.move_to_end(*whiteout);
  } else {
    d.add(name, node, ino);
  }
  upper()->attributes.touch_contents();
  return node;
}

// The name leads nowhere from now on. Whoever calls holds what it led to.
void OverlayInode::remove_name(std::string_view name) {
  MemDirectory& d = own_directory();
  MemDirectory::Entry* e = d.find(name);
  if (!e) {
    d.add(name, nullptr, 0).over_lower = true;
  } else if (e->over_lower) {
    e->inode = nullptr;
  } else {
    d.remove(*e);
  }
  upper()->attributes.touch_contents();
}

// The entry for `name`, made if the name is the lower directory's alone so far.
MemDirectory::Entry& OverlayInode::own_entry(std::string_view name) {
  MemDirectory& d = own_directory();
  if (MemDirectory::Entry* e = d.find(name)) return *e;
  MemDirectory::Entry& e = d.add(name, nullptr, 0);
  e.over_lower = true;
  return e;
}

// Link counts of directories: 2 and one for each subdirectory, or 1 where the lower file system does not count.
void OverlayInode::add_subdirectories(int delta) {
  if (upper()->attributes.nlink() > 1) upper()->attributes.add_links(delta);
}

// A name of the node went, or the directory did.
void OverlayInode::drop_links(bool directory) {
  MemAttributes& a = upper()->attributes;
  u32 links = a.nlink();
  if (links != 0) links = a.add_links(directory ? -static_cast<int>(links) : -1);
  if (links == 0) overlay().unpin(*this);
}

Result<Ref<Inode>> OverlayInode::mknod(const Context& ctx, std::string_view name, u16 mode, u32 major, u32 minor) {
  Ref<OverlayInode> made = TRY(make(ctx, mode));
  if (S_ISCHR(mode) || S_ISBLK(mode)) made->attributes()->set_device(major, minor);
  return enter(name, std::move(made));
}

Result<Ref<Inode>> OverlayInode::mkdir(const Context& ctx, std::string_view name, u16 mode) {
  Ref<OverlayInode> made = TRY(make(ctx, mode));
  add_subdirectories(1);
  return enter(name, std::move(made));
}

Result<Ref<Inode>> OverlayInode::symlink(const Context& ctx, std::string_view name, std::string_view target) {
  Ref<OverlayInode> made = TRY(make(ctx, S_IFLNK | 0777));
  if (!overlay().space().charge_metadata(target.size())) return err(ENOSPC);
  made->upper()->target = target;
  made->attributes()->set_size(target.size());
  return enter(name, std::move(made));
}

Result<Ref<Inode>> OverlayInode::tmpfile(const Context& ctx, u16 mode) {
  Ref<OverlayInode> made = TRY(make(ctx, mode));
  made->attributes()->add_links(-1);
  made->linkable_ = true;
  return Ref<Inode>(std::move(made));
}

Result<void> OverlayInode::link(const Context& ctx, std::string_view name, Inode& target) {
  OverlayInode& t = as_node(target);
  TRY(change(ctx));
  Upper* u = TRY(t.change(ctx));
  u32 links = u->attributes.nlink();
  if (links == 0 && !t.linkable_) return err(ENOENT);
  if (links == ~0u) return err(EMLINK);
  t.linkable_ = false;
  u->attributes.add_links(1);
  enter(name, Ref<OverlayInode>(&t));
  return {};
}

Result<void> OverlayInode::unlink(const Context& ctx, std::string_view name, Inode& victim) {
  OverlayInode& v = as_node(victim);
  TRY(change(ctx, true));
  TRY(v.change(ctx, true));
  remove_name(name);
  v.drop_links(false);
  return {};
}

Result<bool> OverlayInode::is_empty(const Context& ctx) {
  bool empty = true;
  if (directory_)
    directory_->for_each(0, [&](const MemDirectory::Entry& e) {
      empty = !e.inode;
      return empty;
    });
  if (!empty || !lower_) return empty;
  Ref<File> lower = TRY(open_lower(ctx));
  TRY(lower->readdir(ctx, [&](const DirEntry& e) {
    empty = e.name == "." || e.name == ".." || (directory_ && directory_->find(e.name));
    return empty;
  }));
  return empty;
}

Result<void> OverlayInode::rmdir(const Context& ctx, std::string_view name, Inode& victim) {
  OverlayInode& v = as_node(victim);
  if (!TRY(v.is_empty(ctx))) return err(ENOTEMPTY);
  TRY(change(ctx, true));
  TRY(v.change(ctx, true));
  remove_name(name);
  v.drop_links(true);
  add_subdirectories(-1);
  return {};
}

Result<void> OverlayInode::exchange(std::string_view name, OverlayInode& moved, OverlayInode& new_dir,
                                    std::string_view new_name, OverlayInode& other) {
  MemDirectory::Entry& a = own_entry(name);
  MemDirectory::Entry& b = new_dir.own_entry(new_name);
  a.inode = Ref<Inode>(&other);
  a.ino = other.attributes()->ino();
  b.inode = Ref<Inode>(&moved);
  b.ino = moved.attributes()->ino();
  if (int delta = int{other.is_dir()} - int{moved.is_dir()}; delta != 0 && this != &new_dir) {
    add_subdirectories(delta);
    new_dir.add_subdirectories(-delta);
  }
  upper()->attributes.touch_contents();
  new_dir.upper()->attributes.touch_contents();
  moved.upper()->attributes.touch_ctime();
  other.upper()->attributes.touch_ctime();
  return {};
}

Result<void> OverlayInode::rename(const Context& ctx, std::string_view name, Inode& moved, Inode& new_dir,
                                  std::string_view new_name, Inode* replaced, u32 flags) {
  OverlayInode& source = as_node(moved);
  OverlayInode& to = as_node(new_dir);
  OverlayInode* gone = replaced ? &as_node(*replaced) : nullptr;
  const bool is_dir = source.is_dir();
  if (gone && gone->is_dir() && !(flags & RENAME_EXCHANGE) && !TRY(gone->is_empty(ctx))) return err(ENOTEMPTY);
  // All that can fail comes first.
  TRY(change(ctx));
  TRY(to.change(ctx));
  TRY(source.change(ctx));
  if (gone) TRY(gone->change(ctx, true));
  if (gone && (flags & RENAME_EXCHANGE)) return exchange(name, source, to, new_name, *gone);
  if (gone) {
    // The target's place in the listing, so that one who lists meanwhile sees the name once.
    MemDirectory::Entry& e = to.own_entry(new_name);
    e.inode = Ref<Inode>(&moved);
    e.ino = source.attributes()->ino();
    gone->drop_links(gone->is_dir());
    if (gone->is_dir()) to.add_subdirectories(-1);
    to.upper()->attributes.touch_contents();
  } else {
    to.enter(new_name, Ref<OverlayInode>(&source));
  }
  remove_name(name);
  if (is_dir && this != &to) {
    add_subdirectories(-1);
    to.add_subdirectories(1);
  }
  source.upper()->attributes.touch_ctime();
  return {};
}

}  // namespace rf::fs
