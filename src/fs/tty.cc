#include "fs/tty.h"

#include <signal.h>
#include <sys/ioctl.h>

#include <atomic>

#include "mm/user_access.h"

namespace rf::fs {
namespace {

class NoJobControl final : public JobControl {
 public:
  Caller caller(const Context&) override { return {1, 1, true}; }
  Ref<Tty> controlling_tty(const Context&) override { return nullptr; }
  void set_controlling_tty(const Context&, Ref<Tty>) override {}
  void clear_controlling_tty(s32) override {}
  Result<s32> session_of_group(s32 group) override {
    if (group != 1) return err(ESRCH);
    return 1;
  }
  bool orphaned(s32) override { return false; }
  bool ignores(const Context&, int) override { return false; }
  void signal_group(s32, int) override {}
  void signal_session_leader(s32, int) override {}
};

NoJobControl g_none;
std::atomic<JobControl*> g_control{&g_none};

}  // namespace

void set_job_control(JobControl* control) { g_control.store(control ? control : &g_none, std::memory_order_release); }
JobControl& job_control() { return *g_control.load(std::memory_order_acquire); }

s32 Tty::session() const {
  SpinGuard guard(tty_lock_);
  return session_;
}

s32 Tty::foreground() const {
  SpinGuard guard(tty_lock_);
  return foreground_;
}

void Tty::set_session(s32 session, s32 foreground) {
  SpinGuard guard(tty_lock_);
  session_ = session;
  foreground_ = foreground;
}

void Tty::set_foreground(s32 process_group) {
  SpinGuard guard(tty_lock_);
  foreground_ = process_group;
}

void Tty::leave_session(s32 session) {
  SpinGuard guard(tty_lock_);
  if (session_ != session) return;
  session_ = foreground_ = 0;
}

void Tty::leave_behind(s32 session, bool ended) {
  s32 group;
  {
    SpinGuard guard(tty_lock_);
    if (session_ != session) return;
    group = foreground_;
    session_ = foreground_ = 0;
  }
  job_control().clear_controlling_tty(session);
  if (group == 0) return;
  job_control().signal_group(group, SIGHUP);
  if (!ended) job_control().signal_group(group, SIGCONT);
}

void Tty::hang_up() {
  s32 session;
  {
    SpinGuard guard(tty_lock_);
    session = std::exchange(session_, 0);
    foreground_ = 0;
  }
  if (session == 0) return;
  job_control().signal_session_leader(session, SIGHUP);
  job_control().signal_session_leader(session, SIGCONT);
  job_control().clear_controlling_tty(session);
}

void Tty::signal_foreground(int signal) {
  if (s32 group = foreground(); group != 0) job_control().signal_group(group, signal);
}

bool Tty::controls(const Context& ctx) { return job_control().controlling_tty(ctx) == this; }

bool Tty::in_background(const Context& ctx) {
  if (ctx.task == nullptr || !controls(ctx)) return false;
  const s32 front = foreground();
  return front != 0 && job_control().caller(ctx).process_group != front;
}

// __tty_check_change() of Linux.
Result<void> Tty::check_background(const Context& ctx, int signal) {
  if (!in_background(ctx)) return {};
  JobControl& control = job_control();
  if (control.ignores(ctx, signal)) {
    if (signal == SIGTTIN) return err(EIO);
    return {};
  }
  const s32 group = control.caller(ctx).process_group;
  if (control.orphaned(group)) return err(EIO);
  control.signal_group(group, signal);
  return err(kERESTARTSYS);
}

// tiocsctty() of Linux.
Result<void> Tty::set_controlling(const Context& ctx, u64 arg) {
  JobControl& control = job_control();
  const auto caller = control.caller(ctx);
  s32 robbed = 0;
  {
    SpinGuard guard(tty_lock_);
    if (caller.session_leader && session_ == caller.session) return {};
    robbed = session_;
  }
  if (!caller.session_leader || control.controlling_tty(ctx)) return err(EPERM);
  if (robbed != 0) {
    if (arg != 1 || !ctx.creds.capable(CAP_SYS_ADMIN)) return err(EPERM);
    control.clear_controlling_tty(robbed);
  }
  set_session(caller.session, caller.process_group);
  control.set_controlling_tty(ctx, Ref<Tty>(this));
  return {};
}

void Tty::acquire_on_open(const Context& ctx, int flags) {
  if ((flags & O_NOCTTY) != 0 || ctx.task == nullptr) return;
  JobControl& control = job_control();
  const auto caller = control.caller(ctx);
  if (!caller.session_leader || control.controlling_tty(ctx) || session() != 0) return;
  set_session(caller.session, caller.process_group);
  control.set_controlling_tty(ctx, Ref<Tty>(this));
}

// tiocspgrp() of Linux.
Result<void> Tty::set_foreground_checked(const Context& ctx, s32 process_group) {
  TRY(check_background(ctx, SIGTTOU));
  JobControl& control = job_control();
  const s32 session = control.caller(ctx).session;
  if (!controls(ctx) || session != this->session()) return err(ENOTTY);
  if (process_group < 0) return err(EINVAL);
  if (TRY(control.session_of_group(process_group)) != session) return err(EPERM);
  set_foreground(process_group);
  return {};
}

Result<std::optional<u64>> Tty::job_control_ioctl(const Context& ctx, u32 request, u64 arg) {
  switch (request) {
    case TIOCSCTTY:
      TRY(set_controlling(ctx, arg));
      return 0;
    case TIOCNOTTY: {
      if (!controls(ctx)) return err(ENOTTY);
      // A member that is not the leader gives up only its own view of the terminal, of which we keep none.
      const auto caller = job_control().caller(ctx);
      if (caller.session_leader) leave_behind(caller.session, false);
      return 0;
    }
    case TIOCGPGRP:
    case TIOCGSID: {
      if (!controls(ctx)) return err(ENOTTY);
      if (ctx.mm == nullptr) return err(EFAULT);
      TRY(mm::UserPtr<s32>(arg).write(*ctx.mm, request == TIOCGSID ? session() : foreground()));
      return 0;
    }
    case TIOCSPGRP: {
      if (ctx.mm == nullptr) return err(EFAULT);
      TRY(set_foreground_checked(ctx, TRY(mm::UserPtr<s32>(arg).read(*ctx.mm))));
      return 0;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace rf::fs
