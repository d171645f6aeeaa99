// The subcommands other than run. Each prints to stdout and returns the exit status.
#pragma once

namespace rf::runtime {

// 0 if a sandbox can run here, 1 if not.
int run_doctor();
int list_syscalls(bool json);

}  // namespace rf::runtime
