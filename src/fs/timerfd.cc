// timerfd_create(2).
//
// Locks: settings_ (a fiber mutex, serialises timerfd_settime) > lock_ > the timer's own. expire() takes lock_, so
// cancel(), which waits for it, is called without.
#include <fmt/core.h>
#include <sys/timerfd.h>
#include <time.h>

#include "core/timer.h"
#include "fs/special_files.h"
#include "fs/stream_file.h"

namespace rf::fs {

namespace {

bool known_clock(int clock) {
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM:
      return true;
    default:
      return false;
  }
}

Nanos clock_now(int clock) {
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_ALARM:
      return realtime_now();
    case CLOCK_MONOTONIC:
      return monotonic_now();
    default: {
      timespec t{};
      clock_gettime(CLOCK_BOOTTIME, &t);
      return t.tv_sec * kNanosPerSecond + t.tv_nsec;
    }
  }
}

// `a` + `b`, or the farthest future.
Nanos add_saturating(Nanos a, Nanos b) {
  Nanos sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return a < 0 ? 0 : kNever;
}

class TimerFile final : public StreamFile {
 public:
  TimerFile(Path path, int flags, int clock) : StreamFile(std::move(path), flags), clock_(clock), alarm_(*this) {}

  Result<size_t> read(const Context&, mm::IoBuffer& dst) override {
    if (dst.remaining() < sizeof(u64)) return err(EINVAL);
    u64 ticks = 0;
    TRY(wait_for_io(queue_, nonblocking(), [&] { return take(ticks); }));
    if (TRY(dst.put(std::as_bytes(std::span(&ticks, 1)))) != sizeof ticks) return err(EFAULT);
    return sizeof ticks;
  }
  EventMask poll() override {
    SpinGuard guard(lock_);
    look(monotonic_now());
    return ticks_ != 0 ? POLLIN : 0;
  }
  void poll_register(Waiter& w) override { queue_.add(w); }
  void poll_unregister(Waiter& w) override { queue_.remove(w); }
  std::string fdinfo() override;

  TimerSpec set(int flags, TimerSpec spec);
  TimerSpec get() {
    SpinGuard guard(lock_);
    return current(monotonic_now());
  }

 private:
  class Alarm final : public Timer {
   public:
    explicit Alarm(TimerFile& file) : file_(file) {}
    ~Alarm() override { cancel(); }

   private:
    void expire() override { file_.expire(); }
    TimerFile& file_;
  };

  // It may come late, after the setting has changed.
  void expire() {
    {
      SpinGuard guard(lock_);
      look(monotonic_now());
      if (ticks_ == 0) return;
    }
    queue_.notify(POLLIN);
  }

  // --- With lock_ held ---
  // Notices that the time has come. Like Linux, a periodic timer does not run on by itself: it stays expired, and the
  // periods passed are counted when somebody asks, so that a short period costs nothing.
  void look(Nanos now) {
    if (!armed_ || expired_ || now < next_) return;
    expired_ = true;
    ticks_++;
    if (interval_ == 0) armed_ = false;
  }
  void restart(Nanos now) {
    if (!expired_ || interval_ == 0) return;
    expired_ = false;
    s64 periods = (now - next_) / interval_ + 1;
    ticks_ += static_cast<u64>(periods - 1);
    next_ = add_saturating(next_ + (periods - 1) * interval_, interval_);
    alarm_.arm(next_);
  }
  TimerSpec current(Nanos now) {
    look(now);
    restart(now);
    if (!armed_) return {0, interval_};
    return {next_ > now ? next_ - now : 1, interval_};
  }
  bool take(u64& ticks) {
    SpinGuard guard(lock_);
    Nanos now = monotonic_now();
    look(now);
    if (ticks_ == 0) return false;
    restart(now);
    expired_ = false;
    ticks = std::exchange(ticks_, 0);
    return true;
  }

  const int clock_;
  FiberMutex settings_;
  SpinLock lock_;
  bool armed_ = false;
  bool expired_ = false;
  int set_flags_ = 0;
  Nanos next_ = 0;  // monotonic
  Nanos interval_ = 0;
  u64 ticks_ = 0;
  WaitQueue queue_;
  Alarm alarm_;  // last: cancelled before the rest goes
};

TimerSpec TimerFile::set(int flags, TimerSpec spec) {
  FiberGuard settings(settings_);
  TimerSpec old;
  {
    SpinGuard guard(lock_);
    Nanos now = monotonic_now();
    old = current(now);
    expired_ = false;
    ticks_ = 0;
    set_flags_ = flags;
    interval_ = spec.interval;
    armed_ = spec.value != 0;
    if (armed_) {
      Nanos base = (flags & TFD_TIMER_ABSTIME) ? now - clock_now(clock_) : now;
      next_ = add_saturating(base, spec.value);
      alarm_.arm(next_);
      return old;
    }
  }
  alarm_.cancel();
  return old;
}

std::string TimerFile::fdinfo() {
  SpinGuard guard(lock_);
  TimerSpec spec = current(monotonic_now());
  return fmt::format("clockid: {}\nticks: {}\nsettime flags: 0{:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
                     clock_, ticks_, set_flags_, spec.value / kNanosPerSecond, spec.value % kNanosPerSecond,
                     spec.interval / kNanosPerSecond, spec.interval % kNanosPerSecond);
}

}  // namespace

Result<Ref<File>> make_timerfd(int clock, int flags) {
  if (!known_clock(clock) || (flags & ~(TFD_NONBLOCK | TFD_CLOEXEC)) != 0) return err(EINVAL);
  return make_ref<TimerFile>(make_anon_path("anon_inode:[timerfd]"), O_RDWR | (flags & TFD_NONBLOCK), clock);
}

Result<TimerSpec> timerfd_settime(File& f, int flags, TimerSpec spec) {
  if ((flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) != 0 || spec.value < 0 || spec.interval < 0)
    return err(EINVAL);
  auto* timer = dynamic_cast<TimerFile*>(&f);
  if (!timer) return err(EINVAL);
  return timer->set(flags, spec);
}

Result<TimerSpec> timerfd_gettime(File& f) {
  auto* timer = dynamic_cast<TimerFile*>(&f);
  if (!timer) return err(EINVAL);
  return timer->get();
}

}  // namespace rf::fs
