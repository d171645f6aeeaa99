#include "hostio/polled_ring.h"

namespace rf::hostio {
namespace {

// Of a page, as in RingReactor. No more requests are in flight than the first queue holds: the second is never full.
constexpr unsigned kSubmissions = 4096 / 64, kCompletions = 2 * kSubmissions;

constexpr unsigned kIdleMilliseconds = 1;  // until the thread falls asleep

// The thread is woken for this many requests within this time: for fewer it would cost more than it saves.
constexpr u32 kLoad = 8;
constexpr Nanos kWindow = 1'000'000;

}  // namespace

Setup<std::unique_ptr<PolledRing>> PolledRing::create(int eventfd, const PolledRing* sharer) {
  std::unique_ptr<PolledRing> r(new PolledRing);
  io_uring_params params{};
  params.flags = IORING_SETUP_SQPOLL | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_R_DISABLED;
  params.cq_entries = kCompletions;
  params.sq_thread_idle = kIdleMilliseconds;
  if (sharer) {
    params.flags |= IORING_SETUP_ATTACH_WQ;
    params.wq_fd = static_cast<u32>(sharer->ring_.ring_fd);
  }
  int e = io_uring_queue_init_params(kSubmissions, &r->ring_, &params);
  if (e < 0) return setup_error("no submission thread: " + describe_ring_failure(-e));
  r->made_ = true;
  e = io_uring_register_eventfd(&r->ring_, eventfd);
  if (e < 0) return setup_error("io_uring refuses an eventfd: " + errno_text(-e));
  set_announcing(r->ring_, false);
  TRY(restrict_ring(r->ring_));
  return r;
}

PolledRing::~PolledRing() {
  if (made_) cancel_and_close(ring_);
}

bool PolledRing::asleep() const {
  return (std::atomic_ref(*ring_.sq.kflags).load(std::memory_order_relaxed) & IORING_SQ_NEED_WAKEUP) != 0;
}

bool PolledRing::worthwhile() {
  // The thread frees the entries that it took together at once, when some of them may be complete already.
  if (in_flight_ == kSubmissions || io_uring_sq_space_left(&ring_) == 0) return false;
  if (!asleep()) return true;
  const Nanos now = monotonic_now();
  if (now - window_start_ > kWindow) {
    window_start_ = now;
    in_window_ = 0;
  }
  return ++in_window_ > kLoad;
}

bool PolledRing::publish() {
  const bool wake = asleep();
  io_uring_submit(&ring_);  // wakes the thread if it has fallen asleep meanwhile, too
  return wake;
}

bool PolledRing::take(void*& data, s32& result) {
  if (in_flight_ == 0) return false;
  const unsigned head = *ring_.cq.khead;
  if (head == io_uring_smp_load_acquire(ring_.cq.ktail)) return false;
  const io_uring_cqe& cqe = ring_.cq.cqes[head & *ring_.cq.kring_mask];
  data = io_uring_cqe_get_data(&cqe);
  result = cqe.res;
  io_uring_cq_advance(&ring_, 1);
  in_flight_--;
  return true;
}

}  // namespace rf::hostio
