#include "net/unix_socket.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>

#include "fs/special_files.h"
#include "fs/vfs.h"
#include "mm/user_access.h"

namespace rf::net {

namespace {

constexpr u32 kMaxBacklog = 4096;  // net.core.somaxconn

Identity identity_of(const fs::Context& ctx) {
  static const auto& none = *new std::shared_ptr<const std::vector<u32>>(new std::vector<u32>);
  const std::vector<u32>& groups = ctx.creds.groups;
  return {{ctx.pid, ctx.creds.euid, ctx.creds.egid},
          groups.empty() ? none : std::make_shared<const std::vector<u32>>(groups)};
}

constexpr EventMask kReadable = POLLIN | POLLRDNORM;
constexpr EventMask kWritable = POLLOUT | POLLWRNORM | POLLWRBAND;

// ESOCKTNOSUPPORT, EPROTONOSUPPORT.
Result<int> unix_type(int type, int protocol) {
  if (protocol != 0 && protocol != PF_UNIX) return err(EPROTONOSUPPORT);
  switch (type & 0xf) {
    case SOCK_STREAM:
    case SOCK_DGRAM:
    case SOCK_SEQPACKET:
      return type & 0xf;
    case SOCK_RAW:
      return SOCK_DGRAM;  // as old programs have it
    default:
      return err(ESOCKTNOSUPPORT);
  }
}

int description_flags(int type) { return (type & SOCK_NONBLOCK) ? O_NONBLOCK : 0; }

}  // namespace

// --- UnixSocket -------------------------------------------------------------------------------------

UnixSocket::UnixSocket(int type) : type(type) { enlist(*this); }

UnixSocket::~UnixSocket() {
  delist(*this);
  RF_CHECK(queue.empty(), "a socket's queue outlived its description");
}

int UnixSocket::take_error() {
  SpinGuard guard(lock);
  return std::exchange(error, 0);
}

EventMask UnixSocket::poll() {
  EventMask mask = 0;
  Ref<UnixSocket> other;
  {
    SpinGuard guard(lock);
    if (error != 0) mask |= POLLERR;
    if (shut == kNeither) mask |= POLLHUP;
    if (shut & kNoReceive) mask |= POLLRDHUP | kReadable;
    if (!queue.empty()) mask |= kReadable;
    if (connection_based() && (state == State::kUnconnected || state == State::kReleased)) mask |= POLLHUP;
    if (state != State::kListening && writable()) mask |= kWritable;
    if (!connection_based()) other = peer;
  }
  if (!other || other == this || !(mask & kWritable)) return mask;
  // A datagram socket is writable when its peer has room too, unless the two are each other's.
  PairLock locked(*this, *other);
  if (peer != other || other->peer == this || !other->queue_full() || other->state == State::kReleased) return mask;
  if (!static_cast<ListNode<BlockedTag>&>(*this).linked()) {
    ref();
    other->blocked_senders.push_back(*this);
  }
  return mask & ~kWritable;
}

Ref<UnixSocket> UnixSocket::change_peer(Ref<UnixSocket> to) {
  for (;;) {
    Ref<UnixSocket> old;
    {
      SpinGuard guard(lock);
      if (!peer) {
        peer = std::move(to);
        return nullptr;
      }
      old = peer;
    }
    bool waiting;
    {
      PairLock locked(*this, *old);
      if (peer != old) continue;
      std::swap(peer, to);  // `to` holds the former peer, as `old` does
      auto& node = static_cast<ListNode<BlockedTag>&>(*this);
      waiting = node.linked();
      if (waiting) node.unlink();
    }
    if (waiting) unref();
    return old;
  }
}

std::unique_ptr<Message> UnixSocket::pop() {
  Message* m;
  bool was_full;
  {
    SpinGuard guard(lock);
    was_full = queue_full();
    m = queue.pop_front();
    if (m) queued--;
  }
  if (was_full) {
    room.notify();
    wake_blocked_senders();
  }
  return std::unique_ptr<Message>(m);
}

void UnixSocket::wake_blocked_senders() {
  for (;;) {
    UnixSocket* sender;
    {
      SpinGuard guard(lock);
      sender = blocked_senders.pop_front();
    }
    if (!sender) return;
    sender->events.notify(kWritable);
    sender->unref();
  }
}

void UnixSocket::empty_queue() {
  while (std::unique_ptr<Message> m = pop())
    if (m->connection) m->connection->release();
}

void UnixSocket::release() {
  forget_name(*this);
  Ref<UnixSocket> other;
  if (!connection_based()) other = change_peer(nullptr);
  bool unread;
  {
    SpinGuard guard(lock);
    // A connection nobody accepted is unread as a whole.
    unread = !queue.empty() || !file;
    state = State::kReleased;
    shut = kNeither;
    if (connection_based()) other = std::exchange(peer, {});
  }
  if (other && connection_based()) {
    {
      SpinGuard guard(other->lock);
      other->shut = kNeither;
      if (unread) other->error = ECONNRESET;
    }
    other->events.notify();
  }
  empty_queue();
  events.notify();
  room.notify();
  wake_blocked_senders();
}

// --- Making sockets -----------------------------------------------------------------------------------

UnixFile::UnixFile(Ref<UnixSocket> socket, int flags)
    : SocketFile(AF_UNIX, socket->type, 0, flags), socket_(std::move(socket)) {
  socket_->file = this;
  socket_->inode = fs::anon_inode_number(path());
}

void UnixFile::release() {
  socket_->release();
  collect_unix_garbage();
}

Result<Ref<fs::File>> create_unix_socket(const fs::Context&, int type, int protocol) {
  int t = TRY(unix_type(type, protocol));
  return Ref<fs::File>(make_ref<UnixFile>(make_ref<UnixSocket>(t), description_flags(type)));
}

Result<std::pair<Ref<fs::File>, Ref<fs::File>>> create_unix_pair(const fs::Context& ctx, int type, int protocol) {
  int t = TRY(unix_type(type, protocol));
  auto a = make_ref<UnixFile>(make_ref<UnixSocket>(t), description_flags(type));
  auto b = make_ref<UnixFile>(make_ref<UnixSocket>(t), description_flags(type));
  for (auto [own, other] : {std::pair(a.get(), b.get()), std::pair(b.get(), a.get())}) {
    UnixSocket& s = *own->socket_;
    s.peer = other->socket_;
    s.state = UnixSocket::State::kConnected;
    s.own_identity = s.peer_identity = identity_of(ctx);
  }
  return std::pair(Ref<fs::File>(std::move(a)), Ref<fs::File>(std::move(b)));
}

// --- Names --------------------------------------------------------------------------------------------

Result<void> UnixFile::bind(const fs::Context& ctx, const SocketAddress& address) {
  if (address.len == sizeof(sa_family_t) && address.family() == AF_UNIX) return autobind();
  std::string_view name = TRY(unix_name(address));
  FiberGuard guard(bind_mutex_);
  {
    SpinGuard socket_guard(socket_->lock);
    if (!socket_->name.empty()) return err(EINVAL);
  }
  if (name[0] != '\0') return bind_path(ctx, name);
  TRY(register_abstract(name, *socket_));
  SpinGuard socket_guard(socket_->lock);
  socket_->name = name;
  return {};
}

Result<void> UnixFile::bind_path(const fs::Context& ctx, std::string_view path) {
  if (!ctx.vfs) return err(ENOENT);
  // Whoever wants fewer permissions has changed the socket's by fchmod(2).
  const u16 mode = TRY(inode().getattr(ctx)).mode;
  auto made = ctx.vfs->mknod(ctx, nullptr, path, mode, 0, 0);
  if (!made) return err(made.error() == Errno{EEXIST} ? Errno{EADDRINUSE} : made.error());
  const Ref<fs::Inode>& node = made->dentry->inode();
  {
    SpinGuard socket_guard(socket_->lock);
    socket_->name = path;
    socket_->bound_path = *made;
  }
  SpinGuard guard(node->attached_lock);
  node->bound_socket = socket_;
  return {};
}

// A name of the sentry's choice: NUL and five hexadecimal digits.
Result<void> UnixFile::autobind() {
  static std::atomic<u32> next{0};
  FiberGuard guard(bind_mutex_);
  {
    SpinGuard socket_guard(socket_->lock);
    if (!socket_->name.empty()) return {};
  }
  for (u32 tries = 0; tries <= 0xfffff; tries++) {
    char digits[8];
    snprintf(digits, sizeof digits, "%05x", next.fetch_add(1) & 0xfffff);
    std::string name = std::string(1, '\0') + digits;
    if (!register_abstract(name, *socket_)) continue;
    SpinGuard socket_guard(socket_->lock);
    socket_->name = std::move(name);
    return {};
  }
  return err(ENOSPC);
}

// Who asks for credentials can be answered.
Result<void> UnixFile::autobind_if_needed() {
  if (!socket_->pass_credentials.load()) return {};
  return autobind();
}

Result<SocketAddress> UnixFile::getsockname() {
  SpinGuard guard(socket_->lock);
  return unix_address(socket_->name);
}

Result<SocketAddress> UnixFile::getpeername() {
  Ref<UnixSocket> peer;
  {
    SpinGuard guard(socket_->lock);
    peer = socket_->peer;
  }
  if (!peer) return err(ENOTCONN);
  SpinGuard guard(peer->lock);
  return unix_address(peer->name);
}

// --- Connections ----------------------------------------------------------------------------------------

Result<void> UnixFile::listen(const fs::Context& ctx, int backlog) {
  UnixSocket& s = *socket_;
  if (!s.connection_based()) return err(EOPNOTSUPP);
  Identity own = identity_of(ctx);
  {
    SpinGuard guard(s.lock);
    if (s.name.empty()) return err(EINVAL);
    if (s.state != UnixSocket::State::kUnconnected && s.state != UnixSocket::State::kListening) return err(EINVAL);
    s.state = UnixSocket::State::kListening;
    s.backlog = std::min(static_cast<u32>(backlog), kMaxBacklog);
    std::swap(s.own_identity, own);
  }
  s.room.notify();
  return {};
}

Result<Ref<SocketFile>> UnixFile::accept(const fs::Context&, int flags) {
  UnixSocket& s = *socket_;
  if (!s.connection_based()) return err(EOPNOTSUPP);
  const Nanos deadline = receive_deadline(0);
  for (;;) {
    bool stopped = false;
    auto ready = [&] {
      SpinGuard guard(s.lock);
      stopped = s.state != UnixSocket::State::kListening || (s.queue.empty() && (s.shut & UnixSocket::kNoReceive));
      return stopped || !s.queue.empty();
    };
    TRY(wait_for_socket(s.events, deadline, kReadable, ready));
    if (stopped) return err(EINVAL);
    std::unique_ptr<Message> request = s.pop();
    if (!request) continue;  // somebody else took it
    auto file = make_ref<UnixFile>(std::move(request->connection), description_flags(flags));
    if (option(SO_PASSCRED)) {
      file->options().flags.fetch_or(1u << SO_PASSCRED);
      file->options_changed();
    }
    return Ref<SocketFile>(std::move(file));
  }
}

Result<void> UnixFile::connect(const fs::Context& ctx, const SocketAddress& address) {
  return socket_->connection_based() ? connect_stream(ctx, address) : connect_datagram(ctx, address);
}

// Whether the request is in the listener's queue; false when that is full. Both ends are connected from then on.
Result<bool> UnixFile::try_connect(const fs::Context& ctx, UnixSocket& listener, Message& request) {
  UnixSocket& s = *socket_;
  UnixSocket& end = *request.connection;
  if (&s == &listener) return err(EINVAL);
  const Identity own = identity_of(ctx);
  PairLock locked(s, listener);
  if (listener.state != UnixSocket::State::kListening || (listener.shut & UnixSocket::kNoReceive))
    return err(ECONNREFUSED);
  if (listener.queue_full()) return false;
  if (s.state == UnixSocket::State::kConnected) return err(EISCONN);
  if (s.state != UnixSocket::State::kUnconnected) return err(EINVAL);
  end.state = s.state = UnixSocket::State::kConnected;
  end.name = listener.name;
  end.peer = socket_;
  end.own_identity = listener.own_identity;
  end.peer_identity = s.own_identity = own;
  s.peer = request.connection;
  s.peer_identity = listener.own_identity;
  listener.push(request);
  return true;
}

Result<void> UnixFile::connect_stream(const fs::Context& ctx, const SocketAddress& address) {
  std::string_view name = TRY(unix_name(address));
  TRY(autobind_if_needed());
  const Nanos deadline = send_deadline(0);
  std::unique_ptr<Message> request = TRY(Message::create(socket_, 0));
  request->connection = make_ref<UnixSocket>(socket_->type);
  for (;;) {
    Ref<UnixSocket> listener = TRY(find_socket(ctx, name, socket_->type));
    if (TRY(try_connect(ctx, *listener, *request))) {
      (void)request.release();  // the queue's
      listener->events.notify(kReadable);
      socket_->events.notify(kWritable);
      return {};
    }
    // Its queue is full. Whatever happens there, the name is looked up again.
    auto changed = [&] {
      SpinGuard guard(listener->lock);
      return listener->state != UnixSocket::State::kListening || !listener->queue_full() ||
             (listener->shut & UnixSocket::kNoReceive);
    };
    TRY(wait_for_socket(listener->room, deadline, kWaitAny, changed));
  }
}

Result<void> UnixFile::connect_datagram(const fs::Context& ctx, const SocketAddress& address) {
  if (address.len < sizeof(sa_family_t)) return err(EINVAL);
  if (address.family() == AF_UNSPEC) {
    set_datagram_peer(nullptr);
    return {};
  }
  std::string_view name = TRY(unix_name(address));
  TRY(autobind_if_needed());
  Ref<UnixSocket> other = TRY(find_socket(ctx, name, SOCK_DGRAM));
  {
    SpinGuard guard(other->lock);
    if (other->peer && other->peer != socket_) return err(EPERM);
  }
  set_datagram_peer(other);
  return {};
}

void UnixFile::set_datagram_peer(const Ref<UnixSocket>& peer) {
  UnixSocket& s = *socket_;
  Ref<UnixSocket> old = s.change_peer(peer);
  {
    SpinGuard guard(s.lock);
    s.state = s.peer ? UnixSocket::State::kConnected : UnixSocket::State::kUnconnected;
  }
  s.events.notify(kWritable);
  if (!old || old == peer) return;
  // What was sent so far is no longer to be received.
  bool any = false;
  {
    FiberGuard receiving(s.receive_mutex);
    while (std::unique_ptr<Message> m = s.pop()) any = true;
  }
  {
    SpinGuard guard(old->lock);
    if (!any || old->peer != &s) return;
    old->error = ECONNRESET;
  }
  old->events.notify(POLLERR);
}

Result<void> UnixFile::shutdown(int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return err(EINVAL);
  const u8 own = how == SHUT_RD ? UnixSocket::kNoReceive : how == SHUT_WR ? UnixSocket::kNoSend : UnixSocket::kNeither;
  Ref<UnixSocket> other;
  {
    SpinGuard guard(socket_->lock);
    socket_->shut |= own;
    if (socket_->connection_based()) other = socket_->peer;
  }
  if (other) {
    u8 theirs = 0;
    if (own & UnixSocket::kNoReceive) theirs |= UnixSocket::kNoSend;
    if (own & UnixSocket::kNoSend) theirs |= UnixSocket::kNoReceive;
    {
      SpinGuard guard(other->lock);
      other->shut |= theirs;
    }
    other->events.notify();
  }
  socket_->events.notify();
  socket_->room.notify();
  return {};
}

// --- Options ----------------------------------------------------------------------------------------------

void UnixFile::set_error(int error) {
  {
    SpinGuard guard(socket_->lock);
    socket_->error = error;
  }
  socket_->events.notify(POLLERR);
}

bool UnixFile::listening() {
  SpinGuard guard(socket_->lock);
  return socket_->state == UnixSocket::State::kListening;
}

void UnixFile::options_changed() {
  socket_->pass_credentials.store(option(SO_PASSCRED));
  socket_->send_buffer.store(options().send_buffer);
  socket_->events.notify(kWritable);
}

Result<size_t> UnixFile::getsockopt(const fs::Context& ctx, int level, int name, std::span<std::byte> out) {
  if (level != SOL_SOCKET || (name != SO_PEERCRED && name != SO_PEERGROUPS))
    return SocketFile::getsockopt(ctx, level, name, out);
  Identity peer;
  {
    SpinGuard guard(socket_->lock);
    peer = socket_->peer_identity;
  }
  if (name == SO_PEERCRED) {
    size_t n = std::min(out.size(), sizeof peer.ids);
    memcpy(out.data(), &peer.ids, n);
    return n;
  }
  if (!peer.groups) return err(ENODATA);
  auto bytes = std::as_bytes(std::span(*peer.groups));
  if (bytes.size() <= out.size()) std::ranges::copy(bytes, out.begin());
  return bytes.size();
}

Result<u64> UnixFile::ioctl(const fs::Context& ctx, u32 request, u64 arg) {
  int value = 0;
  switch (request) {
    case SIOCINQ: {
      SpinGuard guard(socket_->lock);
      if (socket_->state == UnixSocket::State::kListening) return err(EINVAL);
      for (Message& m : socket_->queue) {
        value += static_cast<int>(m.len - m.offset);
        if (!socket_->is_stream()) break;
      }
      break;
    }
    case SIOCOUTQ:
      value = static_cast<int>(socket_->send_charged.load());
      break;
    default:
      return err(ENOTTY);
  }
  if (!ctx.mm) return err(EFAULT);
  TRY(mm::UserPtr<int>(arg).write(*ctx.mm, value));
  return 0;
}

}  // namespace rf::net
