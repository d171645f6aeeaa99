#include "task/posix_timers.h"

#include <sys/time.h>

#include <algorithm>
#include <vector>

#include "task/kernel.h"
#include "task/signal_send.h"

namespace rf::task {
namespace {

// Expirations closer than this count as overruns.
constexpr Nanos kMinPeriod = 50'000;
// How often, at most and at least, a CPU-time timer looks at what has been used.
constexpr Nanos kMinCpuCheck = 500'000;
constexpr Nanos kMaxIdleCpuCheck = 50'000'000;

constexpr size_t kMaxTimers = 4096;

Nanos add_saturated(Nanos a, Nanos b) { return b >= kNever - a ? kNever : a + b; }

}  // namespace

// --- GuestTimer -----------------------------------------------------------------------------------

Nanos GuestTimer::now() const {
  switch (base_) {
    case Base::kReal:
      return monotonic_now();
    case Base::kProcessUser:
      return group_.cpu_times().user;
    case Base::kProcessCpu:
      return group_.cpu_times().total();
    case Base::kThreadCpu:
      return thread->cpu_times().total();
  }
  return 0;
}

TimerValue GuestTimer::get_locked(Nanos now) const {
  if (deadline_ == 0) return {};
  return {std::max<Nanos>(deadline_ - now, 1), interval_};
}

TimerValue GuestTimer::get() {
  const Nanos t = now();
  SpinGuard guard(lock_);
  return get_locked(t);
}

TimerValue GuestTimer::set(TimerValue v, bool absolute) {
  const Nanos t = now();
  SpinGuard guard(lock_);
  const TimerValue old = get_locked(t);
  deadline_ = v.value == 0 ? 0 : absolute ? v.value : add_saturated(t, v.value);
  interval_ = v.interval;
  if (deadline_ != 0) arm_locked(t);
  return old;
}

// A disarmed timer is left to fire for nothing: cancelling would have to wait for a callback that wants the lock.
void GuestTimer::arm_locked(Nanos now) {
  if (base_ == Base::kReal) {
    timer_.arm(deadline_);
    return;
  }
  Nanos left = std::max<Nanos>(deadline_ - now, 0);
  if (base_ != Base::kThreadCpu) left /= std::max<u32>(group_.kernel.options.cpus, 1);
  timer_.arm(monotonic_now() + std::clamp(left, kMinCpuCheck, std::max(kMaxIdleCpuCheck, kMinCpuCheck)));
}

void GuestTimer::on_host_timer() {
  const Nanos t = now();
  u64 times = 0;
  {
    SpinGuard guard(lock_);
    if (deadline_ == 0) return;
    if (t < deadline_) {
      arm_locked(t);
      return;
    }
    times = 1;
    if (interval_ == 0) {
      deadline_ = 0;
    } else {
      const Nanos missed = (t - deadline_) / interval_;
      times += static_cast<u64>(missed);
      deadline_ = add_saturated(deadline_, (missed + 1) * interval_);
      if (deadline_ - t < kMinPeriod && base_ == Base::kReal)
        timer_.arm(t + kMinPeriod);
      else
        arm_locked(t);
    }
  }
  expired(times);
}

// --- ITIMER_* -------------------------------------------------------------------------------------

class IntervalTimers::Itimer final : public GuestTimer {
 public:
  Itimer(ThreadGroup& group, Base base, int sig) : GuestTimer(group, base), group_(group), sig_(sig) {}
  ~Itimer() override { stop(); }

 private:
  void expired(u64) override { (void)send_signal(group_, nullptr, kernel_siginfo(sig_)); }
  ThreadGroup& group_;
  const int sig_;
};

// --- RLIMIT_CPU -----------------------------------------------------------------------------------

class IntervalTimers::CpuLimit final : public GuestTimer {
 public:
  explicit CpuLimit(ThreadGroup& group) : GuestTimer(group, Base::kProcessCpu), group_(group) {}
  ~CpuLimit() override { stop(); }

  void update() {
    const u64 soft = group_.limit(RLIMIT_CPU).rlim_cur;
    const bool unlimited = soft == RLIM_INFINITY || soft > kNever / kNanosPerSecond;
    set({unlimited ? 0 : std::max<Nanos>(static_cast<Nanos>(soft) * kNanosPerSecond, 1), 0}, true);
  }

 private:
  // Once at the soft limit, then each second until the hard one.
  void expired(u64) override {
    const u64 hard = group_.limit(RLIMIT_CPU).rlim_max;
    const u64 used = static_cast<u64>(now() / kNanosPerSecond);
    (void)send_signal(group_, nullptr, kernel_siginfo(used >= hard ? SIGKILL : SIGXCPU));
    set({kNanosPerSecond, 0}, false);
  }
  ThreadGroup& group_;
};

// --- timer_create(2) ------------------------------------------------------------------------------

class IntervalTimers::PosixTimer final : public GuestTimer {
 public:
  PosixTimer(ThreadGroup& group, Base base, int clock, int id, const sigevent& event, Ref<Task> target)
      : GuestTimer(group, base), clock(clock), group_(group), event_(event), id_(id), target_(std::move(target)) {}
  ~PosixTimer() override { stop(); }

  const int clock;
  const Ref<TimerSignal> signal = make_ref<TimerSignal>();

 private:
  void expired(u64 times) override;
  ThreadGroup& group_;
  const sigevent event_;
  const int id_;
  const Ref<Task> target_;  // null: the process
};

void IntervalTimers::PosixTimer::expired(u64 times) {
  if (event_.sigev_notify == SIGEV_NONE) return;
  SpinGuard guard(group_.signal_lock);
  if (target_ && target_->exited) return;
  if (signal->queued.load(std::memory_order_acquire)) {
    signal->overruns.fetch_add(static_cast<u32>(std::min<u64>(times, 0x4000'0000)), std::memory_order_relaxed);
    return;
  }
  signal->overruns.store(static_cast<u32>(std::min<u64>(times - 1, 0x4000'0000)), std::memory_order_relaxed);
  siginfo_t info{};
  info.si_signo = event_.sigev_signo;
  info.si_code = SI_TIMER;
  info.si_timerid = id_;
  info.si_value = event_.sigev_value;
  (void)send_signal_locked(group_, target_.get(), info, signal);
}

// --- IntervalTimers -------------------------------------------------------------------------------

IntervalTimers::IntervalTimers(ThreadGroup& group) : group_(group) {}
IntervalTimers::~IntervalTimers() = default;

TimerValue IntervalTimers::set_itimer(int which, TimerValue v) {
  static constexpr GuestTimer::Base kBases[] = {GuestTimer::Base::kReal, GuestTimer::Base::kProcessUser,
                                                GuestTimer::Base::kProcessCpu};
  static constexpr int kSignals[] = {SIGALRM, SIGVTALRM, SIGPROF};
  Itimer* timer;
  {
    SpinGuard guard(lock_);
    if (!itimers_[which]) {
      if (v.value == 0) return {};
      itimers_[which] = std::make_unique<Itimer>(group_, kBases[which], kSignals[which]);
    }
    timer = itimers_[which].get();
  }
  if (v.value == 0) v.interval = 0;
  return timer->set(v, false);
}

TimerValue IntervalTimers::get_itimer(int which) {
  Itimer* timer;
  {
    SpinGuard guard(lock_);
    timer = itimers_[which].get();
  }
  return timer ? timer->get() : TimerValue{};
}

Result<int> IntervalTimers::create(Task& task, int clock, const sigevent* given) {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGALRM;
  if (given) event = *given;
  GuestTimer::Base base;
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_TAI:
      base = GuestTimer::Base::kReal;
      break;
    case CLOCK_PROCESS_CPUTIME_ID:
      base = GuestTimer::Base::kProcessCpu;
      break;
    case CLOCK_THREAD_CPUTIME_ID:
      base = GuestTimer::Base::kThreadCpu;
      break;
    default:
      return err(EINVAL);
  }
  if (event.sigev_notify != SIGEV_NONE && (event.sigev_signo < 1 || event.sigev_signo > kSignalMax)) return err(EINVAL);
  Ref<Task> target;
  switch (event.sigev_notify) {
    case SIGEV_NONE:
    case SIGEV_SIGNAL:
      break;
    case SIGEV_SIGNAL | SIGEV_THREAD_ID: {
      SpinGuard guard(group_.signal_lock);
      for (Task* t : group_.tasks)
        if (t->tid == event._sigev_un._tid && !t->exited) target = Ref<Task>(t);
      if (!target) return err(EINVAL);
      break;
    }
    default:
      return err(EINVAL);
  }
  SpinGuard guard(lock_);
  if (posix_.size() >= kMaxTimers) return err(EAGAIN);
  while (posix_.contains(next_id_)) next_id_ = (next_id_ + 1) & 0x7fff'ffff;
  const int id = next_id_;
  next_id_ = (next_id_ + 1) & 0x7fff'ffff;
  if (!given) event.sigev_value.sival_int = id;
  auto timer = std::make_shared<PosixTimer>(group_, base, clock, id, event, std::move(target));
  if (base == GuestTimer::Base::kThreadCpu) timer->thread = Ref<Task>(&task);
  posix_[id] = std::move(timer);
  return id;
}

std::shared_ptr<IntervalTimers::PosixTimer> IntervalTimers::find(int id) {
  SpinGuard guard(lock_);
  auto it = posix_.find(id);
  return it == posix_.end() ? nullptr : it->second;
}

Result<TimerValue> IntervalTimers::settime(int id, bool absolute, TimerValue v) {
  std::shared_ptr<PosixTimer> timer = find(id);
  if (!timer) return err(EINVAL);
  // Guest clocks are not the host's monotonic clock: an absolute time is taken as the distance from now.
  const bool real = timer->clock != CLOCK_PROCESS_CPUTIME_ID && timer->clock != CLOCK_THREAD_CPUTIME_ID;
  if (absolute && v.value != 0 && real) {
    const Nanos now = TRY(group_.kernel.now(timer->clock, nullptr));
    v.value = std::max<Nanos>(v.value - now, 1);
    absolute = false;
  }
  return timer->set(v, absolute);
}

Result<TimerValue> IntervalTimers::gettime(int id) {
  std::shared_ptr<PosixTimer> timer = find(id);
  if (!timer) return err(EINVAL);
  return timer->get();
}

Result<int> IntervalTimers::overrun(int id) {
  std::shared_ptr<PosixTimer> timer = find(id);
  if (!timer) return err(EINVAL);
  return static_cast<int>(timer->signal->last_overruns.load(std::memory_order_relaxed));
}

Result<void> IntervalTimers::remove(int id) {
  std::shared_ptr<PosixTimer> timer;
  SpinGuard guard(lock_);
  auto it = posix_.find(id);
  if (it == posix_.end()) return err(EINVAL);
  timer = std::move(it->second);
  posix_.erase(it);
  return {};
}

void IntervalTimers::update_cpu_limit() {
  CpuLimit* limit;
  {
    const bool unlimited = group_.limit(RLIMIT_CPU).rlim_cur == RLIM_INFINITY;
    SpinGuard guard(lock_);
    if (!cpu_limit_) {
      if (unlimited) return;
      cpu_limit_ = std::make_unique<CpuLimit>(group_);
    }
    limit = cpu_limit_.get();
  }
  limit->update();
}

void IntervalTimers::remove_all_posix() {
  std::map<int, std::shared_ptr<PosixTimer>> all;
  {
    SpinGuard guard(lock_);
    all.swap(posix_);
    next_id_ = 0;
  }
}

void IntervalTimers::stop_all() {
  remove_all_posix();
  std::unique_ptr<CpuLimit> limit;
  {
    SpinGuard guard(lock_);
    limit = std::move(cpu_limit_);
  }
  limit.reset();
  for (int which = 0; which < 3; which++) {
    std::unique_ptr<Itimer> timer;
    SpinGuard guard(lock_);
    timer = std::move(itimers_[which]);
  }
}

}  // namespace rf::task
