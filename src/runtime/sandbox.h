// A sandbox from start to end.
#pragma once

#include "runtime/options.h"

namespace rf::runtime {

// Exit statuses of `ringfence run` that are not the command's own.
inline constexpr int kExitTimeout = 124;     // --timeout, as timeout(1)
inline constexpr int kExitFailure = 125;     // Ringfence's own failure
inline constexpr int kExitCannotRun = 126;   // the command cannot be executed
inline constexpr int kExitNotFound = 127;    // the command is not there
inline constexpr int kExitSignalBase = 128;  // + signal number

// Runs the command in a new sandbox and returns the exit status. Errors are printed to stderr. Once per process.
int run_sandbox(const RunOptions& options);

}  // namespace rf::runtime
