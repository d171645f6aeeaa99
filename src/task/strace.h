// --strace: every call of every task as a line in strace's form.
#pragma once

#include <memory>
#include <string>

#include "core/result.h"
#include "core/spinlock.h"
#include "hostio/fd.h"
#include "task/signal.h"
#include "task/syscall.h"

namespace rf::task {

class Task;

struct StraceOptions {
  std::string file;        // empty: stderr
  bool durations = false;  // -T
};

// Lines are written whole, on the host, when a call returns; a call that never returns (exit, a kill) shows "= ?".
// Arguments that calls only read are decoded on entry, those they write on return. Costs host calls: for debugging.
class StraceSink {
 public:
  static Setup<std::unique_ptr<StraceSink>> create(const StraceOptions& options);

  // On the task's fiber. `entry` is null for unknown numbers. May suspend (reads guest memory).
  void enter(Task& task, const SyscallEntry* entry);
  void exit(Task& task, const SyscallEntry* entry, SysResult result);
  void signal(Task& task, const siginfo_t& info);
  void exited(Task& task);  // "+++ exited with 0 +++"

 private:
  explicit StraceSink(hostio::HostFd fd, bool durations) : fd_(std::move(fd)), durations_(durations) {}
  void line(Task& task, const std::string& text);

  hostio::HostFd fd_;
  bool durations_;
  SpinLock lock_;
};

}  // namespace rf::task
