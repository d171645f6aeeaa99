// Streams of the host: stdin, stdout and stderr.
//
// Data moves between the host's object and pinned guest pages by calls that do not wait; when there is nothing to
// move, the fiber waits in the ring for readiness. So an interrupt never takes data along: it ends a wait, not a read.

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include <algorithm>

#include "fs/dentry.h"
#include "fs/devices.h"
#include "fs/host_news.h"
#include "fs/host_stream_internal.h"
#include "fs/special_files.h"
#include "mm/user_access.h"

namespace rf::fs {
namespace {

constexpr u64 kChunk = 256 << 10;       // pinned at once
constexpr u64 kDirectWrite = 64 << 10;  // to regular files, on this thread: the page cache takes it
constexpr int kLowestFd = 64;           // ours are kept away from 0, 1 and 2, which the runtime redirects

u64 total(std::span<const iovec> iov) {
  u64 n = 0;
  for (const iovec& v : iov) n += v.iov_len;
  return n;
}

bool would_wait(const Result<size_t>& r) {
  return !r && (r.error() == Errno{EAGAIN} || r.error() == Errno{EOPNOTSUPP});
}

class HostStreamFs final : public FileSystem {
 public:
  const char* type() const override { return "hoststream"; }
  Ref<Inode> root() override { return nullptr; }  // never mounted in a tree
  Result<struct ::statfs> statfs() override {
    struct ::statfs s {};
    s.f_type = 0x50495045;  // as for pipes: PIPEFS_MAGIC
    s.f_bsize = kPageSize;
    s.f_namelen = NAME_MAX;
    return s;
  }
};

}  // namespace

HostEnd::HostEnd(hostio::HostFd fd, Kind kind, int access)
    : fd_(std::move(fd)), kind_(kind), access_(access & O_ACCMODE) {
  if (!regular()) watch_ = std::make_unique<hostio::FdWatch>(fd_.get());
}

bool HostEnd::allows(int flags) const { return access_ == O_RDWR || (flags & O_ACCMODE) == access_; }

Result<size_t> HostEnd::try_read(std::span<const iovec> iov) {
  switch (kind_) {
    case Kind::kRegular:
      return read_at(iov, -1);
    case Kind::kOwn:
      return restartable(hostio::preadv2_now(fd(), iov, -1, 0));
    case Kind::kSocket: {
      msghdr message{};
      message.msg_iov = const_cast<iovec*>(iov.data());
      message.msg_iovlen = iov.size();
      return restartable<size_t>(hostio::host_call(SYS_recvmsg, fd(), &message, MSG_DONTWAIT));
    }
    case Kind::kOther: {
      auto n = hostio::preadv2_now(fd(), iov, -1, RWF_NOWAIT);
      if (n || n.error() != Errno{EOPNOTSUPP}) return restartable(n);
      if ((hostio::poll_now(fd(), POLLIN) & (POLLIN | POLLHUP | POLLERR)) == 0) return err(EAGAIN);
      // Another reader of the object may still be first, hence the ring.
      return restartable(hostio::readv(fd(), iov, -1, Interruptible::kYes));
    }
  }
  return err(EIO);
}

Result<size_t> HostEnd::try_write(std::span<const iovec> iov) {
  switch (kind_) {
    case Kind::kRegular:
      return write_at(iov, -1);
    case Kind::kOwn:
      return restartable(hostio::pwritev2_now(fd(), iov, -1, 0));
    case Kind::kSocket: {
      msghdr message{};
      message.msg_iov = const_cast<iovec*>(iov.data());
      message.msg_iovlen = iov.size();
      return restartable<size_t>(hostio::host_call(SYS_sendmsg, fd(), &message, MSG_DONTWAIT | MSG_NOSIGNAL));
    }
    case Kind::kOther: {
      auto n = hostio::pwritev2_now(fd(), iov, -1, RWF_NOWAIT);
      if (n || n.error() != Errno{EOPNOTSUPP}) return restartable(n);
      if ((hostio::poll_now(fd(), POLLOUT) & (POLLOUT | POLLHUP | POLLERR)) == 0) return err(EAGAIN);
      return restartable(hostio::writev(fd(), iov, -1, Interruptible::kYes));
    }
  }
  return err(EIO);
}

Result<size_t> HostEnd::read_at(std::span<const iovec> iov, s64 offset) {
  auto n = hostio::preadv2_now(fd(), iov, offset, RWF_NOWAIT);
  if (would_wait(n)) n = hostio::readv(fd(), iov, offset);
  return n;
}

Result<size_t> HostEnd::write_at(std::span<const iovec> iov, s64 offset) {
  HostNews::arrived();  // the file may be in a tree, too
  // The ring would hand a buffered write to a kernel thread on many file systems, at many times the cost of the write.
  if (total(iov) <= kDirectWrite) return hostio::pwritev2_now(fd(), iov, offset, 0);
  return hostio::writev(fd(), iov, offset);
}

Result<void> HostEnd::wait(EventMask events) {
  auto ready = restartable(hostio::poll(fd(), events, Interruptible::kYes));
  if (!ready) return err(ready.error());
  HostNews::arrived();
  return {};
}

EventMask HostEnd::ready() const {
  if (!watch_) return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
  EventMask events = watch_->ready();
  if (events & POLLIN) {
    HostNews::arrived();  // that there is something to read may be all that the guest wants to know
    events |= POLLRDNORM;
  }
  if (events & POLLOUT) events |= POLLWRNORM;
  return events;
}

HostStream::HostStream(Path path, int flags, Ref<HostEnd> end, Ref<HostTerminal> terminal, bool own_position)
    : File(std::move(path), flags), end_(std::move(end)), terminal_(std::move(terminal)), own_position_(own_position) {}

Result<size_t> HostStream::read(const Context& ctx, mm::IoBuffer& dst) {
  if (own_position_) return File::read(ctx, dst);
  return read_stream(ctx, dst);
}

Result<size_t> HostStream::write(const Context& ctx, mm::IoBuffer& src) {
  if (own_position_) return File::write(ctx, src);
  return write_stream(ctx, src);
}

Result<size_t> HostStream::read_stream(const Context& ctx, mm::IoBuffer& dst) {
  size_t done = 0;
  while (dst.remaining() > 0) {
    if (terminal_) TRY(terminal_->check_background(ctx, SIGTTIN));
    Result<size_t> n;
    {
      auto pinned = dst.pin(std::min(dst.remaining(), kChunk), mm::Access::kWrite);
      if (!pinned && done > 0) return done;
      if (!pinned) return err(pinned.error());
      n = end_->try_read(pinned->iov());
      if (n) HostNews::arrived();
      if (n) dst.advance(*n);
      // A regular file goes on to the end; everything else gives what it has.
      if (n && (!end_->regular() || *n < pinned->bytes())) return done + *n;
    }
    if (n) {
      done += *n;
      continue;
    }
    if (done > 0) return done;
    if (n.error() != Errno{EAGAIN} || nonblocking()) return n;
    TRY(end_->wait(POLLIN));
  }
  return done;
}

Result<size_t> HostStream::write_stream(const Context& ctx, mm::IoBuffer& src) {
  if (terminal_ && src.remaining() > 0) TRY(terminal_->check_write(ctx, end_->fd()));
  size_t done = 0;
  while (src.remaining() > 0) {
    Result<size_t> n;
    {
      auto pinned = src.pin(std::min(src.remaining(), kChunk), mm::Access::kRead);
      if (!pinned && done > 0) return done;
      if (!pinned) return err(pinned.error());
      n = end_->try_write(pinned->iov());
      if (n) src.advance(*n);
    }
    if (n) {
      done += *n;
      continue;
    }
    if (n.error() == Errno{EAGAIN} && !nonblocking()) {
      auto ready = end_->wait(POLLOUT);
      if (ready) continue;
      n = err(ready.error());
    }
    if (done > 0) return done;
    return n;
  }
  return done;
}

Result<size_t> HostStream::pread(const Context&, mm::IoBuffer& dst, u64 offset) {
  if (!end_->regular()) return err(ESPIPE);
  size_t done = 0;
  while (dst.remaining() > 0) {
    auto pinned = dst.pin(std::min(dst.remaining(), kChunk), mm::Access::kWrite);
    auto n = pinned ? end_->read_at(pinned->iov(), static_cast<s64>(offset + done)) : err(pinned.error());
    if (!n && done == 0) return n;
    if (!n) break;
    dst.advance(*n);
    done += *n;
    if (*n < pinned->bytes()) break;
  }
  return done;
}

Result<size_t> HostStream::pwrite(const Context&, mm::IoBuffer& src, u64 offset) {
  if (!end_->regular()) return err(ESPIPE);
  size_t done = 0;
  while (src.remaining() > 0) {
    auto pinned = src.pin(std::min(src.remaining(), kChunk), mm::Access::kRead);
    auto n = pinned ? end_->write_at(pinned->iov(), static_cast<s64>(offset + done)) : err(pinned.error());
    if (!n && done == 0) return n;
    if (!n) break;
    src.advance(*n);
    done += *n;
    if (*n == 0) break;
  }
  return done;
}

Result<u64> HostStream::seek(const Context& ctx, s64 offset, int whence) {
  if (!end_->regular()) return err(ESPIPE);
  if (own_position_) return File::seek(ctx, offset, whence);
  return hostio::host_call(SYS_lseek, end_->fd(), offset, whence);
}

u64 HostStream::position() const {
  if (own_position_ || !end_->regular()) return File::position();
  // The host's processes move it too.
  return hostio::host_call(SYS_lseek, end_->fd(), 0, SEEK_CUR).value_or(0);
}

EventMask HostStream::poll() { return end_->ready(); }

void HostStream::poll_register(Waiter& waiter) {
  if (auto* watch = end_->watch()) {
    watch->queue().add(waiter);
    watch->update();
  }
}

void HostStream::poll_unregister(Waiter& waiter) {
  if (auto* watch = end_->watch()) {
    watch->queue().remove(waiter);
    watch->update();
  }
}

Result<u64> HostStream::ioctl(const Context& ctx, u32 request, u64 arg) {
  if (terminal_) return terminal_->ioctl(ctx, end_->fd(), request, arg);
  if (request != FIONREAD) return err(ENOTTY);
  if (ctx.mm == nullptr) return err(EFAULT);
  s32 available = 0;
  TRY(hostio::ioctl_now(end_->fd(), FIONREAD, &available));
  TRY(mm::UserPtr<s32>(arg).write(*ctx.mm, available));
  return 0;
}

Result<void> HostStream::fsync(bool data_only) {
  if (!end_->regular()) return err(EINVAL);
  return hostio::fsync(end_->fd(), data_only);
}

Result<void> HostStream::truncate(const Context& ctx, u64 size) {
  if (!end_->regular()) return err(EINVAL);
  AttributeChange change;
  change.mask = AttributeChange::kSize;
  change.size = size;
  return inode().setattr(ctx, change);
}

Result<void> HostStream::fallocate(const Context&, int mode, u64 offset, u64 len) {
  if (!end_->regular()) return err(ESPIPE);
  return hostio::fallocate(end_->fd(), mode, offset, len);
}

hostio::HostFd reopen_nonblocking(int fd, int access) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  auto own = hostio::host_call(SYS_openat, AT_FDCWD, path.c_str(),
                               (access & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
  if (!own) return {};
  hostio::HostFd opened(static_cast<int>(*own));
  auto moved = hostio::duplicate(opened.get(), kLowestFd);
  return moved ? std::move(*moved) : std::move(opened);
}

namespace {

// The best descriptor for a host fd; see HostEnd::Kind.
Setup<Ref<HostEnd>> open_end(int host_fd, const struct ::stat& st, bool terminal, int access) {
  hostio::HostFd fd;
  auto kind = HostEnd::Kind::kOther;
  if (S_ISREG(st.st_mode)) {
    kind = HostEnd::Kind::kRegular;
  } else if (S_ISSOCK(st.st_mode)) {
    kind = HostEnd::Kind::kSocket;
  } else if (terminal || S_ISFIFO(st.st_mode)) {
    // Opening a pty's multiplexer again would make another pty.
    if (!terminal || st.st_rdev != makedev(5, 2)) fd = reopen_nonblocking(host_fd, access);
    if (fd.valid()) kind = HostEnd::Kind::kOwn;
  }
  if (!fd.valid()) {
    auto copy = hostio::duplicate(host_fd, kLowestFd);
    if (!copy)
      return setup_error("cannot duplicate file descriptor " + std::to_string(host_fd) + ": " +
                         errno_text(errno_value(copy.error())) + "; raise the limit of open files (ulimit -n)");
    fd = std::move(*copy);
  }
  return make_ref<HostEnd>(std::move(fd), kind, access);
}

std::string stream_name(const struct ::stat& st, int host_fd) {
  if (S_ISFIFO(st.st_mode)) return "pipe:[" + std::to_string(st.st_ino) + "]";
  if (S_ISSOCK(st.st_mode)) return "socket:[" + std::to_string(st.st_ino) + "]";
  return "host:[" + std::to_string(host_fd) + "]";
}

}  // namespace

Setup<Ref<File>> make_host_stream(int host_fd, int flags, mm::Frames* frames, const Path& console) {
  struct ::stat st {};
  auto stated = hostio::host_call(SYS_fstat, host_fd, &st);
  auto host_flags = hostio::host_call(SYS_fcntl, host_fd, F_GETFL, 0);
  if (!stated || !host_flags)
    return setup_error("cannot use file descriptor " + std::to_string(host_fd) + ": " +
                       errno_text(errno_value(stated ? host_flags.error() : stated.error())));
  // A reader of ours that goes away is the guest's business, not the sentry's.
  ::signal(SIGPIPE, SIG_IGN);

  u8 settings[64];
  const bool terminal = S_ISCHR(st.st_mode) && hostio::ioctl_now(host_fd, TCGETS, settings).has_value();
  const int file_flags = (static_cast<int>(*host_flags) & (O_ACCMODE | O_APPEND | O_NONBLOCK)) | flags;
  Ref<HostEnd> end = TRY(open_end(host_fd, st, terminal, file_flags));
  Ref<HostTerminal> tty = terminal ? host_terminal_for(host_fd, st.st_rdev) : nullptr;

  static FileSystem& fs = *make_ref<HostStreamFs>().release();
  auto inode = make_ref<HostStreamInode>(fs, end, tty, static_cast<u16>(st.st_mode & S_IFMT), frames);
  auto dentry = Dentry::make_detached(stream_name(st, host_fd), inode);
  Path path(make_ref<Mount>(Ref<FileSystem>(&fs), dentry), dentry);
  if (tty && console && host_terminal().get() == tty.get()) path = console;
  // /dev/null and its like have no need of the host.
  if (S_ISCHR(st.st_mode) && major(st.st_rdev) == 1)
    if (auto device = open_memory_device(path, minor(st.st_rdev), file_flags, frames)) return *device;
  return make_ref<HostStream>(std::move(path), file_flags, std::move(end), std::move(tty), false);
}

}  // namespace rf::fs
