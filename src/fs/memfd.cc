// memfd_create(2) and file seals.
//
// A memfd is a regular file in memory that no directory holds. Seals belong to its inode. Each writable shared mapping
// holds a map object of its own, so that F_SEAL_WRITE can tell whether there is one. Lock order: Inode::lock (taken by
// the VFS around some of these) > MemfdInode::lock_.
#include <linux/falloc.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <unistd.h>

#include "fs/dentry.h"
#include "fs/mem_attributes.h"
#include "fs/mem_data.h"
#include "fs/special_files.h"
#include "fs/vfs.h"

// Newer than some systems' headers.
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC 0x0010U
#endif

namespace rf::fs {

namespace {

constexpr u32 kWriteSeals = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
constexpr u32 kAllSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | kWriteSeals | F_SEAL_EXEC;
constexpr size_t kMaxName = 249;

// All memfds, in one mount that is nowhere.
class MemfdFs final : public FileSystem {
 public:
  static const Ref<Mount>& mount() {
    static Ref<Mount>& mount = *new Ref<Mount>(make_ref<Mount>(make_ref<MemfdFs>(), nullptr));
    return mount;
  }
  const char* type() const override { return "tmpfs"; }
  Ref<Inode> root() override { return nullptr; }
  Result<struct ::statfs> statfs() override {
    struct ::statfs s = {};
    s.f_type = TMPFS_MAGIC;
    s.f_bsize = s.f_frsize = kPageSize;
    s.f_namelen = 255;
    return s;
  }
};

class MemfdInode final : public Inode {
 public:
  MemfdInode(mm::Frames& frames, const Attributes& attributes, std::string name, u32 seals)
      : Inode(*MemfdFs::mount()->fs),
        name_(std::move(name)),
        space_(frames, 0),
        attr_(space_, attributes),
        data_(space_),
        seals_(seals) {}

  u16 type() const override { return S_IFREG; }
  Result<Attributes> getattr(const Context&) override {
    Attributes a = attr_.get();
    a.size = data_.size();
    a.blocks = data_.blocks();
    return a;
  }
  Result<void> setattr(const Context& ctx, const AttributeChange& change) override;
  Result<void> permission(const Context& ctx, int mask) override { return check_mode(ctx, attr_.get(), mask); }
  Result<Ref<File>> open(const Context& ctx, const Path& path, const OpenArgs& args) override;
  mm::Mappable* mappable() override { return &data_; }

  Result<size_t> read(mm::IoBuffer& dst, u64 offset);
  Result<size_t> write(const Context& ctx, mm::IoBuffer& src, u64 offset);
  Result<void> fallocate(const Context& ctx, int mode, u64 offset, u64 len);
  Result<u64> seek_data(u64 offset, int whence) const { return data_.seek(offset, whence); }
  Result<Ref<mm::MapObject>> map(Ref<File> file, File::MapUse& use);

  u32 seals() const { return seals_.load(); }
  Result<void> add_seals(u32 seals);

  const std::string& name() const { return name_; }
  u64 ino() const { return attr_.ino(); }
  void drop_writable_mapping() { writable_mappings_.fetch_sub(1); }

 private:
  const std::string name_;  // "/memfd:name (deleted)"
  MemSpace space_;
  MemAttributes attr_;
  MemData data_;
  FiberMutex lock_;  // held by what seals forbid, and while seals are added
  std::atomic<u32> seals_;
  std::atomic<u32> writable_mappings_{0};
};

class MemfdMapping final : public mm::MapObject {
 public:
  MemfdMapping(Ref<File> file, MemfdInode& inode, bool writable)
      : file_(std::move(file)), inode_(inode), writable_(writable) {}
  mm::Mappable& mappable() override { return *inode_.mappable(); }
  Identity identity() const override { return {0, inode_.fs().dev_minor(), inode_.ino(), inode_.name()}; }

 private:
  ~MemfdMapping() override {
    if (writable_) inode_.drop_writable_mapping();
  }
  const Ref<File> file_;
  MemfdInode& inode_;
  const bool writable_;
};

class MemfdFile final : public File {
 public:
  MemfdFile(Path path, int flags, MemfdInode& inode) : File(std::move(path), flags), inode_(inode) {}
  MemfdInode& memfd() { return inode_; }

  Result<size_t> pread(const Context&, mm::IoBuffer& dst, u64 offset) override { return inode_.read(dst, offset); }
  Result<size_t> pwrite(const Context& ctx, mm::IoBuffer& src, u64 offset) override {
    return inode_.write(ctx, src, offset);
  }
  Result<u64> seek(const Context& ctx, s64 offset, int whence) override {
    if (whence != SEEK_DATA && whence != SEEK_HOLE) return File::seek(ctx, offset, whence);
    if (offset < 0) return err(ENXIO);
    FiberGuard guard(position_lock_);
    return position_ = TRY(inode_.seek_data(static_cast<u64>(offset), whence));
  }
  Result<void> fallocate(const Context& ctx, int mode, u64 offset, u64 len) override {
    return inode_.fallocate(ctx, mode, offset, len);
  }
  Result<Ref<mm::MapObject>> map_object() override {
    MapUse use;
    return map_object_for(use);
  }
  Result<Ref<mm::MapObject>> map_object_for(MapUse& use) override { return inode_.map(Ref<File>(this), use); }

 private:
  MemfdInode& inode_;  // path() holds it
};

Result<size_t> MemfdInode::read(mm::IoBuffer& dst, u64 offset) {
  size_t n = TRY(data_.read(dst, offset));
  attr_.touch_atime();
  return n;
}

Result<size_t> MemfdInode::write(const Context& ctx, mm::IoBuffer& src, u64 offset) {
  FiberGuard guard(lock_);
  if (seals_.load() & kWriteSeals) return err(EPERM);
  u64 len = src.remaining(), size = data_.size();
  u64 allowed = len;
  if ((seals_.load() & F_SEAL_GROW) && offset + len > size) {
    // Linux writes page by page, and stops before the first piece that ends beyond the file.
    u64 last = page_down(size);
    allowed = last > offset ? last - offset : 0;
    if (allowed == 0) return err(EPERM);
  }
  mm::IoBuffer part = src.prefix(allowed);
  size_t n = TRY(data_.write(part, offset));
  src.advance(n);
  if (n != 0) attr_.note_write(ctx);
  return n;
}

Result<void> MemfdInode::setattr(const Context&, const AttributeChange& change) {
  FiberGuard guard(lock_);
  const u32 seals = seals_.load();
  if ((change.mask & AttributeChange::kMode) && (seals & F_SEAL_EXEC) && ((change.mode ^ attr_.mode()) & 0111))
    return err(EPERM);
  if (change.mask & AttributeChange::kSize) {
    u64 size = data_.size();
    if ((change.size < size && (seals & F_SEAL_SHRINK)) || (change.size > size && (seals & F_SEAL_GROW)))
      return err(EPERM);
    TRY(data_.truncate(change.size));
  }
  attr_.apply(change);
  return {};
}

Result<void> MemfdInode::fallocate(const Context& ctx, int mode, u64 offset, u64 len) {
  FiberGuard guard(lock_);
  if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
    if (seals_.load() & kWriteSeals) return err(EPERM);
  } else if ((seals_.load() & F_SEAL_GROW) && offset + len > data_.size()) {
    return err(EPERM);
  }
  TRY(data_.fallocate(mode, offset, len, ctx.file_size_limit));
  attr_.note_write(ctx);
  return {};
}

Result<Ref<mm::MapObject>> MemfdInode::map(Ref<File> file, File::MapUse& use) {
  FiberGuard guard(lock_);
  bool writable = use.shared && use.may_write;
  if (writable && (seals_.load() & kWriteSeals)) {
    if (use.write) return err(EPERM);
    use.may_write = writable = false;
  }
  if (writable) writable_mappings_.fetch_add(1);
  return Ref<mm::MapObject>(make_ref<MemfdMapping>(std::move(file), *this, writable));
}

Result<void> MemfdInode::add_seals(u32 seals) {
  if (seals & ~kAllSeals) return err(EINVAL);
  FiberGuard guard(lock_);
  if (seals_.load() & F_SEAL_SEAL) return err(EPERM);
  if ((seals & F_SEAL_WRITE) && !(seals_.load() & F_SEAL_WRITE) && writable_mappings_.load() != 0) return err(EBUSY);
  // An executable that cannot lose its x bits should not change either.
  if ((seals & F_SEAL_EXEC) && (attr_.mode() & 0111)) seals |= F_SEAL_SHRINK | F_SEAL_GROW | kWriteSeals;
  seals_.fetch_or(seals);
  return {};
}

Result<Ref<File>> MemfdInode::open(const Context&, const Path& path, const OpenArgs& args) {
  return Ref<File>(make_ref<MemfdFile>(path, args.flags, *this));
}

}  // namespace

Result<Ref<File>> make_memfd(mm::Frames& frames, const std::string& name, u32 flags) {
  if (flags & ~(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC)) return err(EINVAL);
  if ((flags & MFD_EXEC) && (flags & MFD_NOEXEC_SEAL)) return err(EINVAL);
  if (name.size() > kMaxName) return err(EINVAL);
  u32 seals = F_SEAL_SEAL;
  if (flags & MFD_NOEXEC_SEAL)
    seals = F_SEAL_EXEC;
  else if (flags & MFD_ALLOW_SEALING)
    seals = 0;

  static std::atomic<u64> last_ino{0};
  Attributes attr;
  attr.ino = last_ino.fetch_add(1) + 1;
  attr.mode = S_IFREG | ((flags & MFD_NOEXEC_SEAL) ? 0666 : 0777);
  attr.nlink = 0;
  attr.atime = attr.mtime = attr.ctime = Timestamp::now();
  std::string shown = "/memfd:" + name + " (deleted)";
  auto inode = make_ref<MemfdInode>(frames, attr, shown, seals);
  Path path(MemfdFs::mount(), Dentry::make_detached(std::move(shown), inode));
  return Ref<File>(make_ref<MemfdFile>(std::move(path), O_RDWR, *inode));
}

Result<u32> get_seals(File& f) {
  auto* file = dynamic_cast<MemfdFile*>(&f);
  if (!file) return err(EINVAL);
  return file->memfd().seals();
}

Result<void> add_seals(File& f, u32 seals) {
  auto* file = dynamic_cast<MemfdFile*>(&f);
  if (!file) return err(EINVAL);
  if (!f.writable()) return err(EPERM);
  return file->memfd().add_seals(seals);
}

}  // namespace rf::fs
