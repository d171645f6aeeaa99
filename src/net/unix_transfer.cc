// Sending and receiving on AF_UNIX sockets. A message is filled from the guest's memory before any lock is taken, and
// emptied into it under the receiver's fiber mutex.
#include <algorithm>
#include <new>

#include "net/unix_socket.h"

namespace rf::net {

namespace {

constexpr size_t kMaxPiece = 32 << 10;     // of a stream, in one message
constexpr u32 kOverhead = 768;             // what Linux's sk_buff adds, roughly: bounds the number of small messages
constexpr u32 kOverflowId = 65534;         // where no credentials were sent
constexpr u64 kMaxTotal = u64{256} << 20;  // of all queues of the sandbox: they are the sentry's memory
std::atomic<u64> g_total{0};

constexpr EventMask kReadable = POLLIN | POLLRDNORM;
constexpr EventMask kWritable = POLLOUT | POLLWRNORM | POLLWRBAND;

u32 charge_of(size_t len) { return static_cast<u32>((len + kOverhead + 255) & ~size_t{255}); }

}  // namespace

// --- Messages ---------------------------------------------------------------------------------------

Result<std::unique_ptr<Message>> Message::create(Ref<UnixSocket> sender, size_t len) {
  const u32 charge = charge_of(len);
  if (g_total.fetch_add(charge) + charge > kMaxTotal) {
    g_total.fetch_sub(charge);
    return err(ENOBUFS);
  }
  void* memory = ::operator new(sizeof(Message) + len, std::nothrow);
  if (!memory) {
    g_total.fetch_sub(charge);
    return err(ENOMEM);
  }
  sender->send_charged.fetch_add(charge);
  return std::unique_ptr<Message>(new (memory) Message(std::move(sender), len));
}

Message::~Message() {
  const u32 charge = charge_of(len);
  g_total.fetch_sub(charge);
  const bool was_writable = sender->writable();
  sender->send_charged.fetch_sub(charge);
  if (!was_writable && sender->writable()) sender->events.notify(kWritable);
}

Result<std::unique_ptr<Message>> UnixFile::make_message(const fs::Context& ctx, SendMessage& message, size_t len,
                                                        UnixSocket& to, std::unique_ptr<Rights>& rights) {
  std::unique_ptr<Message> m = TRY(Message::create(socket_, len));
  if (TRY(message.data.get(m->data())) < len) return err(EFAULT);
  if (message.control.credentials) {
    m->credentials = *message.control.credentials;
    m->has_credentials = true;
  } else if (socket_->pass_credentials.load() || to.pass_credentials.load() || !to.file) {
    m->credentials = {ctx.pid, ctx.creds.uid, ctx.creds.gid};
    m->has_credentials = true;
  }
  m->rights = std::move(rights);
  return m;
}

// --- Sending ----------------------------------------------------------------------------------------

Result<void> UnixFile::wait_for_send_room(Nanos deadline) {
  UnixSocket& s = *socket_;
  auto ready = [&] {
    SpinGuard guard(s.lock);
    return s.error != 0 || (s.shut & UnixSocket::kNoSend) || s.has_send_room();
  };
  TRY(wait_for_socket(s.events, deadline, kWaitAny, ready));
  SpinGuard guard(s.lock);
  if (s.error != 0) return err(std::exchange(s.error, 0));
  if (s.shut & UnixSocket::kNoSend) return err(EPIPE);
  return {};
}

Result<void> UnixSocket::deliver(UnixSocket& from, std::unique_ptr<Message>& message, bool& full) {
  {
    SpinGuard guard(lock);
    full = false;
    if (state == State::kReleased) return err(is_stream() ? EPIPE : ECONNREFUSED);
    if (shut & kNoReceive) return err(EPIPE);
    if (!connection_based()) {
      if (peer && peer != &from) return err(EPERM);
      if (this != &from && peer != &from && queue_full()) {
        full = true;
        return err(EAGAIN);
      }
    }
    push(*message.release());
  }
  events.notify(kReadable);
  return {};
}

Result<size_t> UnixFile::send_stream(const fs::Context& ctx, SendMessage& message) {
  UnixSocket& s = *socket_;
  Ref<UnixSocket> to;
  {
    SpinGuard guard(s.lock);
    const bool connected = s.state == UnixSocket::State::kConnected;
    if (message.to && message.to->len != 0) return err(connected ? EISCONN : EOPNOTSUPP);
    if (!connected) return err(ENOTCONN);
    if (s.shut & UnixSocket::kNoSend) return err(EPIPE);
    to = s.peer;
  }
  std::unique_ptr<Rights> rights;
  if (!message.control.files.empty()) rights = TRY(Rights::attach(std::move(message.control.files)));
  const Nanos deadline = send_deadline(message.flags);
  const size_t max_piece = std::min<size_t>(kMaxPiece, s.send_buffer.load() / 2 - 64);
  size_t sent = 0;
  Result<void> result;
  while (result && message.data.remaining() != 0) {
    result = wait_for_send_room(deadline);
    if (!result) break;
    size_t len = std::min<u64>(message.data.remaining(), max_piece);
    auto piece = make_message(ctx, message, len, *to, rights);
    if (!piece) {
      result = err(piece.error());
      break;
    }
    bool full;
    result = to->deliver(s, *piece, full);
    if (result) sent += len;
  }
  if (sent == 0 && !result) return err(result.error());
  return sent;
}

// Whom a datagram is for. ENOTCONN, and what finding a name gives.
Result<Ref<UnixSocket>> UnixFile::datagram_target(const fs::Context& ctx, SendMessage& message) {
  UnixSocket& s = *socket_;
  if (message.to && message.to->len != 0 && !s.connection_based())
    return find_socket(ctx, TRY(unix_name(*message.to)), SOCK_DGRAM);
  SpinGuard guard(s.lock);
  if (!s.peer || (s.connection_based() && s.state != UnixSocket::State::kConnected)) return err(ENOTCONN);
  return s.peer;
}

Result<size_t> UnixFile::send_datagram(const fs::Context& ctx, SendMessage& message) {
  UnixSocket& s = *socket_;
  if (!s.connection_based()) TRY(autobind_if_needed());
  const size_t len = message.data.remaining();
  Ref<UnixSocket> to = TRY(datagram_target(ctx, message));
  if (len > s.send_buffer.load() - 32) return err(EMSGSIZE);
  std::unique_ptr<Rights> rights;
  if (!message.control.files.empty()) rights = TRY(Rights::attach(std::move(message.control.files)));
  const Nanos deadline = send_deadline(message.flags);
  TRY(wait_for_send_room(deadline));
  std::unique_ptr<Message> m = TRY(make_message(ctx, message, len, *to, rights));
  for (;;) {
    bool full;
    Result<void> delivered = to->deliver(s, m, full);
    if (delivered) return len;
    if (!full) {
      // A peer that is gone is forgotten.
      if (delivered.error() == Errno{ECONNREFUSED} && !message.to && !s.connection_based()) set_datagram_peer(nullptr);
      return err(s.connection_based() && delivered.error() == Errno{ECONNREFUSED} ? Errno{EPIPE} : delivered.error());
    }
    auto changed = [&] {
      SpinGuard guard(to->lock);
      return !to->queue_full() || to->state == UnixSocket::State::kReleased || (to->shut & UnixSocket::kNoReceive);
    };
    TRY(wait_for_socket(to->room, deadline, kWaitAny, changed));
  }
}

Result<size_t> UnixFile::sendmsg(const fs::Context& ctx, SendMessage& message) {
  if (message.flags & MSG_OOB) return err(EOPNOTSUPP);
  return socket_->is_stream() ? send_stream(ctx, message) : send_datagram(ctx, message);
}

// --- Receiving --------------------------------------------------------------------------------------

namespace {

// Adds a message's address, credentials and descriptions to what is received.
void receive_control(UnixSocket& s, Message& m, bool peek, ReceivedMessage& out) {
  {
    SpinGuard guard(m.sender->lock);
    if (!m.sender->name.empty()) out.from = unix_address(m.sender->name);
  }
  if (s.pass_credentials.load())
    out.control.credentials = m.has_credentials ? m.credentials : ucred{0, kOverflowId, kOverflowId};
  if (peek) {
    if (m.rights) out.control.files = m.rights->copy();
    return;
  }
  std::unique_ptr<Rights> rights;
  {
    SpinGuard guard(s.lock);  // the collector looks at messages in queues
    rights = std::move(m.rights);
  }
  if (rights) out.control.files = rights->detach();
}

bool same_writer(const Message& m, const std::optional<ucred>& c) {
  ucred own = m.has_credentials ? m.credentials : ucred{0, kOverflowId, kOverflowId};
  return !c || (own.pid == c->pid && own.uid == c->uid && own.gid == c->gid);
}

}  // namespace

// The piece of a stream that comes first, or after `after`. Waits for one unless there is `enough`; false when there
// will be none, or enough. `io` holds the receive mutex; it is let go while waiting.
Result<bool> UnixFile::next_in_stream(Message*& message, const Message* after, bool enough, Nanos deadline,
                                      std::unique_lock<FiberMutex>& io) {
  UnixSocket& s = *socket_;
  for (;;) {
    u32 seen;
    {
      SpinGuard guard(s.lock);
      auto it = s.queue.begin();
      while (after && it != s.queue.end() && &*it++ != after) continue;
      if (it != s.queue.end()) {
        message = &*it;
        return true;
      }
      if (enough) return false;
      if (s.error != 0) return err(std::exchange(s.error, 0));
      if (s.shut & UnixSocket::kNoReceive) return false;
      seen = after ? s.queued : 0;
    }
    io.unlock();
    auto changed = [&] {
      SpinGuard guard(s.lock);
      return s.queued > seen || s.error != 0 || (s.shut & UnixSocket::kNoReceive);
    };
    Result<void> waited = wait_for_socket(s.events, deadline, kReadable | POLLERR | POLLHUP, changed);
    io.lock();
    TRY(waited);
  }
}

Result<ReceivedMessage> UnixFile::receive_stream(mm::IoBuffer& data, int flags) {
  UnixSocket& s = *socket_;
  {
    SpinGuard guard(s.lock);
    if (s.state != UnixSocket::State::kConnected) return err(EINVAL);
  }
  const bool peek = (flags & MSG_PEEK) != 0;
  const Nanos deadline = receive_deadline(flags);
  const u64 size = data.remaining();
  const u64 target = std::max<u64>(1, (flags & MSG_WAITALL) ? size : std::min<u64>(options().receive_low_water, size));
  ReceivedMessage out;
  Message* last = nullptr;
  std::unique_lock<FiberMutex> io(s.receive_mutex);
  do {
    Message* m = nullptr;
    Result<bool> found = next_in_stream(m, peek ? last : nullptr, out.bytes >= target, deadline, io);
    if (!found && out.bytes == 0) return err(found.error());
    if (!found || !*found) break;
    // Data of different writers is not glued together when somebody asks who wrote it.
    if (last && s.pass_credentials.load() && !same_writer(*m, out.control.credentials)) break;
    const size_t len = std::min<u64>(m->rest().size(), data.remaining());
    // A piece that cannot be delivered whole, as far as it is wanted, stays where it is.
    const Result<size_t> put = data.put(m->rest().first(len));
    const bool delivered = put && *put == len;
    if (!delivered && out.bytes == 0) return err(EFAULT);
    if (!delivered) break;
    out.bytes += len;
    receive_control(s, *m, peek, out);
    last = m;
    const bool whole = len == m->rest().size();
    if (!peek) {
      {
        SpinGuard guard(s.lock);
        m->offset += static_cast<u32>(len);
      }
      if (whole) s.pop();
    }
    if (!whole || !out.control.files.empty()) break;
  } while (data.remaining() != 0);
  return out;
}

Result<ReceivedMessage> UnixFile::receive_datagram(mm::IoBuffer& data, int flags) {
  UnixSocket& s = *socket_;
  const bool peek = (flags & MSG_PEEK) != 0;
  const Nanos deadline = receive_deadline(flags);
  for (;;) {
    bool ended = false;
    int error = 0;
    auto ready = [&] {
      SpinGuard guard(s.lock);
      ended = s.queue.empty() && (s.shut & UnixSocket::kNoReceive);
      error = std::exchange(s.error, 0);
      return ended || error != 0 || !s.queue.empty();
    };
    {
      SpinGuard guard(s.lock);
      if (s.connection_based() && s.state != UnixSocket::State::kConnected) return err(ENOTCONN);
      // Linux tells a datagram socket that does not wait that there is nothing now.
      if (deadline == 0 && !s.connection_based() && s.queue.empty() && s.error == 0) return err(EAGAIN);
    }
    TRY(wait_for_socket(s.events, deadline, kReadable | POLLERR | POLLHUP, ready));
    if (error != 0) return err(error);
    if (ended) return ReceivedMessage{};

    FiberGuard io(s.receive_mutex);
    std::unique_ptr<Message> taken;
    Message* m = nullptr;
    if (peek) {
      SpinGuard guard(s.lock);
      if (!s.queue.empty()) m = &s.queue.front();
    } else {
      taken = s.pop();
      m = taken.get();
    }
    if (!m) continue;  // somebody else was quicker
    ReceivedMessage out;
    const size_t len = std::min<u64>(m->len, data.remaining());
    if (m->len > data.remaining()) out.flags |= MSG_TRUNC;
    if (TRY(data.put(m->data().first(len))) < len) return err(EFAULT);
    out.bytes = (flags & MSG_TRUNC) ? m->len : len;
    receive_control(s, *m, peek, out);
    return out;
  }
}

Result<ReceivedMessage> UnixFile::recvmsg(const fs::Context&, mm::IoBuffer& data, int flags) {
  if (flags & MSG_OOB) return err(socket_->is_stream() ? EINVAL : EOPNOTSUPP);
  return socket_->is_stream() ? receive_stream(data, flags) : receive_datagram(data, flags);
}

}  // namespace rf::net
