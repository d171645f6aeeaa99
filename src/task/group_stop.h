// Job-control stops: a stop signal stops every thread of a process, SIGCONT lets them go on; the parent is told.
#pragma once

#include <mutex>

#include "task/task.h"

namespace rf::task {

// Asks every thread of the group to stop because of `sig`. Under signal_lock.
void begin_group_stop(ThreadGroup& group, int sig);

// Whether the last live thread has just stopped (or the last that had not has exited): then the stop is complete and
// the parent is to be told. Under signal_lock.
bool complete_group_stop(ThreadGroup& group);

// Stops the calling task while its group is stopped; `lock` holds signal_lock, on return too. Suspends.
void stop_here(Task& task, std::unique_lock<SpinLock>& lock);

// Tells the parent that the group stopped (CLD_STOPPED) or went on (CLD_CONTINUED). `_locked`: tree_lock is held; the
// other takes it shared.
void notify_parent_of_stop(ThreadGroup& group, int code);
void notify_parent_of_stop_locked(ThreadGroup& group, int code);

// Whether no process of the group has a parent in the same session but another group, so that nobody would continue it.
// The first process counts as having one, outside; `ignored` (may be null) does not count. tree_lock is held.
bool is_orphaned(const ProcessGroup& pg, const ThreadGroup* ignored);

}  // namespace rf::task
