#include "task/kernel.h"

#include <algorithm>
#include <cstring>

#include "core/log.h"
#include "task/job_control.h"
#include "task/signal_send.h"

namespace rf::task {
namespace {

constexpr Pid kPidMax = 32768;
// After the first round, ids start here, as Linux's do.
constexpr Pid kReservedPids = 300;

}  // namespace

Kernel::Kernel(KernelOptions o, Scheduler& s, platform::Platform& p, mm::Frames& f, mm::VdsoClock& c)
    : scheduler(s),
      platform(p),
      frames(f),
      clock(c),
      options(std::move(o)),
      syscall_counts(s.worker_count()),
      boot_time(realtime_now()),
      hostname(options.hostname),
      job_control_(std::make_unique<TaskJobControl>(*this)) {}

// Processes that were abandoned with their fibers are not taken down: their fibers will never run again.
Kernel::~Kernel() {
  for (auto& [pid, group] : groups_) (void)group.release();
}

// --- Ids and tables -------------------------------------------------------------------------------

Task* Kernel::find_task(Pid tid) const {
  auto it = tasks_.find(tid);
  return it == tasks_.end() ? nullptr : it->second;
}

ThreadGroup* Kernel::find_group(Pid pid) const {
  auto it = groups_.find(pid);
  return it == groups_.end() ? nullptr : it->second.get();
}

ProcessGroup* Kernel::find_process_group(Pid pgid) const {
  auto it = process_groups_.find(pgid);
  return it == process_groups_.end() ? nullptr : it->second;
}

Session* Kernel::find_session(Pid sid) const {
  for (const auto& [id, pg] : process_groups_)
    if (pg->session->id == sid) return pg->session.get();
  return nullptr;
}

void Kernel::for_each_group(const std::function<void(ThreadGroup&)>& f) const {
  for (const auto& [pid, group] : groups_) f(*group);
}

void Kernel::for_each_task(const std::function<void(Task&)>& f) const {
  for (const auto& [tid, task] : tasks_)
    if (task) f(*task);
}

bool Kernel::pid_in_use(Pid pid) const {
  return tasks_.contains(pid) || process_groups_.contains(pid) || sessions_.contains(pid);
}

Result<Pid> Kernel::allocate_pid() {
  Pid pid = last_pid_;
  for (Pid tries = 0; tries < kPidMax; tries++) {
    pid = pid + 1 < kPidMax ? pid + 1 : kReservedPids;
    if (pid_in_use(pid)) continue;
    last_pid_ = pid;
    tasks_.emplace(pid, nullptr);
    return pid;
  }
  return err(EAGAIN);
}

void Kernel::release_pid(Pid pid) { tasks_.erase(pid); }

void Kernel::insert_task(Task& task) {
  tasks_[task.tid] = &task;
  ThreadGroup& group = *task.group;
  SpinGuard guard(group.signal_lock);
  group.tasks.push_back(&task);
  group.live_threads++;
  if (task.tid == group.pid) {
    group.leader = &task;
    task.ref();
    groups_.emplace(group.pid, Ref<ThreadGroup>(&group));
    if (group.pid == 1) init_ = &group;
  }
}

void Kernel::remove_task(Task& task) {
  tasks_.erase(task.tid);
  ThreadGroup& group = *task.group;
  SpinGuard guard(group.signal_lock);
  std::erase(group.tasks, &task);
  if (group.leader == &task) group.leader = nullptr;
}

void Kernel::remove_group(ThreadGroup& group) {
  if (init_ == &group) init_ = nullptr;
  groups_.erase(group.pid);
}

Ref<Task> Kernel::take_over_tid(Task& task) {
  ThreadGroup& group = *task.group;
  Task& leader = *group.leader;
  tasks_.erase(task.tid);
  tasks_[leader.tid] = &task;
  SpinGuard guard(group.signal_lock);
  std::erase(group.tasks, &leader);
  task.tid = leader.tid;
  group.leader = &task;
  task.ref();
  return Ref<Task>::adopt(&leader);
}

void Kernel::set_process_group(ThreadGroup& group, Ref<ProcessGroup> to) {
  if (ProcessGroup* from = group.process_group.get()) {
    std::erase(from->members, &group);
    if (from->members.empty()) process_groups_.erase(from->id);
    auto session = sessions_.find(from->session->id);
    if (--session->second == 0) sessions_.erase(session);
  }
  if (to) {
    if (to->members.empty()) process_groups_[to->id] = to.get();
    to->members.push_back(&group);
    sessions_[to->session->id]++;
  }
  group.process_group = std::move(to);
}

size_t Kernel::session_members(Pid sid) const {
  auto it = sessions_.find(sid);
  return it == sessions_.end() ? 0 : it->second;
}

// --- Signals --------------------------------------------------------------------------------------

void Kernel::send_to_group(ThreadGroup& group, const siginfo_t& info) { (void)send_signal(group, nullptr, info); }

size_t Kernel::send_to_process_group(Pid pgid, const siginfo_t& info) {
  std::shared_lock guard(tree_lock);
  ProcessGroup* pg = find_process_group(pgid);
  if (!pg) return 0;
  for (ThreadGroup* group : pg->members) send_to_group(*group, info);
  return pg->members.size();
}

void Kernel::signal_init(int sig) {
  std::shared_lock guard(tree_lock);
  if (init_) send_to_group(*init_, kernel_siginfo(sig));
}

void Kernel::continue_init() {
  const Pid group = [&] {
    std::shared_lock guard(tree_lock);
    return init_ && init_->process_group ? init_->process_group->id : 0;
  }();
  if (group != 0) (void)send_to_process_group(group, kernel_siginfo(SIGCONT));
}

void Kernel::kill_all() {
  std::shared_lock guard(tree_lock);
  for (const auto& [pid, group] : groups_) send_to_group(*group, kernel_siginfo(SIGKILL));
}

// --- Clocks ---------------------------------------------------------------------------------------

namespace {

// clock ids made of a pid or tid, as clock_getcpuclockid(3) makes them.
Result<Nanos> cpu_clock_of(const Kernel& kernel, int id, const Task* task) {
  constexpr int kPerThread = 4, kWhich = 3, kVirt = 1;
  const Pid pid = ~(id >> 3);
  if ((id & kWhich) == kWhich) return err(EINVAL);
  CpuTimes times;
  std::shared_lock guard(kernel.tree_lock);
  if ((id & kPerThread) != 0) {
    const Task* t = pid == 0 ? task : kernel.find_task(pid);
    if (!t || !task || t->group != task->group) return err(EINVAL);
    times = t->cpu_times();
  } else {
    const ThreadGroup* g = pid == 0 && task ? task->group.get() : kernel.find_group(pid);
    if (!g) return err(EINVAL);
    times = g->cpu_times();
  }
  return (id & kWhich) == kVirt ? times.user : times.total();
}

}  // namespace

Result<Nanos> Kernel::now(int id, Task* task) {
  switch (id) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_TAI:
      return clock.now(CLOCK_REALTIME);
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM:
      return clock.now(CLOCK_MONOTONIC);
    case CLOCK_PROCESS_CPUTIME_ID:
      if (!task) return err(EINVAL);
      return task->group->cpu_times().total();
    case CLOCK_THREAD_CPUTIME_ID:
      if (!task) return err(EINVAL);
      return task->cpu_times().total();
    default:
      if (id < 0) return cpu_clock_of(*this, id, task);
      return err(EINVAL);
  }
}

// --- Counters and names ---------------------------------------------------------------------------

void Kernel::log_unimplemented(u64 number, Task& task) {
  {
    SpinGuard guard(unimplemented_lock_);
    // A guest can make up numbers: only those that exist, or nearly, are kept.
    const u64 key = std::min<u64>(number, kSyscallLimit);
    if (unimplemented_[key]++ != 0) return;
  }
  RF_INFO("{} (pid {}): system call {} {} is not implemented", task.name(), task.pid(), number,
          SyscallTable::name_of(number));
}

std::vector<std::pair<std::string, u64>> Kernel::unimplemented_calls() const {
  std::vector<std::pair<std::string, u64>> result;
  SpinGuard guard(unimplemented_lock_);
  for (const auto& [number, count] : unimplemented_) {
    std::string name = SyscallTable::name_of(number);
    result.emplace_back(name.empty() ? "syscall " + std::to_string(number) : std::move(name), count);
  }
  return result;
}

utsname Kernel::uname() const {
  utsname u{};
  auto set = [](char(&field)[65], std::string_view value) {
    std::memcpy(field, value.data(), std::min(value.size(), sizeof field - 1));
  };
  set(u.sysname, "Linux");
  set(u.release, "6.1.0-ringfence");
  set(u.version, "#1 SMP Ringfence");
  set(u.machine, "x86_64");
  SpinGuard guard(uts_lock);
  set(u.nodename, hostname);
  set(u.domainname, domainname);
  return u;
}

}  // namespace rf::task
