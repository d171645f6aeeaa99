// /sys: a small tree that does not change, made when it is mounted. What programs ask of it is how many CPUs there are.

#include <dirent.h>
#include <linux/magic.h>

#include <algorithm>
#include <map>

#include "fs/file.h"
#include "fs/filesystems.h"

namespace rf::fs {
namespace {

class SysFs;

struct Entry {
  std::string text;                                    // of a file
  std::map<std::string, Entry, std::less<>> children;  // of a directory
  bool directory = false;
  u64 ino = 0;
};

class SysInode final : public Inode {
 public:
  SysInode(SysFs& fs, const Entry& entry);
  u16 type() const override { return entry_.directory ? S_IFDIR : S_IFREG; }
  Result<Attributes> getattr(const Context&) override;
  Result<void> setattr(const Context&, const AttributeChange&) override { return err(EPERM); }
  Result<Ref<Inode>> lookup(const Context&, std::string_view name) override;
  Result<Ref<File>> open(const Context&, const Path& path, const OpenArgs& args) override;

 private:
  const Entry& entry_;  // the file system's
};

class SysFs final : public FileSystem {
 public:
  explicit SysFs(u32 cpus);
  const char* type() const override { return "sysfs"; }
  bool read_only() const override { return true; }
  // Inodes are made at each look-up and hold nothing that could be lost.
  Ref<Inode> root() override { return make_ref<SysInode>(*this, root_); }
  Result<struct ::statfs> statfs() override {
    struct ::statfs s {};
    s.f_type = SYSFS_MAGIC;
    s.f_bsize = kPageSize;
    s.f_namelen = NAME_MAX;
    return s;
  }
  const Timestamp made = Timestamp::now();

 private:
  Entry& add(std::string_view path, bool directory);
  void file(std::string_view path, std::string text) { add(path, false).text = std::move(text); }
  void directory(std::string_view path) { add(path, true); }

  Entry root_{.directory = true, .ino = 1};
  u64 last_ino_ = 1;
};

class SysFile final : public File {
 public:
  SysFile(const Path& path, int flags, const Entry& entry) : File(path, flags), entry_(entry) {}
  Result<size_t> pread(const Context&, mm::IoBuffer& dst, u64 offset) override {
    if (entry_.directory) return err(EISDIR);
    const std::string_view text(entry_.text);
    return dst.put(std::as_bytes(std::span(text.substr(std::min<u64>(offset, text.size())))));
  }
  Result<u64> seek(const Context& ctx, s64 offset, int whence) override;
  Result<void> readdir(const Context&, const std::function<bool(const DirEntry&)>& emit) override;

 private:
  const Entry& entry_;  // the file system's, which path() keeps
};

// A path of the tree from the top: directories on the way are made.
Entry& SysFs::add(std::string_view path, bool directory) {
  Entry* at = &root_;
  while (!path.empty()) {
    const size_t slash = std::min(path.find('/'), path.size());
    auto [found, made] = at->children.try_emplace(std::string(path.substr(0, slash)));
    at = &found->second;
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (!made) continue;
    at->directory = directory || !path.empty();
    at->ino = ++last_ino_;
  }
  return *at;
}

SysFs::SysFs(u32 cpus) {
  for (const char* d : {"block", "bus", "class/net", "dev/block", "dev/char", "devices/virtual", "firmware",
                        "fs/cgroup", "kernel/debug", "module", "power"})
    directory(d);
  const std::string range = cpus > 1 ? "0-" + std::to_string(cpus - 1) : "0";
  const std::string cpu = "devices/system/cpu/";
  for (const char* which : {"online", "possible", "present"}) file(cpu + which, range + "\n");
  file(cpu + "offline", "\n");
  file(cpu + "isolated", "\n");
  file(cpu + "kernel_max", std::to_string(std::max(cpus, 1u) - 1) + "\n");
  for (u32 i = 0; i < cpus; ++i) {
    const std::string one = cpu + "cpu" + std::to_string(i) + "/";
    const std::string number = std::to_string(i);
    if (i > 0) file(one + "online", "1\n");
    file(one + "topology/core_id", number + "\n");
    file(one + "topology/physical_package_id", "0\n");
    file(one + "topology/core_cpus_list", number + "\n");
    file(one + "topology/thread_siblings_list", number + "\n");
    file(one + "topology/core_siblings_list", range + "\n");
  }
  const std::string node = "devices/system/node/";
  for (const char* which : {"online", "possible", "has_cpu", "has_memory"}) file(node + which, "0\n");
  file(node + "node0/cpulist", range + "\n");
  const std::string huge = "kernel/mm/transparent_hugepage/";
  file(huge + "enabled", "always [madvise] never\n");
  file(huge + "shmem_enabled", "always within_size advise [never] deny force\n");
  file(huge + "hpage_pmd_size", std::to_string(kHugePageSize) + "\n");
  directory("kernel/mm/hugepages");
}

SysInode::SysInode(SysFs& fs, const Entry& entry) : Inode(fs), entry_(entry) {}

Result<Attributes> SysInode::getattr(const Context&) {
  Attributes a;
  a.ino = entry_.ino;
  a.mode = entry_.directory ? S_IFDIR | 0755 : S_IFREG | 0444;
  a.nlink = entry_.directory ? 2 : 1;
  a.size = entry_.directory ? 0 : kPageSize;
  a.atime = a.mtime = a.ctime = static_cast<SysFs&>(fs()).made;
  return a;
}

Result<Ref<Inode>> SysInode::lookup(const Context&, std::string_view name) {
  auto found = entry_.children.find(name);
  if (found == entry_.children.end()) return err(ENOENT);
  return make_ref<SysInode>(static_cast<SysFs&>(fs()), found->second);
}

Result<Ref<File>> SysInode::open(const Context&, const Path& path, const OpenArgs& args) {
  if ((args.flags & O_ACCMODE) != O_RDONLY) return err(EACCES);
  return make_ref<SysFile>(path, args.flags, entry_);
}

Result<u64> SysFile::seek(const Context& ctx, s64 offset, int whence) {
  if (!entry_.directory) return File::seek(ctx, offset, whence);
  FiberGuard guard(position_lock_);
  if (whence == SEEK_CUR)
    offset += static_cast<s64>(position_);
  else if (whence != SEEK_SET)
    return err(EINVAL);
  if (offset < 0) return err(EINVAL);
  return position_ = static_cast<u64>(offset);
}

Result<void> SysFile::readdir(const Context&, const std::function<bool(const DirEntry&)>& emit) {
  if (!entry_.directory) return err(ENOTDIR);
  FiberGuard guard(position_lock_);
  u64 at = 0;
  const auto give = [&](u64 ino, u8 type, std::string_view name) {
    if (at++ < position_) return true;
    if (!emit({ino, static_cast<s64>(at), type, name})) return false;
    position_ = at;
    return true;
  };
  if (!give(entry_.ino, DT_DIR, ".") || !give(entry_.ino, DT_DIR, "..")) return {};
  for (const auto& [name, child] : entry_.children)
    if (!give(child.ino, child.directory ? DT_DIR : DT_REG, name)) return {};
  return {};
}

}  // namespace

Ref<FileSystem> make_sysfs(mm::Frames&, u32 cpus) { return make_ref<SysFs>(cpus); }

}  // namespace rf::fs
