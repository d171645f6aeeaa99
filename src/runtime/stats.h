// What `ringfence run --stats` prints at a sandbox's end.
#pragma once

#include "core/scheduler.h"
#include "platform/platform.h"
#include "task/kernel.h"

namespace rf::runtime {

// To stderr. `elapsed`: since the workers began.
void print_stats(const task::Kernel& kernel, const platform::Platform& platform, Scheduler& scheduler, Nanos elapsed);

}  // namespace rf::runtime
