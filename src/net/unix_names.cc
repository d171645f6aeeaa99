// Names of AF_UNIX sockets: abstract ones in a table of the sandbox, the others in the file system.
#include <sys/un.h>

#include <cstddef>
#include <cstring>
#include <unordered_map>

#include "fs/dentry.h"
#include "fs/vfs.h"
#include "net/unix_socket.h"

namespace rf::net {

namespace {

constexpr size_t kPathOffset = offsetof(sockaddr_un, sun_path);

// Sockets are in it as long as they live, and take themselves out.
struct AbstractNames {
  SpinLock lock;
  std::unordered_map<std::string, UnixSocket*> sockets;
};

AbstractNames& abstract_names() {
  static AbstractNames& names = *new AbstractNames;
  return names;
}

// The sockets of each type have names of their own.
std::string abstract_key(std::string_view name, int type) {
  return std::string(1, static_cast<char>(type)).append(name);
}

Ref<UnixSocket> find_abstract(std::string_view name, int type) {
  const std::string key = abstract_key(name, type);
  AbstractNames& names = abstract_names();
  SpinGuard guard(names.lock);
  auto found = names.sockets.find(key);
  if (found == names.sockets.end() || !found->second->try_ref()) return nullptr;
  return Ref<UnixSocket>::adopt(found->second);
}

Result<Ref<UnixSocket>> find_path(const fs::Context& ctx, std::string_view name) {
  if (!ctx.vfs) return err(ENOENT);
  fs::Path path = TRY(ctx.vfs->walk(ctx, nullptr, name, {}));
  fs::Inode& inode = *path.dentry->inode();
  TRY(inode.permission(ctx, W_OK));
  if (inode.type() != S_IFSOCK) return err(ECONNREFUSED);
  SpinGuard guard(inode.attached_lock);
  return Ref<UnixSocket>(static_cast<UnixSocket*>(inode.bound_socket.get()));
}

}  // namespace

Result<std::string_view> unix_name(const SocketAddress& address) {
  if (address.len <= kPathOffset || address.len > sizeof(sockaddr_un) || address.family() != AF_UNIX)
    return err(EINVAL);
  std::string_view name(reinterpret_cast<const char*>(address.bytes.data()) + kPathOffset, address.len - kPathOffset);
  if (name[0] != '\0') name = name.substr(0, name.find('\0'));
  return name;
}

SocketAddress unix_address(std::string_view name) {
  SocketAddress a;
  const sa_family_t family = AF_UNIX;
  memcpy(a.bytes.data(), &family, sizeof family);
  memcpy(a.bytes.data() + kPathOffset, name.data(), name.size());
  // A path is given back with its NUL.
  a.len = static_cast<u32>(kPathOffset + name.size() + (!name.empty() && name[0] != '\0' ? 1 : 0));
  return a;
}

Result<void> register_abstract(std::string_view name, UnixSocket& socket) {
  std::string key = abstract_key(name, socket.type);
  AbstractNames& names = abstract_names();
  SpinGuard guard(names.lock);
  if (!names.sockets.emplace(std::move(key), &socket).second) return err(EADDRINUSE);
  return {};
}

void forget_name(UnixSocket& socket) {
  std::string name;
  fs::Path path;
  {
    SpinGuard guard(socket.lock);
    name = socket.name;
    path = std::exchange(socket.bound_path, {});
  }
  if (path) {
    fs::Inode& inode = *path.dentry->inode();
    Ref<RefCounted> last;
    SpinGuard guard(inode.attached_lock);
    if (inode.bound_socket == &socket) last = std::exchange(inode.bound_socket, {});
    return;
  }
  if (name.empty() || name[0] != '\0') return;
  const std::string key = abstract_key(name, socket.type);
  AbstractNames& names = abstract_names();
  SpinGuard guard(names.lock);
  auto found = names.sockets.find(key);
  // Connections that were accepted have their listener's name.
  if (found != names.sockets.end() && found->second == &socket) names.sockets.erase(found);
}

Result<Ref<UnixSocket>> find_socket(const fs::Context& ctx, std::string_view name, int type) {
  Ref<UnixSocket> socket = name[0] == '\0' ? find_abstract(name, type) : TRY(find_path(ctx, name));
  if (!socket) return err(ECONNREFUSED);
  if (socket->type != type) return err(EPROTOTYPE);
  return socket;
}

}  // namespace rf::net
