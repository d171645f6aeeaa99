// For tests: a tree of mounts over a tmpfs (or another root), calls on it by short names, and results as errno values.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/fault.h"
#include "core/test_scheduler.h"
#include "fs/dentry_cache.h"
#include "fs/fd_table.h"
#include "fs/filesystems.h"
#include "fs/vfs.h"

namespace rf::fs {

constexpr int error_of(const auto& result) { return result ? 0 : errno_value(result.error()); }

class FsTest : public ::testing::Test {
 protected:
  static constexpr u64 kLimit = u64{256} << 20;

  FsTest() {
    install_fault_handlers();
    memory_ = std::move(*platform::GuestMemory::create());
    frames_ = mm::Frames::create(*memory_, kLimit);
  }
  ~FsTest() override { EXPECT_EQ(frames_->used(), 0u) << "frames leaked"; }

  virtual Ref<FileSystem> make_root_fs() { return make_tmpfs(*frames_, 0, 0755); }

  // Runs `body` on a fiber with a fresh Vfs, as root.
  void run(const std::function<void()>& body, u32 workers = 1) {
    run_fibers(workers, [&] {
      vfs_ = std::move(*Vfs::create(make_root_fs(), "root", 0));
      creds_ = make_ref<Credentials>();
      cwd_ = vfs_->root();
      body();
      cwd_ = Path();
      vfs_.reset();
    });
  }

  Context ctx() const { return {.creds = *creds_, .root = vfs_->root(), .cwd = cwd_, .umask = umask_}; }
  void become(u32 uid, u32 gid, std::vector<u32> groups = {}) {
    creds_ = make_ref<Credentials>();
    creds_->uid = creds_->euid = creds_->suid = creds_->fsuid = uid;
    creds_->gid = creds_->egid = creds_->sgid = creds_->fsgid = gid;
    creds_->groups = std::move(groups);
    if (uid != 0) creds_->effective = creds_->permitted = 0;
  }

  Path at(std::string_view path, bool follow = true) {
    auto r = vfs_->walk(ctx(), nullptr, path, {.follow = follow});
    EXPECT_EQ(error_of(r), 0) << path;
    return r.value_or(Path());
  }
  int walk(std::string_view path, bool follow = true, u64 resolve = 0) {
    return error_of(vfs_->walk(ctx(), nullptr, path, {.follow = follow, .resolve = resolve}));
  }
  Result<Ref<File>> try_open(std::string_view path, int flags, u16 mode = 0644, u64 resolve = 0) {
    return vfs_->open(ctx(), nullptr, path, flags, mode, resolve);
  }
  int open_error(std::string_view path, int flags, u16 mode = 0644) { return error_of(try_open(path, flags, mode)); }
  Ref<File> open(std::string_view path, int flags, u16 mode = 0644) {
    auto r = try_open(path, flags, mode);
    EXPECT_EQ(error_of(r), 0) << path;
    return r ? *r : nullptr;
  }
  int mkdir(std::string_view path, u16 mode = 0755) { return error_of(vfs_->mkdir(ctx(), nullptr, path, mode)); }
  int symlink(std::string_view target, std::string_view path) {
    return error_of(vfs_->symlink(ctx(), target, nullptr, path));
  }
  int link(std::string_view from, std::string_view to) {
    auto target = vfs_->walk(ctx(), nullptr, from, {.follow = false});
    if (!target) return error_of(target);
    return error_of(vfs_->link(ctx(), *target, nullptr, to));
  }
  int unlink(std::string_view path) { return error_of(vfs_->unlink(ctx(), nullptr, path)); }
  int rmdir(std::string_view path) { return error_of(vfs_->rmdir(ctx(), nullptr, path)); }
  int rename(std::string_view from, std::string_view to, u32 flags = 0) {
    return error_of(vfs_->rename(ctx(), nullptr, from, nullptr, to, flags));
  }
  int mknod(std::string_view path, u16 mode, u32 major = 0, u32 minor = 0) {
    return error_of(vfs_->mknod(ctx(), nullptr, path, mode, major, minor));
  }
  int chmod(std::string_view path, u16 mode) { return error_of(vfs_->chmod(ctx(), at(path), mode)); }
  int chown(std::string_view path, u32 uid, u32 gid) { return error_of(vfs_->chown(ctx(), at(path, false), uid, gid)); }
  Attributes stat(std::string_view path, bool follow = true) {
    auto r = vfs_->getattr(ctx(), at(path, follow));
    EXPECT_EQ(error_of(r), 0) << path;
    return r.value_or(Attributes());
  }
  std::string path_of(const Path& p) { return vfs_->path_of(p, vfs_->root()); }

  // --- Data ---
  Result<size_t> write(File& f, std::string_view text) {
    auto buffer = mm::IoBuffer::from_const(std::as_bytes(std::span(text)));
    return f.write(ctx(), buffer);
  }
  Result<size_t> pwrite(File& f, std::string_view text, u64 offset) {
    auto buffer = mm::IoBuffer::from_const(std::as_bytes(std::span(text)));
    return f.write_at(ctx(), buffer, offset);
  }
  std::string read(File& f, size_t max = 1 << 20) {
    std::string text(max, 0);
    mm::IoBuffer buffer(std::as_writable_bytes(std::span(text)));
    auto n = f.read(ctx(), buffer);
    EXPECT_EQ(error_of(n), 0);
    text.resize(n.value_or(0));
    return text;
  }
  std::string pread(File& f, u64 offset, size_t max = 1 << 20) {
    std::string text(max, 0);
    mm::IoBuffer buffer(std::as_writable_bytes(std::span(text)));
    auto n = f.pread(ctx(), buffer, offset);
    EXPECT_EQ(error_of(n), 0);
    text.resize(n.value_or(0));
    return text;
  }
  void put(std::string_view path, std::string_view text) {
    Ref<File> f = open(path, O_WRONLY | O_CREAT | O_TRUNC);
    ASSERT_TRUE(f);
    EXPECT_EQ(write(*f, text).value_or(0), text.size());
  }
  std::string get(std::string_view path) {
    Ref<File> f = open(path, O_RDONLY);
    return f ? read(*f) : "(not opened)";
  }

  // Names in the order of the listing, without "." and "..".
  std::vector<std::string> list(File& directory) {
    std::vector<std::string> names;
    auto r = directory.readdir(ctx(), [&](const DirEntry& e) {
      if (e.name != "." && e.name != "..") names.emplace_back(e.name);
      return true;
    });
    EXPECT_EQ(error_of(r), 0);
    return names;
  }
  std::vector<std::string> list(std::string_view path) {
    Ref<File> f = open(path, O_RDONLY | O_DIRECTORY);
    return f ? list(*f) : std::vector<std::string>{"(not opened)"};
  }

  std::unique_ptr<platform::GuestMemory> memory_;
  std::unique_ptr<mm::Frames> frames_;
  std::unique_ptr<Vfs> vfs_;
  Ref<Credentials> creds_;
  Path cwd_;
  u32 umask_ = 022;
};

}  // namespace rf::fs
