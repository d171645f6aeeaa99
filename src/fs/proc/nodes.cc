#include "fs/proc/nodes.h"

#include <dirent.h>
#include <linux/magic.h>

namespace rf::proc {
namespace {

constexpr size_t kMaxWrite = 4096;  // of one store

class TextFile final : public fs::File {
 public:
  TextFile(const fs::Path& path, int flags, Ref<TextInode> inode) : File(path, flags), inode_(std::move(inode)) {}

  Result<size_t> pread(const fs::Context& ctx, mm::IoBuffer& dst, u64 offset) override {
    FiberGuard guard(text_lock_);
    if (offset == 0 || !made_) {
      text_ = TRY(inode_->generate()(ctx));
      made_ = true;
    }
    if (offset >= text_.size()) return 0;
    const std::string_view rest = std::string_view(text_).substr(offset);
    return dst.put(std::as_bytes(std::span(rest)));
  }

  Result<size_t> pwrite(const fs::Context& ctx, mm::IoBuffer& src, u64) override {
    if (!inode_->store()) return err(EACCES);
    std::string text(std::min<u64>(src.remaining(), kMaxWrite), '\0');
    const size_t n = TRY(src.get(std::as_writable_bytes(std::span(text))));
    text.resize(n);
    TRY(inode_->store()(ctx, text));
    return n;
  }

  Result<void> truncate(const fs::Context&, u64) override { return {}; }

 private:
  const Ref<TextInode> inode_;
  FiberMutex text_lock_;
  std::string text_;
  bool made_ = false;
};

class DirFile final : public fs::File {
 public:
  DirFile(const fs::Path& path, int flags, Ref<DirInode> inode) : File(path, flags), inode_(std::move(inode)) {}

  Result<size_t> pread(const fs::Context&, mm::IoBuffer&, u64) override { return err(EISDIR); }

  // Offsets count entries: 0 is ".", 1 is "..".
  Result<void> readdir(const fs::Context& ctx, const std::function<bool(const fs::DirEntry&)>& emit) override {
    const std::vector<DirInode::Entry> entries = TRY(inode_->list(ctx));
    FiberGuard guard(position_lock_);
    for (u64 i = position_; i < entries.size() + 2; ++i) {
      fs::DirEntry e{
          .ino = inode_->ino(), .next_offset = static_cast<s64>(i) + 1, .type = DT_DIR, .name = i == 0 ? "." : ".."};
      if (i >= 2) {
        e.ino = entries[i - 2].ino;
        e.type = entries[i - 2].type;
        e.name = entries[i - 2].name;
      }
      if (!emit(e)) break;
      position_ = i + 1;
    }
    return {};
  }

  Result<u64> seek(const fs::Context&, s64 offset, int whence) override {
    FiberGuard guard(position_lock_);
    if (whence == SEEK_CUR)
      offset += static_cast<s64>(position_);
    else if (whence != SEEK_SET)
      return err(EINVAL);
    if (offset < 0) return err(EINVAL);
    return position_ = static_cast<u64>(offset);
  }

 private:
  const Ref<DirInode> inode_;
};

}  // namespace

u64 next_static_ino() {
  static std::atomic<u64> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

Result<fs::Attributes> ProcInode::getattr(const fs::Context&) {
  fs::Attributes a;
  a.ino = ino_;
  a.mode = mode_;
  a.nlink = links();
  a.uid = owner_.uid;
  a.gid = owner_.gid;
  a.block_size = 1024;
  a.atime = a.mtime = a.ctime = fs::Timestamp::now();
  return a;
}

// Sizes are accepted, since `echo x > file` truncates first; the rest of an entry is not the guest's to change.
Result<void> ProcInode::setattr(const fs::Context&, const fs::AttributeChange& change) {
  constexpr u32 kHarmless = fs::AttributeChange::kSize | fs::AttributeChange::kCtime | fs::AttributeChange::kMtime;
  if ((change.mask & ~kHarmless) != 0) return err(EPERM);
  return {};
}

Result<Ref<fs::File>> TextInode::open(const fs::Context&, const fs::Path& path, const fs::OpenArgs& args) {
  return Ref<fs::File>(make_ref<TextFile>(path, args.flags, Ref<TextInode>(this)));
}

Result<Ref<fs::File>> DirInode::open(const fs::Context&, const fs::Path& path, const fs::OpenArgs& args) {
  return Ref<fs::File>(make_ref<DirFile>(path, args.flags, Ref<DirInode>(this)));
}

void StaticDir::add(std::string name, u8 type, Make make) {
  entries_.emplace(std::move(name), Slot{next_static_ino(), type, std::move(make)});
}

void StaticDir::add_text(std::string name, TextInode::Generate generate, u16 mode, TextInode::Store store) {
  add(std::move(name), DT_REG,
      [mode, generate = std::move(generate), store = std::move(store)](fs::FileSystem& f, u64 ino) -> Ref<fs::Inode> {
        return make_ref<TextInode>(f, ino, mode, Owner{}, generate, store);
      });
}

StaticDir& StaticDir::add_dir(const std::string& name) {
  auto dir = make_ref<StaticDir>(fs(), next_static_ino());
  StaticDir& result = *dir;
  entries_.emplace(name, Slot{dir->ino(), DT_DIR, [dir](fs::FileSystem&, u64) -> Ref<fs::Inode> { return dir; }});
  return result;
}

Result<Ref<fs::Inode>> StaticDir::lookup(const fs::Context&, std::string_view name) {
  const auto it = entries_.find(name);
  if (it == entries_.end()) return err(ENOENT);
  return it->second.make(fs(), it->second.ino);
}

Result<std::vector<DirInode::Entry>> StaticDir::list(const fs::Context&) {
  std::vector<Entry> out;
  for (const auto& [name, slot] : entries_) out.push_back({name, slot.ino, slot.type});
  return out;
}

Result<struct ::statfs> ProcFs::statfs() {
  struct ::statfs s {};
  s.f_type = PROC_SUPER_MAGIC;
  s.f_bsize = s.f_frsize = static_cast<s64>(kPageSize);
  s.f_namelen = NAME_MAX;
  return s;
}

}  // namespace rf::proc
