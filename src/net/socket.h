// Sockets as the socket calls see them. AF_UNIX is in net/unix_socket.h; further families derive SocketFile too.
//
// Operations are those of the calls, on arguments that were copied in; data stays in the guest's memory behind an
// IoBuffer. Those that would block wait unless the description is O_NONBLOCK or MSG_DONTWAIT is given, at most for
// SO_RCVTIMEO or SO_SNDTIMEO (EAGAIN), and are interruptible: ERESTARTSYS, or EINTR when a time-out is set. All may
// suspend.
#pragma once

#include <sys/socket.h>

#include <array>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "fs/fd_table.h"
#include "fs/stream_file.h"

namespace rf::net {

// A socket address as the calls carry it. What a call gives back may be longer than its buffer: the caller copies
// min(len, room) and reports len.
struct SocketAddress {
  std::array<std::byte, sizeof(sockaddr_storage)> bytes{};
  u32 len = 0;

  // EINVAL if it is too long.
  static Result<SocketAddress> from_bytes(std::span<const std::byte> from);
  // AF_UNSPEC if there is none.
  int family() const;
  std::span<const std::byte> span() const { return {bytes.data(), len}; }
};

// The ancillary data of a message, cmsg(3).
struct Control {
  std::vector<Ref<fs::File>> files;  // SCM_RIGHTS
  std::optional<ucred> credentials;  // SCM_CREDENTIALS
};

struct SendMessage {
  mm::IoBuffer& data;
  const SocketAddress* to = nullptr;
  Control control;
  int flags = 0;  // MSG_*
};

struct ReceivedMessage {
  size_t bytes = 0;  // what the call returns: with MSG_TRUNC the whole length of a datagram
  SocketAddress from;
  Control control;
  int flags = 0;  // msg_flags: MSG_TRUNC, MSG_EOR
};

class SocketFile : public fs::StreamFile {
 public:
  SocketFile(int domain, int type, int protocol, int flags);

  int domain() const { return domain_; }
  int type() const { return type_; }  // SOCK_*
  int protocol() const { return protocol_; }

  virtual Result<void> bind(const fs::Context& ctx, const SocketAddress& address) = 0;
  virtual Result<void> listen(const fs::Context& ctx, int backlog) = 0;
  // `flags`: SOCK_NONBLOCK for the new description.
  virtual Result<Ref<SocketFile>> accept(const fs::Context& ctx, int flags) = 0;
  virtual Result<void> connect(const fs::Context& ctx, const SocketAddress& address) = 0;
  // EPIPE of a SOCK_STREAM socket raises SIGPIPE unless MSG_NOSIGNAL; the caller does that.
  virtual Result<size_t> sendmsg(const fs::Context& ctx, SendMessage& message) = 0;
  // `flags`: MSG_PEEK, MSG_DONTWAIT, MSG_WAITALL, MSG_TRUNC.
  virtual Result<ReceivedMessage> recvmsg(const fs::Context& ctx, mm::IoBuffer& data, int flags) = 0;
  virtual Result<void> shutdown(int how) = 0;
  virtual Result<SocketAddress> getsockname() = 0;
  virtual Result<SocketAddress> getpeername() = 0;
  // The defaults serve SOL_SOCKET: ENOPROTOOPT, and EOPNOTSUPP for other levels.
  virtual Result<void> setsockopt(const fs::Context& ctx, int level, int name, std::span<const std::byte> value);
  // Fills `out` (as long as the caller's buffer) and returns the bytes that count; when that is more than there is room
  // for, nothing was filled in and the call is to fail with ERANGE.
  virtual Result<size_t> getsockopt(const fs::Context& ctx, int level, int name, std::span<std::byte> out);
  // SO_ERROR's value: takes it, or leaves one for the next call.
  virtual int take_error() { return 0; }
  virtual void set_error(int) {}

  bool broken_pipe_signals() const final { return type_ == SOCK_STREAM; }
  Result<size_t> read(const fs::Context& ctx, mm::IoBuffer& dst) final;
  Result<size_t> write(const fs::Context& ctx, mm::IoBuffer& src) final;

 protected:
  // What the generic options change; read without a lock.
  struct Options {
    std::atomic<u32> send_buffer{212992}, receive_buffer{212992};      // bytes, as Linux counts them
    std::atomic<Nanos> send_timeout{kNever}, receive_timeout{kNever};  // kNever: none
    std::atomic<u32> receive_low_water{1};
    std::atomic<u32> flags{0};  // bit n: SO_* option n is on
    std::atomic<u32> priority{0}, mark{0};
    std::atomic<u64> linger{0};  // struct linger's bytes
  };
  Options& options() { return options_; }
  bool option(int so) const { return (options_.flags.load(std::memory_order_relaxed) >> so & 1) != 0; }
  // Hooks of the generic options.
  virtual bool listening() { return false; }
  virtual void options_changed() {}

  Nanos send_deadline(int msg_flags) const { return deadline(options_.send_timeout, msg_flags); }
  Nanos receive_deadline(int msg_flags) const { return deadline(options_.receive_timeout, msg_flags); }

 private:
  // 0 when the call must not wait.
  Nanos deadline(const std::atomic<Nanos>& timeout, int msg_flags) const;

  const int domain_, type_, protocol_;
  Options options_;
};

// ENOTSOCK.
Result<SocketFile*> as_socket(fs::File& f);

// socket(2); `type` may have SOCK_NONBLOCK, and SOCK_CLOEXEC, which is the descriptor's. EAFNOSUPPORT,
// ESOCKTNOSUPPORT, EPROTONOSUPPORT.
Result<Ref<fs::File>> create_socket(const fs::Context& ctx, int family, int type, int protocol);
// socketpair(2).
Result<std::pair<Ref<fs::File>, Ref<fs::File>>> create_socket_pair(const fs::Context& ctx, int family, int type,
                                                                   int protocol);

// The control buffer of sendmsg(2): EINVAL when it is malformed or holds what is not known, EBADF, EPERM for
// credentials that are not the caller's.
Result<Control> parse_control(const fs::Context& ctx, const fs::FdTable& fds, std::span<const std::byte> buffer);
// The control buffer for recvmsg(2), and the descriptors it names, still to be opened.
struct FormattedControl {
  std::vector<std::byte> bytes;
  std::vector<std::pair<fs::ReservedFd, Ref<fs::File>>> files;
  // Once the guest has the bytes.
  void open(bool cloexec);
};
// At most `room` bytes. What does not fit, or finds no descriptor below `fd_limit`, is dropped and MSG_CTRUNC added to
// `msg_flags`.
FormattedControl format_control(Control&& control, fs::FdTable& fds, u64 fd_limit, size_t room, int& msg_flags);

}  // namespace rf::net
