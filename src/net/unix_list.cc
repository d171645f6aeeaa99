// All AF_UNIX sockets of the sandbox, for /proc/net/unix.
#include <fmt/format.h>
#include <linux/net.h>

#include <algorithm>

#include "net/unix_socket.h"

namespace rf::net {

namespace {

struct AllSockets {
  SpinLock lock;
  List<UnixSocket, AllTag> list;
};

AllSockets& all_sockets() {
  static AllSockets& all = *new AllSockets;
  return all;
}

std::string line(UnixSocket& s) {
  std::string name;
  u32 flags = 0, state;
  const u64 inode = s.inode;
  {
    SpinGuard guard(s.lock);
    name = s.name;
    if (s.state == UnixSocket::State::kListening) flags = __SO_ACCEPTCON;
    const bool connected = s.state == UnixSocket::State::kConnected;
    state = inode != 0 ? (connected ? SS_CONNECTED : SS_UNCONNECTED) : (connected ? SS_CONNECTING : SS_DISCONNECTING);
  }
  // The '@' of abstract names, and what else in them would break the line.
  std::ranges::replace(name, '\0', '@');
  // One reference is the caller's; Linux has one more for a socket with a description. Addresses of the sentry are
  // nobody's business.
  const u32 references = s.ref_count() - 1 + (inode != 0 ? 1 : 0);
  return fmt::format("{:016x}: {:08X} {:08X} {:08X} {:04X} {:02X} {:5}{}{}\n", 0, references, 0, flags, s.type, state,
                     inode, name.empty() ? "" : " ", name);
}

}  // namespace

void enlist(UnixSocket& socket) {
  AllSockets& all = all_sockets();
  SpinGuard guard(all.lock);
  all.list.push_back(socket);
}

void delist(UnixSocket& socket) {
  AllSockets& all = all_sockets();
  SpinGuard guard(all.lock);
  List<UnixSocket, AllTag>::remove(socket);
}

std::string unix_sockets_text() {
  std::vector<Ref<UnixSocket>> sockets;
  {
    AllSockets& all = all_sockets();
    SpinGuard guard(all.lock);
    for (UnixSocket& s : all.list)
      if (s.try_ref()) sockets.push_back(Ref<UnixSocket>::adopt(&s));
  }
  std::string text = "Num       RefCount Protocol Flags    Type St Inode Path\n";
  for (const Ref<UnixSocket>& s : sockets) text += line(*s);
  return text;
}

}  // namespace rf::net
