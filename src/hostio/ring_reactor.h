// A worker's io_uring. Internal to hostio.
//
// The ring is made without IORING_SETUP_COOP_TASKRUN and DEFER_TASKRUN: a completion then raises TIF_NOTIFY_SIGNAL on
// the thread, which makes KVM_RUN return EINTR within tens of microseconds. With COOP_TASKRUN the guest runs
// on until the next host tick (measured: 2.3 ms on average).
//
// The submission queue and the reaping belong to the worker's own thread. Others reach the ring by wake() and by the
// inbox of cancellations, both of which any thread may use.
#pragma once

#include <liburing.h>

#include <atomic>
#include <memory>

#include "core/list.h"
#include "core/scheduler.h"
#include "core/spinlock.h"
#include "hostio/fd.h"
#include "hostio/polled_ring.h"
#include "hostio/ring.h"

namespace rf::hostio {

class RingReactor;

// Something in flight in a ring; its address is the request's user_data. Must live until the last complete().
class Request {
 public:
  // kWake: there to wake the ring, not counted as outstanding. kPoll: its completion interrupts the ring's thread. Any
  // other may be done by a thread of the kernel's, which interrupts nobody.
  enum class Kind : u8 { kWake, kPoll, kOther };
  explicit Request(Kind kind = Kind::kOther) : kind_(kind) {}
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

 protected:
  ~Request() = default;

 private:
  friend class RingReactor;
  // On the ring's worker, outside any fiber's wait: must be short and must not suspend. `flags` are the CQE's; with
  // IORING_CQE_F_MORE there are more to come.
  virtual void complete(s32 result, u32 flags) = 0;
  const Kind kind_;
};

struct InboxTag;

// Asks for a request's cancellation. A request in itself: it must live until its own complete().
class Cancellation : public Request, public ListNode<InboxTag> {
 public:
  explicit Cancellation(Request& target) : target_(target) {}

 protected:
  ~Cancellation() = default;

 private:
  friend class RingReactor;
  Request& target_;
};

class RingReactor final : public Reactor {
 public:
  // 28 KiB, which an ordinary user's limit of locked memory (8 MiB for all of that user's rings) must allow many times.
  static constexpr unsigned kSubmissions = 256, kCompletions = 512;
  // A page of submission entries; completions and indices in another (struct io_rings of Linux is 320 bytes or less).
  static constexpr unsigned kSmallSubmissions = 4096 / 64, kSmallCompletions = 128;
  static Setup<std::unique_ptr<RingReactor>> create(const RingOptions& options = {});
  ~RingReactor() override;  // cancels what is in flight

  // The calling worker's.
  static RingReactor& current() { return static_cast<RingReactor&>(Worker::current()->reactor()); }

  bool poll() override;
  void wait(Nanos deadline) override;
  void wake() override;
  void prepare_for_guest() override;

  // Requests that can be handed to a submission thread are from now on, under load. The thread is `sharer`'s, if it has
  // one. On the ring's thread, when that has the credentials that requests are to be made with.
  Setup<void> start_submission_thread(RingReactor* sharer);

  // Queues a request, to be filled in by prep(sqe). It goes to the kernel with the next submit(), poll() or wait().
  // Own worker only.
  template <class Prep>
  void queue(Request& request, Prep&& prep) {
    io_uring_sqe* sqe = next_sqe();
    prep(sqe);
    io_uring_sqe_set_data(sqe, &request);
    started(request);
  }
  void submit();
  // The same for a request that is never cancelled; hands it over at once, by whichever way is cheaper just now.
  template <class Prep>
  void start(Request& request, Prep&& prep) {
    if (polled_ && polled_->worthwhile()) {
      if (polled_->submit(&request, prep)) count(enters_);
      started(request);
      count(handed_over_);
      due_ = true;
      reap_polled();
    } else {
      queue(request, prep);
      poll();
    }
  }

  // Sends a cancellation for a request that is in this ring. Any worker.
  void cancel(Cancellation& c);

  // From any thread; may lag.
  RingStats stats() const {
    return {.submissions = submissions_.load(std::memory_order_relaxed),
            .handed_over = handed_over_.load(std::memory_order_relaxed),
            .enters = enters_.load(std::memory_order_relaxed)};
  }

 private:
  RingReactor() = default;

  // Wakes by writing to the eventfd, when the message could not be delivered.
  class FailedMessage final : public Request {
   public:
    explicit FailedMessage(RingReactor& ring) : Request(Kind::kWake), ring_(ring) {}

   private:
    void complete(s32, u32) override { ring_.wake_by_eventfd(); }
    RingReactor& ring_;
  };
  // The read of the eventfd that plain threads wake the ring by.
  class WakeRead final : public Request {
   public:
    explicit WakeRead(RingReactor& ring) : Request(Kind::kWake), ring_(ring) {}
    u64 value = 0;

   private:
    void complete(s32 result, u32 flags) override;
    RingReactor& ring_;
  };

  bool more_to_do() const;
  // Of the wake read nobody waits for the completion.
  bool stops_no_guest(const Request& r) const {
    return r.kind_ == Request::Kind::kOther || (r.kind_ == Request::Kind::kPoll && !interruptions_stop_guests_);
  }
  io_uring_sqe* next_sqe();
  bool reap();
  bool reap_polled();
  bool await_polled();
  void block(Nanos deadline);
  void started(const Request& request) {
    if (stops_no_guest(request)) outstanding_++;
    if (request.kind_ == Request::Kind::kOther) for_kernel_threads_++;
    count(submissions_);
  }
  void completed(Request& request, s32 result, u32 flags);
  void announce(bool on);
  void drain_inbox();
  void queue_cancel(Cancellation& c);
  void arm_wake_read();
  void send_message_to(RingReactor& target);
  void wake_by_eventfd();
  void woken();
  static void count(std::atomic<u64>& n) { n.store(n.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

  io_uring ring_{};
  bool ring_made_ = false;
  bool interruptions_stop_guests_ = false;
  std::unique_ptr<PolledRing> polled_;
  u64 for_kernel_threads_ = 0;  // requests that a thread of the kernel's may complete
  // Whether such completions are announced by the eventfd, and so interrupt this thread.
  bool announcing_ = false;
  Worker* worker_ = nullptr;
  std::atomic<u64> submissions_{0}, handed_over_{0}, enters_{0};  // written by the worker alone
  bool skip_next_wait_ = false;                                   // a wake-up was reaped by poll()

  HostFd eventfd_;
  WakeRead wake_read_{*this};
  std::atomic<bool> wake_sent_{false};
  FailedMessage failed_message_{*this};

  SpinLock inbox_lock_;
  List<Cancellation, InboxTag> inbox_;
};

}  // namespace rf::hostio
