// The ioctls of ptys, ioctl_tty(2). From the master they mean the slave, as on Linux, unless said otherwise.

#include <signal.h>

#include <cstring>

#include "fs/pty.h"
#include "mm/user_access.h"

namespace rf::fs {
namespace {

constexpr int kNTty = 0;  // the line discipline's number
constexpr u64 kLastSignal = 64;

template <class T>
Result<u64> give(const Context& ctx, u64 arg, const T& value) {
  TRY(mm::UserPtr<T>(arg).write(*ctx.mm, value));
  return 0;
}

template <class T>
Result<T> take(const Context& ctx, u64 arg) {
  return mm::UserPtr<T>(arg).read(*ctx.mm);
}

// Whether ^S and ^Q are what stops and starts output, as packet mode reports.
bool usual_flow_control(const struct termios2& t) {
  return (t.c_iflag & IXON) != 0 && t.c_cc[VSTART] == 021 && t.c_cc[VSTOP] == 023;
}

}  // namespace

Result<u64> Pty::ioctl(const Context& ctx, u32 request, u64 arg, bool master) {
  if (ctx.mm == nullptr) return err(ENOTTY);
  {
    SpinGuard guard(lock_);
    if (hung_up_) return err(request == TIOCSPGRP ? ENOTTY : EIO);
  }
  switch (request) {
    case TCGETS:
    case TCGETS2:
    case TCSETS:
    case TCSETSW:
    case TCSETSF:
    case TCSETS2:
    case TCSETSW2:
    case TCSETSF2:
      if (!master && request != TCGETS && request != TCGETS2) TRY(check_background(ctx, SIGTTOU));
      return settings_ioctl(ctx, request, arg);
    case TIOCGPGRP:
    case TIOCGSID:
      if (master) return group_ioctl(ctx, request, arg);
      break;
    case TIOCSCTTY:
    case TIOCNOTTY:
      if (master) return err(ENOTTY);
      break;
    default:
      break;
  }
  if (auto done = TRY(job_control_ioctl(ctx, request, arg))) return *done;
  if (master) {
    auto done = master_ioctl(ctx, request, arg);
    if (done || done.error() != Errno{ENOTTY}) return done;
  }
  return common_ioctl(ctx, request, arg, master);
}

// The master asks about the slave's session whatever its own is.
Result<u64> Pty::group_ioctl(const Context& ctx, u32 request, u64 arg) {
  const s32 id = request == TIOCGPGRP ? foreground() : session();
  if (request == TIOCGSID && id == 0) return err(ENOTTY);
  return give(ctx, arg, id);
}

Result<u64> Pty::settings_ioctl(const Context& ctx, u32 request, u64 arg) {
  struct termios2 settings;
  {
    SpinGuard guard(lock_);
    settings = line_.settings();
  }
  const bool second = request == TCGETS2 || request == TCSETS2 || request == TCSETSW2 || request == TCSETSF2;
  // struct termios is struct termios2 without the speeds at its end.
  static_assert(offsetof(struct termios2, c_ispeed) == sizeof(struct termios));
  const size_t size = second ? sizeof(struct termios2) : sizeof(struct termios);
  if (request == TCGETS || request == TCGETS2) {
    if (ctx.mm->copy_out(arg, &settings, size) != size) return err(EFAULT);
    return 0;
  }
  if (ctx.mm->copy_in(&settings, arg, size) != size) return err(EFAULT);
  // Output goes to the master at once, so there is nothing for TCSETSW to wait for.
  set_settings(settings, request == TCSETSF || request == TCSETSF2);
  return 0;
}

void Pty::set_settings(const struct termios2& settings, bool flush) {
  {
    SpinGuard guard(lock_);
    const bool before = usual_flow_control(line_.settings());
    if (flush) line_.flush_input();
    line_.set_settings(settings);
    const bool after = usual_flow_control(settings);
    if (before != after) packet_event(after ? TIOCPKT_DOSTOP : TIOCPKT_NOSTOP);
  }
  notify_all();
}

Result<void> Pty::set_window(const winsize& size) {
  {
    SpinGuard guard(lock_);
    if (memcmp(&window_, &size, sizeof size) == 0) return {};
    window_ = size;
  }
  signal_foreground(SIGWINCH);
  return {};
}

Result<void> Pty::flush(u64 what) {
  if (what != TCIFLUSH && what != TCOFLUSH && what != TCIOFLUSH) return err(EINVAL);
  {
    SpinGuard guard(lock_);
    if (what != TCOFLUSH) {
      line_.flush_input();
      packet_event(TIOCPKT_FLUSHREAD);
    }
    if (what != TCIFLUSH) {
      line_.flush_output();
      packet_event(TIOCPKT_FLUSHWRITE);
    }
  }
  notify_all();
  return {};
}

Result<void> Pty::flow(u64 action) {
  {
    SpinGuard guard(lock_);
    switch (action) {
      case TCOOFF:
        line_.set_stopped(true);
        packet_event(TIOCPKT_STOP);
        break;
      case TCOON:
        line_.set_stopped(false);
        packet_event(TIOCPKT_START);
        break;
      case TCIOFF:
      case TCION: {
        const u8 c = line_.control(action == TCIOFF ? VSTOP : VSTART);
        if (c != 0 && line_.output().size() < LineDiscipline::kOutputLimit)
          line_.output().push_back(static_cast<char>(c));
        break;
      }
      default:
        return err(EINVAL);
    }
  }
  notify_all();
  return {};
}

Result<u64> Pty::master_ioctl(const Context& ctx, u32 request, u64 arg) {
  switch (request) {
    case TIOCGPTN:
      return give(ctx, arg, index_);
    case TIOCSPTLCK: {
      const bool lock = TRY(take<s32>(ctx, arg)) != 0;
      SpinGuard guard(lock_);
      locked_ = lock;
      return 0;
    }
    case TIOCGPTLCK: {
      s32 locked;
      {
        SpinGuard guard(lock_);
        locked = locked_ ? 1 : 0;
      }
      return give(ctx, arg, locked);
    }
    case TIOCPKT: {
      const bool on = TRY(take<s32>(ctx, arg)) != 0;
      SpinGuard guard(lock_);
      if (on && !packet_) packet_status_ = 0;
      packet_ = on;
      return 0;
    }
    case TIOCGPKT: {
      s32 on;
      {
        SpinGuard guard(lock_);
        on = packet_ ? 1 : 0;
      }
      return give(ctx, arg, on);
    }
    case TIOCSIG: {
      if (arg < 1 || arg > kLastSignal) return err(EINVAL);
      signal_foreground(static_cast<int>(arg));
      return 0;
    }
    default:
      return err(ENOTTY);
  }
}

Result<u64> Pty::common_ioctl(const Context& ctx, u32 request, u64 arg, bool master) {
  switch (request) {
    case TIOCGWINSZ: {
      winsize size;
      {
        SpinGuard guard(lock_);
        size = window_;
      }
      return give(ctx, arg, size);
    }
    case TIOCSWINSZ:
      TRY(set_window(TRY(take<winsize>(ctx, arg))));
      return 0;
    case FIONREAD: {
      size_t n;
      {
        SpinGuard guard(lock_);
        n = master ? line_.output().size() : line_.input_size();
      }
      return give(ctx, arg, static_cast<s32>(n));
    }
    case TIOCOUTQ:
      return give(ctx, arg, s32{0});
    case TCFLSH:
      if (!master) TRY(check_background(ctx, SIGTTOU));
      TRY(flush(arg));
      return 0;
    case TCXONC:
      if (!master) TRY(check_background(ctx, SIGTTOU));
      TRY(flow(arg));
      return 0;
    case TCSBRK:
    case TCSBRKP:
      return 0;  // nothing to drain, and no line to send a break on
    case TIOCGETD:
      return give(ctx, arg, s32{kNTty});
    case TIOCSETD:
      if (TRY(take<s32>(ctx, arg)) != kNTty) return err(EINVAL);
      return 0;
    case TIOCEXCL:
    case TIOCNXCL: {
      SpinGuard guard(lock_);
      exclusive_ = request == TIOCEXCL;
      return 0;
    }
    case TIOCSTI:
      return err(EIO);  // as with dev.tty.legacy_tiocsti=0
    case TIOCCONS:
      return err(EPERM);
    default:
      return err(ENOTTY);
  }
}

}  // namespace rf::fs
