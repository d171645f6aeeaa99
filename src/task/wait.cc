#include "task/wait.h"

#include <mutex>

#include "task/exit.h"
#include "task/kernel.h"

namespace rf::task {
namespace {

bool matches(const ThreadGroup& child, const WaitRequest& r) {
  switch (r.which) {
    case WaitRequest::Which::kAny:
      break;
    case WaitRequest::Which::kPid:
      if (child.pid != r.id) return false;
      break;
    case WaitRequest::Which::kProcessGroup:
      if (!child.process_group || child.process_group->id != r.id) return false;
      break;
  }
  if ((r.options & __WALL) != 0) return true;
  // "Clone" children are those that do not send SIGCHLD.
  return (child.exit_signal != SIGCHLD) == ((r.options & __WCLONE) != 0);
}

// The report that `child` has for this request, if any; marks it as told unless WNOWAIT. tree_lock is held exclusively.
std::optional<WaitResult> report(ThreadGroup& child, const WaitRequest& r) {
  const bool consume = (r.options & WNOWAIT) == 0;
  SpinGuard guard(child.signal_lock);
  WaitResult result;
  result.pid = child.pid;
  if (child.leader) result.uid = child.leader->creds->uid;
  if (child.zombie) {
    if ((r.options & WEXITED) == 0) return std::nullopt;
    result.status = zombie_status(child);
    result.code = WIFEXITED(result.status) ? CLD_EXITED : WCOREDUMP(result.status) ? CLD_DUMPED : CLD_KILLED;
    rusage usage = child.dead_usage;
    usage.ru_maxrss = std::max(usage.ru_maxrss, child.children_usage.ru_maxrss);
    CpuTimes times = child.dead_times;
    times += child.children_times;
    result.usage = make_rusage(times, usage);
    return result;
  }
  if (child.stop_complete && child.stop_unreported && (r.options & WSTOPPED) != 0) {
    result.code = CLD_STOPPED;
    result.status = child.stop_signal << 8 | 0x7f;
    if (consume) child.stop_unreported = false;
  } else if (child.continue_pending && (r.options & WCONTINUED) != 0) {
    result.code = CLD_CONTINUED;
    result.status = 0xffff;
    if (consume) child.continue_pending = false;
  } else {
    return std::nullopt;
  }
  result.usage = make_rusage(child.cpu_times_locked(), child.dead_usage);
  return result;
}

// ECHILD: no child matches.
Result<std::optional<WaitResult>> look(Task& task, const WaitRequest& r, Garbage& garbage) {
  std::lock_guard guard(task.kernel.tree_lock);
  bool any = false;
  for (const Ref<ThreadGroup>& child : task.group->children) {
    if (!matches(*child, r)) continue;
    any = true;
    std::optional<WaitResult> result = report(*child, r);
    if (!result) continue;
    const bool dead = result->code == CLD_EXITED || result->code == CLD_KILLED || result->code == CLD_DUMPED;
    if (dead && (r.options & WNOWAIT) == 0) {
      Ref<ThreadGroup> zombie = child;  // reap() takes it out of the list
      garbage.push_back(zombie);
      reap(*zombie, garbage);
    }
    return result;
  }
  if (!any) return err(ECHILD);
  return std::nullopt;
}

}  // namespace

rusage make_rusage(const CpuTimes& times, const rusage& usage) {
  auto to_timeval = [](Nanos t) { return timeval{t / kNanosPerSecond, t % kNanosPerSecond / 1000}; };
  rusage result = usage;
  result.ru_utime = to_timeval(times.user);
  result.ru_stime = to_timeval(times.system);
  return result;
}

Result<std::optional<WaitResult>> wait_for_child(Task& task, const WaitRequest& request) {
  Garbage garbage;
  Result<std::optional<WaitResult>> found = std::nullopt;
  auto look_again = [&] {
    found = look(task, request, garbage);
    return !found || *found || (request.options & WNOHANG) != 0;
  };
  if (wait_until(task.group->child_events, look_again) == WakeReason::kInterrupted) return err(kERESTARTSYS);
  return found;
}

}  // namespace rf::task
