// The arguments of the socket calls in strace's notation.
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <vector>

#include "task/strace_values.h"
#include "task/task.h"

namespace rf::task {
namespace {

#define F(x) \
  { static_cast<u64>(x), #x }
constexpr FlagName kFamilies[] = {F(AF_UNSPEC), F(AF_UNIX),      F(AF_INET),  F(AF_INET6), F(AF_NETLINK), F(AF_PACKET),
                                  F(AF_ALG),    F(AF_BLUETOOTH), F(AF_VSOCK), F(AF_KEY),   F(AF_RXRPC)};
constexpr FlagName kTypes[] = {F(SOCK_STREAM), F(SOCK_DGRAM),     F(SOCK_RAW),
                               F(SOCK_RDM),    F(SOCK_SEQPACKET), F(SOCK_DCCP)};
constexpr FlagName kTypeFlags[] = {F(SOCK_CLOEXEC), F(SOCK_NONBLOCK)};
constexpr FlagName kLevels[] = {F(SOL_SOCKET),  F(SOL_RAW),      {0, "SOL_IP"},
                                {6, "SOL_TCP"}, {17, "SOL_UDP"}, {41, "SOL_IPV6"}};
constexpr FlagName kOptions[] = {
    F(SO_DEBUG),       F(SO_REUSEADDR),  F(SO_TYPE),      F(SO_ERROR),        F(SO_DONTROUTE),     F(SO_BROADCAST),
    F(SO_SNDBUF),      F(SO_RCVBUF),     F(SO_KEEPALIVE), F(SO_OOBINLINE),    F(SO_NO_CHECK),      F(SO_PRIORITY),
    F(SO_LINGER),      F(SO_BSDCOMPAT),  F(SO_REUSEPORT), F(SO_PASSCRED),     F(SO_PEERCRED),      F(SO_RCVLOWAT),
    F(SO_SNDLOWAT),    F(SO_RCVTIMEO),   F(SO_SNDTIMEO),  F(SO_BINDTODEVICE), F(SO_ATTACH_FILTER), F(SO_PEERNAME),
    F(SO_TIMESTAMP),   F(SO_ACCEPTCONN), F(SO_PEERSEC),   F(SO_SNDBUFFORCE),  F(SO_RCVBUFFORCE),   F(SO_PASSSEC),
    F(SO_TIMESTAMPNS), F(SO_MARK),       F(SO_PROTOCOL),  F(SO_DOMAIN),       F(SO_PEEK_OFF),      F(SO_PEERGROUPS)};
constexpr FlagName kHow[] = {F(SHUT_RD), F(SHUT_WR), F(SHUT_RDWR)};
constexpr FlagName kMessageFlags[] = {F(MSG_OOB),        F(MSG_PEEK),     F(MSG_DONTROUTE),   F(MSG_CTRUNC),
                                      F(MSG_TRUNC),      F(MSG_DONTWAIT), F(MSG_EOR),         F(MSG_WAITALL),
                                      F(MSG_CONFIRM),    F(MSG_ERRQUEUE), F(MSG_NOSIGNAL),    F(MSG_MORE),
                                      F(MSG_WAITFORONE), F(MSG_FASTOPEN), F(MSG_CMSG_CLOEXEC)};
constexpr FlagName kControlTypes[] = {F(SCM_RIGHTS), F(SCM_CREDENTIALS)};
#undef F

constexpr u64 kShownMessages = 4;

std::string socket_address(Task& t, u64 addr, u64 len) {
  if (addr == 0) return "NULL";
  sockaddr_un un{};
  len = std::min<u64>(len, sizeof un);
  if (len < sizeof un.sun_family || t.mm->copy_in(&un, addr, len) != len) return address(addr);
  if (un.sun_family != AF_UNIX) return fmt::format("{{sa_family={}, ...}}", decode_value(un.sun_family, kFamilies));
  std::string_view path(un.sun_path, len - sizeof un.sun_family);
  if (path.empty()) return "{sa_family=AF_UNIX}";
  // Abstract names have no end but the address's.
  if (path[0] == '\0') return fmt::format("{{sa_family=AF_UNIX, sun_path=@{}}}", quote(path.substr(1), false));
  return fmt::format("{{sa_family=AF_UNIX, sun_path={}}}", quote(path.substr(0, path.find('\0')), false));
}

u64 read_length(Task& t, u64 addr) {
  const Result<s32> len = mm::UserPtr<s32>(addr).read(*t.mm);
  return len && *len > 0 ? static_cast<u64>(*len) : 0;
}

std::string control_message(const cmsghdr& h, std::span<const std::byte> data) {
  std::string out = fmt::format("{{cmsg_len={}, cmsg_level={}, cmsg_type=", h.cmsg_len,
                                decode_value(static_cast<u32>(h.cmsg_level), kLevels));
  if (h.cmsg_level != SOL_SOCKET) return out + fmt::format("{:#x}}}", h.cmsg_type);
  out += decode_value(static_cast<u32>(h.cmsg_type), kControlTypes);
  if (h.cmsg_type == SCM_RIGHTS) {
    out += ", cmsg_data=[";
    for (size_t i = 0; i + sizeof(int) <= data.size(); i += sizeof(int)) {
      int fd;
      memcpy(&fd, data.data() + i, sizeof fd);
      out += fmt::format("{}{}", i ? ", " : "", fd);
    }
    out += "]";
  } else if (h.cmsg_type == SCM_CREDENTIALS && data.size() >= sizeof(ucred)) {
    ucred c;
    memcpy(&c, data.data(), sizeof c);
    out += fmt::format(", cmsg_data={{pid={}, uid={}, gid={}}}", c.pid, c.uid, c.gid);
  }
  return out + "}";
}

std::string control(Task& t, u64 addr, u64 len) {
  if (addr == 0) return "NULL";
  std::vector<std::byte> bytes(std::min<u64>(len, 2048));
  bytes.resize(t.mm->copy_in(bytes.data(), addr, bytes.size()));
  std::span<const std::byte> rest(bytes);
  std::string out = "[";
  while (rest.size() >= sizeof(cmsghdr)) {
    cmsghdr h;
    memcpy(&h, rest.data(), sizeof h);
    if (h.cmsg_len < sizeof h || h.cmsg_len > rest.size()) break;
    if (out.size() > 1) out += ", ";
    out += control_message(h, rest.subspan(sizeof h, h.cmsg_len - sizeof h));
    rest = rest.subspan(std::min<size_t>(rest.size(), CMSG_ALIGN(h.cmsg_len)));
  }
  return out + "]";
}

// `data`: how much of the buffers to show. `received`: what the call filled in can be shown.
std::string message_header(Task& t, u64 addr, bool sending, bool received, u64 data) {
  const Result<msghdr> h = mm::UserPtr<msghdr>(addr).read(*t.mm);
  if (!h) return address(addr);
  const bool show = sending || received;
  const u64 name = reinterpret_cast<u64>(h->msg_name), ancillary = reinterpret_cast<u64>(h->msg_control);
  std::string out = fmt::format("{{msg_name={}, msg_namelen={}, msg_iov={}, msg_iovlen={}",
                                show ? socket_address(t, name, h->msg_namelen) : address(name), h->msg_namelen,
                                iovecs(t, reinterpret_cast<u64>(h->msg_iov), h->msg_iovlen, show, data), h->msg_iovlen);
  if (show && h->msg_controllen != 0)
    out +=
        fmt::format(", msg_control={}, msg_controllen={}", control(t, ancillary, h->msg_controllen), h->msg_controllen);
  else
    out += fmt::format(", msg_controllen={}", h->msg_controllen);
  if (received) out += ", msg_flags=" + decode_flags(static_cast<u32>(h->msg_flags), kMessageFlags);
  return out + "}";
}

std::string message_batch(Task& t, u64 addr, u64 count, bool sending, bool received) {
  std::string out = "[";
  for (u64 i = 0; i < std::min(count, kShownMessages); ++i) {
    const u64 entry = addr + i * sizeof(mmsghdr);
    const Result<mmsghdr> m = mm::UserPtr<mmsghdr>(entry).read(*t.mm);
    if (!m) return address(addr);
    out += fmt::format("{}{{msg_hdr={}", i ? ", " : "",
                       message_header(t, entry, sending, received, sending ? ~u64{0} : m->msg_len));
    out += received ? fmt::format(", msg_len={}}}", m->msg_len) : "}";
  }
  return out + (count > kShownMessages ? ", ...]" : "]");
}

std::string option_value(Task& t, u64 level, u64 option, u64 addr, u64 len) {
  if (addr == 0) return "NULL";
  const auto read = [&]<class T>(T& v) { return len >= sizeof v && t.mm->copy_in(&v, addr, sizeof v) == sizeof v; };
  if (level == SOL_SOCKET && option == SO_PEERCRED) {
    ucred c;
    if (read(c)) return fmt::format("{{pid={}, uid={}, gid={}}}", c.pid, c.uid, c.gid);
  } else if (level == SOL_SOCKET && option == SO_LINGER) {
    linger l;
    if (read(l)) return fmt::format("{{l_onoff={}, l_linger={}}}", l.l_onoff, l.l_linger);
  } else if (level == SOL_SOCKET && (option == SO_RCVTIMEO || option == SO_SNDTIMEO)) {
    timeval v;
    if (read(v)) return fmt::format("{{tv_sec={}, tv_usec={}}}", v.tv_sec, v.tv_usec);
  } else if (int v; len == sizeof v && read(v)) {
    return fmt::format("[{}]", v);
  }
  return buffer(t, addr, len);
}

}  // namespace

std::string decode_socket_argument(Task& t, const SyscallEntry& entry, int i, s64 result) {
  const auto arg = [&](int n) { return n >= 0 && n < 6 ? t.args.v[static_cast<size_t>(n)] : 0; };
  const u64 v = arg(i), next = arg(i + 1);
  const bool failed = result < 0;
  switch (entry.args[static_cast<size_t>(i)]) {
    case Arg::kSockaddr:
      return socket_address(t, v, static_cast<u32>(next));
    case Arg::kSockaddrOut:
      return failed ? address(v) : socket_address(t, v, read_length(t, next));
    case Arg::kLengthPtr: {
      const Result<s32> len = mm::UserPtr<s32>(v).read(*t.mm);
      return len ? fmt::format("[{}]", *len) : address(v);
    }
    case Arg::kSockFamily:
      return decode_value(static_cast<u32>(v), kFamilies);
    case Arg::kSockType: {
      const u64 flags = static_cast<u32>(v) & ~u64{0xf};
      return decode_value(v & 0xf, kTypes) + (flags ? "|" + decode_flags(flags, kTypeFlags) : "");
    }
    case Arg::kSockFlags:
      return decode_flags(static_cast<u32>(v), kTypeFlags);
    case Arg::kSockLevel:
      return decode_value(static_cast<u32>(v), kLevels);
    case Arg::kSockOption:
      return static_cast<s32>(arg(i - 1)) == SOL_SOCKET ? decode_value(static_cast<u32>(v), kOptions)
                                                        : fmt::format("{}", static_cast<s32>(v));
    case Arg::kSockValueIn:
      return option_value(t, arg(i - 2), arg(i - 1), v, static_cast<u32>(next));
    case Arg::kSockValueOut:
      return failed ? address(v) : option_value(t, arg(i - 2), arg(i - 1), v, read_length(t, next));
    case Arg::kShutdownHow:
      return decode_value(static_cast<u32>(v), kHow);
    case Arg::kMsgFlags:
      return decode_flags(static_cast<u32>(v), kMessageFlags);
    case Arg::kMsghdrIn:
      return message_header(t, v, true, false, ~u64{0});
    case Arg::kMsghdrOut:
      return message_header(t, v, false, !failed, failed ? 0 : static_cast<u64>(result));
    case Arg::kMmsghdrIn:
      return message_batch(t, v, static_cast<u32>(next), true, false);
    case Arg::kMmsghdrOut:
      return message_batch(t, v, failed ? static_cast<u32>(next) : static_cast<u64>(result), false, !failed);
    default:
      return "";
  }
}

}  // namespace rf::task
