// pidfd_open(2): descriptors of processes.
#pragma once

#include "fs/file.h"
#include "task/task.h"

namespace rf::task {

// A descriptor of the process. flags: O_NONBLOCK.
Ref<fs::File> make_pidfd(Ref<ThreadGroup> group, int flags);
// The process a pidfd is for; null if the file is none.
Ref<ThreadGroup> pidfd_group(fs::File& file);

}  // namespace rf::task
