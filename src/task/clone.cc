#include "task/clone.h"

#include <linux/sched.h>

#include <mutex>

#include "task/close.h"
#include "task/exec.h"
#include "task/kernel.h"
#include "task/pidfd.h"
#include "task/posix_timers.h"

namespace rf::task {
namespace {

constexpr u64 kNamespaces = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET |
                            CLONE_NEWCGROUP | CLONE_NEWTIME;

Result<void> check_flags(const Task& parent, const CloneRequest& r) {
  const u64 f = r.flags;
  auto has = [f](u64 bits) { return (f & bits) == bits; };
  if ((has(CLONE_THREAD) && !has(CLONE_SIGHAND)) || (has(CLONE_SIGHAND) && !has(CLONE_VM))) return err(EINVAL);
  if (has(CLONE_CLEAR_SIGHAND | CLONE_SIGHAND)) return err(EINVAL);
  if (has(CLONE_PARENT) && parent.group.get() == parent.kernel.init()) return err(EINVAL);
  if (has(CLONE_PIDFD) && (f & (CLONE_DETACHED | CLONE_THREAD)) != 0) return err(EINVAL);
  if ((f & (kNamespaces | CLONE_INTO_CGROUP)) != 0) return err(EPERM);
  if (has(CLONE_SETTLS) && r.tls >= platform::kGuestAddressLimit) return err(EPERM);
  return {};
}

// A child under construction. Until it is started, dropping this undoes everything.
class Birth {
 public:
  explicit Birth(Task& parent) : parent_(parent), kernel_(parent.kernel) {}
  ~Birth();

  Result<void> prepare(const CloneRequest& r);
  Result<void> publish(const CloneRequest& r);
  Task& child() { return *child_; }
  int pidfd() const { return pidfd_; }

 private:
  Result<void> reserve_pid();
  Result<void> spawn();
  Result<void> share_resources(const CloneRequest& r);
  Result<void> write_tids(const CloneRequest& r);
  Ref<ThreadGroup> new_group(const CloneRequest& r);
  void inherit(const CloneRequest& r);

  Task& parent_;
  Kernel& kernel_;
  Pid pid_ = 0;
  Ref<Task> child_;
  int pidfd_ = -1;
  bool started_ = false;
};

Birth::~Birth() {
  if (started_) return;
  if (pidfd_ >= 0) (void)parent_.files->remove(pidfd_);
  if (child_) {
    if (child_->files) replace_files(*child_, {});
    if (child_->fiber) child_->abandon();
  }
  if (pid_ != 0) {
    std::lock_guard guard(kernel_.tree_lock);
    kernel_.release_pid(pid_);
  }
}

Result<void> Birth::reserve_pid() {
  const u64 limit = parent_.group->limit(RLIMIT_NPROC).rlim_cur;
  const fs::Credentials& creds = *parent_.creds;
  const bool exempt = creds.uid == 0 || creds.capable(CAP_SYS_RESOURCE) || creds.capable(CAP_SYS_ADMIN);
  std::lock_guard guard(kernel_.tree_lock);
  if (!exempt && kernel_.task_count() >= limit) return err(EAGAIN);
  pid_ = TRY(kernel_.allocate_pid());
  return {};
}

Result<void> Birth::spawn() {
  Result<Ref<Fiber>> fiber = kernel_.scheduler.spawn("task " + std::to_string(pid_), [task = child_]() mutable {
    Fiber::current().user_data = task.get();
    if (task->wait_for_start()) task->run();
    task.reset();
  });
  child_->fiber = TRY(std::move(fiber));
  return {};
}

Ref<ThreadGroup> Birth::new_group(const CloneRequest& r) {
  ThreadGroup& from = *parent_.group;
  Ref<ThreadGroup> group = make_ref<ThreadGroup>(kernel_, pid_);
  group->exit_signal = r.exit_signal;
  group->dumpable.store(from.dumpable.load());
  group->oom_score_adj.store(from.oom_score_adj.load());
  if ((r.flags & CLONE_SIGHAND) != 0) {
    group->handlers = from.handlers;
  } else {
    group->handlers = from.handlers->fork();
    if ((r.flags & CLONE_CLEAR_SIGHAND) != 0) group->handlers->reset_for_exec();
  }
  {
    SpinGuard guard(from.signal_lock);
    for (int i = 0; i < static_cast<int>(RLIM_NLIMITS); i++) group->set_limit(i, from.limits[i]);
  }
  group->timers->update_cpu_limit();
  return group;
}

Result<void> Birth::share_resources(const CloneRequest& r) {
  Task& c = *child_;
  c.context = TRY(kernel_.platform.create_context());
  c.context->copy_fp_from(*parent_.context);
  c.mm = (r.flags & CLONE_VM) != 0 ? parent_.mm : TRY(parent_.mm->fork());
  c.fs_state = (r.flags & CLONE_FS) != 0 ? parent_.fs_state : parent_.fs_state->fork();
  if ((r.flags & CLONE_FILES) != 0) {
    c.files = parent_.files;
    c.files->users.fetch_add(1, std::memory_order_relaxed);
  } else {
    c.files = parent_.files->fork();
  }
  return {};
}

void Birth::inherit(const CloneRequest& r) {
  Task& c = *child_;
  c.creds = parent_.creds;
  c.set_name(parent_.name());
  c.regs = parent_.regs;
  c.regs.rax = 0;
  c.regs.orig_rax = ~u64{0};
  if (r.stack != 0) c.regs.rsp = r.stack;
  if ((r.flags & CLONE_SETTLS) != 0) c.regs.fs_base = r.tls;
  c.mask = parent_.restore_mask ? parent_.saved_mask : parent_.mask;
  // A thread that shares the memory must not run on the same alternate stack; a vfork child may, its parent waits.
  if ((r.flags & (CLONE_VM | CLONE_VFORK)) != CLONE_VM) c.altstack = parent_.altstack;
  if ((r.flags & CLONE_CHILD_CLEARTID) != 0) c.clear_child_tid = r.child_tid;
  c.affinity.store(parent_.affinity.load());
  c.nice.store(parent_.nice.load());
  c.sched_policy.store(parent_.sched_policy.load());
  c.sched_priority.store(parent_.sched_priority.load());
  c.timer_slack = parent_.timer_slack;
  c.personality = parent_.personality;
  c.thp_disabled = parent_.thp_disabled;
  if ((r.flags & CLONE_VFORK) != 0) {
    parent_.vfork_wait = make_ref<VforkLatch>(parent_.fiber);
    c.vfork_latch = parent_.vfork_wait;
  }
}

Result<void> Birth::write_tids(const CloneRequest& r) {
  const Pid tid = pid_;
  if ((r.flags & CLONE_PIDFD) != 0) {
    Ref<fs::File> file = make_pidfd(child_->group, 0);
    pidfd_ = TRY(parent_.files->install(std::move(file), true, 0, parent_.group->open_files_limit));
    TRY(mm::UserPtr<int>(r.pidfd).write(*parent_.mm, pidfd_));
  }
  if ((r.flags & CLONE_PARENT_SETTID) != 0) TRY(mm::UserPtr<Pid>(r.parent_tid).write(*parent_.mm, tid));
  // Linux lets the child write this one, and ignores its failure.
  if ((r.flags & CLONE_CHILD_SETTID) != 0) (void)mm::UserPtr<Pid>(r.child_tid).write(*child_->mm, tid);
  return {};
}

Result<void> Birth::prepare(const CloneRequest& r) {
  TRY(reserve_pid());
  child_ = make_task(kernel_, pid_, (r.flags & CLONE_THREAD) != 0 ? parent_.group : new_group(r));
  TRY(spawn());
  inherit(r);
  TRY(share_resources(r));
  return write_tids(r);
}

// Enters the child into the tree and lets it run, unless the parent has a signal to deal with first (which may be the
// one that kills it).
Result<void> Birth::publish(const CloneRequest& r) {
  ThreadGroup& mine = *parent_.group;
  ThreadGroup& group = *child_->group;
  std::lock_guard guard(kernel_.tree_lock);
  {
    SpinGuard signal_guard(mine.signal_lock);
    parent_.recompute_pending();
    if (parent_.has_work() || mine.exiting || mine.exec_task) return err(kERESTARTNOINTR);
  }
  if (&group != &mine) {
    group.set_parent((r.flags & CLONE_PARENT) != 0 ? mine.parent : &mine);
    group.parent_thread = (r.flags & CLONE_PARENT) != 0 ? mine.parent_thread : parent_.tid;
    if ((r.flags & CLONE_PARENT) != 0) group.exit_signal = mine.exit_signal;
    if (!group.parent) return err(EAGAIN);  // the whole sandbox is ending
    group.parent->children.push_back(child_->group);
    kernel_.set_process_group(group, mine.process_group);
  }
  kernel_.insert_task(*child_);
  kernel_.forks.fetch_add(1, std::memory_order_relaxed);
  started_ = true;
  child_->start();
  return {};
}

}  // namespace

SysResult clone_task(Task& parent, const CloneRequest& request) {
  TRY(check_flags(parent, request));
  if (parent.has_work()) return err(kERESTARTNOINTR);
  Birth birth(parent);
  TRY(birth.prepare(request));
  const Pid tid = birth.child().tid;
  TRY(birth.publish(request));
  if ((request.flags & CLONE_VFORK) == 0) return static_cast<u64>(tid);
  parent.vfork_child = tid;
  return SysResult::go_to(kVforkWait);
}

}  // namespace rf::task
