// The sentry's own cage: once guest code runs, the process has no privilege it does not need, can make only the
// host calls listed in call_filter.cc, and can open only what is beneath the trees that the guest was given. A guest
// that took over the sentry would find no exec, no socket, no ptrace, no way to map code, and no file but those.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/types.h"

namespace rf::hostio {

// A part of the host's file system that the guest sees: a directory with all beneath it, or a file.
struct HostTree {
  std::string path;
  bool writable = false;
};

struct LockdownOptions {
  std::vector<HostTree> trees;
  // What there is among the streams.
  bool terminal = false;
  bool sockets = false;
  // The sentry has child processes that are to end with it, which Linux does by a signal from the dying sentry.
  bool signals_children = false;
  std::vector<u64> platform_ioctls;  // those of the platform that runs the guest
  // Done without privilege already, but before the filter: what host calls it takes are not to be had later. May be
  // empty.
  std::function<Setup<void>()> before_filter;
};

// Drops capabilities, sets no_new_privs, restricts opening files (Landlock, where the host has it) and installs the
// seccomp filter, on every worker of the calling fiber's scheduler; from a plain thread, on that thread, and the filter
// on all. When every thread has been started, before guest code runs. A host call that is not allowed then ends the
// sandbox with a message that names it, status 125. May suspend.
//
// Of root's capabilities those stay without which the guest would not see the files that root sees
// (CAP_DAC_READ_SEARCH: only to read, as Landlock has it), and with a writable tree those that changing other users'
// files takes. Other users have none to begin with.
Setup<void> lock_down(const LockdownOptions& options);

}  // namespace rf::hostio
