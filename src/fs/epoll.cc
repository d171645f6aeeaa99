#include "fs/epoll.h"

#include <fmt/core.h>
#include <sys/epoll.h>

#include <algorithm>

namespace rf::fs {

namespace {

constexpr u32 kAlways = EPOLLERR | EPOLLHUP;
constexpr u32 kModeBits = EPOLLWAKEUP | EPOLLONESHOT | static_cast<u32>(EPOLLET) | EPOLLEXCLUSIVE;
constexpr u32 kExclusiveAllowed =
    EPOLLIN | EPOLLOUT | kAlways | EPOLLWAKEUP | static_cast<u32>(EPOLLET) | EPOLLEXCLUSIVE;

// /proc/sys/fs/epoll/max_user_watches, for the whole sandbox: registrations are the sentry's memory.
constexpr u32 kMaxItems = 1 << 18;
std::atomic<u32> g_items{0};

EpollSet* set_of(File& f) {
  auto* file = dynamic_cast<EpollFile*>(&f);
  return file ? &file->set() : nullptr;
}

}  // namespace

// --- Notification: under the watched file's queue lock ------------------------------------------------

void EpollItem::notify(EventMask events) {
  // Nothing left of the mask but mode bits: a one-shot that has fired.
  if ((events_.load() & ~kModeBits & events) == 0) return;
  set_.make_ready(*this);
}

void EpollSet::make_ready(EpollItem& item) {
  {
    SpinGuard guard(ready_lock_);
    if (!item.ready()) ready_.push_back(item);
  }
  // Even when it was there already: an outer edge-triggered instance wants to see each event.
  waiters_.notify_some(1);
  pollers_.notify(POLLIN | POLLRDNORM);
}

// --- epoll_wait ---------------------------------------------------------------------------------------

bool EpollSet::queue_empty() {
  SpinGuard guard(ready_lock_);
  return ready_.empty();
}

void EpollSet::pass_on() {
  if (!queue_empty()) waiters_.notify_some(1);
}

// The items that were ready at the start of a look at them, taken off the ready list; what is left of them returns to
// its front. An item is taken before its file is asked, so an event that comes later puts it on the list again.
// The set's mutex is held throughout.
class EpollSet::Batch {
 public:
  explicit Batch(EpollSet& set) : set_(set) {
    SpinGuard guard(set_.ready_lock_);
    items_.splice_back(set_.ready_);
  }
  ~Batch() {
    SpinGuard guard(set_.ready_lock_);
    items_.splice_back(set_.ready_);
    set_.ready_.splice_back(items_);
  }
  EpollItem* take() {
    SpinGuard guard(set_.ready_lock_);
    return items_.pop_front();
  }
  void put_back(EpollItem& item) {
    SpinGuard guard(set_.ready_lock_);
    if (!item.ready()) items_.push_front(item);
  }
  // To be looked at again, but behind the others.
  void requeue(EpollItem& item) {
    SpinGuard guard(set_.ready_lock_);
    if (!item.ready()) set_.ready_.push_back(item);
  }

 private:
  EpollSet& set_;
  List<EpollItem, EpollReadyTag> items_;
};

size_t EpollSet::collect(std::span<EpollEvent> out) {
  FiberGuard guard(mutex_);
  Batch batch(*this);
  size_t n = 0;
  while (n < out.size()) {
    EpollItem* item = batch.take();
    if (!item) break;
    u32 mask = item->events_.load();
    u32 ready = item->target_.poll() & mask & ~kModeBits;
    if (ready == 0) continue;
    out[n++] = {ready, item->data_};
    if (mask & EPOLLONESHOT)
      item->events_.store(mask & kModeBits);
    else if (!(mask & EPOLLET))
      batch.requeue(*item);
  }
  return n;
}

bool EpollSet::any_ready() {
  if (queue_empty()) return false;
  FiberGuard guard(mutex_);
  Batch batch(*this);
  while (EpollItem* item = batch.take()) {
    if ((item->target_.poll() & item->events_.load() & ~kModeBits) == 0) continue;
    batch.put_back(*item);
    return true;
  }
  return false;
}

Result<size_t> EpollSet::wait(std::span<EpollEvent> out, Nanos deadline) {
  if (out.empty()) return err(EINVAL);
  WakeReason reason = WakeReason::kWoken;
  for (;;) {
    size_t n = queue_empty() ? 0 : collect(out);
    if (n != 0) {
      pass_on();
      return n;
    }
    if (reason == WakeReason::kInterrupted) return err(EINTR);
    if (reason == WakeReason::kTimeout || (deadline != kNever && deadline <= monotonic_now())) return 0;
    // A wake-up that comes when the wait has just timed out is not lost: the list is looked at once more.
    reason = wait_until(
        waiters_, [this] { return !queue_empty(); }, Interruptible::kYes, deadline);
  }
}

// --- epoll_ctl ----------------------------------------------------------------------------------------

Result<void> EpollSet::add(const Ref<File>& target, int fd, EpollEvent event) {
  EpollSet* inner = set_of(*target);
  if ((event.events & EPOLLEXCLUSIVE) && (inner || (event.events & ~kExclusiveAllowed))) return err(EINVAL);
  FiberGuard guard(mutex_);
  Key key{target.get(), fd};
  if (items_.contains(key)) return err(EEXIST);
  if (g_items.fetch_add(1) >= kMaxItems) {
    g_items.fetch_sub(1);
    return err(ENOSPC);
  }
  if (inner) {
    if (Result<void> linked = link(*this, *inner); !linked) {
      g_items.fetch_sub(1);
      return linked;
    }
  }
  EpollItem& item = *(items_[key] = std::make_unique<EpollItem>(*this, *target, fd));
  item.data_ = event.data;
  item.events_.store(event.events | kAlways);
  {
    SpinGuard file_guard(target->epoll_lock);
    item.next_ = static_cast<EpollItem*>(target->epoll_items);
    if (item.next_) item.next_->prev_ = &item;
    target->epoll_items = &item;
  }
  target->poll_register(item);
  if (target->poll() & item.events_.load() & ~kModeBits) make_ready(item);
  return {};
}

Result<void> EpollSet::modify(File& target, int fd, EpollEvent event) {
  if (event.events & EPOLLEXCLUSIVE) return err(EINVAL);
  FiberGuard guard(mutex_);
  auto found = items_.find(Key{&target, fd});
  if (found == items_.end()) return err(ENOENT);
  EpollItem& item = *found->second;
  if (item.events_.load() & EPOLLEXCLUSIVE) return err(EINVAL);
  item.data_ = event.data;
  item.events_.store(event.events | kAlways);
  if (target.poll() & item.events_.load() & ~kModeBits) make_ready(item);
  return {};
}

Result<void> EpollSet::remove(File& target, int fd) {
  FiberGuard guard(mutex_);
  auto found = items_.find(Key{&target, fd});
  if (found == items_.end()) return err(ENOENT);
  remove_locked(*found->second);
  return {};
}

void EpollSet::remove_locked(EpollItem& item) {
  File& target = item.target_;
  target.poll_unregister(item);
  {
    SpinGuard guard(ready_lock_);
    if (item.ready()) static_cast<ListNode<EpollReadyTag>&>(item).unlink();
  }
  if (EpollSet* inner = set_of(target)) unlink(*this, *inner);
  {
    SpinGuard guard(target.epoll_lock);
    if (item.next_) item.next_->prev_ = item.prev_;
    if (item.prev_)
      item.prev_->next_ = item.next_;
    else
      target.epoll_items = item.next_;
  }
  // From here on the file may go, if it was dying.
  items_.erase(Key{&target, item.fd_});
  g_items.fetch_sub(1);
}

void EpollSet::clear() {
  FiberGuard guard(mutex_);
  while (!items_.empty()) remove_locked(*items_.begin()->second);
}

void epoll_file_closed(File& f) {
  for (;;) {
    Ref<EpollSet> set;
    {
      SpinGuard guard(f.epoll_lock);
      auto* item = static_cast<EpollItem*>(f.epoll_items);
      if (!item) return;
      // It cannot have gone: it takes its items off this list first.
      set = Ref<EpollSet>(&item->set_);
    }
    FiberGuard guard(set->mutex_);
    EpollItem* item;
    {
      SpinGuard file_guard(f.epoll_lock);
      item = static_cast<EpollItem*>(f.epoll_items);
      while (item && &item->set_ != set.get()) item = item->next_;
    }
    if (item) set->remove_locked(*item);
  }
}

std::string EpollSet::fdinfo() {
  FiberGuard guard(mutex_);
  std::string text;
  for (auto& [key, item] : items_)
    text += fmt::format("tfd: {:8} events: {:8x} data: {:16x}  pos:0\n", key.fd, item->events_.load(), item->data_);
  return text;
}

// --- The calls ----------------------------------------------------------------------------------------

Result<Ref<File>> make_epoll(int flags) {
  if ((flags & ~EPOLL_CLOEXEC) != 0) return err(EINVAL);
  return make_ref<EpollFile>(make_anon_path("anon_inode:[eventpoll]"), make_ref<EpollSet>());
}

Result<void> epoll_ctl(File& epoll, int op, int fd, const Ref<File>& target, EpollEvent event) {
  u16 type = target->inode().type();
  if (type == S_IFREG || type == S_IFDIR || (target->flags() & O_PATH) != 0) return err(EPERM);
  EpollSet* set = set_of(epoll);
  if (!set || target == &epoll) return err(EINVAL);
  switch (op) {
    case EPOLL_CTL_ADD:
      return set->add(target, fd, event);
    case EPOLL_CTL_MOD:
      return set->modify(*target, fd, event);
    case EPOLL_CTL_DEL:
      return set->remove(*target, fd);
    default:
      return err(EINVAL);
  }
}

Result<size_t> epoll_wait(File& epoll, std::span<EpollEvent> out, Nanos deadline) {
  EpollSet* set = set_of(epoll);
  if (!set) return err(EINVAL);
  return set->wait(out, deadline);
}

}  // namespace rf::fs
