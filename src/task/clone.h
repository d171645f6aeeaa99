// New tasks: clone(2) and its kin.
#pragma once

#include <vector>

#include "core/result.h"
#include "task/syscall.h"
#include "task/task.h"

namespace rf::task {

struct CloneRequest {
  u64 flags = 0;  // CLONE_*, without the exit signal
  int exit_signal = 0;
  u64 stack = 0;  // the new stack pointer; 0: the caller's
  u64 tls = 0;
  mm::UserAddr parent_tid = 0, child_tid = 0, pidfd = 0;
};

// Makes the task and starts it. The result is the child's tid (through VforkWait with CLONE_VFORK). Suspends.
SysResult clone_task(Task& parent, const CloneRequest& request);

}  // namespace rf::task
