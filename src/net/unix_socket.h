// AF_UNIX sockets, unix(7).
//
// A UnixSocket is what peers, names and queues refer to; a UnixFile is its description. A connected stream socket whose
// other end was closed keeps that end's UnixSocket, released and empty.
//
// Locks, in order: UnixFile::bind_mutex_; UnixSocket::receive_mutex (held while guest memory is copied); the rights
// mutex (net/unix_rights.cc); then spin locks: a socket's `lock` (two of them in order of address; a listener's before
// that of a connection in its queue), the table of abstract names, the list of all sockets. Wait queues are notified
// with no lock held.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "fs/path.h"
#include "net/socket.h"

namespace rf::net {

class UnixFile;
class UnixSocket;

// Descriptions in flight: sent and not yet received. Made by attach(); destroyed outside all spin locks.
class Rights {
 public:
  // ETOOMANYREFS when too many are in flight.
  static Result<std::unique_ptr<Rights>> attach(std::vector<Ref<fs::File>> files);
  ~Rights();
  std::vector<Ref<fs::File>> detach();  // received
  std::vector<Ref<fs::File>> copy();    // MSG_PEEK

 private:
  friend class GarbageCollector;
  explicit Rights(std::vector<Ref<fs::File>> files) : files_(std::move(files)) {}
  std::vector<Ref<fs::File>> detach_locked();
  std::vector<Ref<fs::File>> files_;
  std::vector<UnixSocket*> sockets_;  // those of files_ that are AF_UNIX sockets
};

// Finds cycles of sockets that only each other's queues hold, and empties them. Called when a socket was closed.
void collect_unix_garbage();

// What a queue holds: a piece of a stream, a datagram, or at a listener a connection to be accepted.
class Message final : public ListNode<> {
 public:
  // Charges `len` and an overhead to the sender's send buffer until it is destroyed. ENOBUFS, ENOMEM.
  static Result<std::unique_ptr<Message>> create(Ref<UnixSocket> sender, size_t len);
  ~Message();
  void operator delete(void* p) { ::operator delete(p); }

  std::span<std::byte> data() { return {reinterpret_cast<std::byte*>(this + 1), len}; }
  std::span<std::byte> rest() { return data().subspan(offset); }

  const Ref<UnixSocket> sender;
  const u32 len;
  u32 offset = 0;  // what was received already; guarded by the queue's socket's lock
  bool has_credentials = false;
  ucred credentials{};
  std::unique_ptr<Rights> rights;
  Ref<UnixSocket> connection;

 private:
  Message(Ref<UnixSocket> s, size_t n) : sender(std::move(s)), len(static_cast<u32>(n)) {}
};

// Who made an end of a connection: SO_PEERCRED, SO_PEERGROUPS.
struct Identity {
  ucred ids{0, ~0u, ~0u};
  std::shared_ptr<const std::vector<u32>> groups;  // null: nobody
};

struct InFlightTag;
struct BlockedTag;
struct AllTag;

class UnixSocket final : public RefCounted,
                         public ListNode<InFlightTag>,
                         public ListNode<BlockedTag>,
                         public ListNode<AllTag> {
 public:
  enum class State : u8 { kUnconnected, kListening, kConnected, kReleased };
  enum : u8 { kNoReceive = 1, kNoSend = 2, kNeither = 3 };

  explicit UnixSocket(int type);

  bool is_stream() const { return type == SOCK_STREAM; }
  bool connection_based() const { return type != SOCK_DGRAM; }

  EventMask poll();
  bool has_send_room() const { return send_charged.load() < send_buffer.load(); }
  // unix_writable(): with hysteresis, so that a blocked sender is not woken for each message.
  bool writable() const { return u64{send_charged.load()} * 4 <= send_buffer.load(); }

  // --- The queue. `lock` held. ---
  bool queue_full() const { return queued > backlog; }
  void push(Message& m) {
    queue.push_back(m);
    queued++;
  }

  int take_error();
  // Adds a message: ECONNREFUSED (EPIPE for streams), EPIPE, EPERM; `full` is set, with EAGAIN, when a datagram finds
  // the queue full. Notifies.
  Result<void> deliver(UnixSocket& from, std::unique_ptr<Message>& message, bool& full);
  // Takes the first message out; wakes whoever waited for room.
  std::unique_ptr<Message> pop();
  void wake_blocked_senders();
  // Datagram sockets: whom they are connected to. Returns the former peer.
  Ref<UnixSocket> change_peer(Ref<UnixSocket> to);
  // The description goes, or a connection is never accepted.
  void release();
  void empty_queue();

  const int type;
  SpinLock lock;
  State state = State::kUnconnected;
  u8 shut = 0;
  int error = 0;
  Ref<UnixSocket> peer;
  std::string name;  // sun_path's bytes: abstract names start with NUL; empty: unnamed. Set once
  fs::Path bound_path;
  List<Message> queue;
  u32 queued = 0;
  u32 backlog = 10;  // for datagrams net.unix.max_dgram_qlen
  Identity own_identity, peer_identity;
  // Sockets whose peer this is and that were polled for room in this queue; each holds a reference. A socket is in no
  // list but its peer's, so its peer changes with both locks held.
  List<UnixSocket, BlockedTag> blocked_senders;

  std::atomic<u32> send_charged{0};  // bytes sent and not yet received
  std::atomic<u32> send_buffer{212992};
  std::atomic<bool> pass_credentials{false};
  std::atomic<u64> inode{0};  // the description's inode number; 0: none yet

  WaitQueue events;  // poll bits
  WaitQueue room;    // the queue became shorter, or the socket is gone
  FiberMutex receive_mutex;

  // Guarded by the rights mutex.
  fs::File* file = nullptr;
  u32 in_flight = 0;
  u32 gc_references = 0;
  bool gc_candidate = false, gc_reachable = false;

 private:
  ~UnixSocket() override;
};

// Locks two sockets, which may be one.
class PairLock {
 public:
  PairLock(UnixSocket& a, UnixSocket& b) : first_((&a < &b ? a : b).lock) {
    if (&a != &b) second_ = std::unique_lock((&a < &b ? b : a).lock);
  }

 private:
  std::unique_lock<SpinLock> first_, second_;
};

class UnixFile final : public SocketFile {
 public:
  UnixFile(Ref<UnixSocket> socket, int flags);
  UnixSocket& socket() { return *socket_; }

  Result<void> bind(const fs::Context& ctx, const SocketAddress& address) override;
  Result<void> listen(const fs::Context& ctx, int backlog) override;
  Result<Ref<SocketFile>> accept(const fs::Context& ctx, int flags) override;
  Result<void> connect(const fs::Context& ctx, const SocketAddress& address) override;
  Result<size_t> sendmsg(const fs::Context& ctx, SendMessage& message) override;
  Result<ReceivedMessage> recvmsg(const fs::Context& ctx, mm::IoBuffer& data, int flags) override;
  Result<void> shutdown(int how) override;
  Result<SocketAddress> getsockname() override;
  Result<SocketAddress> getpeername() override;
  Result<size_t> getsockopt(const fs::Context& ctx, int level, int name, std::span<std::byte> out) override;

  int take_error() override { return socket_->take_error(); }
  void set_error(int error) override;

  EventMask poll() override { return socket_->poll(); }
  void poll_register(Waiter& w) override { socket_->events.add(w); }
  void poll_unregister(Waiter& w) override { socket_->events.remove(w); }
  Result<u64> ioctl(const fs::Context& ctx, u32 request, u64 arg) override;

 protected:
  bool listening() override;
  void options_changed() override;
  void release() override;

 private:
  friend Result<std::pair<Ref<fs::File>, Ref<fs::File>>> create_unix_pair(const fs::Context&, int, int);
  Result<void> bind_path(const fs::Context& ctx, std::string_view path);
  Result<void> autobind();
  Result<void> autobind_if_needed();
  Result<void> connect_stream(const fs::Context& ctx, const SocketAddress& address);
  Result<bool> try_connect(const fs::Context& ctx, UnixSocket& listener, Message& request);
  Result<void> connect_datagram(const fs::Context& ctx, const SocketAddress& address);
  void set_datagram_peer(const Ref<UnixSocket>& peer);

  Result<std::unique_ptr<Message>> make_message(const fs::Context& ctx, SendMessage& message, size_t len,
                                                UnixSocket& to, std::unique_ptr<Rights>& rights);
  Result<void> wait_for_send_room(Nanos deadline);
  Result<size_t> send_stream(const fs::Context& ctx, SendMessage& message);
  Result<size_t> send_datagram(const fs::Context& ctx, SendMessage& message);
  Result<Ref<UnixSocket>> datagram_target(const fs::Context& ctx, SendMessage& message);
  Result<ReceivedMessage> receive_stream(mm::IoBuffer& data, int flags);
  Result<bool> next_in_stream(Message*& message, const Message* after, bool enough, Nanos deadline,
                              std::unique_lock<FiberMutex>& io);
  Result<ReceivedMessage> receive_datagram(mm::IoBuffer& data, int flags);

  const Ref<UnixSocket> socket_;
  FiberMutex bind_mutex_;
};

Result<Ref<fs::File>> create_unix_socket(const fs::Context& ctx, int type, int protocol);
Result<std::pair<Ref<fs::File>, Ref<fs::File>>> create_unix_pair(const fs::Context& ctx, int type, int protocol);

// --- Names (net/unix_names.cc) ---
// The sun_path part of an address: EINVAL unless it is a well-formed AF_UNIX address with a name. Path names end before
// their first NUL.
Result<std::string_view> unix_name(const SocketAddress& address);
SocketAddress unix_address(std::string_view name);
// Each type has its own abstract names. EADDRINUSE. The table does not hold the socket; forget_name() takes it out.
Result<void> register_abstract(std::string_view name, UnixSocket& socket);
void forget_name(UnixSocket& socket);
// The socket of a name: ECONNREFUSED, EPROTOTYPE, and what a path walk gives.
Result<Ref<UnixSocket>> find_socket(const fs::Context& ctx, std::string_view name, int type);

// --- All sockets (net/unix_list.cc) ---
// By sockets as they are made and as they end.
void enlist(UnixSocket& socket);
void delist(UnixSocket& socket);
// /proc/net/unix.
std::string unix_sockets_text();

// Waits for a condition of a socket: EAGAIN at the deadline, ERESTARTSYS or (with a time-out set) EINTR.
template <class Condition>
Result<void> wait_for_socket(WaitQueue& queue, Nanos deadline, EventMask mask, Condition&& condition) {
  if (condition()) return {};
  if (deadline == 0) return err(EAGAIN);
  switch (wait_until(queue, condition, Interruptible::kYes, deadline, mask)) {
    case WakeReason::kWoken:
      return {};
    case WakeReason::kTimeout:
      return err(EAGAIN);
    case WakeReason::kInterrupted:
      break;
  }
  return err(deadline == kNever ? kERESTARTSYS : EINTR);
}

}  // namespace rf::net
