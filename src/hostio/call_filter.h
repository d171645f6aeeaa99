// The seccomp filter: which host calls the running sentry can make. Internal to hostio.
#pragma once

#include "core/result.h"
#include "hostio/lockdown.h"

namespace rf::hostio {

// Installs the filter on every thread of the process, and the handler that reports what it stops and ends the process
// with status 125. Needs no_new_privs.
Setup<void> install_call_filter(const LockdownOptions& options);

}  // namespace rf::hostio
