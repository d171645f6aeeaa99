// The timers of a process: setitimer(2), alarm(2) and timer_create(2). CPU-time timers look at the process's
// accounting whenever the earliest moment has come at which they could have expired.
#pragma once

#include <signal.h>

#include <array>
#include <map>
#include <memory>

#include "core/result.h"
#include "core/timer.h"
#include "task/signal.h"

namespace rf::task {

class Task;
class ThreadGroup;
using Pid = s32;

struct TimerValue {
  Nanos value = 0;     // until it expires; 0: disarmed
  Nanos interval = 0;  // 0: once
};

// One timer, real-time or CPU-time. settings() and friends take its lock; the callback runs on a worker's thread with
// no lock held.
class GuestTimer {
 public:
  enum class Base { kReal, kProcessUser, kProcessCpu, kThreadCpu };
  GuestTimer(ThreadGroup& group, Base base) : group_(group), base_(base), timer_(*this) {}
  virtual ~GuestTimer() = default;

  // Sets it; with `absolute` value is a time of its clock (as now() gives it). Returns the old setting.
  TimerValue set(TimerValue v, bool absolute);
  TimerValue get();
  // Waits until no callback runs and none will. Derived classes call it in their destructor.
  void stop() { timer_.cancel(); }
  Nanos now() const;

  Ref<Task> thread;  // kThreadCpu: whose time

 protected:
  virtual void expired(u64 times) = 0;

 private:
  class HostTimer final : public Timer {
   public:
    explicit HostTimer(GuestTimer& owner) : owner_(owner) {}
    ~HostTimer() override { cancel(); }

   private:
    void expire() override { owner_.on_host_timer(); }
    GuestTimer& owner_;
  };
  void on_host_timer();
  void arm_locked(Nanos now);
  TimerValue get_locked(Nanos now) const;

  ThreadGroup& group_;
  const Base base_;
  SpinLock lock_;
  Nanos deadline_ = 0;  // in now()'s terms; 0: disarmed
  Nanos interval_ = 0;
  HostTimer timer_;
};

class IntervalTimers {
 public:
  explicit IntervalTimers(ThreadGroup& group);
  ~IntervalTimers();

  // ITIMER_*; the old setting.
  TimerValue set_itimer(int which, TimerValue v);
  TimerValue get_itimer(int which);

  // timer_create(2): clock and event are checked here; null event: SIGALRM with the id. EINVAL, EAGAIN (too many).
  Result<int> create(Task& task, int clock, const sigevent* event);
  Result<TimerValue> settime(int id, bool absolute, TimerValue v);
  Result<TimerValue> gettime(int id);
  Result<int> overrun(int id);
  Result<void> remove(int id);
  // RLIMIT_CPU was set (or inherited): SIGXCPU from the soft limit on, SIGKILL at the hard one.
  void update_cpu_limit();
  void remove_all_posix();  // exec
  void stop_all();          // exit

 private:
  class Itimer;
  class PosixTimer;
  class CpuLimit;
  std::shared_ptr<PosixTimer> find(int id);
  ThreadGroup& group_;
  std::array<std::unique_ptr<Itimer>, 3> itimers_;
  std::unique_ptr<CpuLimit> cpu_limit_;
  SpinLock lock_;
  std::map<int, std::shared_ptr<PosixTimer>> posix_;
  int next_id_ = 0;
};

}  // namespace rf::task
