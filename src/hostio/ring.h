// The worker's io_uring, and host I/O as calls that suspend the fiber.
//
// Every call below runs on a fiber and may suspend it; other fibers of the worker run meanwhile. A call first
// tries to finish without suspending: it submits, and if the completion is already there it returns at once.
// Buffers are borrowed until the call returns; they are never left with the kernel after that: an interrupted
// or timed-out call cancels its request and waits for the cancellation. EINTR means that the
// fiber's interrupt flag is set (only from calls that take Interruptible::kYes).
//
// Unless said otherwise: errors are the host's errno; offsets and lengths are bytes; offset -1 means the file's
// own position (and is required for pipes, sockets and terminals).
#pragma once

#include <sys/uio.h>

#include <linux/openat2.h>
#include <linux/stat.h>

#include <functional>
#include <memory>
#include <span>

#include "core/result.h"
#include "core/scheduler.h"
#include "core/wait_queue.h"
#include "hostio/fd.h"

struct statx;

namespace rf::hostio {

struct RingStats {
  u64 submissions = 0;  // requests
  u64 handed_over = 0;  // of these, to the submission thread
  u64 enters = 0;       // io_uring_enter host calls
};

// Makes the io_uring reactor of the calling worker thread. The error names io_uring, the cause (not
// compiled in, kernel.io_uring_disabled, memlock limit, seccomp) and what to do.
Setup<std::unique_ptr<Reactor>> make_ring_reactor(u32 worker);
struct RingOptions {
  // Rings of one page each, which is all of a ring that KVM before Linux 6.13 can map in a guest: pages of a larger one
  // carry no reference counts. With more completions waiting than fit, the kernel keeps the rest.
  bool one_page = false;
  // Whatever interrupts a worker's thread between Worker::enter_guest()'s look at the reactor and guest code stops
  // guest code: no alarm is needed for those completions that do interrupt it.
  bool interruptions_stop_guests = false;
};
// The same with options, for SchedulerOptions::make_reactor.
std::function<Setup<std::unique_ptr<Reactor>>(u32 worker)> ring_reactor_maker(RingOptions options);
// Gives the workers of the calling fiber's scheduler a thread of the kernel's that takes requests from memory, so that
// under load they cost no host call. It has the workers' credentials of this moment. Suspends. The error: why the host
// has none to give.
Setup<void> start_submission_threads();
RingStats ring_stats(Worker& worker);
// Whether the caller is a fiber of a worker that has a ring, so that the calls below can be made.
bool ring_available();

// The sentence for `doctor`: whether io_uring works here and has the operations needed.
Setup<void> probe_io_uring();

// Reads at least 1 byte unless at end of file (0).
Result<size_t> read(int fd, std::span<std::byte> buffer, s64 offset, Interruptible = Interruptible::kNo);
Result<size_t> write(int fd, std::span<const std::byte> buffer, s64 offset, Interruptible = Interruptible::kNo);
Result<size_t> readv(int fd, std::span<const iovec> iov, s64 offset, Interruptible = Interruptible::kNo);
Result<size_t> writev(int fd, std::span<const iovec> iov, s64 offset, Interruptible = Interruptible::kNo);

// openat2(2). Tries the dentry cache first without leaving this thread (RESOLVE_CACHED), then the ring.
Result<HostFd> openat2(int dirfd, const char* path, const open_how& how);
// statx(2). With AT_EMPTY_PATH and an open fd the inode is in memory: made directly, else through the ring.
Result<void> statx(int dirfd, const char* path, int flags, unsigned mask, struct ::statx* out);
Result<void> fsync(int fd, bool data_only);
Result<void> fallocate(int fd, int mode, u64 offset, u64 len);

// Waits until one of the poll(2) bits in `events` (or POLLERR, POLLHUP) holds and returns those that do.
// ETIMEDOUT at `deadline` (absolute monotonic).
Result<EventMask> poll(int fd, EventMask events, Interruptible = Interruptible::kYes, Nanos deadline = kNever);

// Watches a host fd's readiness for guest pollers: while anything is registered on `queue()`, a multishot poll
// request is kept armed and every event is passed on with WaitQueue::notify.
class FdWatch {
 public:
  explicit FdWatch(int fd);  // borrowed; must outlive this
  ~FdWatch();                // may suspend (cancels the request)
  WaitQueue& queue();
  // Call after adding to, and after removing from, queue(): arms or disarms. May suspend.
  void update();
  // What poll(2) says now, at once.
  EventMask ready() const;

 private:
  struct Impl;
  std::unique_ptr<Impl, void (*)(Impl*)> impl_;
};

}  // namespace rf::hostio
