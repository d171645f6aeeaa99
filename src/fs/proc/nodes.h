// The kinds of entry that /proc is made of. Everything is made when it is looked at: an inode lives as long as
// somebody holds it, and its text is made anew by each read from offset 0.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "fs/file.h"
#include "task/kernel.h"

namespace rf::proc {

class ProcFs final : public fs::FileSystem {
 public:
  explicit ProcFs(task::Kernel& kernel) : kernel(kernel) {}
  task::Kernel& kernel;
  const char* type() const override { return "proc"; }
  Ref<fs::Inode> root() override;
  Result<struct ::statfs> statfs() override;
  bool cacheable() const override { return false; }
  bool has_free_names() const override { return false; }
};

// Who owns an entry: a task's entries belong to its effective user.
struct Owner {
  u32 uid = 0, gid = 0;
};

class ProcInode : public fs::Inode {
 public:
  ProcInode(fs::FileSystem& fs, u64 ino, u16 mode, Owner owner = {})
      : Inode(fs), ino_(ino), mode_(mode), owner_(owner) {}
  u16 type() const override { return mode_ & S_IFMT; }
  Result<fs::Attributes> getattr(const fs::Context&) override;
  Result<void> setattr(const fs::Context&, const fs::AttributeChange& change) override;
  u64 ino() const { return ino_; }

 protected:
  ProcFs& procfs() const { return static_cast<ProcFs&>(fs()); }
  task::Kernel& kernel() const { return procfs().kernel; }
  virtual u32 links() const { return 1; }

 private:
  const u64 ino_;
  const u16 mode_;
  const Owner owner_;
};

// A regular file whose text is generated. `write`, when set, takes what one write(2) gives it.
class TextInode final : public ProcInode {
 public:
  using Generate = std::function<Result<std::string>(const fs::Context&)>;
  using Store = std::function<Result<void>(const fs::Context&, std::string_view)>;
  TextInode(fs::FileSystem& fs, u64 ino, u16 mode, Owner owner, Generate generate, Store store = nullptr)
      : ProcInode(fs, ino, S_IFREG | mode, owner), generate_(std::move(generate)), store_(std::move(store)) {}
  Result<Ref<fs::File>> open(const fs::Context& ctx, const fs::Path& path, const fs::OpenArgs& args) override;
  const Generate& generate() const { return generate_; }
  const Store& store() const { return store_; }

 private:
  const Generate generate_;
  const Store store_;
};

// A symbolic link. `follow`, when set, gives the place itself (a "magic" link).
class LinkInode final : public ProcInode {
 public:
  using Target = std::function<Result<std::string>(const fs::Context&)>;
  using Follow = std::function<Result<fs::Path>(const fs::Context&)>;
  LinkInode(fs::FileSystem& fs, u64 ino, Owner owner, Target target, Follow follow = nullptr)
      : ProcInode(fs, ino, S_IFLNK | 0777, owner), target_(std::move(target)), follow_(std::move(follow)) {}
  Result<std::string> readlink(const fs::Context& ctx) override { return target_(ctx); }
  Result<fs::Path> follow(const fs::Context& ctx) override { return follow_ ? follow_(ctx) : fs::Path(); }
  Result<Ref<fs::File>> open(const fs::Context&, const fs::Path&, const fs::OpenArgs&) override { return err(ELOOP); }

 private:
  const Target target_;
  const Follow follow_;
};

// A directory: look-ups and listings are the subclass's.
class DirInode : public ProcInode {
 public:
  DirInode(fs::FileSystem& fs, u64 ino, Owner owner = {}, u16 mode = 0555)
      : ProcInode(fs, ino, S_IFDIR | mode, owner) {}
  Result<Ref<fs::File>> open(const fs::Context& ctx, const fs::Path& path, const fs::OpenArgs& args) override;

  struct Entry {
    std::string name;
    u64 ino;
    u8 type;  // DT_*
  };
  // Everything but "." and "..". The order decides the offsets: it must be the same each time for what stays.
  virtual Result<std::vector<Entry>> list(const fs::Context& ctx) = 0;

  // Linux's proc fails the look-up of an unknown name already, so whoever would create it hears that too.
  Result<Ref<fs::Inode>> mknod(const fs::Context&, std::string_view, u16, u32, u32) override { return err(ENOENT); }
  Result<Ref<fs::Inode>> mkdir(const fs::Context&, std::string_view, u16) override { return err(ENOENT); }
  Result<Ref<fs::Inode>> symlink(const fs::Context&, std::string_view, std::string_view) override {
    return err(ENOENT);
  }

 protected:
  u32 links() const override { return 2; }
};

// A directory whose entries are known when it is made.
class StaticDir final : public DirInode {
 public:
  using Make = std::function<Ref<fs::Inode>(fs::FileSystem&, u64 ino)>;
  StaticDir(fs::FileSystem& fs, u64 ino) : DirInode(fs, ino) {}
  void add(std::string name, u8 type, Make make);
  void add_text(std::string name, TextInode::Generate generate, u16 mode = 0444, TextInode::Store store = nullptr);
  // Text that never changes; a newline is added.
  void add_value(std::string name, std::string value) {
    add_text(std::move(name), [v = std::move(value) + "\n"](const fs::Context&) { return v; });
  }
  StaticDir& add_dir(const std::string& name);

  Result<Ref<fs::Inode>> lookup(const fs::Context& ctx, std::string_view name) override;
  Result<std::vector<Entry>> list(const fs::Context& ctx) override;

 private:
  struct Slot {
    u64 ino;
    u8 type;
    Make make;
  };
  std::map<std::string, Slot, std::less<>> entries_;
};

// Inode numbers: fixed entries count up from 1; a task's are its id and the entry's place.
u64 next_static_ino();
constexpr u64 task_ino(task::Pid tid, u32 entry) { return u64{1} << 40 | static_cast<u64>(tid) << 16 | entry; }

// The entries.
void add_global_files(StaticDir& root, task::Kernel& kernel);
void add_sys_files(StaticDir& root, task::Kernel& kernel);
// /proc/PID, or /proc/PID/task/TID when `thread`; null when there is no such process or thread.
Ref<fs::Inode> make_task_dir(fs::FileSystem& fs, task::Kernel& kernel, task::Pid id, bool thread);

// --- Texts of one task's files (task_text.cc) ---
std::string status_text(task::Task& t);
std::string stat_text(task::Task& t, bool whole_group);
std::string statm_text(task::Task& t);
std::string maps_text(task::Task& t, bool with_usage);
std::string limits_text(task::Task& t);
std::string mounts_text(task::Kernel& kernel, const fs::Path& root);
std::string mountinfo_text(task::Kernel& kernel, const fs::Path& root);
// The task's memory; null once it has exited.
Ref<mm::MemoryManager> memory_of(task::Task& t);
char state_letter(task::Task& t);

}  // namespace rf::proc
