// Sockets: making, naming, connecting and adjusting them. Their data is in socket_message.cc.
#include <asm/unistd_64.h>
#include <limits.h>

#include "task/syscalls/families.h"
#include "task/syscalls/socket_arguments.h"

namespace rf::task {
namespace {

using net::SocketAddress;
using net::SocketFile;

u64 descriptor_limit(Task& t) { return t.group->limit(RLIMIT_NOFILE).rlim_cur; }

SysResult sys_socket(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(net::create_socket(t.fs_context(), a.i(0), a.i(1), a.i(2)));
  TRY(own(t, *f));
  return t.files->install(std::move(f), (a.i(1) & SOCK_CLOEXEC) != 0, 0, descriptor_limit(t));
}

SysResult sys_socketpair(Task& t, const SyscallArgs& a) {
  const int type = a.i(1);
  if ((type & ~(0xf | SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0) return err(EINVAL);
  // The guest is told the numbers before there is anything that would have to be closed again.
  fs::ReservedFd first = TRY(fs::ReservedFd::make(*t.files, descriptor_limit(t)));
  fs::ReservedFd second = TRY(fs::ReservedFd::make(*t.files, descriptor_limit(t)));
  TRY(a.ptr<std::array<int, 2>>(3).write(*t.mm, {first.number(), second.number()}));
  auto [one, two] = TRY(net::create_socket_pair(t.fs_context(), a.i(0), type, a.i(2)));
  TRY(own(t, *one));
  TRY(own(t, *two));
  first.fill(std::move(one), (type & SOCK_CLOEXEC) != 0);
  second.fill(std::move(two), (type & SOCK_CLOEXEC) != 0);
  return 0;
}

SysResult sys_bind(Task& t, const SyscallArgs& a) {
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  const SocketAddress address = TRY(read_socket_address(t, a.addr(1), a.i(2)));
  return s->bind(t.fs_context(), address);
}

SysResult sys_listen(Task& t, const SyscallArgs& a) {
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  return s->listen(t.fs_context(), a.i(1));
}

SysResult accept_connection(Task& t, const SyscallArgs& a, int flags) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  if ((flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0) return err(EINVAL);
  // A connection that finds no descriptor stays in the queue.
  fs::ReservedFd fd = TRY(fs::ReservedFd::make(*t.files, descriptor_limit(t)));
  SocketFile* listener = TRY(net::as_socket(*f));
  Ref<SocketFile> connection = TRY(listener->accept(t.fs_context(), flags & SOCK_NONBLOCK));
  TRY(own(t, *connection));
  if (a.addr(1) != 0) {
    const Result<SocketAddress> peer = connection->getpeername();
    if (!peer) return err(ECONNABORTED);
    TRY(write_socket_address(t, *peer, a.addr(1), a.ptr<s32>(2)));
  }
  fd.fill(std::move(connection), (flags & SOCK_CLOEXEC) != 0);
  return static_cast<u64>(fd.number());
}

SysResult sys_accept(Task& t, const SyscallArgs& a) { return accept_connection(t, a, 0); }
SysResult sys_accept4(Task& t, const SyscallArgs& a) { return accept_connection(t, a, a.i(3)); }

SysResult sys_connect(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  const SocketAddress address = TRY(read_socket_address(t, a.addr(1), a.i(2)));
  SocketFile* s = TRY(net::as_socket(*f));
  return s->connect(t.fs_context(), address);
}

SysResult sys_getsockname(Task& t, const SyscallArgs& a) {
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  return write_socket_address(t, TRY(s->getsockname()), a.addr(1), a.ptr<s32>(2));
}

SysResult sys_getpeername(Task& t, const SyscallArgs& a) {
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  return write_socket_address(t, TRY(s->getpeername()), a.addr(1), a.ptr<s32>(2));
}

SysResult sys_shutdown(Task& t, const SyscallArgs& a) {
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  return s->shutdown(a.i(1));
}

SysResult sys_setsockopt(Task& t, const SyscallArgs& a) {
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  const s32 len = a.i(4);
  if (len < 0) return err(EINVAL);
  // No option's value is longer; what a caller gives beyond it is not looked at, nor has it to be there.
  std::array<std::byte, 256> value;
  const size_t wanted = std::min<size_t>(static_cast<size_t>(len), value.size());
  const size_t got = t.mm->copy_in(value.data(), a.addr(3), wanted);
  if (got < wanted && got < sizeof(int)) return err(wanted < sizeof(int) ? EINVAL : EFAULT);
  return s->setsockopt(t.fs_context(), a.i(1), a.i(2), std::span(value).first(got));
}

SysResult sys_getsockopt(Task& t, const SyscallArgs& a) {
  SocketArgument s = TRY(SocketArgument::resolve(t, a.fd(0)));
  const mm::UserPtr<s32> length = a.ptr<s32>(4);
  const s32 len = TRY(length.read(*t.mm));
  if (len < 0) return err(EINVAL);
  constexpr size_t kMaxValue = NGROUPS_MAX * sizeof(gid_t);  // SO_PEERGROUPS
  std::vector<std::byte> value(std::min<size_t>(static_cast<size_t>(len), kMaxValue));
  const size_t n = TRY(s->getsockopt(t.fs_context(), a.i(1), a.i(2), value));
  const bool fits = n <= value.size();
  if (fits) TRY(mm::UserPtr<std::byte>(a.addr(3)).write_array(*t.mm, std::span(value).first(n)));
  TRY(length.write(*t.mm, static_cast<s32>(n)));
  return fits ? SysResult(u64{0}) : err(ERANGE);
}

constexpr SyscallEntry kEntries[] = {
    {__NR_socket,
     "socket",
     sys_socket,
     Support::kPartial,
     "AF_UNIX only; other families: EAFNOSUPPORT",
     {Arg::kSockFamily, Arg::kSockType, Arg::kInt}},
    {__NR_socketpair,
     "socketpair",
     sys_socketpair,
     Support::kFull,
     "",
     {Arg::kSockFamily, Arg::kSockType, Arg::kInt, Arg::kFdPair}},
    {__NR_bind, "bind", sys_bind, Support::kFull, "", {Arg::kFd, Arg::kSockaddr, Arg::kInt}},
    {__NR_listen, "listen", sys_listen, Support::kFull, "", {Arg::kFd, Arg::kInt}},
    {__NR_accept, "accept", sys_accept, Support::kFull, "", {Arg::kFd, Arg::kSockaddrOut, Arg::kLengthPtr}},
    {__NR_accept4,
     "accept4",
     sys_accept4,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kSockaddrOut, Arg::kLengthPtr, Arg::kSockFlags}},
    {__NR_connect, "connect", sys_connect, Support::kFull, "", {Arg::kFd, Arg::kSockaddr, Arg::kInt}},
    {__NR_getsockname,
     "getsockname",
     sys_getsockname,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kSockaddrOut, Arg::kLengthPtr}},
    {__NR_getpeername,
     "getpeername",
     sys_getpeername,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kSockaddrOut, Arg::kLengthPtr}},
    {__NR_shutdown, "shutdown", sys_shutdown, Support::kFull, "", {Arg::kFd, Arg::kShutdownHow}},
    {__NR_setsockopt,
     "setsockopt",
     sys_setsockopt,
     Support::kPartial,
     "no filters, SO_PEEK_OFF, SO_PASSPIDFD; timestamps are not delivered",
     {Arg::kFd, Arg::kSockLevel, Arg::kSockOption, Arg::kSockValueIn, Arg::kInt}},
    {__NR_getsockopt,
     "getsockopt",
     sys_getsockopt,
     Support::kPartial,
     "no SO_PEERPIDFD, SO_PEERSEC",
     {Arg::kFd, Arg::kSockLevel, Arg::kSockOption, Arg::kSockValueOut, Arg::kLengthPtr}},
};

}  // namespace

Family socket_family() { return kEntries; }

}  // namespace rf::task
