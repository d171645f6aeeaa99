#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "core/check.h"
#include "core/cycles.h"
#include "core/worker_impl.h"

namespace rf {

// The link-time optimiser does not see who reads it.
extern "C" {
[[gnu::used, gnu::externally_visible]] constinit thread_local Worker* rf_current_worker = nullptr;
}

namespace {

// How often a busy worker looks at its reactor and timers, in fibers run.
constexpr u32 kReapInterval = 16;

// A ready fiber waits this long for its worker before an idle one is woken to take it: the wake-up of another core
// costs 60-75 us in a VM, and two fibers that hand each other the worker need no second one.
constexpr Nanos kStealDelay = 200'000;

// A guest that could not be entered this many times in a row, because there was always a woken fiber to run
// first, runs this long after all.
constexpr u32 kMaxRefusals = 8;
constexpr Nanos kForcedSlice = 200'000;

// How many fibers, and for how long, a worker serves before it looks again at the guest code that runs on meanwhile.
constexpr u32 kMostServed = 16;
constexpr Nanos kServing = 2'000'000;
// How long a worker that had to do so is taken for crowded.
constexpr u64 kCrowdedFor = 100'000'000;  // cycles

// How long a completion that slipped in just before the guest entry may go unseen.
constexpr Nanos kMissedCompletionDelay = 10'000'000;

void on_kick_signal(int) {
  Worker* w = Worker::current();
  if (w) w->handle_kick_signal();
}

void install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = on_kick_signal;
  // Without SA_RESTART: the guest entry must return. On the alternate stack: fibers' stacks are small.
  action.sa_flags = SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  RF_CHECK(sigaction(kick_signal(), &action, nullptr) == 0, "sigaction");
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, kick_signal());
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace

void Worker::handle_kick_signal() noexcept {
  impl_->kick_timer.went_off();
  if (GuestKicker* k = impl_->kicker.load(std::memory_order_relaxed)) k->on_kick_signal();
}

// --- Guest code -----------------------------------------------------------------------------------

// Usually there is nothing for the worker to look at. Who queues something after the look sees kGuest, and kicks.
bool Worker::enter_guest(GuestKicker& kicker) {
  Impl& w = *impl_;
  w.kicker.store(&kicker, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  w.state.store(Impl::kGuest, std::memory_order_seq_cst);
  if (w.queue.size() == 0 && reactor_->quiet() && !w.scheduler.stopping.load(std::memory_order_seq_cst)) [[likely]] {
    const bool outstanding = reactor_->outstanding();
    if ((!outstanding && w.timers.earliest() == kNever) || w.alarm_will_do(0, 0, outstanding)) [[likely]] {
      w.current->impl_->refusals = 0;
      return true;
    }
  }
  return w.enter_guest_after_all(kicker);
}

bool Worker::Impl::enter_guest_after_all(GuestKicker& guest_kicker) {
  self.leave_guest();
  RF_CHECK(current, "guest code runs on a fiber");
  reap();
  if (scheduler.stopping.load(std::memory_order_relaxed)) return false;
  Fiber::Impl& f = *current->impl_;
  u32 woken = queue.woken(), ready = queue.ready();
  const bool step_out_at_once = woken != 0 && outside == nullptr && guest_kicker.steps_out() && self.crowded();
  if (woken != 0 && f.refusals < kMaxRefusals && outside == nullptr && !step_out_at_once) {
    f.refusals++;
    return false;
  }
  // Before the clock is read: an alarm that goes off from here on finds the kicker, one that went off earlier is in the
  // past of `now` and is set again.
  kicker.store(&guest_kicker, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (reactor->outstanding()) reactor->prepare_for_guest();
  const bool was_quiet = reactor->quiet();
  bool admitted = arm_for_guest(woken, ready);
  if (admitted) {
    // The call that has set the alarm is no reason to give up the turn: who must make it each time would never come
    // forward beside one who finds it set.
    guest_kicker.forget_host_calls();
    state.store(kGuest, std::memory_order_seq_cst);
    // Who queued something before it could see kGuest did not kick; an alarm that has gone off has been forgotten.
    const bool needs_alarm = woken != 0 || ready != 0 || reactor->outstanding() || timers.earliest() != kNever;
    admitted = (!needs_alarm || kick_timer.pending() != 0) && queue.woken() <= woken && queue.ready() <= ready &&
               (!was_quiet || reactor->quiet()) && !scheduler.stopping.load(std::memory_order_seq_cst);
  }
  if (!admitted) {
    self.leave_guest();
    return false;
  }
  f.refusals = 0;
  if (step_out_at_once) guest_kicker.on_kick_signal();
  return true;
}

// Reading the clock costs more than the rest, or a host call where the host's clock is no TSC. So as long as the alarm
// has not gone off and is early enough for all that may be due, nothing is.
bool Worker::Impl::alarm_will_do(u32 woken, u32 ready, bool outstanding) const {
  const Nanos alarm = kick_timer.pending();
  if (alarm == 0 || woken != 0 || alarm > timers.earliest()) return false;
  if (outstanding && alarm > look_at_completions) return false;
  if (ready == 0) return true;
  if (slice_start == 0 || alarm > slice_start + scheduler.options.time_slice) return false;
  return scheduler.idle_mask.load(std::memory_order_relaxed) == 0 || alarm <= queue.ready_since() + kStealDelay;
}

bool Worker::Impl::arm_for_guest(u32 woken, u32 ready) {
  Nanos deadline = timers.earliest();
  bool outstanding = self.reactor_->outstanding();
  if (woken == 0 && ready == 0 && !outstanding && deadline == kNever) return true;
  if (alarm_will_do(woken, ready, outstanding)) return true;
  Nanos now = monotonic_now();
  look_at_completions = now + kMissedCompletionDelay;
  if (outstanding) deadline = std::min(deadline, look_at_completions);
  if (woken != 0 && outside == nullptr) deadline = std::min(deadline, now + kForcedSlice);
  if (ready != 0) {
    if (slice_start == 0) slice_start = now;
    Nanos slice_end = slice_start + scheduler.options.time_slice;
    if (woken == 0 && now >= slice_end) return false;
    deadline = std::min(deadline, slice_end);
    if (scheduler.idle_mask.load(std::memory_order_relaxed) != 0) {
      Nanos steal_at = queue.ready_since() + kStealDelay;
      if (now >= steal_at)
        scheduler.wake_idle(bit);
      else
        deadline = std::min(deadline, steal_at);
    }
  }
  if (deadline <= now) {
    if (woken == 0) return false;
    deadline = now + kForcedSlice;
  }
  kick_timer.ensure(deadline, now);
  return true;
}

bool Worker::step_out() {
  Impl& w = *impl_;
  leave_guest();
  w.reap();
  if (w.outside) return false;
  if (w.queue.woken() == 0) return true;
  const Nanos slice_start = w.slice_start;
  w.outside = w.current;
  w.served = 0;
  w.serving_ends.arm(monotonic_now() + kServing);
  const u64 begin = cycles();
  w.switch_out(Impl::Action::kStepOut);
  const u64 end = cycles();
  w.serving_ends.cancel();
  outside_cycles_.store(outside_cycles_.load(std::memory_order_relaxed) + (end - begin), std::memory_order_relaxed);
  w.slice_start = slice_start;
  w.current->impl_->refusals = kMaxRefusals;
  w.crowded = true;
  w.crowded_until = end + kCrowdedFor;
  return true;
}

bool Worker::crowded() const {
  return impl_->crowded && impl_->scheduler.idle_mask.load(std::memory_order_relaxed) == 0;
}

void Worker::leave_guest() {
  Impl& w = *impl_;
  if (w.state.load(std::memory_order_relaxed) == Impl::kGuestKicked) stats_.kicks++;
  // Whoever still sees kGuest kicks for nothing.
  w.state.store(Impl::kSentry, std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  w.kicker.store(nullptr, std::memory_order_relaxed);
}

void Worker::kick() {
  Impl& w = *impl_;
  u32 expected = Impl::kGuest;
  // One signal per stay in the guest is enough. If the worker leaves meanwhile the signal comes too late and is
  // ignored, or stops a later stay for nothing.
  if (w.state.compare_exchange_strong(expected, Impl::kGuestKicked, std::memory_order_seq_cst))
    syscall(SYS_tgkill, getpid(), w.tid, kick_signal());
}

void Worker::prod() {
  Impl& w = *impl_;
  switch (w.state.load(std::memory_order_seq_cst)) {
    case Impl::kGuest:
      kick();
      break;
    case Impl::kIdle:
      // Its own thread, running completions, is about to look anyway.
      if (current() != this) w.reactor->wake();
      break;
    default:
      break;
  }
}

// --- The worker's thread --------------------------------------------------------------------------

Setup<void> Worker::Impl::start() {
  rf_current_worker = &self;
  tid = gettid();
  loop_context.adopt_thread();
  install_kick_handler();
  TRY(kick_timer.create());
  reactor = TRY(scheduler.options.make_reactor(self.index_));
  self.reactor_ = reactor.get();
  return {};
}

void Worker::Impl::finish() {
  kick_timer.destroy();
  rf_current_worker = nullptr;
}

void Worker::Impl::loop() {
  while (!scheduler.stopping.load(std::memory_order_relaxed)) {
    if (errand.load(std::memory_order_relaxed) != nullptr) [[unlikely]]
      run_errand();
    if (++ticks % kReapInterval == 0) reap();
    Fiber* f = next();
    if (!f && reap()) continue;
    if (!f) f = steal();
    if (f)
      run(*f);
    else
      idle();
  }
}

void Worker::Impl::run_errand() {
  Errand* e = errand.exchange(nullptr, std::memory_order_acquire);
  e->body();
  // Once `done` is seen the errand is gone.
  Ref<Fiber> waiter = e->waiter;
  e->done.store(true, std::memory_order_release);
  waiter->unpark();
}

// Runs completions and timers that are due; true if there were any.
bool Worker::Impl::reap() {
  // What they do to the fiber that is just about to run guest code must stop that, as if another worker did it.
  Fiber* const fiber = std::exchange(current, nullptr);
  bool any = reactor->poll();
  if (const Nanos earliest = timers.earliest(); earliest != kNever) {
    const Nanos now = monotonic_now();
    if (earliest <= now && timers.expire(now)) any = true;
  }
  current = fiber;
  return any;
}

Fiber* Worker::Impl::next() {
  if (outside == nullptr) {
    // Those who compute are to run while others are served, not after that.
    if (std::exchange(ready_before_woken, false))
      if (Fiber* f = queue.pop_ready()) return f;
    return queue.pop();
  }
  if (served++ < kMostServed)
    if (Fiber* f = queue.pop_woken()) return f;
  return std::exchange(outside, nullptr);
}

Fiber* Worker::Impl::steal() {
  auto& workers = scheduler.workers;
  size_t n = workers.size();
  for (size_t i = 1; i < n; i++) {
    Worker& victim = *workers[(self.index_ + i) % n];
    if (Fiber* f = victim.impl_->queue.steal()) {
      self.stats_.steals++;
      return f;
    }
  }
  return nullptr;
}

void Worker::Impl::run(Fiber& f) {
  found_work();
  current = &f;
  slice_start = 0;
  f.impl_->last_worker = self.index_;
  self.stats_.switches++;
  if (crowded && cycles() > crowded_until) crowded = false;
  u64 begin = f.running_since_.load(std::memory_order_relaxed);
  if (begin == 0) f.running_since_.store(begin = cycles(), std::memory_order_relaxed);
  ExecutionContext::switch_to(loop_context, f.impl_->context);
  current = nullptr;
  if (action != Action::kStepOut) {
    f.running_since_.store(0, std::memory_order_release);
    f.run_cycles_.store(f.run_cycles_.load(std::memory_order_relaxed) + (cycles() - begin), std::memory_order_release);
  }
  switch (action) {
    case Action::kPark: {
      // Only now, with its context saved, may others resume it. A wake-up that came meanwhile is in the state.
      u32 expected = kFiberRunning;
      if (!f.state_.compare_exchange_strong(expected, kFiberParked, std::memory_order_acq_rel)) queue.push_woken(f);
      break;
    }
    case Action::kYield:
      ready_before_woken = self.crowded();
      scheduler.requeue(f, *this);
      break;
    case Action::kDone:
      scheduler.fiber_ended(f);
      break;
    case Action::kStepOut:
      break;  // it goes on running, and is `outside`
  }
}

// Never inlined: what the compiler knows of the worker before the switch is wrong after it.
[[gnu::noinline]] void Worker::Impl::switch_out(Action what) {
  Fiber& f = *current;
  action = what;
  if (scheduler.options.leave_fiber) scheduler.options.leave_fiber();
  ExecutionContext::switch_to(f.impl_->context, loop_context);
}

void Worker::Impl::end_fiber() {
  Fiber& f = *current;
  action = Action::kDone;
  if (scheduler.options.leave_fiber) scheduler.options.leave_fiber();
  ExecutionContext::leave(f.impl_->context, loop_context);
}

void Worker::Impl::idle() {
  state.store(kIdle, std::memory_order_seq_cst);
  scheduler.idle_mask.fetch_or(bit, std::memory_order_seq_cst);
  if (searching) {
    searching = false;
    scheduler.searching.store(0, std::memory_order_seq_cst);
  }
  // Who queued something before it could see the idle bit did not wake anyone.
  if (!scheduler.any_queued() && !scheduler.stopping.load(std::memory_order_seq_cst) &&
      errand.load(std::memory_order_seq_cst) == nullptr) {
    Nanos begin = monotonic_now();
    reactor->wait(timers.earliest());
    self.stats_.idle_waits++;
    self.stats_.idle_time += monotonic_now() - begin;
  }
  // The bit is gone already if wake_idle() chose this worker.
  if (!(scheduler.idle_mask.fetch_and(~bit, std::memory_order_seq_cst) & bit)) searching = true;
  state.store(kSentry, std::memory_order_seq_cst);
}

// The search that wake_idle() started is over: another may start, and does if there is more to take.
void Worker::Impl::found_work() {
  if (!searching) return;
  searching = false;
  scheduler.searching.store(0, std::memory_order_seq_cst);
  bool more = queue.size() > 0;
  for (auto& w : scheduler.workers) more = more || w->impl_->queue.size() > 1;
  if (more) scheduler.wake_idle(bit);
}

}  // namespace rf
