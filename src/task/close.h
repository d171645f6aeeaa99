// Closing descriptors, and the life of descriptor tables that tasks share.
#pragma once

#include "fs/file.h"
#include "task/task.h"

namespace rf::task {

// What close(2) does once the descriptor is out of the task's table: drops the process's record locks on the inode,
// flushes and drops the description. The flush's error. Suspends.
Result<void> close_file(Task& task, Ref<fs::File> file);

// Gives the task another table (null: none, at exit). The last user of the old one closes its files. Suspends.
void replace_files(Task& task, Ref<fs::FdTable> files);

}  // namespace rf::task
