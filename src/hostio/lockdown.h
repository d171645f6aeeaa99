// The sentry's own cage: once guest code runs, the process has no privilege it does not need and can make only
// the host calls listed in lockdown.cc. A guest that took over the sentry would find no exec, no socket, no ptrace, no
// way to map code, and no opening of files but by openat2.
#pragma once

#include "core/result.h"

namespace rf::hostio {

struct LockdownOptions {
  bool writable_host_files = false;  // some volume is writable: keep what changing its files takes
};

// Drops capabilities, sets no_new_privs and installs the seccomp filter on every thread of the process. After all
// threads have been started, before guest code runs. A host call that is not allowed then ends the sandbox with a
// message that names it, status 125.
Setup<void> lock_down(const LockdownOptions& options);

}  // namespace rf::hostio
