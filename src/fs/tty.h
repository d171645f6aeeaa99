// Terminals: what ptys and the host's terminal have in common. A Tty is a terminal device; each open of it is a File
// of its own.
//
// tty_lock_ guards the session and the foreground group; it is a leaf (nothing is called under it).
#pragma once

#include <optional>
#include <utility>

#include "core/spinlock.h"
#include "fs/file.h"
#include "fs/job_control.h"

namespace rf::fs {

class Tty : public RefCounted {
 public:
  // The session it controls and the group in the foreground; 0: none.
  s32 session() const;
  s32 foreground() const;
  // Makes it the controlling terminal of a session as far as this side goes; the session's side is the caller's.
  void set_session(s32 session, s32 foreground);
  void set_foreground(s32 process_group);
  // Undoes set_session() when `session` is the one.
  void leave_session(s32 session);

  // The leader of `session` exits: SIGHUP to the foreground group, and the terminal controls no session any more. What
  // is open of it stays usable, as ptys do on Linux (disassociate_ctty()). Called by the task room; nothing if the
  // terminal controls another session.
  void session_ended(s32 session) { leave_behind(session, true); }

  // The terminal is gone: SIGHUP and SIGCONT to the session's leader, and it controls no session any more.
  void hang_up();

  // Sends to the foreground group, if there is one.
  void signal_foreground(int signal);

  // Whether it is the caller's controlling terminal and another group is in the foreground.
  bool in_background(const Context& ctx);
  // For background access: nothing when the caller may go on, else it sent `signal` (SIGTTIN, SIGTTOU) to the caller's
  // group: ERESTARTSYS; EIO for orphans and for readers that ignore it.
  Result<void> check_background(const Context& ctx, int signal);

  // The job-control ioctls (TIOCSCTTY, TIOCNOTTY, TIOCGPGRP, TIOCSPGRP, TIOCGSID); nullopt for all others.
  Result<std::optional<u64>> job_control_ioctl(const Context& ctx, u32 request, u64 arg);

  // A session leader without a terminal that opens one without O_NOCTTY gets it as its controlling terminal.
  void acquire_on_open(const Context& ctx, int flags);

  // Its device number in the guest: major, minor.
  virtual std::pair<u32, u32> device() const = 0;

  // Another open file description of it (an open of /dev/tty), for `path`.
  virtual Result<Ref<File>> open(const Context& ctx, const Path& path, int flags) = 0;

 protected:
  ~Tty() override = default;

 private:
  void leave_behind(s32 session, bool ended);
  Result<void> set_controlling(const Context& ctx, u64 arg);
  Result<void> set_foreground_checked(const Context& ctx, s32 process_group);
  bool controls(const Context& ctx);  // the caller's session

  mutable SpinLock tty_lock_;
  s32 session_ = 0;
  s32 foreground_ = 0;
};

// TIOCGPTPEER, whose result is a descriptor and so the call layer's: opens the slave of the pty master `master` with
// `flags`. ENOTTY for other files, EIO while the slave is locked. May suspend.
Result<Ref<File>> open_pty_peer(const Context& ctx, File& master, int flags);

// --- The host's terminal, if stdin, stdout or stderr is one (fs/host_stream.cc) ---

// The terminal of the first make_host_stream() that found one; null if none did. The runtime makes it the
// controlling terminal of the first session and passes the host's SIGINT, SIGQUIT, SIGTSTP, SIGWINCH on with
// signal_foreground().
Ref<Tty> host_terminal();
// Puts the host terminal's settings back as they were at the first make_host_stream(), if a guest changed them.
// Async-signal-safe; any number of times.
void restore_host_terminal() noexcept;

}  // namespace rf::fs
