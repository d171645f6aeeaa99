// The end of threads and processes.
#pragma once

#include <vector>

#include "task/task.h"

namespace rf::task {

// Objects whose last references are to be dropped once no lock is held.
using Garbage = std::vector<Ref<RefCounted>>;

// SIGCHLD's siginfo (or that of another exit signal): pid, uid, status, times of `child`. tree_lock is held.
siginfo_t child_siginfo(const ThreadGroup& child, int sig, int code, int status);

// The wait(2) status of a zombie. Under signal_lock.
int zombie_status(const ThreadGroup& group);

// Takes a zombie out of every table and adds its times to its parent's. tree_lock is held exclusively.
void reap(ThreadGroup& zombie, Garbage& garbage);

}  // namespace rf::task
