// The seccomp programs of stub processes.
#pragma once

#include <linux/filter.h>

#include <vector>

#include "core/result.h"

namespace rf::trap {

using FilterProgram = std::vector<sock_filter>;

// For manager threads, and so for the whole of every stub process: what the sentry's commands need.
Setup<FilterProgram> manager_filter();
// On top of that, for threads that run guest code: from the stub's code, sleeping on a futex, waking who sleeps on one,
// and setting the FS and GS base. Every other call raises SIGSYS.
FilterProgram guest_filter();

}  // namespace rf::trap
