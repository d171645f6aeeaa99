// Waiting for children: wait4(2) and waitid(2).
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>

#include <optional>

#include "core/result.h"
#include "task/task.h"

namespace rf::task {

struct WaitRequest {
  enum class Which { kAny, kPid, kProcessGroup } which = Which::kAny;
  Pid id = 0;
  int options = 0;  // WNOHANG, WEXITED, WSTOPPED, WCONTINUED, WNOWAIT, __WALL, __WCLONE
};

struct WaitResult {
  Pid pid = 0;
  u32 uid = 0;
  int code = 0;    // CLD_*
  int status = 0;  // as wait4(2) stores it
  rusage usage{};
};

// Waits for what is asked for and takes the report (unless WNOWAIT), reaping zombies. Nothing with WNOHANG if there
// is none yet. ECHILD, ERESTARTSYS. Suspends.
Result<std::optional<WaitResult>> wait_for_child(Task& task, const WaitRequest& request);

// `times` and `usage` as getrusage(2) gives them.
rusage make_rusage(const CpuTimes& times, const rusage& usage);

}  // namespace rf::task
