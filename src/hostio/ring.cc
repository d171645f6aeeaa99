#include "hostio/ring.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "hostio/calls.h"
#include "hostio/ring_reactor.h"

namespace rf::hostio {
namespace {

constexpr size_t kMaxTransfer = 0x7ffff000;  // MAX_RW_COUNT of Linux

// Wakes the fiber that made it. Lives on that fiber's stack.
template <class Base>
class Awaited final : public Base {
 public:
  template <class... Args>
  explicit Awaited(Args&&... args) : Base(std::forward<Args>(args)...), fiber_(Fiber::current()) {}

  bool done() const { return done_.load(std::memory_order_acquire); }
  s32 result() const { return result_; }
  // Suspends until done.
  void await() {
    while (!done()) park(Interruptible::kNo);
  }

 private:
  void complete(s32 result, u32) override {
    result_ = result;
    if (Fiber::current_or_null() == &fiber_) {
      // It reaps this itself and looks at done() before it parks.
      done_.store(true, std::memory_order_relaxed);
      return;
    }
    // The fiber may run on another worker, see done_, and end with this object before it is unparked.
    Ref<Fiber> fiber(&fiber_);
    done_.store(true, std::memory_order_release);
    fiber->unpark();
  }
  Fiber& fiber_;
  s32 result_ = 0;
  std::atomic<bool> done_{false};
};

// Cancels `op` and waits until neither it nor the cancellation is in the ring's hands.
void cancel_and_await(RingReactor& ring, Awaited<Request>& op) {
  Awaited<Cancellation> cancellation(op);
  ring.cancel(cancellation);
  cancellation.await();
  op.await();
}

// Makes the request that prep(sqe) describes and waits for it. Returns what it returned; EINTR or ETIMEDOUT if it had
// to be cancelled and had done nothing by then.
template <class Prep>
Result<s32> perform(Prep prep, Interruptible interruptible = Interruptible::kNo, Nanos deadline = kNever,
                    Request::Kind kind = Request::Kind::kOther) {
  // A request that needs a kernel worker is cancelled by the kernel itself when it cannot make one just then: a fork
  // that was interrupted a few times.
  constexpr int kMaxRetries = 100;
  for (int retries = 0;;) {
    Awaited<Request> op(kind);
    RingReactor& ring = RingReactor::current();
    if (interruptible == Interruptible::kNo && deadline == kNever) {
      ring.start(op, prep);
    } else {
      ring.queue(op, prep);
      ring.poll();
    }
    WakeReason reason = WakeReason::kWoken;
    while (!op.done() && reason == WakeReason::kWoken) reason = park(interruptible, deadline);
    if (!op.done()) cancel_and_await(ring, op);
    s32 r = op.result();
    if (r >= 0) return r;
    if (r == -ECANCELED || r == -EINTR) {
      if (reason == WakeReason::kInterrupted) return err(EINTR);
      if (reason == WakeReason::kTimeout) return err(ETIMEDOUT);
      if (r == -EINTR) continue;  // a signal to a kernel worker is no business of ours
      if (++retries < kMaxRetries) continue;
    }
    return err(-r);
  }
}

Result<size_t> transferred(Result<s32> r) {
  if (!r) return err(r.error());
  return static_cast<size_t>(*r);
}

Result<void> nothing(Result<s32> r) {
  if (!r) return err(r.error());
  return {};
}

u64 ring_offset(s64 offset) { return static_cast<u64>(offset); }  // -1 is the file position here too

unsigned transfer_length(size_t size) { return static_cast<unsigned>(std::min(size, kMaxTransfer)); }

}  // namespace

Result<size_t> read(int fd, std::span<std::byte> buffer, s64 offset, Interruptible interruptible) {
  return transferred(perform(
      [&](io_uring_sqe* sqe) {
        io_uring_prep_read(sqe, fd, buffer.data(), transfer_length(buffer.size()), ring_offset(offset));
      },
      interruptible));
}

Result<size_t> write(int fd, std::span<const std::byte> buffer, s64 offset, Interruptible interruptible) {
  return transferred(perform(
      [&](io_uring_sqe* sqe) {
        io_uring_prep_write(sqe, fd, buffer.data(), transfer_length(buffer.size()), ring_offset(offset));
      },
      interruptible));
}

Result<size_t> readv(int fd, std::span<const iovec> iov, s64 offset, Interruptible interruptible) {
  return transferred(perform(
      [&](io_uring_sqe* sqe) {
        io_uring_prep_readv(sqe, fd, iov.data(), static_cast<unsigned>(iov.size()), ring_offset(offset));
      },
      interruptible));
}

Result<size_t> writev(int fd, std::span<const iovec> iov, s64 offset, Interruptible interruptible) {
  return transferred(perform(
      [&](io_uring_sqe* sqe) {
        io_uring_prep_writev(sqe, fd, iov.data(), static_cast<unsigned>(iov.size()), ring_offset(offset));
      },
      interruptible));
}

Result<HostFd> openat2(int dirfd, const char* path, const open_how& how) {
  // RESOLVE_CACHED never goes with these: they may have to write.
  constexpr u64 kUncached = O_TRUNC | O_CREAT | (O_TMPFILE & ~O_DIRECTORY);
  if (!(how.flags & kUncached)) {
    open_how cached = how;
    cached.resolve |= RESOLVE_CACHED;
    auto fd = host_call(SYS_openat2, dirfd, path, &cached, sizeof cached);
    if (fd) return HostFd(static_cast<int>(*fd));
    if (fd.error() != Errno{EAGAIN}) return err(fd.error());
  }
  open_how uncached = how;
  s32 fd = TRY(perform([&](io_uring_sqe* sqe) { io_uring_prep_openat2(sqe, dirfd, path, &uncached); }));
  return HostFd(fd);
}

Result<void> statx(int dirfd, const char* path, int flags, unsigned mask, struct ::statx* out) {
  if ((flags & AT_EMPTY_PATH) && *path == '\0') {
    TRY(host_call(SYS_statx, dirfd, path, flags, mask, out));
    return {};
  }
  return nothing(perform([&](io_uring_sqe* sqe) { io_uring_prep_statx(sqe, dirfd, path, flags, mask, out); }));
}

Result<void> fsync(int fd, bool data_only) {
  unsigned flags = data_only ? IORING_FSYNC_DATASYNC : 0;
  return nothing(perform([&](io_uring_sqe* sqe) { io_uring_prep_fsync(sqe, fd, flags); }));
}

Result<void> fallocate(int fd, int mode, u64 offset, u64 len) {
  return nothing(perform([&](io_uring_sqe* sqe) {
    io_uring_prep_fallocate(sqe, fd, mode, static_cast<off_t>(offset), static_cast<off_t>(len));
  }));
}

Result<EventMask> poll(int fd, EventMask events, Interruptible interruptible, Nanos deadline) {
  // When a file with two wait queues (a terminal) wakes the request for nothing, Linux arms it anew, finds the second
  // entry of the first time still there (__io_queue_proc() in io_uring/poll.c) and fails it with EINVAL.
  constexpr int kMaxRearms = 1000;
  for (int i = 0;; ++i) {
    auto r = perform([&](io_uring_sqe* sqe) { io_uring_prep_poll_add(sqe, fd, events); }, interruptible, deadline,
                     Request::Kind::kPoll);
    if (r) return static_cast<EventMask>(*r);
    if (r.error() != Errno{EINVAL} || i == kMaxRearms) return err(r.error());
    if (EventMask now = poll_now(fd, events)) return now;
  }
}

}  // namespace rf::hostio
