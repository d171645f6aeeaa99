// Inodes that no directory holds.
#include <linux/magic.h>

#include "fs/dentry.h"
#include "fs/special_files.h"

namespace rf::fs {

class AnonFs final : public FileSystem {
 public:
  // All of them, in one mount that is nowhere.
  static const Ref<Mount>& mount() {
    static Ref<Mount>& mount = *new Ref<Mount>(make());
    return mount;
  }

  const char* type() const override { return "anon_inodefs"; }
  Ref<Inode> root() override { return nullptr; }
  Result<struct ::statfs> statfs() override {
    struct ::statfs s = {};
    s.f_type = ANON_INODE_FS_MAGIC;
    s.f_bsize = s.f_frsize = 4096;
    s.f_namelen = 255;
    return s;
  }

 private:
  static Ref<Mount> make() { return make_ref<Mount>(make_ref<AnonFs>(), nullptr); }
};

namespace {

class AnonInode final : public Inode {
 public:
  AnonInode(FileSystem& fs, u16 mode, u64 ino) : Inode(fs), ino_(ino), mode_(mode) {}
  u16 type() const override { return mode_.load(std::memory_order_relaxed) & S_IFMT; }
  u64 number() const { return ino_; }

  Result<Attributes> getattr(const Context&) override {
    Attributes a;
    a.ino = ino_;
    a.mode = mode_.load(std::memory_order_relaxed);
    a.uid = uid_.load(std::memory_order_relaxed);
    a.gid = gid_.load(std::memory_order_relaxed);
    a.atime = a.mtime = a.ctime = made_;
    return a;
  }
  // fchmod(2) and fchown(2) of a pipe or socket work.
  Result<void> setattr(const Context&, const AttributeChange& c) override {
    if (c.mask & AttributeChange::kMode) mode_.store(type() | (c.mode & 07777), std::memory_order_relaxed);
    if (c.mask & AttributeChange::kUid) uid_.store(c.uid, std::memory_order_relaxed);
    if (c.mask & AttributeChange::kGid) gid_.store(c.gid, std::memory_order_relaxed);
    return {};
  }
  // Pipes are opened through /proc/self/fd by the VFS (FIFOs); the rest cannot be.
  Result<Ref<File>> open(const Context&, const Path&, const OpenArgs&) override { return err(ENXIO); }

 private:
  const u64 ino_;
  std::atomic<u16> mode_;
  std::atomic<u32> uid_{0}, gid_{0};
  const Timestamp made_ = Timestamp::now();
};

}  // namespace

Path make_anon_path(std::string name, u16 mode) {
  static std::atomic<u64> last_ino{0};
  const Ref<Mount>& mount = AnonFs::mount();
  u64 ino = last_ino.fetch_add(1, std::memory_order_relaxed) + 1;
  // "pipe:" and "socket:" are followed by the inode number.
  if (name.ends_with(':')) name += "[" + std::to_string(ino) + "]";
  return Path(mount, Dentry::make_detached(std::move(name), make_ref<AnonInode>(*mount->fs, mode, ino)));
}

u64 anon_inode_number(const Path& path) { return static_cast<AnonInode&>(*path.dentry->inode()).number(); }

}  // namespace rf::fs
