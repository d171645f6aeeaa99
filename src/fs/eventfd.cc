// eventfd(2).
#include <fmt/core.h>
#include <sys/eventfd.h>

#include <limits>

#include "fs/special_files.h"
#include "fs/stream_file.h"

namespace rf::fs {

namespace {

constexpr u64 kMaxCount = std::numeric_limits<u64>::max() - 1;

class EventFile final : public StreamFile {
 public:
  EventFile(Path path, int flags, u64 initial, bool semaphore)
      : StreamFile(std::move(path), flags), semaphore_(semaphore), count_(initial) {}

  Result<size_t> read(const Context&, mm::IoBuffer& dst) override {
    if (dst.remaining() < sizeof(u64)) return err(EINVAL);
    u64 value = 0;
    TRY(wait_for_io(
        queue_, nonblocking(), [&] { return take(value); }, POLLIN));
    queue_.notify(POLLOUT);
    if (TRY(dst.put(std::as_bytes(std::span(&value, 1)))) != sizeof value) return err(EFAULT);
    return sizeof value;
  }

  Result<size_t> write(const Context&, mm::IoBuffer& src) override {
    if (src.remaining() < sizeof(u64)) return err(EINVAL);
    u64 value = 0;
    if (TRY(src.get(std::as_writable_bytes(std::span(&value, 1)))) != sizeof value) return err(EFAULT);
    if (value > kMaxCount) return err(EINVAL);
    TRY(wait_for_io(
        queue_, nonblocking(), [&] { return add(value); }, POLLOUT));
    queue_.notify(POLLIN);
    return sizeof value;
  }

  EventMask poll() override {
    u64 count = count_.load();
    return (count > 0 ? POLLIN : 0) | (count < kMaxCount ? POLLOUT : 0);
  }
  void poll_register(Waiter& w) override { queue_.add(w); }
  void poll_unregister(Waiter& w) override { queue_.remove(w); }

  std::string fdinfo() override { return fmt::format("eventfd-count: {:16x}\n", count_.load()); }

 private:
  bool take(u64& value) {
    u64 count = count_.load();
    while (count != 0) {
      value = semaphore_ ? 1 : count;
      if (count_.compare_exchange_weak(count, count - value)) return true;
    }
    return false;
  }
  bool add(u64 value) {
    u64 count = count_.load();
    while (value <= kMaxCount - count)
      if (count_.compare_exchange_weak(count, count + value)) return true;
    return false;
  }

  const bool semaphore_;
  std::atomic<u64> count_;  // at most kMaxCount
  WaitQueue queue_;
};

}  // namespace

Result<Ref<File>> make_eventfd(u64 initial, int flags) {
  if ((flags & ~(EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC)) != 0) return err(EINVAL);
  return make_ref<EventFile>(make_anon_path("anon_inode:[eventfd]"), O_RDWR | (flags & EFD_NONBLOCK), initial,
                             (flags & EFD_SEMAPHORE) != 0);
}

}  // namespace rf::fs
