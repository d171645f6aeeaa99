// epoll(7). The calls are in fs/special_files.h.
//
// Locks, in order: EpollSet::mutex_ of the outer, then of an inner instance (loops are refused); graph mutex (which
// instance watches which); then the spin locks: a watched file's wait queue, File::epoll_lock, EpollSet::ready_lock_.
// Notifications run under the watched file's queue lock and take only ready_lock_ and the queues of this and of outer
// instances.
//
// A registration does not hold its file: last_unref() of the file comes here and waits for the instance's mutex, so
// under that mutex every registration's file is whole, if perhaps dying.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "fs/special_files.h"
#include "fs/stream_file.h"

namespace rf::fs {

class EpollSet;

// For File::last_unref(), before release(): ends all registrations of the description. May suspend.
void epoll_file_closed(File& f);

struct EpollReadyTag;

// One registration.
class EpollItem final : public Waiter, public ListNode<EpollReadyTag> {
 public:
  EpollItem(EpollSet& set, File& target, int fd) : set_(set), target_(target), fd_(fd) {}
  ~EpollItem() override = default;

 private:
  friend class EpollSet;
  friend void epoll_file_closed(File&);
  void notify(EventMask events) override;
  bool ready() const { return static_cast<const ListNode<EpollReadyTag>*>(this)->linked(); }

  EpollSet& set_;
  File& target_;
  const int fd_;
  std::atomic<u32> events_{0};  // what is watched for, and the EPOLLET, EPOLLONESHOT, ... bits
  u64 data_ = 0;                // guarded by the set's mutex
  // The other registrations of target_, from File::epoll_items on; guarded by File::epoll_lock.
  EpollItem* next_ = nullptr;
  EpollItem* prev_ = nullptr;
};

// What an epoll description holds.
class EpollSet final : public RefCounted {
 public:
  Result<void> add(const Ref<File>& target, int fd, EpollEvent event);
  Result<void> modify(File& target, int fd, EpollEvent event);
  Result<void> remove(File& target, int fd);
  Result<size_t> wait(std::span<EpollEvent> out, Nanos deadline);
  bool any_ready();  // for poll: looks at the files, may suspend
  WaitQueue& pollers() { return pollers_; }
  std::string fdinfo();
  // Ends all registrations: the description goes.
  void clear();

 private:
  friend class EpollItem;
  friend void epoll_file_closed(File&);

  struct Key {
    File* file;
    int fd;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& k) const {
      return (reinterpret_cast<size_t>(k.file) >> 6) * 0x9e3779b97f4a7c15u ^ static_cast<size_t>(k.fd);
    }
  };

  class Batch;
  size_t collect(std::span<EpollEvent> out);
  void remove_locked(EpollItem& item);
  void make_ready(EpollItem& item);
  bool queue_empty();
  void pass_on();

  // The graph of instances that watch instances; guarded by the graph mutex.
  static Result<void> link(EpollSet& outer, EpollSet& inner);
  static void unlink(EpollSet& outer, EpollSet& inner);
  static bool depth_below(EpollSet& set, const EpollSet& forbidden, u32 limit, u32& depth, u32& steps);
  static u32 depth_above(const EpollSet& set, u32 limit);
  static u32 paths_up(const EpollSet& set, u32 limit);
  static bool too_many_paths(EpollSet& set, u32 extra);

  FiberMutex mutex_;
  std::unordered_map<Key, std::unique_ptr<EpollItem>, KeyHash> items_;
  SpinLock ready_lock_;
  List<EpollItem, EpollReadyTag> ready_;
  WaitQueue waiters_;  // in epoll_wait: one is woken at a time, and passes the wake-up on
  WaitQueue pollers_;
  std::vector<EpollSet*> inner_, outer_;
};

class EpollFile final : public StreamFile {
 public:
  EpollFile(Path path, Ref<EpollSet> set) : StreamFile(std::move(path), O_RDWR), set_(std::move(set)) {}
  EpollSet& set() { return *set_; }

  EventMask poll() override { return set_->any_ready() ? POLLIN | POLLRDNORM : 0; }
  void poll_register(Waiter& w) override { set_->pollers().add(w); }
  void poll_unregister(Waiter& w) override { set_->pollers().remove(w); }
  std::string fdinfo() override { return set_->fdinfo(); }

 protected:
  void release() override { set_->clear(); }

 private:
  Ref<EpollSet> set_;
};

}  // namespace rf::fs
