// The overlay: a lower file system that does not change, and every change kept in memory. Internal to fs/overlay*.cc.
//
// It keeps a tree of its own rather than two trees that are merged name by name. A node stands for a file of the lower
// file system (lower), a file made here (no lower), or a file of the lower one that was changed: its attributes are in
// `upper`, and its contents in `data` once they changed too. A directory node holds the entries that differ from its
// lower directory: new names and whiteouts (names that are gone). So
//   - what nobody touched costs nothing but a node while it is in use;
//   - a renamed directory of the lower file system keeps its lower directory: nothing beneath it is copied;
//   - hard links of the lower file system stay links when one is written, for a node is found by its lower inode;
//   - a changed node with a lower inode holds itself ("pinned") for as long as it has a name.
//
// Readers of a file go to `data` or to the lower file at each call, so a description opened before a copy-up shows what
// is written after it, and so do mappings: VMAs map the node, which passes page faults on, and a copy-up drops the
// lower pages from them.
//
// Lock order: see fs/dentry_cache.h; copy_up_lock_ is not held while mappings are dropped, and pin() (called with an
// address space's map_lock_ held) does not take it. OverlayFs::nodes_lock_ is a leaf.
#pragma once

#include <memory>
#include <unordered_map>

#include "fs/mem_files.h"
#include "fs/tmpfs.h"

namespace rf::fs {

class OverlayInode;

class OverlayFs final : public FileSystem {
 public:
  OverlayFs(Ref<FileSystem> lower, Ref<TmpFs> upper);

  const char* type() const override { return "overlay"; }
  Ref<Inode> root() override;
  Result<struct ::statfs> statfs() override;
  bool needs_revalidation() const override { return lower_->needs_revalidation(); }
  void unmounted() override;

  MemSpace& space() { return upper_->space(); }
  u64 new_ino() { return last_ino_.fetch_add(1, std::memory_order_relaxed) + 1; }

  // The node of a lower inode.
  Ref<OverlayInode> node_for(Ref<Inode> lower);
  // A place in the lower file system, to open `lower` at.
  Path lower_path(const Ref<Inode>& lower) const;

  // A changed node holds itself, or no longer does.
  void pin(OverlayInode& node);
  void unpin(OverlayInode& node);
  void forget(OverlayInode& node);

 private:
  ~OverlayFs() override;
  const Ref<FileSystem> lower_;
  const Ref<TmpFs> upper_;
  const Ref<Mount> lower_mount_;
  std::atomic<u64> last_ino_;
  SpinLock nodes_lock_;
  std::unordered_map<const Inode*, OverlayInode*> nodes_;  // by lower inode; not held
  Ref<OverlayInode> root_;                                 // a cycle of references until unmounted()
};

class OverlayInode final : public Inode, public mm::Mappable {
 public:
  // For a file of the lower file system.
  OverlayInode(OverlayFs& fs, Ref<Inode> lower);
  // For a file made here; the space is charged with an inode already.
  OverlayInode(OverlayFs& fs, const Attributes& attributes);

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

  // Mappable, for regular files with a lower one.
  Result<mm::PhysRun> pin(u64 offset, u64 len, bool write) override;
  Result<void> punch_hole(u64 offset, u64 len) override;

  // --- For the files ---
  const Ref<Inode>& lower() const { return lower_; }
  OverlayFs& overlay() const { return static_cast<OverlayFs&>(fs()); }
  // Null while the lower file's contents are the file's.
  MemData* data() const { return data_.load(std::memory_order_acquire); }
  // Null while nothing was changed.
  MemAttributes* attributes() const;
  // Contents that may be written: copies them up. Of a file that is to be cut to `keep` bytes no more than these.
  Result<MemData*> writable_data(const Context& ctx, u64 keep = ~u64{0});
  const MemDirectory* changes() const { return directory_.get(); }
  // Opens the lower file or directory for reading.
  Result<Ref<File>> open_lower(const Context& ctx) const;

 private:
  friend class OverlayFs;
  // What differs from the lower file. Made once, then there until the node goes.
  struct Upper {
    Upper(MemSpace& space, const Attributes& a) : attributes(space, a) {}
    MemAttributes attributes;
    bool own_xattrs = false;  // these count, not the lower file's; guarded by copy_up_lock_
    std::string target;       // of a symlink made here
  };
  ~OverlayInode() override;
  Upper* upper() const { return upper_.load(std::memory_order_acquire); }

  void adopt_search_hint();
  // Copy-up of the attributes. `free`: without charge, for what makes room.
  Result<Upper*> change(const Context& ctx, bool free = false);
  Result<void> copy_data(const Context& ctx, MemData& data, u64 size) const;
  Result<void> own_xattrs(const Context& ctx);
  bool has_own_xattrs();

  // --- Directories, with the lock held exclusively ---
  Result<Ref<OverlayInode>> make(const Context& ctx, u16 mode);
  Ref<Inode> enter(std::string_view name, Ref<OverlayInode> node);
  void remove_name(std::string_view name);
  Result<bool> is_empty(const Context& ctx);
  void add_subdirectories(int delta);
  void drop_links(bool directory);
  Result<void> exchange(std::string_view name, OverlayInode& moved, OverlayInode& new_dir, std::string_view new_name,
                        OverlayInode& other);
  MemDirectory& own_directory();
  MemDirectory::Entry& own_entry(std::string_view name);

  const u16 type_;
  bool pinned_ = false;    // guarded by OverlayFs::nodes_lock_
  bool linkable_ = false;  // an O_TMPFILE; guarded by lock
  const Ref<Inode> lower_;
  std::atomic<Upper*> upper_{nullptr};
  std::atomic<MemData*> data_{nullptr};
  std::unique_ptr<MemDirectory> directory_;  // guarded by lock; null: as the lower one
  FiberMutex copy_up_lock_;
};

// Open files, overlay_files.cc.
Ref<File> make_overlay_file(const Path& path, int flags, OverlayInode& node, Ref<File> lower);
Ref<File> make_overlay_directory(const Path& path, int flags, OverlayInode& node);

// Entries made here are listed behind those of the lower directory, whose positions count from 2.
inline constexpr u64 kUpperCookies = u64{1} << 40;

}  // namespace rf::fs
