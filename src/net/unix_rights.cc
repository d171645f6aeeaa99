// SCM_RIGHTS: descriptions in flight, and the collection of those that nobody can receive any more.
//
// A socket that is in flight and held by nothing but messages is a candidate. A candidate is reachable when a message
// that holds it is in a queue outside the candidates, or in that of a reachable candidate. The rest is garbage: its
// queues lose their descriptions. As in Linux's unix_gc, nothing gets at a candidate meanwhile: that would take a
// message that holds it, and so the rights mutex.
#include <algorithm>
#include <functional>

#include "net/unix_socket.h"

namespace rf::net {

namespace {

using Files = std::vector<Ref<fs::File>>;

constexpr u32 kMaxInFlight = 16384;  // descriptions, in the sandbox

// The rights mutex, and what it guards.
FiberMutex g_mutex;
List<UnixSocket, InFlightTag> g_sockets;  // those with in_flight > 0
u32 g_files = 0;                          // in flight
std::atomic<bool> g_any_sockets{false};   // whether g_sockets has any

UnixSocket* socket_of(fs::File& f) {
  auto* file = dynamic_cast<UnixFile*>(&f);
  return file ? &file->socket() : nullptr;
}

// --- Dropping ---------------------------------------------------------------------------------------

// To drop a description may close a socket, whose queue holds others, and so on without end: a fiber drops them one
// after the other, not one inside the other. Nested drops find the fiber's entry here.
struct Drain : ListNode<> {
  Fiber* fiber;
  Files files;
  bool collect = false;  // a collection was put off until all are dropped
};
SpinLock g_drain_lock;
List<Drain> g_drains;

// This fiber's, which nobody else touches; null if it is not dropping.
Drain* own_drain() {
  Fiber* self = Fiber::current_or_null();
  SpinGuard guard(g_drain_lock);
  for (Drain& d : g_drains)
    if (d.fiber == self) return &d;
  return nullptr;
}

void collect_now();

void drop_files(Files files) {
  if (files.empty()) return;
  if (Drain* outer = own_drain()) {
    std::ranges::move(files, std::back_inserter(outer->files));
    return;
  }
  Drain drain;
  drain.fiber = Fiber::current_or_null();
  drain.files = std::move(files);
  {
    SpinGuard guard(g_drain_lock);
    g_drains.push_back(drain);
  }
  do {
    while (!drain.files.empty()) {
      Ref<fs::File> file = std::move(drain.files.back());
      drain.files.pop_back();
      file.reset();
    }
    if (std::exchange(drain.collect, false)) collect_now();
  } while (!drain.files.empty());
  SpinGuard guard(g_drain_lock);
  drain.unlink();
}

}  // namespace

// --- Rights -----------------------------------------------------------------------------------------

Result<std::unique_ptr<Rights>> Rights::attach(Files files) {
  std::unique_ptr<Rights> rights(new Rights(std::move(files)));
  for (auto& file : rights->files_)
    if (UnixSocket* s = socket_of(*file)) rights->sockets_.push_back(s);
  FiberGuard guard(g_mutex);
  if (g_files + rights->files_.size() > kMaxInFlight) {
    rights->sockets_.clear();
    // The caller has them still: these are not the last references.
    rights->files_.clear();
    return err(ETOOMANYREFS);
  }
  g_files += static_cast<u32>(rights->files_.size());
  for (UnixSocket* s : rights->sockets_)
    if (s->in_flight++ == 0) g_sockets.push_back(*s);
  g_any_sockets.store(!g_sockets.empty());
  return rights;
}

Files Rights::detach_locked() {
  g_files -= static_cast<u32>(files_.size());
  for (UnixSocket* s : sockets_)
    if (--s->in_flight == 0) List<UnixSocket, InFlightTag>::remove(*s);
  g_any_sockets.store(!g_sockets.empty());
  sockets_.clear();
  return std::move(files_);
}

Files Rights::detach() {
  FiberGuard guard(g_mutex);
  return detach_locked();
}

Files Rights::copy() {
  FiberGuard guard(g_mutex);
  return files_;
}

Rights::~Rights() {
  if (!files_.empty()) drop_files(detach());
}

// --- Collection -------------------------------------------------------------------------------------

// With the rights mutex held.
class GarbageCollector {
 public:
  // The descriptions that the garbage's queues held.
  Files run() {
    for (UnixSocket& s : g_sockets) {
      s.gc_references = s.in_flight;
      s.gc_candidate = s.file->ref_count() == s.in_flight;
      s.gc_reachable = false;
      if (s.gc_candidate) candidates_.push_back(&s);
    }
    for (UnixSocket* s : candidates_) for_each_held(*s, [](UnixSocket& held) { held.gc_references--; });
    for (UnixSocket* s : candidates_)
      if (s->gc_references > 0) reach(*s);
    while (!reached_.empty()) {
      UnixSocket* s = reached_.back();
      reached_.pop_back();
      for_each_held(*s, [this](UnixSocket& held) { reach(held); });
    }
    std::vector<std::unique_ptr<Rights>> garbage;
    for (UnixSocket* s : candidates_)
      if (!s->gc_reachable) take_rights(*s, garbage);
    Files files;
    for (auto& rights : garbage) std::ranges::move(rights->detach_locked(), std::back_inserter(files));
    return files;
  }

 private:
  void reach(UnixSocket& s) {
    if (s.gc_reachable) return;
    s.gc_reachable = true;
    reached_.push_back(&s);
  }

  // Calls f for each candidate that a message in the socket's queue holds; a listener's queue has connections, whose
  // queues count as its own.
  template <class F>
  static void for_each_held(UnixSocket& s, F&& f) {
    SpinGuard guard(s.lock);
    for (Message& m : s.queue) {
      for_each_held(m, f);
      if (!m.connection) continue;
      SpinGuard connection_guard(m.connection->lock);
      for (Message& inner : m.connection->queue) for_each_held(inner, f);
    }
  }
  template <class F>
  static void for_each_held(Message& m, F&& f) {
    if (!m.rights) return;
    for (UnixSocket* held : m.rights->sockets_)
      if (held->gc_candidate) f(*held);
  }

  static void take_rights(UnixSocket& s, std::vector<std::unique_ptr<Rights>>& out) {
    SpinGuard guard(s.lock);
    for (Message& m : s.queue) {
      if (m.rights) out.push_back(std::move(m.rights));
      if (!m.connection) continue;
      SpinGuard connection_guard(m.connection->lock);
      for (Message& inner : m.connection->queue)
        if (inner.rights) out.push_back(std::move(inner.rights));
    }
  }

  std::vector<UnixSocket*> candidates_, reached_;
};

namespace {

void collect_now() {
  Files garbage;
  {
    FiberGuard guard(g_mutex);
    garbage = GarbageCollector().run();
  }
  drop_files(std::move(garbage));
}

}  // namespace

void collect_unix_garbage() {
  if (!g_any_sockets.load()) return;
  if (Drain* drain = own_drain())
    drain->collect = true;
  else
    collect_now();
}

}  // namespace rf::net
