// Sockets: sending and receiving.
//
// A struct msghdr and what it points at are read once, before anything is sent or taken out of a queue.
#include <asm/unistd_64.h>

#include <climits>
#include <cstddef>

#include "core/scheduler.h"
#include "task/signal_send.h"
#include "task/syscalls/families.h"
#include "task/syscalls/socket_arguments.h"

namespace rf::task {
namespace {

using net::ReceivedMessage;
using net::SendMessage;
using net::SocketAddress;
using net::SocketFile;

constexpr u32 kCompatFlag = 1u << 31;      // MSG_CMSG_COMPAT: the kernel's own
constexpr size_t kMaxControl = 128 << 10;  // net.core.optmem_max
constexpr size_t kMaxMessages = 1024;      // UIO_MAXIOV: of one sendmmsg
constexpr u32 kMessagesBeforeYield = 64;   // so that a long batch leaves the vCPU to others
constexpr int kReceiveFlags = MSG_PEEK | MSG_DONTWAIT | MSG_WAITALL | MSG_TRUNC | MSG_OOB;

// The data of sendto and recvfrom: unlike read's, a length beyond all bounds is clamped first.
Result<mm::IoBuffer> message_buffer(Task& t, mm::UserAddr addr, u64 len) {
  return user_buffer(t, addr, std::min(len, kMaxRwCount));
}

SysResult finish_send(Task& t, const SocketFile& s, int flags, const Result<size_t>& r) {
  if (!r && r.error() == Errno{EPIPE} && s.broken_pipe_signals() && (flags & MSG_NOSIGNAL) == 0)
    raise_signal(t, SIGPIPE);
  return r;
}

// --- struct msghdr ----------------------------------------------------------------------------------

struct Header {
  msghdr raw;
  SocketAddress name;  // of sendmsg; none when its length is 0
  mm::IoBuffer data;
  mm::UserAddr address() const { return reinterpret_cast<mm::UserAddr>(raw.msg_name); }
  mm::UserAddr control() const { return reinterpret_cast<mm::UserAddr>(raw.msg_control); }
  s32 room() const { return static_cast<s32>(raw.msg_namelen); }
};

// EFAULT, EINVAL, EMSGSIZE: in the order of Linux's copy_msghdr_from_user().
Result<Header> read_header(Task& t, mm::UserAddr addr, bool sending) {
  msghdr raw = TRY(mm::UserPtr<msghdr>(addr).read(*t.mm));
  s32 len = raw.msg_name ? static_cast<s32>(raw.msg_namelen) : 0;
  if (len < 0) return err(EINVAL);
  len = std::min<s32>(len, sizeof(sockaddr_storage));
  SocketAddress name;
  if (sending && len != 0) name = TRY(read_socket_address(t, reinterpret_cast<mm::UserAddr>(raw.msg_name), len));
  if (raw.msg_iovlen > IOV_MAX) return err(EMSGSIZE);
  mm::IoBuffer data = TRY(mm::IoBuffer::from_iovec(*t.mm, reinterpret_cast<u64>(raw.msg_iov), raw.msg_iovlen));
  return Header{raw, name, std::move(data)};
}

Result<net::Control> read_control(Task& t, const Header& h) {
  const size_t len = h.raw.msg_controllen;
  if (len == 0) return net::Control{};
  if (len > kMaxControl) return err(ENOBUFS);
  std::vector<std::byte> bytes(len);
  TRY(mm::UserPtr<std::byte>(h.control()).read_array(*t.mm, bytes));
  return net::parse_control(t.fs_context(), *t.files, bytes);
}

// --- Sending ----------------------------------------------------------------------------------------

SysResult sys_sendto(Task& t, const SyscallArgs& a) {
  mm::IoBuffer data = TRY(message_buffer(t, a.addr(1), a.u(2)));
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  SocketAddress to;
  if (a.addr(4) != 0) to = TRY(read_socket_address(t, a.addr(4), a.i(5)));
  SendMessage message{data, to.len != 0 ? &to : nullptr, {}, a.i(3)};
  return finish_send(t, *s, a.i(3), s->sendmsg(t.fs_context(), message));
}

// `left`, when given, is whether data remained that was not sent.
SysResult send_message(Task& t, SocketFile& s, mm::UserAddr addr, int flags, bool* left = nullptr) {
  Header h = TRY(read_header(t, addr, true));
  SendMessage message{h.data, h.name.len != 0 ? &h.name : nullptr, TRY(read_control(t, h)), flags};
  SysResult r = finish_send(t, s, flags, s.sendmsg(t.fs_context(), message));
  if (left) *left = h.data.remaining() != 0;
  return r;
}

SysResult sys_sendmsg(Task& t, const SyscallArgs& a) {
  if ((a.u32_(2) & kCompatFlag) != 0) return err(EINVAL);
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  return send_message(t, *s, a.addr(1), a.i(2));
}

mm::UserAddr batch_entry(mm::UserAddr first, u64 i) { return first + i * sizeof(mmsghdr); }

Result<void> write_batch_length(Task& t, mm::UserAddr entry, u64 len) {
  return mm::UserPtr<u32>(entry + offsetof(mmsghdr, msg_len)).write(*t.mm, static_cast<u32>(len));
}

SysResult sys_sendmmsg(Task& t, const SyscallArgs& a) {
  if ((a.u32_(3) & kCompatFlag) != 0) return err(EINVAL);
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  const u64 count = std::min<u64>(a.u32_(2), kMaxMessages);
  u64 sent = 0;
  while (sent < count) {
    const mm::UserAddr entry = batch_entry(a.addr(1), sent);
    bool left = false;
    const SysResult r = send_message(t, *s, entry, a.i(3), &left);
    const Result<void> told = r.error() == 0 ? write_batch_length(t, entry, r.rax()) : err(r.error());
    if (!told) return sent != 0 ? SysResult(sent) : told;
    ++sent;
    if (left) break;
    if (sent % kMessagesBeforeYield == 0) yield();
  }
  return sent;
}

// --- Receiving --------------------------------------------------------------------------------------

SysResult sys_recvfrom(Task& t, const SyscallArgs& a) {
  mm::IoBuffer data = TRY(message_buffer(t, a.addr(1), a.u(2)));
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  const ReceivedMessage got = TRY(s->recvmsg(t.fs_context(), data, a.i(3) & kReceiveFlags));
  if (a.addr(4) != 0) TRY(write_socket_address(t, got.from, a.addr(4), a.ptr<s32>(5)));
  return got.bytes;
}

// What the guest gets of the ancillary data; returns its length. Like Linux, memory that cannot be written makes no
// error: the data is lost, as if there had been no room.
u64 write_control(Task& t, const Header& h, net::Control control, bool cloexec, int& msg_flags) {
  if (!control.credentials && control.files.empty()) return 0;
  const bool files = !control.files.empty();
  const size_t room = h.control() != 0 ? h.raw.msg_controllen : 0;
  const u64 limit = t.group->limit(RLIMIT_NOFILE).rlim_cur;
  net::FormattedControl out = net::format_control(std::move(control), *t.files, limit, room, msg_flags);
  if (!mm::UserPtr<const std::byte>(h.control()).write_array(*t.mm, out.bytes)) {
    if (files) msg_flags |= MSG_CTRUNC;
    return 0;
  }
  out.open(cloexec);
  return out.bytes.size();
}

// `msg_flags`, when given, is what the header was told.
SysResult receive_message(Task& t, SocketFile& s, mm::UserAddr addr, int flags) {
  Header h = TRY(read_header(t, addr, false));
  ReceivedMessage got = TRY(s.recvmsg(t.fs_context(), h.data, flags & kReceiveFlags));
  int msg_flags = got.flags | (flags & MSG_CMSG_CLOEXEC);
  const u64 control = write_control(t, h, std::move(got.control), (flags & MSG_CMSG_CLOEXEC) != 0, msg_flags);
  if (h.address() != 0) {
    TRY(write_socket_address(t, got.from, h.address(), h.room()));
    TRY(mm::UserPtr<u32>(addr + offsetof(msghdr, msg_namelen)).write(*t.mm, got.from.len));
  }
  TRY(mm::UserPtr<int>(addr + offsetof(msghdr, msg_flags)).write(*t.mm, msg_flags));
  TRY(mm::UserPtr<u64>(addr + offsetof(msghdr, msg_controllen)).write(*t.mm, control));
  return got.bytes;
}

SysResult sys_recvmsg(Task& t, const SyscallArgs& a) {
  if ((a.u32_(2) & kCompatFlag) != 0) return err(EINVAL);
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  return receive_message(t, *s, a.addr(1), a.i(2));
}

// How many messages came. The time-out is looked at after each of them only, as recvmmsg(2) complains.
SysResult receive_batch(Task& t, SocketFile& s, const SyscallArgs& a, Nanos deadline) {
  if (const int error = s.take_error()) return err(error);
  int flags = a.i(3) & ~MSG_WAITFORONE;
  const u64 count = a.u32_(2);
  u64 received = 0;
  while (received < count) {
    const mm::UserAddr entry = batch_entry(a.addr(1), received);
    const SysResult r = receive_message(t, s, entry, flags);
    const Result<void> told = r.error() == 0 ? write_batch_length(t, entry, r.rax()) : err(r.error());
    if (!told) {
      const int e = errno_value(told.error());
      if (received == 0) return told;
      // What stopped it is told by the next call, but for an interruption: the signal tells of that.
      if (e != EAGAIN && e != EINTR && e < kERESTARTSYS) s.set_error(e);
      break;
    }
    ++received;
    if ((a.i(3) & MSG_WAITFORONE) != 0) flags |= MSG_DONTWAIT;
    if (deadline != kNever && monotonic_now() >= deadline) break;
    if (t.killed.load(std::memory_order_relaxed)) break;
    if (received % kMessagesBeforeYield == 0) yield();
  }
  return received;
}

SysResult sys_recvmmsg(Task& t, const SyscallArgs& a) {
  if ((a.u32_(3) & kCompatFlag) != 0) return err(EINVAL);
  const mm::UserPtr<__kernel_timespec> timeout = a.ptr<__kernel_timespec>(4);
  const Nanos deadline = TRY(read_timeout(t, timeout));
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  const SysResult r = receive_batch(t, *s, a, deadline);
  if (timeout && r.error() == 0 && r.rax() != 0) {
    const Nanos left = std::max<Nanos>(deadline - monotonic_now(), 0);
    TRY(timeout.write(*t.mm, {left / kNanosPerSecond, left % kNanosPerSecond}));
  }
  return r;
}

constexpr const char* kMissing = "no MSG_OOB, MSG_ERRQUEUE";

constexpr SyscallEntry kEntries[] = {
    {__NR_sendto,
     "sendto",
     sys_sendto,
     Support::kPartial,
     kMissing,
     {Arg::kFd, Arg::kBufIn, Arg::kSize, Arg::kMsgFlags, Arg::kSockaddr, Arg::kInt}},
    {__NR_sendmsg, "sendmsg", sys_sendmsg, Support::kPartial, kMissing, {Arg::kFd, Arg::kMsghdrIn, Arg::kMsgFlags}},
    {__NR_sendmmsg,
     "sendmmsg",
     sys_sendmmsg,
     Support::kPartial,
     kMissing,
     {Arg::kFd, Arg::kMmsghdrIn, Arg::kUint, Arg::kMsgFlags}},
    {__NR_recvfrom,
     "recvfrom",
     sys_recvfrom,
     Support::kPartial,
     kMissing,
     {Arg::kFd, Arg::kBufOut, Arg::kSize, Arg::kMsgFlags, Arg::kSockaddrOut, Arg::kLengthPtr}},
    {__NR_recvmsg, "recvmsg", sys_recvmsg, Support::kPartial, kMissing, {Arg::kFd, Arg::kMsghdrOut, Arg::kMsgFlags}},
    {__NR_recvmmsg,
     "recvmmsg",
     sys_recvmmsg,
     Support::kPartial,
     kMissing,
     {Arg::kFd, Arg::kMmsghdrOut, Arg::kUint, Arg::kMsgFlags, Arg::kTimespec}},
};

}  // namespace

Family socket_message_family() { return kEntries; }

}  // namespace rf::task
