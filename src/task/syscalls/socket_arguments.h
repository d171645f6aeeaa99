// What the socket calls share: the socket of a descriptor, and addresses in guest memory.
#pragma once

#include "net/socket.h"
#include "task/call_helpers.h"

namespace rf::task {

// Keeps the description while a call uses the socket.
class SocketArgument {
 public:
  // EBADF, ENOTSOCK.
  static Result<SocketArgument> resolve(Task& t, int fd) {
    Ref<fs::File> f = TRY(t.file(fd));
    if ((f->flags() & O_PATH) != 0) return err(EBADF);
    net::SocketFile* socket = TRY(net::as_socket(*f));
    return SocketArgument(std::move(f), *socket);
  }
  net::SocketFile* operator->() const { return socket_; }
  net::SocketFile& operator*() const { return *socket_; }

 private:
  SocketArgument(Ref<fs::File> file, net::SocketFile& socket) : file_(std::move(file)), socket_(&socket) {}
  Ref<fs::File> file_;
  net::SocketFile* socket_;
};

// EINVAL when the length is out of range, EFAULT. Length 0 gives no address.
inline Result<net::SocketAddress> read_socket_address(Task& t, mm::UserAddr addr, s32 len) {
  std::array<std::byte, sizeof(sockaddr_storage)> bytes;
  if (len < 0 || static_cast<size_t>(len) > bytes.size()) return err(EINVAL);
  const std::span<std::byte> used(bytes.data(), static_cast<size_t>(len));
  TRY(mm::UserPtr<std::byte>(addr).read_array(*t.mm, used));
  return net::SocketAddress::from_bytes(used);
}

// Writes the address, cut off at `room` bytes: EINVAL when that is negative, EFAULT. The caller tells the whole length.
inline Result<void> write_socket_address(Task& t, const net::SocketAddress& from, mm::UserAddr addr, s32 room) {
  if (room < 0) return err(EINVAL);
  const size_t len = std::min<size_t>(static_cast<size_t>(room), from.len);
  return mm::UserPtr<std::byte>(addr).write_array(*t.mm, from.span().first(len));
}

// The address and its value-result length, as getsockname(2) gives them.
inline Result<void> write_socket_address(Task& t, const net::SocketAddress& from, mm::UserAddr addr,
                                         mm::UserPtr<s32> length) {
  TRY(write_socket_address(t, from, addr, TRY(length.read(*t.mm))));
  return length.write(*t.mm, static_cast<s32>(from.len));
}

}  // namespace rf::task
