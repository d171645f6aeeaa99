// The host side of a stream the sandbox was started with, and the files over it. Internal to fs/host_stream*.cc.
#pragma once

#include <memory>

#include "fs/file.h"
#include "fs/tty.h"
#include "hostio/calls.h"
#include "hostio/ring.h"
#include "mm/mappable.h"

namespace rf::fs {

class HostTerminal;

// A host descriptor of ours (a copy, or better a description of our own of the same object), shared by the files that
// are open over it. The host's O_NONBLOCK is never changed: that description belongs to whoever started the
// sandbox as well.
class HostEnd final : public RefCounted {
 public:
  enum class Kind : u8 {
    kRegular,
    kOwn,     // a description of ours with O_NONBLOCK: plain calls do not wait
    kSocket,  // MSG_DONTWAIT says it call by call
    kOther,   // RWF_NOWAIT where the host has it, the ring where not
  };

  HostEnd(hostio::HostFd fd, Kind kind, int access);

  int fd() const { return fd_.get(); }
  Kind kind() const { return kind_; }
  bool regular() const { return kind_ == Kind::kRegular; }
  // Whether its access mode covers that of `flags`.
  bool allows(int flags) const;

  // At the host's own position. EAGAIN instead of waiting for data or room (regular files wait for the disk). May
  // suspend, interruptibly: ERESTARTSYS.
  Result<size_t> try_read(std::span<const iovec> iov);
  Result<size_t> try_write(std::span<const iovec> iov);
  // At `offset` of a regular file. May suspend.
  Result<size_t> read_at(std::span<const iovec> iov, s64 offset);
  Result<size_t> write_at(std::span<const iovec> iov, s64 offset);

  // Suspends until one of `events` holds, or ERESTARTSYS.
  Result<void> wait(EventMask events);

  // Null for regular files, which are always ready.
  hostio::FdWatch* watch() { return watch_.get(); }
  // The poll bits that hold now.
  EventMask ready() const;

 private:
  ~HostEnd() override = default;

  hostio::HostFd fd_;
  const Kind kind_;
  const int access_;  // O_ACCMODE bits
  std::unique_ptr<hostio::FdWatch> watch_;
};

// stdin, stdout or stderr in no directory of the guest's: what fstat(2) and /proc/self/fd see.
class HostStreamInode final : public Inode {
 public:
  // `frames` (null: not mappable) is for regular files.
  HostStreamInode(FileSystem& fs, Ref<HostEnd> end, Ref<HostTerminal> terminal, u16 type, mm::Frames* frames);

  u16 type() const override { return type_; }
  Result<Attributes> getattr(const Context& ctx) override;
  Result<void> setattr(const Context& ctx, const AttributeChange& change) override;
  Result<void> permission(const Context& ctx, int mask) override;
  Result<Ref<File>> open(const Context& ctx, const Path& path, const OpenArgs& args) override;
  mm::Mappable* mappable() override { return pages_.get(); }

 private:
  ~HostStreamInode() override;

  const Ref<HostEnd> end_;
  const Ref<HostTerminal> terminal_;
  const u16 type_;
  const std::unique_ptr<mm::HostFilePages> pages_;
};

// An open file over a HostEnd.
class HostStream final : public File {
 public:
  // `own_position`: a regular file with a position of its own, not the one it shares with the host's processes.
  HostStream(Path path, int flags, Ref<HostEnd> end, Ref<HostTerminal> terminal, bool own_position);

  Result<size_t> read(const Context& ctx, mm::IoBuffer& dst) override;
  Result<size_t> write(const Context& ctx, mm::IoBuffer& src) override;
  Result<size_t> pread(const Context& ctx, mm::IoBuffer& dst, u64 offset) override;
  Result<size_t> pwrite(const Context& ctx, mm::IoBuffer& src, u64 offset) override;
  Result<u64> seek(const Context& ctx, s64 offset, int whence) override;
  bool seekable() const override { return end_->regular(); }
  u64 position() const override;
  EventMask poll() override;
  void poll_register(Waiter& waiter) override;
  void poll_unregister(Waiter& waiter) override;
  Result<u64> ioctl(const Context& ctx, u32 request, u64 arg) override;
  Result<void> fsync(bool data_only) override;
  Result<void> truncate(const Context& ctx, u64 size) override;
  Result<void> fallocate(const Context& ctx, int mode, u64 offset, u64 len) override;

 private:
  Result<size_t> read_stream(const Context& ctx, mm::IoBuffer& dst);
  Result<size_t> write_stream(const Context& ctx, mm::IoBuffer& src);

  const Ref<HostEnd> end_;
  const Ref<HostTerminal> terminal_;
  const bool own_position_;
};

// The host's terminal as a Tty of the sandbox's: settings and data are the host's, sessions and groups ours.
class HostTerminal final : public Tty {
 public:
  static constexpr u32 kTtyMajor = 5, kConsoleMinor = 1;  // the guest knows it as /dev/console

  explicit HostTerminal(Ref<HostEnd> end, u64 rdev) : end_(std::move(end)), rdev_(rdev) {}

  Result<Ref<File>> open(const Context& ctx, const Path& path, int flags) override;
  u64 rdev() const { return rdev_; }  // on the host
  std::pair<u32, u32> device() const override { return {kTtyMajor, kConsoleMinor}; }

  // SIGTTOU for background writers, where the terminal's settings (TOSTOP) ask for it.
  Result<void> check_write(const Context& ctx, int fd);
  // TIOCSTI and the like stay refused: ENOTTY for what is not on the list.
  Result<u64> ioctl(const Context& ctx, int fd, u32 request, u64 arg);

 private:
  Result<u64> set_attributes(const Context& ctx, int fd, u32 request, u64 arg);

  const Ref<HostEnd> end_;  // open for reading and writing if the host lets us
  const u64 rdev_;
};

// The terminal behind `fd`, which is one: the first call makes it and keeps its settings for restore_host_terminal().
Ref<HostTerminal> host_terminal_for(int fd, u64 rdev);

// A description of our own, non-blocking, of the object that `fd` refers to; none where the host refuses.
hostio::HostFd reopen_nonblocking(int fd, int access);

// EINTR of an interrupted wait as a call gives it back.
template <class T>
Result<T> restartable(Result<T> r) {
  if (!r && r.error() == Errno{EINTR}) return err(kERESTARTSYS);
  return r;
}

}  // namespace rf::fs
