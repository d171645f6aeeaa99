// Open file descriptions: what a file descriptor refers to.
//
// Operations that move data take an IoBuffer and may suspend. Those that would block wait only when the description is
// not O_NONBLOCK; an interrupted wait gives ERESTARTSYS (as err(kERESTARTSYS)) unless data moved already.
#pragma once

#include <fcntl.h>
#include <poll.h>

#include <functional>
#include <string>

#include "core/mutex.h"
#include "core/wait_queue.h"
#include "fs/inode.h"
#include "mm/io_buffer.h"

namespace rf::fs {

class EpollFile;

// One entry for getdents64(2).
struct DirEntry {
  u64 ino = 0;
  s64 next_offset = 0;  // what lseek takes to continue after it
  u8 type = 0;          // DT_*
  std::string_view name;
};

class File : public RefCounted {
 public:
  File(Path path, int flags) : path_(std::move(path)), flags_(flags) {}

  const Path& path() const { return path_; }
  Inode& inode() const;
  // O_ACCMODE, O_APPEND, O_NONBLOCK, ..., as F_GETFL gives them.
  int flags() const { return flags_.load(std::memory_order_relaxed); }
  void set_flags(int flags) { flags_.store(flags, std::memory_order_relaxed); }
  bool nonblocking() const { return (flags() & O_NONBLOCK) != 0; }
  bool readable() const { return (flags() & O_ACCMODE) != O_WRONLY && (flags() & O_PATH) == 0; }
  bool writable() const { return (flags() & O_ACCMODE) != O_RDONLY && (flags() & O_PATH) == 0; }

  // --- Data. The call layer has checked readable()/writable(). ---
  // At the description's position, which advances; files without one ignore it. The defaults use pread/pwrite under
  // the position lock.
  virtual Result<size_t> read(const Context& ctx, mm::IoBuffer& dst);
  virtual Result<size_t> write(const Context& ctx, mm::IoBuffer& src);
  // ESPIPE for what cannot seek; EINVAL where the operation makes no sense, EISDIR for directories.
  // An implementation of pwrite() writes where it is told: O_APPEND and RLIMIT_FSIZE are write_at()'s.
  virtual Result<size_t> pread(const Context& ctx, mm::IoBuffer& dst, u64 offset);
  virtual Result<size_t> pwrite(const Context& ctx, mm::IoBuffer& src, u64 offset);
  // What pwrite64(2) and its kin call: for regular files, appends when O_APPEND says so (whatever `offset`), with the
  // inode's lock held so that appends do not mix, and keeps to RLIMIT_FSIZE (EFBIG: the caller sends SIGXFSZ). `offset`
  // advances to the end of what was written.
  Result<size_t> write_at(const Context& ctx, mm::IoBuffer& src, u64& offset);
  // lseek(2); the default: SEEK_SET, CUR and END on the inode's size.
  virtual Result<u64> seek(const Context& ctx, s64 offset, int whence);
  virtual bool seekable() const { return true; }

  // Whether EPIPE of a write raises SIGPIPE too; not that of datagram sockets.
  virtual bool broken_pipe_signals() const { return true; }

  // Directories: calls emit() for the entries from the position on until it returns false.
  virtual Result<void> readdir(const Context& ctx, const std::function<bool(const DirEntry&)>& emit);

  // The poll bits that hold now. Regular files: always readable and writable.
  virtual EventMask poll() { return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM; }
  // Registers for poll events (and starts whatever delivers them). Pollers register, then call poll(). May suspend.
  virtual void poll_register(Waiter&) {}
  virtual void poll_unregister(Waiter&) {}

  // `arg` is the guest's: an address or a value. ENOTTY.
  virtual Result<u64> ioctl(const Context& ctx, u32 request, u64 arg);
  virtual Result<void> fsync(bool /*data_only*/) { return {}; }
  virtual Result<void> truncate(const Context& ctx, u64 size);  // the default: setattr
  virtual Result<void> fallocate(const Context& ctx, int mode, u64 offset, u64 len);
  // What mmap(2) maps; ENODEV. The default: the inode's mappable().
  virtual Result<Ref<mm::MapObject>> map_object();
  // What mmap(2) calls: as map_object(), for a mapping of this kind. Sealed files refuse (EPERM) or clear `may_write`.
  // The object lives as long as any part of the mapping does.
  struct MapUse {
    bool shared = false;
    bool write = false;      // PROT_WRITE
    bool may_write = false;  // shared, and the description is open for writing: mprotect may add PROT_WRITE
  };
  virtual Result<Ref<mm::MapObject>> map_object_for(MapUse& /*use*/) { return map_object(); }
  // close(2) of one descriptor: flush. Errors are reported to the guest; the descriptor is gone anyway.
  virtual Result<void> flush(const Context&) { return {}; }
  // Lines after pos/flags/mnt_id in /proc/PID/fdinfo.
  virtual std::string fdinfo() { return ""; }

  // Where the next read or write is.
  virtual u64 position() const { return position_; }

  // epoll instances that watch this description; managed by fs/epoll.
  SpinLock epoll_lock;
  void* epoll_items = nullptr;

  // F_SETOWN and F_SETSIG, for SIGIO/SIGURG.
  struct Owner {
    int type = 0;  // F_OWNER_*
    s32 pid = 0;
    int signal = 0;
  };
  Owner owner;

 protected:
  ~File() override;
  // Runs on the last close. May suspend.
  void last_unref() override;
  // What a subclass does when the description goes (release in Linux's file_operations).
  virtual void release() {}
  // The size that appends and SEEK_END go by; the default: the inode's.
  virtual Result<u64> size(const Context& ctx);

  FiberMutex position_lock_;
  u64 position_ = 0;  // guarded by position_lock_

 private:
  friend class Opener;  // fs/open.cc: what this description counts in Inode::exec_denials
  Path path_;
  std::atomic<int> flags_;
  s8 exec_denial_ = 0;  // what it added to Inode::exec_denials: 1 executing, -1 open for writing
};

}  // namespace rf::fs
