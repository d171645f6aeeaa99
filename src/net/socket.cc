#include "net/socket.h"

#include <sys/time.h>

#include <algorithm>
#include <cstring>

#include "fs/special_files.h"
#include "net/unix_socket.h"

namespace rf::net {

namespace {

// net.core.{w,r}mem_max, and the least that a buffer can be made.
constexpr u32 kMaxBuffer = 212992;
constexpr u32 kMaxForcedBuffer = 4 << 20;  // bounds SO_SNDBUFFORCE: buffers are the sentry's memory
constexpr u32 kMinSendBuffer = 4608;
constexpr u32 kMinReceiveBuffer = 2304;

template <class T>
Result<T> value_as(std::span<const std::byte> value) {
  if (value.size() < sizeof(T)) return err(EINVAL);
  T v;
  memcpy(&v, value.data(), sizeof v);
  return v;
}

// Like Linux, what does not fit the caller's buffer is cut off.
template <class T>
size_t put(std::span<std::byte> out, const T& v) {
  size_t n = std::min(out.size(), sizeof v);
  memcpy(out.data(), &v, n);
  return n;
}

// The options that are kept and given back, and have no further effect here.
bool is_plain_flag(int name) {
  switch (name) {
    case SO_DEBUG:
    case SO_REUSEADDR:
    case SO_DONTROUTE:
    case SO_BROADCAST:
    case SO_KEEPALIVE:
    case SO_OOBINLINE:
    case SO_REUSEPORT:
    case SO_PASSCRED:
    case SO_TIMESTAMP:
      return true;
    default:
      return false;
  }
}

// A buffer size as setsockopt(2) keeps it: doubled, for bookkeeping.
u32 buffer_size(int asked, u32 max, u32 min) {
  u32 size = std::min(static_cast<u32>(std::max(asked, 0)), max);
  return std::max(size * 2, min);
}

// EDOM, EINVAL.
Result<Nanos> read_timeout(std::span<const std::byte> value) {
  timeval t = TRY(value_as<timeval>(value));
  if (t.tv_usec < 0 || t.tv_usec >= 1'000'000) return err(EDOM);
  if (t.tv_sec < 0) return 0;  // do not wait
  if ((t.tv_sec == 0 && t.tv_usec == 0) || t.tv_sec > kNever / kNanosPerSecond - 1) return kNever;
  return t.tv_sec * kNanosPerSecond + t.tv_usec * 1000;
}

timeval to_timeval(Nanos timeout) {
  if (timeout == kNever) return {};
  return {timeout / kNanosPerSecond, timeout % kNanosPerSecond / 1000};
}

}  // namespace

Result<SocketAddress> SocketAddress::from_bytes(std::span<const std::byte> from) {
  SocketAddress a;
  if (from.size() > a.bytes.size()) return err(EINVAL);
  std::ranges::copy(from, a.bytes.begin());
  a.len = static_cast<u32>(from.size());
  return a;
}

int SocketAddress::family() const {
  sa_family_t family = AF_UNSPEC;
  if (len >= sizeof family) memcpy(&family, bytes.data(), sizeof family);
  return family;
}

SocketFile::SocketFile(int domain, int type, int protocol, int flags)
    : StreamFile(fs::make_anon_path("socket:", S_IFSOCK | 0777), O_RDWR | flags),
      domain_(domain),
      type_(type),
      protocol_(protocol) {}

Result<size_t> SocketFile::read(const fs::Context& ctx, mm::IoBuffer& dst) {
  // A read of nothing is no receive: it takes no datagram.
  if (dst.remaining() == 0) return 0;
  return TRY(recvmsg(ctx, dst, 0)).bytes;
}

Result<size_t> SocketFile::write(const fs::Context& ctx, mm::IoBuffer& src) {
  SendMessage message{src};
  return sendmsg(ctx, message);
}

Nanos SocketFile::deadline(const std::atomic<Nanos>& timeout, int msg_flags) const {
  if ((msg_flags & MSG_DONTWAIT) != 0 || nonblocking()) return 0;
  Nanos t = timeout.load(std::memory_order_relaxed);
  return t == kNever ? kNever : t == 0 ? 0 : monotonic_now() + t;
}

Result<void> SocketFile::setsockopt(const fs::Context& ctx, int level, int name, std::span<const std::byte> value) {
  if (level != SOL_SOCKET) return err(EOPNOTSUPP);
  switch (name) {
    case SO_RCVTIMEO:
      options_.receive_timeout = TRY(read_timeout(value));
      return {};
    case SO_SNDTIMEO:
      options_.send_timeout = TRY(read_timeout(value));
      return {};
    case SO_LINGER:
      options_.linger = TRY(value_as<u64>(value));
      return {};
    default:
      break;
  }
  const int v = TRY(value_as<int>(value));
  if (is_plain_flag(name)) {
    if (v)
      options_.flags.fetch_or(1u << name);
    else
      options_.flags.fetch_and(~(1u << name));
    options_changed();
    return {};
  }
  switch (name) {
    case SO_SNDBUFFORCE:
      if (!ctx.creds.capable(CAP_NET_ADMIN)) return err(EPERM);
      options_.send_buffer = buffer_size(v, kMaxForcedBuffer, kMinSendBuffer);
      options_changed();
      return {};
    case SO_SNDBUF:
      options_.send_buffer = buffer_size(v, kMaxBuffer, kMinSendBuffer);
      options_changed();
      return {};
    case SO_RCVBUFFORCE:
      if (!ctx.creds.capable(CAP_NET_ADMIN)) return err(EPERM);
      options_.receive_buffer = buffer_size(v, kMaxForcedBuffer, kMinReceiveBuffer);
      return {};
    case SO_RCVBUF:
      options_.receive_buffer = buffer_size(v, kMaxBuffer, kMinReceiveBuffer);
      return {};
    case SO_RCVLOWAT:
      options_.receive_low_water = static_cast<u32>(std::max(v, 1));
      return {};
    case SO_PRIORITY:
      if ((v < 0 || v > 6) && !ctx.creds.capable(CAP_NET_ADMIN)) return err(EPERM);
      options_.priority = static_cast<u32>(v);
      return {};
    case SO_MARK:
      if (!ctx.creds.capable(CAP_NET_ADMIN)) return err(EPERM);
      options_.mark = static_cast<u32>(v);
      return {};
    default:
      return err(ENOPROTOOPT);
  }
}

Result<size_t> SocketFile::getsockopt(const fs::Context&, int level, int name, std::span<std::byte> out) {
  if (level != SOL_SOCKET) return err(EOPNOTSUPP);
  if (is_plain_flag(name)) return put(out, static_cast<int>(option(name)));
  switch (name) {
    case SO_TYPE:
      return put(out, type_);
    case SO_DOMAIN:
      return put(out, domain_);
    case SO_PROTOCOL:
      return put(out, protocol_);
    case SO_ERROR:
      return put(out, take_error());
    case SO_ACCEPTCONN:
      return put(out, static_cast<int>(listening()));
    case SO_SNDBUF:
      return put(out, options_.send_buffer.load());
    case SO_RCVBUF:
      return put(out, options_.receive_buffer.load());
    case SO_RCVLOWAT:
      return put(out, options_.receive_low_water.load());
    case SO_SNDLOWAT:
      return put(out, 1);
    case SO_PRIORITY:
      return put(out, options_.priority.load());
    case SO_MARK:
      return put(out, options_.mark.load());
    case SO_LINGER:
      return put(out, options_.linger.load());
    case SO_RCVTIMEO:
      return put(out, to_timeval(options_.receive_timeout));
    case SO_SNDTIMEO:
      return put(out, to_timeval(options_.send_timeout));
    case SO_PEERNAME: {
      const SocketAddress peer = TRY(getpeername());
      if (peer.len < out.size()) return err(EINVAL);
      memcpy(out.data(), peer.bytes.data(), out.size());
      return out.size();
    }
    default:
      return err(ENOPROTOOPT);
  }
}

Result<SocketFile*> as_socket(fs::File& f) {
  auto* socket = dynamic_cast<SocketFile*>(&f);
  if (!socket) return err(ENOTSOCK);
  return socket;
}

namespace {

Result<void> check_family(int family, int type) {
  constexpr int kTypes = 11;  // SOCK_MAX
  if (type & ~(0xf | SOCK_CLOEXEC | SOCK_NONBLOCK)) return err(EINVAL);
  if (family < 0 || family >= AF_MAX) return err(EAFNOSUPPORT);
  if ((type & 0xf) >= kTypes) return err(EINVAL);
  if (family != AF_UNIX) return err(EAFNOSUPPORT);
  return {};
}

}  // namespace

Result<Ref<fs::File>> create_socket(const fs::Context& ctx, int family, int type, int protocol) {
  TRY(check_family(family, type));
  return create_unix_socket(ctx, type, protocol);
}

Result<std::pair<Ref<fs::File>, Ref<fs::File>>> create_socket_pair(const fs::Context& ctx, int family, int type,
                                                                   int protocol) {
  TRY(check_family(family, type));
  return create_unix_pair(ctx, type, protocol);
}

}  // namespace rf::net
