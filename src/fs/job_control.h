// What terminals ask about processes. Sessions and process groups are the task room's, which is above this one: it
// implements JobControl and announces it with set_job_control().
//
// Called from any fiber, with no lock of this room's held. Nothing here suspends.
#pragma once

#include "core/ref.h"
#include "core/result.h"
#include "fs/context.h"

namespace rf::fs {

class Tty;

class JobControl {
 public:
  // The ids of ctx.task's session and process group.
  struct Caller {
    s32 session = 0;
    s32 process_group = 0;
    bool session_leader = false;
  };
  virtual Caller caller(const Context& ctx) = 0;

  // The controlling terminal of the caller's session, or null.
  virtual Ref<Tty> controlling_tty(const Context& ctx) = 0;
  // Sets it for the caller's session.
  virtual void set_controlling_tty(const Context& ctx, Ref<Tty> tty) = 0;
  // Session `session` has none any more. Harmless when the session is gone.
  virtual void clear_controlling_tty(s32 session) = 0;

  // The session a process group belongs to; ESRCH.
  virtual Result<s32> session_of_group(s32 process_group) = 0;
  // Whether nobody in the group has a parent in another group of the same session (POSIX: orphaned).
  virtual bool orphaned(s32 process_group) = 0;
  // Whether the caller blocks or ignores `signal`.
  virtual bool ignores(const Context& ctx, int signal) = 0;

  // Sends a signal of the kernel's (SI_KERNEL) to every process of a group, or to a session's leader.
  virtual void signal_group(s32 process_group, int signal) = 0;
  virtual void signal_session_leader(s32 session, int signal) = 0;

 protected:
  ~JobControl() = default;
};

// Until it is set, and after set_job_control(nullptr): one session 1 with one process group 1, everything in the
// foreground, signals go nowhere. `control` is borrowed until it is replaced.
void set_job_control(JobControl* control);
JobControl& job_control();

}  // namespace rf::fs
