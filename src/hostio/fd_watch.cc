#include <poll.h>

#include <optional>

#include "core/log.h"
#include "core/spinlock.h"
#include "hostio/ring_reactor.h"

namespace rf::hostio {
namespace {

constexpr EventMask kWatched = POLLIN | POLLOUT | POLLPRI | POLLRDHUP;

}  // namespace

// The watch and its poll request. The request holds a reference while it is in a ring, so that a watch can go away off
// the fibers (at shutdown), where nothing can wait for the cancellation.
//
// Lock order: the queue's lock is never taken under lock_.
struct FdWatch::Impl final : public RefCounted, public Request {
  class Cancel final : public Cancellation {
   public:
    explicit Cancel(Impl& impl) : Cancellation(impl), impl_(impl) {}

   private:
    void complete(s32, u32) override { impl_.cancel_ended(); }
    Impl& impl_;
  };

  explicit Impl(int f) : Request(Kind::kPoll), fd(f) {}
  ~Impl() override = default;

  void complete(s32 result, u32 flags) override;
  void cancel_ended();
  void arm();  // on a worker, with live set
  void update(bool want);
  bool quiet() const { return !live && !cancelling; }  // lock_ held

  const int fd;
  WaitQueue queue;
  WaitQueue ended;  // for the destructor: the request has left the ring

  SpinLock lock;
  bool wanted = false;
  bool live = false;        // the request is in a ring
  bool cancelling = false;  // so is the cancellation
  bool failed = false;      // the file cannot be polled: regular files
  RingReactor* ring = nullptr;
  Cancel cancel{*this};
};

void FdWatch::Impl::arm() {
  RingReactor::current().queue(*this, [&](io_uring_sqe* sqe) { io_uring_prep_poll_multishot(sqe, fd, kWatched); });
}

void FdWatch::Impl::update(bool want) {
  bool start = false, stop = false;
  {
    SpinGuard guard(lock);
    wanted = want;
    if (wanted && !live && !failed) {
      // Armed below, without the lock: a cancellation from another worker goes through the ring's inbox, which this
      // worker looks at later.
      live = start = true;
      ring = &RingReactor::current();
      ref();
    } else if (!wanted && live && !cancelling) {
      cancelling = stop = true;
      ref();
    }
  }
  if (start) {
    arm();
    RingReactor::current().submit();
  }
  if (stop) ring->cancel(cancel);
}

void FdWatch::Impl::complete(s32 result, u32 flags) {
  if (result > 0) queue.notify(static_cast<EventMask>(result));
  if (flags & IORING_CQE_F_MORE) return;
  bool again;
  {
    SpinGuard guard(lock);
    // ECANCELED with the watch wanted again: update() came between the cancellation and this.
    failed = result < 0 && result != -ECANCELED;
    again = wanted && !failed;
    live = again;
  }
  if (again) {
    arm();  // submitted by the poll() or wait() that this runs in
    return;
  }
  ended.notify();
  unref();
}

void FdWatch::Impl::cancel_ended() {
  bool again;
  {
    SpinGuard guard(lock);
    // The watch was armed and disarmed again meanwhile, or the request is still on its way out.
    again = cancelling = live && !wanted;
  }
  if (again) {
    ring->cancel(cancel);
    return;
  }
  ended.notify();
  unref();
}

FdWatch::FdWatch(int fd) : impl_(new Impl(fd), [](Impl* i) { i->unref(); }) {}

FdWatch::~FdWatch() {
  if (!Worker::current()) return;
  impl_->update(false);
  if (!Fiber::current_or_null()) return;
  wait_until(
      impl_->ended,
      [&] {
        SpinGuard guard(impl_->lock);
        return impl_->quiet();
      },
      Interruptible::kNo);
}

WaitQueue& FdWatch::queue() { return impl_->queue; }

void FdWatch::update() { impl_->update(!impl_->queue.empty()); }

EventMask FdWatch::ready() const {
  pollfd p{impl_->fd, static_cast<short>(kWatched), 0};
  if (::poll(&p, 1, 0) < 0) return 0;
  return static_cast<EventMask>(static_cast<unsigned short>(p.revents));
}

}  // namespace rf::hostio
