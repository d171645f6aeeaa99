// Open descriptions of what lives in memory.
#pragma once

#include "fs/file.h"
#include "fs/mem_attributes.h"
#include "fs/mem_data.h"
#include "fs/mem_directory.h"

namespace rf::fs {

// Whether a read through `file` is to be noted in atime.
bool updates_atime(const File& file);

// A regular file of a tmpfs, or whatever keeps its contents alike; both references live as long as the inode.
class MemFile final : public File {
 public:
  MemFile(Path path, int flags, MemData& data, MemAttributes& attributes)
      : File(std::move(path), flags), data_(data), attributes_(attributes) {}

  Result<size_t> pread(const Context& ctx, mm::IoBuffer& dst, u64 offset) override;
  Result<size_t> pwrite(const Context& ctx, mm::IoBuffer& src, u64 offset) override;
  Result<u64> seek(const Context& ctx, s64 offset, int whence) override;
  Result<void> fallocate(const Context& ctx, int mode, u64 offset, u64 len) override;

 private:
  MemData& data_;
  MemAttributes& attributes_;
};

// The parts of a directory listing that are the same everywhere. Positions 0 and 1 are "." and "..".
class DirectoryFile : public File {
 public:
  using File::File;
  using Emit = std::function<bool(const DirEntry&)>;
  Result<void> readdir(const Context& ctx, const Emit& emit) final;
  Result<void> fsync(bool) override { return {}; }

 protected:
  // Entries from `position` (2 at least) on, advancing it past each that emit() took. The inode's lock is held shared.
  virtual Result<void> list(const Context& ctx, u64& position, const Emit& emit) = 0;
  // Emits the entries of `directory` from `position` on; false when emit() had enough.
  static bool list_memory(const MemDirectory& directory, u64& position, const Emit& emit);
};

class MemDirectoryFile final : public DirectoryFile {
 public:
  MemDirectoryFile(Path path, int flags, MemDirectory& directory, MemAttributes& attributes)
      : DirectoryFile(std::move(path), flags), directory_(directory), attributes_(attributes) {}

 private:
  Result<void> list(const Context& ctx, u64& position, const Emit& emit) override;
  MemDirectory& directory_;
  MemAttributes& attributes_;
};

}  // namespace rf::fs
