// The core of poll(2) and select(2).
#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>

#include "fs/special_files.h"

namespace rf::fs {

namespace {

constexpr EventMask kAlways = POLLERR | POLLHUP;

size_t poll_once(std::span<PollEntry> entries) {
  size_t ready = 0;
  for (PollEntry& e : entries) {
    if (e.file) e.revents = e.file->poll() & (e.events | kAlways);
    if (e.revents != 0) ready++;
  }
  return ready;
}

// Raises a flag besides: asking a file may suspend on a lock, and such a wait swallows the unpark.
class PollWaiter final : public Waiter {
 public:
  PollWaiter(EventMask mask, std::atomic<bool>& triggered)
      : Waiter(mask), fiber_(Fiber::current()), triggered_(triggered) {}
  ~PollWaiter() override = default;

 private:
  void notify(EventMask) override {
    triggered_.store(true);
    fiber_.unpark();
  }
  Fiber& fiber_;
  std::atomic<bool>& triggered_;
};

// The registrations of one poll: few are kept on the stack.
class Registrations {
 public:
  explicit Registrations(std::span<PollEntry> entries) : entries_(entries) {
    if (entries.size() > inline_.size()) {
      heap_ = std::make_unique<Slot[]>(entries.size());
      slots_ = {heap_.get(), entries.size()};
    } else {
      slots_ = std::span(inline_).first(entries.size());
    }
    for (size_t i = 0; i < entries.size(); i++) {
      if (!entries[i].file) continue;
      slots_[i].emplace(entries[i].events | kAlways, triggered_);
      entries[i].file->poll_register(*slots_[i]);
    }
  }
  ~Registrations() {
    for (size_t i = 0; i < entries_.size(); i++)
      if (slots_[i]) entries_[i].file->poll_unregister(*slots_[i]);
  }
  // Whether anything was notified since the last call.
  bool take_triggered() { return triggered_.exchange(false); }
  Registrations(const Registrations&) = delete;
  Registrations& operator=(const Registrations&) = delete;

 private:
  using Slot = std::optional<PollWaiter>;
  std::span<PollEntry> entries_;
  std::atomic<bool> triggered_{true};  // the first look is due
  std::array<Slot, 8> inline_;
  std::unique_ptr<Slot[]> heap_;
  std::span<Slot> slots_;
};

}  // namespace

Result<size_t> poll_files(std::span<PollEntry> entries, Nanos deadline) {
  if (size_t ready = poll_once(entries)) return ready;
  if (deadline != kNever && deadline <= monotonic_now()) return 0;
  Registrations registered(entries);
  for (;;) {
    if (registered.take_triggered()) {
      if (size_t ready = poll_once(entries)) return ready;
      continue;  // it may have been triggered again meanwhile
    }
    WakeReason reason = park(Interruptible::kYes, deadline);
    if (reason == WakeReason::kWoken) continue;
    if (size_t ready = poll_once(entries)) return ready;
    if (reason == WakeReason::kInterrupted) return err(EINTR);
    return 0;
  }
}

}  // namespace rf::fs
