// What terminals ask about sessions and process groups, answered from the process tree.
#pragma once

#include "fs/job_control.h"
#include "task/task.h"

namespace rf::task {

// Announces itself to the terminals of the fs room for as long as it lives. Takes Kernel::tree_lock; suspends nowhere.
class TaskJobControl final : public fs::JobControl {
 public:
  explicit TaskJobControl(Kernel& kernel) : kernel_(kernel) { fs::set_job_control(this); }
  ~TaskJobControl() { fs::set_job_control(nullptr); }
  TaskJobControl(const TaskJobControl&) = delete;
  TaskJobControl& operator=(const TaskJobControl&) = delete;

  Caller caller(const fs::Context& ctx) override;
  Ref<fs::Tty> controlling_tty(const fs::Context& ctx) override;
  void set_controlling_tty(const fs::Context& ctx, Ref<fs::Tty> tty) override;
  void clear_controlling_tty(s32 session) override;
  Result<s32> session_of_group(s32 process_group) override;
  bool orphaned(s32 process_group) override;
  bool ignores(const fs::Context& ctx, int signal) override;
  void signal_group(s32 process_group, int signal) override;
  void signal_session_leader(s32 session, int signal) override;

 private:
  Kernel& kernel_;
};

}  // namespace rf::task
