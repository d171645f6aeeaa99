#include "task/job_control.h"

#include <mutex>
#include <shared_mutex>

#include "fs/tty.h"
#include "task/group_stop.h"
#include "task/kernel.h"
#include "task/signal_send.h"

namespace rf::task {
namespace {

// Null for the sentry itself and for a process that has been reaped. tree_lock is held.
const ProcessGroup* group_of(const fs::Context& ctx) {
  const auto* task = static_cast<const Task*>(ctx.task);
  return task ? task->group->process_group.get() : nullptr;
}

}  // namespace

fs::JobControl::Caller TaskJobControl::caller(const fs::Context& ctx) {
  std::shared_lock guard(kernel_.tree_lock);
  const ProcessGroup* pg = group_of(ctx);
  if (!pg) return {};
  return {pg->session->id, pg->id, pg->session->id == static_cast<const Task*>(ctx.task)->group->pid};
}

Ref<fs::Tty> TaskJobControl::controlling_tty(const fs::Context& ctx) {
  std::shared_lock guard(kernel_.tree_lock);
  const ProcessGroup* pg = group_of(ctx);
  return pg ? pg->session->controlling_tty : nullptr;
}

void TaskJobControl::set_controlling_tty(const fs::Context& ctx, Ref<fs::Tty> tty) {
  // What it replaces is dropped when the lock is free.
  std::lock_guard guard(kernel_.tree_lock);
  if (const ProcessGroup* pg = group_of(ctx)) std::swap(pg->session->controlling_tty, tty);
}

void TaskJobControl::clear_controlling_tty(s32 session) {
  Ref<fs::Tty> old;
  std::lock_guard guard(kernel_.tree_lock);
  if (Session* s = kernel_.find_session(session)) std::swap(s->controlling_tty, old);
}

Result<s32> TaskJobControl::session_of_group(s32 process_group) {
  std::shared_lock guard(kernel_.tree_lock);
  const ProcessGroup* pg = kernel_.find_process_group(process_group);
  if (!pg) return err(ESRCH);
  return pg->session->id;
}

bool TaskJobControl::orphaned(s32 process_group) {
  std::shared_lock guard(kernel_.tree_lock);
  const ProcessGroup* pg = kernel_.find_process_group(process_group);
  return !pg || is_orphaned(*pg, nullptr);
}

bool TaskJobControl::ignores(const fs::Context& ctx, int signal) {
  const auto* task = static_cast<const Task*>(ctx.task);
  if (!task) return true;
  SpinGuard guard(task->group->signal_lock);
  return (task->mask & signal_bit(signal)) != 0 || task->group->handlers->ignores(signal);
}

void TaskJobControl::signal_group(s32 process_group, int signal) {
  (void)kernel_.send_to_process_group(process_group, kernel_siginfo(signal));
}

void TaskJobControl::signal_session_leader(s32 session, int signal) {
  std::shared_lock guard(kernel_.tree_lock);
  ThreadGroup* leader = kernel_.find_group(session);
  if (leader && leader->process_group && leader->process_group->session->id == session)
    kernel_.send_to_group(*leader, kernel_siginfo(signal));
}

}  // namespace rf::task
