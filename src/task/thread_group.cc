#include "core/cycles.h"
#include "task/kernel.h"
#include "task/posix_timers.h"
#include "task/task.h"

namespace rf::task {
namespace {

// What a process starts with where Linux has these defaults; fork copies them.
constexpr std::array<rlimit, RLIM_NLIMITS> default_limits() {
  std::array<rlimit, RLIM_NLIMITS> l{};
  for (rlimit& r : l) r = {RLIM_INFINITY, RLIM_INFINITY};
  l[RLIMIT_STACK].rlim_cur = 8 << 20;
  l[RLIMIT_CORE].rlim_cur = 0;
  l[RLIMIT_NOFILE] = {1024, 1 << 20};
  l[RLIMIT_NPROC] = {32'000, 32'000};
  l[RLIMIT_MEMLOCK] = {8 << 20, 8 << 20};
  l[RLIMIT_SIGPENDING] = {4096, 4096};
  l[RLIMIT_MSGQUEUE] = {819'200, 819'200};
  l[RLIMIT_NICE] = {0, 0};
  l[RLIMIT_RTPRIO] = {0, 0};
  return l;
}

}  // namespace

ThreadGroup::ThreadGroup(Kernel& kernel, Pid pid)
    : kernel(kernel),
      pid(pid),
      limits(default_limits()),
      timers(std::make_unique<IntervalTimers>(*this)),
      start_time(monotonic_now()) {}

ThreadGroup::~ThreadGroup() = default;

rlimit ThreadGroup::limit(int which) const {
  SpinGuard guard(signal_lock);
  return limits[which];
}

void ThreadGroup::set_limit(int which, const rlimit& l) {
  limits[which] = l;
  if (which == RLIMIT_FSIZE) file_size_limit.store(l.rlim_cur, std::memory_order_relaxed);
  if (which == RLIMIT_NOFILE) open_files_limit.store(l.rlim_cur, std::memory_order_relaxed);
}

CpuTimes ThreadGroup::cpu_times() const {
  SpinGuard guard(signal_lock);
  return cpu_times_locked();
}

CpuTimes ThreadGroup::cpu_times_locked() const {
  CpuTimes sum = dead_times;
  for (const Task* t : tasks)
    if (!t->exited) sum += t->cpu_times();
  return sum;
}

}  // namespace rf::task
