#include "task/task.h"

#include <algorithm>
#include <cstring>

#include "core/cycles.h"
#include "task/exec.h"
#include "task/kernel.h"

namespace rf::task {

// --- FsState --------------------------------------------------------------------------------------

FsState::FsState(fs::Path root, fs::Path cwd, u32 umask) : umask(umask), root_(std::move(root)), cwd_(std::move(cwd)) {}

Ref<FsState> FsState::fork() const {
  SpinGuard guard(lock_);
  return make_ref<FsState>(root_, cwd_, umask.load(std::memory_order_relaxed));
}

fs::Path FsState::root() const {
  SpinGuard guard(lock_);
  return root_;
}

fs::Path FsState::cwd() const {
  SpinGuard guard(lock_);
  return cwd_;
}

// The old place is dropped outside the lock: that may suspend.
void FsState::set_root(fs::Path p) {
  SpinGuard guard(lock_);
  std::swap(root_, p);
}

void FsState::set_cwd(fs::Path p) {
  SpinGuard guard(lock_);
  std::swap(cwd_, p);
}

// --- Task -----------------------------------------------------------------------------------------

Task::Task(Kernel& kernel, Pid tid, Ref<ThreadGroup> group)
    : kernel(kernel), tid(tid), group(std::move(group)), start_time(monotonic_now()) {}

Task::~Task() = default;

Ref<Task> make_task(Kernel& kernel, Pid tid, Ref<ThreadGroup> group) {
  return Ref<Task>::adopt(new Task(kernel, tid, std::move(group)));
}

Task& Task::current() {
  auto* task = static_cast<Task*>(Fiber::current().user_data);
  RF_CHECK(task, "this fiber runs no task");
  return *task;
}

std::string Task::name() const {
  SpinGuard guard(name_lock_);
  return name_;
}

void Task::set_name(std::string_view name) {
  name = name.substr(0, sizeof name_ - 1);
  SpinGuard guard(name_lock_);
  std::memset(name_, 0, sizeof name_);
  std::memcpy(name_, name.data(), name.size());
}

fs::Context Task::fs_context() {
  return fs::Context{.creds = *creds,
                     .root = fs_state->root(),
                     .cwd = fs_state->cwd(),
                     .umask = fs_state->umask.load(std::memory_order_relaxed),
                     .pid = group->pid,
                     .tid = tid,
                     .file_size_limit = group->file_size_limit.load(std::memory_order_relaxed),
                     .mm = mm.get(),
                     .task = this,
                     .vfs = kernel.vfs.get()};
}

// User time is what was spent in the platform's run(), system time the rest of the fiber's.
CpuTimes Task::cpu_times() const {
  u64 user = user_cycles.load(std::memory_order_acquire);
  const u64 since = guest_since.load(std::memory_order_acquire);
  const u64 total = fiber ? fiber->run_cycles() : 0;
  if (since != 0) {
    const u64 now = cycles();
    if (now > since) user += now - since;
  }
  user = std::min(user, total);
  return {cycles_to_nanos(user), cycles_to_nanos(total - user)};
}

void Task::run() {
  const RunState* state = &kRunApp;
  while (state) state = state->execute(*this);
}

bool Task::wait_for_start() {
  while (start_state_.load(std::memory_order_acquire) == 0) park(Interruptible::kNo);
  return start_state_.load(std::memory_order_acquire) == 1;
}

void Task::start() {
  start_state_.store(1, std::memory_order_release);
  fiber->unpark();
}

void Task::abandon() {
  start_state_.store(2, std::memory_order_release);
  fiber->unpark();
}

}  // namespace rf::task
