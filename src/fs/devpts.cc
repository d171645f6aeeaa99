// devpts: /dev/pts, with ptmx and a node for each pty whose master is open.

#include "fs/devpts.h"

#include <dirent.h>
#include <linux/magic.h>

#include <charconv>
#include <map>

#include "fs/dentry.h"
#include "fs/filesystems.h"
#include "fs/pty.h"
#include "fs/vfs.h"

namespace rf::fs {
namespace {

constexpr u32 kMostPtys = 4096;  // kernel.pty.max of Linux
constexpr u32 kTtyGroup = 5;     // Debian's "tty", as gid= says when devpts is mounted
constexpr u32 kPtmxMajor = 5, kPtmxMinor = 2;
constexpr u64 kRootIno = 1, kPtmxIno = 2, kFirstSlaveIno = 3;

class DevPts;

// ptmx or a slave: a character device whose attributes can be changed.
class PtyNode final : public Inode {
 public:
  // `pty` null: ptmx.
  PtyNode(DevPts& fs, Ref<Pty> pty, u32 uid, u32 gid, u16 mode);
  u16 type() const override { return S_IFCHR; }
  Result<Attributes> getattr(const Context&) override {
    SpinGuard guard(lock_);
    return attributes_;
  }
  Result<void> setattr(const Context& ctx, const AttributeChange& change) override;
  Result<Ref<File>> open(const Context& ctx, const Path& path, const OpenArgs& args) override;

 private:
  const Ref<Pty> pty_;
  SpinLock lock_;
  Attributes attributes_;
};

class PtsDirectory final : public Inode {
 public:
  explicit PtsDirectory(DevPts& fs);
  u16 type() const override { return S_IFDIR; }
  Result<Attributes> getattr(const Context&) override;
  Result<void> setattr(const Context&, const AttributeChange&) override { return err(EPERM); }
  Result<Ref<Inode>> lookup(const Context&, std::string_view name) override;
  Result<Ref<File>> open(const Context&, const Path& path, const OpenArgs& args) override;

 private:
  const Timestamp made_ = Timestamp::now();
};

class DevPts final : public FileSystem {
 public:
  DevPts() = default;

  const char* type() const override { return "devpts"; }
  std::string options() const override { return "gid=5,mode=620,ptmxmode=666"; }
  bool cacheable() const override { return false; }  // nodes come and go with their masters
  Ref<Inode> root() override;
  void unmounted() override;
  Result<struct ::statfs> statfs() override {
    struct ::statfs s {};
    s.f_type = DEVPTS_SUPER_MAGIC;
    s.f_bsize = kPageSize;
    s.f_namelen = NAME_MAX;
    return s;
  }

  Result<Ref<File>> open_master(const Context& ctx, const Path& path, int flags);
  Ref<PtyNode> ptmx();
  Ref<PtyNode> slave(u32 index);
  std::vector<u32> indices();
  void remove(u32 index);

  // The first one made, for nodes with its device numbers that are elsewhere; null.
  static Ref<DevPts> first();
  void make_first();

 private:
  ~DevPts() override;

  SpinLock lock_;
  Ref<PtsDirectory> root_;  // with ptmx_ and slaves_ a cycle, until unmounted() and the closing of the masters
  Ref<PtyNode> ptmx_;
  std::map<u32, Ref<PtyNode>> slaves_;
};

SpinLock g_first_lock;
DevPts* g_first = nullptr;

class PtsListing final : public File {
 public:
  PtsListing(const Path& path, int flags, Ref<DevPts> fs) : File(path, flags), fs_(std::move(fs)) {}
  Result<size_t> read(const Context&, mm::IoBuffer&) override { return err(EISDIR); }
  Result<size_t> pread(const Context&, mm::IoBuffer&, u64) override { return err(EISDIR); }
  Result<u64> seek(const Context&, s64 offset, int whence) override;
  Result<void> readdir(const Context&, const std::function<bool(const DirEntry&)>& emit) override;

 private:
  const Ref<DevPts> fs_;
};

// --- Nodes ---

PtyNode::PtyNode(DevPts& fs, Ref<Pty> pty, u32 uid, u32 gid, u16 mode) : Inode(fs), pty_(std::move(pty)) {
  attributes_.ino = pty_ ? kFirstSlaveIno + pty_->index() : kPtmxIno;
  attributes_.mode = S_IFCHR | mode;
  attributes_.uid = uid;
  attributes_.gid = gid;
  attributes_.block_size = 1024;
  attributes_.rdev_major = pty_ ? Pty::kSlaveMajor : kPtmxMajor;
  attributes_.rdev_minor = pty_ ? pty_->index() : kPtmxMinor;
  attributes_.atime = attributes_.mtime = attributes_.ctime = Timestamp::now();
}

Result<void> PtyNode::setattr(const Context&, const AttributeChange& change) {
  SpinGuard guard(lock_);
  if (change.mask & AttributeChange::kMode) attributes_.mode = static_cast<u16>(S_IFCHR | (change.mode & 07777));
  if (change.mask & AttributeChange::kUid) attributes_.uid = change.uid;
  if (change.mask & AttributeChange::kGid) attributes_.gid = change.gid;
  if (change.mask & AttributeChange::kAtime) attributes_.atime = change.atime;
  if (change.mask & AttributeChange::kMtime) attributes_.mtime = change.mtime;
  attributes_.ctime = Timestamp::now();
  return {};
}

Result<Ref<File>> PtyNode::open(const Context& ctx, const Path& path, const OpenArgs& args) {
  if (pty_) return pty_->open(ctx, path, args.flags);
  return static_cast<DevPts&>(fs()).open_master(ctx, path, args.flags);
}

// --- The directory ---

PtsDirectory::PtsDirectory(DevPts& fs) : Inode(fs) {}

Result<Attributes> PtsDirectory::getattr(const Context&) {
  Attributes a;
  a.ino = kRootIno;
  a.mode = S_IFDIR | 0755;
  a.nlink = 2;
  a.atime = a.mtime = a.ctime = made_;
  return a;
}

Result<Ref<Inode>> PtsDirectory::lookup(const Context&, std::string_view name) {
  auto& pts = static_cast<DevPts&>(fs());
  if (name == "ptmx") return Ref<Inode>(pts.ptmx());
  u32 index = 0;
  auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (bad != std::errc() || end != name.data() + name.size() || std::to_string(index) != name) return err(ENOENT);
  Ref<PtyNode> node = pts.slave(index);
  if (!node) return err(ENOENT);
  return Ref<Inode>(node);
}

Result<Ref<File>> PtsDirectory::open(const Context&, const Path& path, const OpenArgs& args) {
  return make_ref<PtsListing>(path, args.flags, Ref<DevPts>(static_cast<DevPts*>(&fs())));
}

Result<u64> PtsListing::seek(const Context&, s64 offset, int whence) {
  FiberGuard guard(position_lock_);
  if (whence == SEEK_CUR)
    offset += static_cast<s64>(position_);
  else if (whence != SEEK_SET)
    return err(EINVAL);
  if (offset < 0) return err(EINVAL);
  return position_ = static_cast<u64>(offset);
}

Result<void> PtsListing::readdir(const Context&, const std::function<bool(const DirEntry&)>& emit) {
  FiberGuard guard(position_lock_);
  constexpr u64 kFixed = 3;  // entries before the slaves; slave n is at position n + 3
  struct {
    const char* name;
    u64 ino;
    u8 type;
  } const fixed[kFixed] = {{".", kRootIno, DT_DIR}, {"..", kRootIno, DT_DIR}, {"ptmx", kPtmxIno, DT_CHR}};
  for (; position_ < kFixed; ++position_) {
    const auto& e = fixed[position_];
    if (!emit({e.ino, static_cast<s64>(position_) + 1, e.type, e.name})) return {};
  }
  for (u32 index : fs_->indices()) {
    if (index + kFixed < position_) continue;
    const std::string name = std::to_string(index);
    if (!emit({kFirstSlaveIno + index, static_cast<s64>(index + kFixed + 1), DT_CHR, name})) return {};
    position_ = index + kFixed + 1;
  }
  return {};
}

// --- The file system ---

DevPts::~DevPts() {
  SpinGuard guard(g_first_lock);
  if (g_first == this) g_first = nullptr;
}

void DevPts::make_first() {
  SpinGuard guard(g_first_lock);
  if (g_first == nullptr) g_first = this;
}

Ref<DevPts> DevPts::first() {
  SpinGuard guard(g_first_lock);
  if (g_first == nullptr || !g_first->try_ref()) return nullptr;
  return Ref<DevPts>::adopt(g_first);
}

Ref<Inode> DevPts::root() {
  auto made = make_ref<PtsDirectory>(*this);
  SpinGuard guard(lock_);
  if (!root_) root_ = std::move(made);
  return root_;
}

Ref<PtyNode> DevPts::ptmx() {
  auto made = make_ref<PtyNode>(*this, nullptr, 0, 0, u16{0666});
  SpinGuard guard(lock_);
  if (!ptmx_) ptmx_ = std::move(made);
  return ptmx_;
}

void DevPts::unmounted() {
  Ref<PtsDirectory> root;  // dropped without the lock
  Ref<PtyNode> ptmx;
  SpinGuard guard(lock_);
  root = std::move(root_);
  ptmx = std::move(ptmx_);
}

Ref<PtyNode> DevPts::slave(u32 index) {
  SpinGuard guard(lock_);
  auto found = slaves_.find(index);
  return found == slaves_.end() ? nullptr : found->second;
}

std::vector<u32> DevPts::indices() {
  std::vector<u32> result;
  SpinGuard guard(lock_);
  result.reserve(slaves_.size());
  for (const auto& [index, node] : slaves_) result.push_back(index);
  return result;
}

void DevPts::remove(u32 index) {
  Ref<PtyNode> node;
  SpinGuard guard(lock_);
  auto found = slaves_.find(index);
  if (found == slaves_.end()) return;
  node = std::move(found->second);
  slaves_.erase(found);
}

Result<Ref<File>> DevPts::open_master(const Context& ctx, const Path& path, int flags) {
  u32 index = 0;
  Ref<Pty> pty;
  for (;;) {
    for (u32 taken : indices())
      if (taken == index) ++index;
    if (index >= kMostPtys) return err(ENOSPC);
    pty = make_ref<Pty>(index);
    auto node = make_ref<PtyNode>(*this, pty, ctx.creds.fsuid, kTtyGroup, u16{0620});
    SpinGuard guard(lock_);
    if (slaves_.try_emplace(index, std::move(node)).second) break;
    index = 0;  // another open took it meanwhile
  }
  return make_ref<PtyMaster>(path, flags, std::move(pty), [fs = Ref<DevPts>(this), index] { fs->remove(index); });
}

}  // namespace

Ref<FileSystem> make_devpts(mm::Frames&) {
  auto fs = make_ref<DevPts>();
  fs->make_first();
  return fs;
}

Result<Ref<File>> open_ptmx(const Context& ctx, const Path& path, int flags) {
  Ref<DevPts> fs = DevPts::first();
  if (!fs) return err(ENODEV);
  return fs->open_master(ctx, path, flags);
}

Result<Ref<File>> open_pts(const Context& ctx, const Path& path, u32 index, int flags) {
  Ref<DevPts> fs = DevPts::first();
  Ref<PtyNode> node = fs ? fs->slave(index) : nullptr;
  if (!node) return err(ENXIO);
  return node->open(ctx, path, {flags});
}

Result<Ref<File>> open_pty_peer(const Context& ctx, File& master, int flags) {
  auto* file = dynamic_cast<PtyMaster*>(&master);
  if (file == nullptr) return err(ENOTTY);
  const u32 index = file->pty().index();
  // Which devpts the master came from does not matter but for st_dev: its node is found by the path's mount.
  Ref<DevPts> fs = ref_cast<DevPts>(file->path().mount ? file->path().mount->fs : nullptr);
  if (!fs) fs = DevPts::first();
  Ref<PtyNode> node = fs ? fs->slave(index) : nullptr;
  if (!node) return err(EIO);
  Path path(file->path().mount, Dentry::make_detached("/dev/pts/" + std::to_string(index), node));
  return node->open(ctx, path, {flags});
}

}  // namespace rf::fs
