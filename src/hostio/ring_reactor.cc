#include "hostio/ring_reactor.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "core/check.h"
#include "core/log.h"
#include "hostio/ring_setup.h"

namespace rf::hostio {
namespace {

// user_data values that are no Request's address.
constexpr u64 kIgnored = 0;
constexpr u64 kWakeMessage = 1;

// For so long a worker with nothing to do looks for completions in memory before it sleeps, which costs about as much.
constexpr Nanos kAwaitPolled = 20'000;

}  // namespace

Setup<std::unique_ptr<RingReactor>> RingReactor::create(const RingOptions& options) {
  std::unique_ptr<RingReactor> r(new RingReactor);
  r->interruptions_stop_guests_ = options.interruptions_stop_guests;
  const unsigned submissions = options.one_page ? kSmallSubmissions : kSubmissions;
  io_uring_params params{};
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_R_DISABLED;
  params.cq_entries = options.one_page ? kSmallCompletions : kCompletions;
  int e = io_uring_queue_init_params(submissions, &r->ring_, &params);
  if (e < 0) return setup_error(describe_ring_failure(-e));
  r->ring_made_ = true;
  r->taken_ = r->ring_.cq.khead;
  r->arrived_ = r->ring_.cq.ktail;
  TRY(check_ring_features(r->ring_));
  r->eventfd_ = HostFd(eventfd(0, EFD_CLOEXEC));
  if (!r->eventfd_.valid()) return setup_error("cannot create an eventfd: " + errno_text(errno));
  e = io_uring_register_eventfd_async(&r->ring_, r->eventfd_.get());
  if (e < 0) return setup_error("io_uring refuses an eventfd: " + errno_text(-e));
  set_announcing(r->ring_, false);
  TRY(restrict_ring(r->ring_));
  r->worker_ = Worker::current();
  r->arm_wake_read();
  r->submit();
  return r;
}

RingReactor::~RingReactor() {
  if (!ring_made_) return;
  polled_.reset();
  cancel_and_close(ring_);
  while (inbox_.pop_front()) {
  }
}

Setup<void> RingReactor::start_submission_thread(RingReactor* sharer) {
  polled_ = TRY(PolledRing::create(eventfd_.get(), sharer ? sharer->polled_.get() : nullptr));
  return {};
}

// --- Submission -----------------------------------------------------------------------------------

io_uring_sqe* RingReactor::next_sqe() {
  due_ = true;
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe) [[likely]]
    return sqe;
  // Full: what is queued must go first. It fails only while completions wait in the kernel for room, or for want of
  // memory.
  while (!sqe) {
    submit();
    sqe = io_uring_get_sqe(&ring_);
    if (!sqe) reap();
  }
  return sqe;
}

void RingReactor::submit() {
  if (io_uring_sq_ready(&ring_) == 0) return;
  count(enters_);
  int r = io_uring_submit(&ring_);
  // EBUSY, EAGAIN: the entries stay queued, and the next poll() or wait() tries again.
  if (r < 0 && r != -EBUSY && r != -EAGAIN && r != -EINTR) RF_ERROR("io_uring_enter: {}", errno_name(-r));
  due_ = more_to_do();
}

// --- Completion -----------------------------------------------------------------------------------

// One at a time, each taken off the queue before it is acted on: a completion may submit, and so come back here.
bool RingReactor::reap() {
  bool any = false;
  for (;;) {
    unsigned head = *ring_.cq.khead;
    if (head == io_uring_smp_load_acquire(ring_.cq.ktail)) {
      // Completions that found the queue full wait in the kernel.
      if (!io_uring_cq_has_overflow(&ring_)) [[likely]]
        return any;
      count(enters_);
      if (io_uring_get_events(&ring_) < 0) return any;
      if (head == io_uring_smp_load_acquire(ring_.cq.ktail)) return any;
    }
    const io_uring_cqe& cqe = ring_.cq.cqes[head & *ring_.cq.kring_mask];
    u64 data = cqe.user_data;
    s32 result = cqe.res;
    u32 flags = cqe.flags;
    io_uring_cq_advance(&ring_, 1);
    any = true;
    if (data == kWakeMessage)
      woken();
    else if (data != kIgnored)
      completed(*reinterpret_cast<Request*>(data), result, flags);
  }
}

bool RingReactor::reap_polled() {
  bool any = false;
  void* request;
  for (s32 result; polled_ && polled_->take(request, result); any = true)
    completed(*static_cast<Request*>(request), result, 0);
  return any;
}

void RingReactor::completed(Request& request, s32 result, u32 flags) {
  if (!(flags & IORING_CQE_F_MORE)) {
    if (stops_no_guest(request)) outstanding_--;
    if (request.kind_ == Request::Kind::kOther) for_kernel_threads_--;
  }
  request.complete(result, flags);
}

// Entries that the kernel has not taken, completions that found no room, or such to come that would stop no guest.
bool RingReactor::more_to_do() const {
  return io_uring_sq_ready(&ring_) != 0 || io_uring_cq_has_overflow(&ring_) ||
         (for_kernel_threads_ != 0 && !announcing_);
}

void RingReactor::announce(bool on) {
  if (announcing_ == on) return;
  announcing_ = on;
  set_announcing(ring_, on);
  if (polled_) polled_->announce(on);
}

void RingReactor::prepare_for_guest() {
  if (for_kernel_threads_ == 0) return;
  announce(true);
  reap();  // what was not announced
  reap_polled();
  submit();
  due_ = more_to_do();
}

bool RingReactor::poll() {
  if (quiet()) [[likely]]
    return false;
  announce(false);
  drain_inbox();
  submit();
  bool any = reap();
  any |= reap_polled();
  submit();  // what completions queued
  due_ = more_to_do();
  return any;
}

void RingReactor::wait(Nanos deadline) {
  announce(false);
  drain_inbox();
  if (!std::exchange(skip_next_wait_, false) && !reap() && !await_polled()) {
    // What the submission thread completes from here on ends the wait.
    if (polled_) polled_->announce(true);
    if (!reap_polled()) block(deadline);
    if (polled_) polled_->announce(false);
    reap();
    reap_polled();
  }
  submit();
  skip_next_wait_ = false;  // the wake-up it stands for has ended this wait
}

// Looks for a while whether the submission thread completes something.
bool RingReactor::await_polled() {
  if (!polled_ || polled_->in_flight() == 0) return false;
  const Nanos until = monotonic_now() + kAwaitPolled;
  do {
    if (reap_polled()) return true;
    if (io_uring_cq_ready(&ring_) != 0) return reap();
    __builtin_ia32_pause();
  } while (monotonic_now() < until);
  return false;
}

// Submits, and waits for a completion of this ring's or the deadline.
void RingReactor::block(Nanos deadline) {
  __kernel_timespec timeout{};
  if (deadline != kNever) {
    const Nanos left = deadline - monotonic_now();
    if (left <= 0) return;
    timeout = {left / kNanosPerSecond, left % kNanosPerSecond};
  }
  io_uring_cqe* cqe;
  count(enters_);
  const int r = io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, deadline == kNever ? nullptr : &timeout, nullptr);
  if (r < 0 && r != -ETIME && r != -EINTR && r != -EBUSY && r != -EAGAIN)
    RF_ERROR("waiting in io_uring: {}", errno_name(-r));
}

// --- Wake-ups -------------------------------------------------------------------------------------

void RingReactor::woken() {
  wake_sent_.store(false, std::memory_order_seq_cst);
  skip_next_wait_ = true;
}

void RingReactor::wake() {
  if (wake_sent_.exchange(true, std::memory_order_seq_cst)) return;
  Worker* here = worker_ ? Worker::current() : nullptr;
  if (here && here != worker_)
    static_cast<RingReactor&>(here->reactor()).send_message_to(*this);
  else
    wake_by_eventfd();
}

void RingReactor::send_message_to(RingReactor& target) {
  io_uring_sqe* sqe = next_sqe();
  io_uring_prep_msg_ring(sqe, target.ring_.ring_fd, 0, kWakeMessage, 0);
  sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  io_uring_sqe_set_data(sqe, &target.failed_message_);
  count(submissions_);
  submit();
}

void RingReactor::wake_by_eventfd() {
  u64 one = 1;
  [[maybe_unused]] ssize_t n = ::write(eventfd_.get(), &one, sizeof one);
}

void RingReactor::arm_wake_read() {
  io_uring_sqe* sqe = next_sqe();
  io_uring_prep_read(sqe, eventfd_.get(), &wake_read_.value, sizeof wake_read_.value, 0);
  io_uring_sqe_set_data(sqe, &wake_read_);
}

void RingReactor::WakeRead::complete(s32, u32) {
  ring_.arm_wake_read();
  ring_.woken();
}

// --- Cancellation ---------------------------------------------------------------------------------

void RingReactor::queue_cancel(Cancellation& c) {
  queue(c, [&](io_uring_sqe* sqe) { io_uring_prep_cancel(sqe, &c.target_, 0); });
}

void RingReactor::cancel(Cancellation& c) {
  if (Worker::current() == worker_) {
    queue_cancel(c);
    submit();
    return;
  }
  {
    SpinGuard guard(inbox_lock_);
    inbox_.push_back(c);
    inbox_size_.fetch_add(1, std::memory_order_seq_cst);
  }
  worker_->prod();
}

void RingReactor::drain_inbox() {
  if (inbox_size_.load(std::memory_order_seq_cst) == 0) return;
  List<Cancellation, InboxTag> taken;
  {
    SpinGuard guard(inbox_lock_);
    taken.splice_back(inbox_);
    inbox_size_.store(0, std::memory_order_relaxed);
  }
  while (Cancellation* c = taken.pop_front()) queue_cancel(*c);
}

}  // namespace rf::hostio
