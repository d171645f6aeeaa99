// tmpfs. Internal to the room: the overlay keeps what it writes in one (its space and page frames).
#pragma once

#include <memory>
#include <string>

#include "fs/file.h"
#include "fs/filesystems.h"
#include "fs/mem_attributes.h"
#include "fs/mem_data.h"
#include "fs/mem_directory.h"

namespace rf::fs {

class TmpInode;

class TmpFs final : public FileSystem {
 public:
  TmpFs(mm::Frames& frames, u64 size_limit, u16 root_mode) : space_(frames, size_limit), root_mode_(root_mode) {}

  const char* type() const override { return "tmpfs"; }
  Ref<Inode> root() override;
  Result<struct ::statfs> statfs() override;
  std::string options() const override;
  void unmounted() override;

  MemSpace& space() { return space_; }
  u64 new_ino() { return last_ino_.fetch_add(1, std::memory_order_relaxed) + 1; }

 private:
  MemSpace space_;
  const u16 root_mode_;
  std::atomic<u64> last_ino_{0};
  SpinLock root_lock_;
  Ref<TmpInode> root_;  // a cycle of references until unmounted()
};

class TmpInode final : public Inode {
 public:
  TmpInode(TmpFs& fs, const Attributes& attributes);

  u16 type() const override { return type_; }
  Result<Attributes> getattr(const Context& ctx) override;
  Result<void> setattr(const Context& ctx, const AttributeChange& change) override;
  Result<void> permission(const Context& ctx, int mask) override;

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

  Result<std::string> readlink(const Context& ctx) override;
  Result<Ref<File>> open(const Context& ctx, const Path& path, const OpenArgs& args) override;
  Result<std::string> getxattr(const Context& ctx, const std::string& name) override;
  Result<void> setxattr(const Context& ctx, const std::string& name, std::string_view value, int flags) override;
  Result<void> removexattr(const Context& ctx, const std::string& name) override;
  Result<std::vector<std::string>> listxattr(const Context& ctx) override;
  mm::Mappable* mappable() override { return data_.get(); }

  MemAttributes& attributes() { return attr_; }
  MemData* data() { return data_.get(); }
  MemDirectory* directory() { return directory_.get(); }

 private:
  friend class TmpFs;
  ~TmpInode() override;
  TmpFs& tmpfs() const { return static_cast<TmpFs&>(fs()); }
  Result<Ref<TmpInode>> make(const Context& ctx, u16 mode);
  // Enters a new inode as `name`.
  Ref<Inode> enter(std::string_view name, Ref<TmpInode> inode);
  void forget(std::string_view name);
  Result<void> exchange(std::string_view name, TmpInode& moved, TmpInode& new_dir, std::string_view new_name,
                        TmpInode& other);

  const u16 type_;
  bool linkable_ = false;  // an O_TMPFILE that link(2) may give a name; guarded by lock
  MemAttributes attr_;
  std::unique_ptr<MemData> data_;            // regular files
  std::unique_ptr<MemDirectory> directory_;  // directories
  std::string target_;                       // symlinks
};

}  // namespace rf::fs
