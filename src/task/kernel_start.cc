// The first process, and the end of the sandbox with it.
#include <mutex>

#include "core/log.h"
#include "task/exec.h"
#include "task/kernel.h"
#include "task/signal_send.h"

namespace rf::task {
namespace {

// How long the rest of the processes may take to die once pid 1 is gone.
constexpr Nanos kLastWait = 2 * kNanosPerSecond;

}  // namespace

Result<Ref<Task>> Kernel::make_init(const InitialProcess& process) {
  // Nothing is entered anywhere before it is sure to run: the caller may try one path after the other.
  constexpr Pid pid = 1;
  Ref<ThreadGroup> group = make_ref<ThreadGroup>(*this, pid);
  group->handlers = make_ref<SignalHandlers>();
  Ref<Task> task = make_task(*this, pid, group);
  task->creds = process.creds;
  task->fs_state = make_ref<FsState>(vfs->root(), vfs->root(), 022);
  task->files = make_ref<fs::FdTable>();
  task->context = TRY(platform.create_context());
  for (const Ref<fs::File>& file : process.stdio)
    if (file) {
      const int fd = static_cast<int>(&file - process.stdio.data());
      TRY(task->files->replace(fd, file, false, group->open_files_limit));
    }
  return task;
}

std::expected<void, StartError> Kernel::start(const InitialProcess& process, std::function<void(int)> on_exit) {
  const std::string& path = process.path;
  auto failed = [&](Errno e, const std::string& what) { return std::unexpected(StartError{e, what}); };
  Result<Ref<Task>> made = make_init(process);
  if (!made) return failed(made.error(), path);
  Ref<Task> task = *std::move(made);

  if (!process.cwd.empty()) {
    Result<fs::Path> cwd = vfs->walk(task->fs_context(), nullptr, process.cwd, {});
    if (!cwd) return failed(cwd.error(), process.cwd);
    if (!cwd->dentry->inode()->is_dir()) return failed(Errno{ENOTDIR}, process.cwd);
    task->fs_state->set_cwd(*std::move(cwd));
  }
  ExecRequest request;
  request.path = request.filename = path;
  request.argv = process.argv;
  request.envp = process.envp;
  Result<std::unique_ptr<ExecImage>> image = load_program(*task, std::move(request));
  if (!image) return failed(image.error(), path);
  become(*task, *std::move(image));

  Result<Ref<Fiber>> fiber = scheduler.spawn("task 1", [task]() mutable {
    Fiber::current().user_data = task.get();
    if (task->wait_for_start()) task->run();
    task.reset();
  });
  if (!fiber) return failed(fiber.error(), path);
  task->fiber = *std::move(fiber);
  on_exit_ = std::move(on_exit);
  std::lock_guard guard(tree_lock);
  Ref<Session> session = make_ref<Session>(task->tid);
  if (Ref<fs::Tty> terminal = fs::host_terminal()) {
    terminal->set_session(task->tid, task->tid);
    session->controlling_tty = std::move(terminal);
  }
  set_process_group(*task->group, make_ref<ProcessGroup>(task->tid, std::move(session)));
  last_pid_ = task->tid;
  insert_task(*task);
  task->start();
  return {};
}

void Kernel::init_exited(int status) {
  kill_all();
  const Nanos deadline = monotonic_now() + kLastWait;
  for (;;) {
    size_t alive = 0;
    {
      std::shared_lock guard(tree_lock);
      for (const auto& [pid, group] : groups_) alive += group->live_threads != 0;
    }
    if (alive == 0) break;
    if (monotonic_now() >= deadline) {
      RF_WARN("{} processes did not end", alive);
      break;
    }
    (void)sleep_until(monotonic_now() + 1'000'000, Interruptible::kNo);
  }
  if (on_exit_) on_exit_(status);
}

}  // namespace rf::task
