// Clocks, sleeping and timers.
#include <asm/unistd_64.h>
#include <linux/time_types.h>
#include <sys/time.h>
#include <sys/timex.h>

#include "task/call_helpers.h"
#include "task/posix_timers.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

constexpr Nanos kMicro = 1000;

__kernel_timespec to_timespec(Nanos t) { return {t / kNanosPerSecond, t % kNanosPerSecond}; }
timeval to_timeval(Nanos t) { return {t / kNanosPerSecond, t % kNanosPerSecond / kMicro}; }

// --- Sleeping -------------------------------------------------------------------------------------

bool is_cpu_clock(int clock) { return clock == CLOCK_PROCESS_CPUTIME_ID || clock < 0; }

// When, on the host's clock, to look next whether the guest's clock has come to `target`. A process's CPU clock runs
// at most as fast as there are CPUs.
Nanos next_look(Task& t, int clock, Nanos target, Nanos now) {
  constexpr Nanos kSlowest = 1'000'000;
  const Nanos left = target - now;
  if (!is_cpu_clock(clock)) return deadline_after(left);
  return deadline_after(std::max(left / static_cast<Nanos>(t.kernel.options.cpus), kSlowest));
}

// Until the guest's `clock` says `target`. EINTR.
Result<void> sleep_to(Task& t, int clock, Nanos target) {
  for (;;) {
    const Nanos now = TRY(t.kernel.now(clock, &t));
    if (now >= target) return {};
    if (sleep_until(next_look(t, clock, target, now), Interruptible::kYes) == WakeReason::kInterrupted)
      return err(EINTR);
  }
}

// A relative sleep that was interrupted goes on, unless a handler runs, to the same end.
SysResult sleep_or_restart(Task& t, int clock, Nanos target, mm::UserPtr<__kernel_timespec> remaining) {
  if (sleep_to(t, clock, target)) return 0;
  if (remaining) {
    const Nanos left = target - TRY(t.kernel.now(clock, &t));
    if (left <= 0) return 0;
    TRY(remaining.write(*t.mm, to_timespec(left)));
  }
  t.restart.function = [=](Task& task) { return sleep_or_restart(task, clock, target, remaining); };
  return err(kERESTART_RESTARTBLOCK);
}

SysResult relative_sleep(Task& t, int clock, Nanos duration, mm::UserPtr<__kernel_timespec> remaining) {
  t.voluntary_switches.fetch_add(1, std::memory_order_relaxed);
  const Nanos now = TRY(t.kernel.now(clock, &t));
  return sleep_or_restart(t, clock, duration >= kNever - now ? kNever : now + duration, remaining);
}

SysResult sys_nanosleep(Task& t, const SyscallArgs& a) {
  const Nanos duration = TRY(to_nanos(TRY(a.ptr<__kernel_timespec>(0).read(*t.mm))));
  return relative_sleep(t, CLOCK_MONOTONIC, duration, a.ptr<__kernel_timespec>(1));
}

SysResult sys_clock_nanosleep(Task& t, const SyscallArgs& a) {
  const int clock = a.i(0);
  if (clock == CLOCK_THREAD_CPUTIME_ID) return err(EINVAL);
  if (clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_REALTIME_COARSE)
    return err(EOPNOTSUPP);
  TRY(t.kernel.now(clock, &t));
  const Nanos time = TRY(to_nanos(TRY(a.ptr<__kernel_timespec>(2).read(*t.mm))));
  // A relative sleep does not follow changes of the real-time clock.
  if ((a.i(1) & TIMER_ABSTIME) == 0)
    return relative_sleep(t, clock == CLOCK_REALTIME ? CLOCK_MONOTONIC : clock, time, a.ptr<__kernel_timespec>(3));
  const Result<void> r = sleep_to(t, clock, time);
  return !r && r.error() == Errno{EINTR} ? err(kERESTARTNOHAND) : SysResult(r);
}

// --- Clocks ---------------------------------------------------------------------------------------

SysResult sys_clock_gettime(Task& t, const SyscallArgs& a) {
  const Nanos now = TRY(t.kernel.now(a.i(0), &t));
  return a.ptr<__kernel_timespec>(1).write(*t.mm, to_timespec(now));
}

SysResult sys_clock_getres(Task& t, const SyscallArgs& a) {
  TRY(t.kernel.now(a.i(0), &t));
  if (a.addr(1) == 0) return 0;
  const bool coarse = a.i(0) == CLOCK_REALTIME_COARSE || a.i(0) == CLOCK_MONOTONIC_COARSE;
  return a.ptr<__kernel_timespec>(1).write(*t.mm, {0, coarse ? 4'000'000 : 1});
}

SysResult sys_clock_settime(Task& t, const SyscallArgs& a) {
  TRY(t.kernel.now(a.i(0), &t));
  TRY(a.ptr<__kernel_timespec>(1).read(*t.mm));
  return err(a.i(0) == CLOCK_REALTIME ? EPERM : EINVAL);
}

SysResult sys_gettimeofday(Task& t, const SyscallArgs& a) {
  if (a.addr(0) != 0) TRY(a.ptr<timeval>(0).write(*t.mm, to_timeval(TRY(t.kernel.now(CLOCK_REALTIME, &t)))));
  if (a.addr(1) != 0) {
    struct Timezone {
      int minutes_west, dst_time;
    };
    TRY(a.ptr<Timezone>(1).write(*t.mm, {0, 0}));
  }
  return 0;
}

SysResult sys_settimeofday(Task&, const SyscallArgs&) { return err(EPERM); }

SysResult sys_time(Task& t, const SyscallArgs& a) {
  const s64 now = TRY(t.kernel.now(CLOCK_REALTIME, &t)) / kNanosPerSecond;
  if (a.addr(0) != 0) TRY(a.ptr<s64>(0).write(*t.mm, now));
  return static_cast<u64>(now);
}

Result<void> read_adjustment(Task& t, mm::UserPtr<timex> p) {
  timex x = TRY(p.read(*t.mm));
  if (x.modes != 0 && x.modes != ADJ_OFFSET_SS_READ) return err(EPERM);
  const timeval now = to_timeval(TRY(t.kernel.now(CLOCK_REALTIME, &t)));
  x = {};
  x.tick = 10'000;
  x.tolerance = 32'768'000;
  x.precision = 1;
  x.time = now;
  return p.write(*t.mm, x);
}

SysResult sys_adjtimex(Task& t, const SyscallArgs& a) { return read_adjustment(t, a.ptr<timex>(0)); }
SysResult sys_clock_adjtime(Task& t, const SyscallArgs& a) {
  TRY(t.kernel.now(a.i(0), &t));
  if (a.i(0) != CLOCK_REALTIME) return err(EOPNOTSUPP);
  return read_adjustment(t, a.ptr<timex>(1));
}

// --- Interval timers ------------------------------------------------------------------------------

Result<Nanos> from_timeval(const timeval& v) {
  if (v.tv_sec < 0 || v.tv_usec < 0 || v.tv_usec >= 1'000'000) return err(EINVAL);
  if (v.tv_sec >= kNever / kNanosPerSecond) return kNever;
  return v.tv_sec * kNanosPerSecond + v.tv_usec * kMicro;
}

itimerval to_itimerval(const TimerValue& v) {
  // A timer that is armed never shows as zero.
  const Nanos value = v.value != 0 && v.value < kMicro ? kMicro : v.value;
  return {.it_interval = to_timeval(v.interval), .it_value = to_timeval(value)};
}

SysResult sys_getitimer(Task& t, const SyscallArgs& a) {
  if (a.u32_(0) > ITIMER_PROF) return err(EINVAL);
  return a.ptr<itimerval>(1).write(*t.mm, to_itimerval(t.group->timers->get_itimer(a.i(0))));
}

SysResult sys_setitimer(Task& t, const SyscallArgs& a) {
  TimerValue wanted;
  if (a.addr(1) != 0) {
    const itimerval v = TRY(a.ptr<itimerval>(1).read(*t.mm));
    wanted = {.value = TRY(from_timeval(v.it_value)), .interval = TRY(from_timeval(v.it_interval))};
  }
  if (a.u32_(0) > ITIMER_PROF) return err(EINVAL);
  const TimerValue old = t.group->timers->set_itimer(a.i(0), wanted);
  if (a.addr(2) != 0) TRY(a.ptr<itimerval>(2).write(*t.mm, to_itimerval(old)));
  return 0;
}

SysResult sys_alarm(Task& t, const SyscallArgs& a) {
  const TimerValue old =
      t.group->timers->set_itimer(ITIMER_REAL, {.value = Nanos{a.u32_(0)} * kNanosPerSecond, .interval = 0});
  // Rounded to the nearest second, but never to none.
  const u64 seconds = static_cast<u64>((old.value + kNanosPerSecond / 2) / kNanosPerSecond);
  return old.value != 0 && seconds == 0 ? 1 : seconds;
}

// --- POSIX timers ---------------------------------------------------------------------------------

struct KernelItimerspec {
  __kernel_timespec interval, value;
};

KernelItimerspec to_itimerspec(const TimerValue& v) { return {to_timespec(v.interval), to_timespec(v.value)}; }

SysResult sys_timer_create(Task& t, const SyscallArgs& a) {
  sigevent event{};
  if (a.addr(1) != 0) event = TRY(a.ptr<sigevent>(1).read(*t.mm));
  const int id = TRY(t.group->timers->create(t, a.i(0), a.addr(1) != 0 ? &event : nullptr));
  const Result<void> told = a.ptr<int>(2).write(*t.mm, id);
  if (!told) (void)t.group->timers->remove(id);
  return told;
}

SysResult sys_timer_settime(Task& t, const SyscallArgs& a) {
  if (a.addr(2) == 0) return err(EINVAL);
  const KernelItimerspec v = TRY(a.ptr<KernelItimerspec>(2).read(*t.mm));
  const TimerValue wanted{.value = TRY(to_nanos(v.value)), .interval = TRY(to_nanos(v.interval))};
  const TimerValue old = TRY(t.group->timers->settime(a.i(0), (a.i(1) & TIMER_ABSTIME) != 0, wanted));
  if (a.addr(3) != 0) TRY(a.ptr<KernelItimerspec>(3).write(*t.mm, to_itimerspec(old)));
  return 0;
}

SysResult sys_timer_gettime(Task& t, const SyscallArgs& a) {
  const TimerValue v = TRY(t.group->timers->gettime(a.i(0)));
  return a.ptr<KernelItimerspec>(1).write(*t.mm, to_itimerspec(v));
}

SysResult sys_timer_getoverrun(Task& t, const SyscallArgs& a) { return t.group->timers->overrun(a.i(0)); }
SysResult sys_timer_delete(Task& t, const SyscallArgs& a) { return t.group->timers->remove(a.i(0)); }

constexpr SyscallEntry kEntries[] = {
    {__NR_nanosleep, "nanosleep", sys_nanosleep, Support::kFull, "", {Arg::kTimespec, Arg::kAddr}},
    {__NR_clock_nanosleep,
     "clock_nanosleep",
     sys_clock_nanosleep,
     Support::kFull,
     "",
     {Arg::kClock, Arg::kInt, Arg::kTimespec, Arg::kAddr}},
    {__NR_clock_gettime, "clock_gettime", sys_clock_gettime, Support::kFull, "", {Arg::kClock, Arg::kAddr}},
    {__NR_clock_getres, "clock_getres", sys_clock_getres, Support::kFull, "", {Arg::kClock, Arg::kAddr}},
    {__NR_clock_settime,
     "clock_settime",
     sys_clock_settime,
     Support::kPartial,
     "the clock cannot be set: EPERM",
     {Arg::kClock, Arg::kTimespec}},
    {__NR_gettimeofday, "gettimeofday", sys_gettimeofday, Support::kFull, "", {Arg::kAddr, Arg::kAddr}},
    {__NR_settimeofday,
     "settimeofday",
     sys_settimeofday,
     Support::kPartial,
     "the clock cannot be set: EPERM",
     {Arg::kTimeval, Arg::kAddr}},
    {__NR_time, "time", sys_time, Support::kFull, "", {Arg::kAddr}},
    {__NR_adjtimex, "adjtimex", sys_adjtimex, Support::kPartial, "read-only", {Arg::kAddr}},
    {__NR_clock_adjtime, "clock_adjtime", sys_clock_adjtime, Support::kPartial, "read-only", {Arg::kClock, Arg::kAddr}},
    {__NR_getitimer, "getitimer", sys_getitimer, Support::kFull, "", {Arg::kInt, Arg::kAddr}},
    {__NR_setitimer, "setitimer", sys_setitimer, Support::kFull, "", {Arg::kInt, Arg::kAddr, Arg::kAddr}},
    {__NR_alarm, "alarm", sys_alarm, Support::kFull, "", {Arg::kUint}},
    {__NR_timer_create, "timer_create", sys_timer_create, Support::kFull, "", {Arg::kClock, Arg::kAddr, Arg::kAddr}},
    {__NR_timer_settime,
     "timer_settime",
     sys_timer_settime,
     Support::kFull,
     "",
     {Arg::kInt, Arg::kInt, Arg::kAddr, Arg::kAddr}},
    {__NR_timer_gettime, "timer_gettime", sys_timer_gettime, Support::kFull, "", {Arg::kInt, Arg::kAddr}},
    {__NR_timer_getoverrun, "timer_getoverrun", sys_timer_getoverrun, Support::kFull, "", {Arg::kInt}},
    {__NR_timer_delete, "timer_delete", sys_timer_delete, Support::kFull, "", {Arg::kInt}},
};

}  // namespace

Family time_family() { return kEntries; }

}  // namespace rf::task
