// The host's terminal: which ioctls reach it, and putting its settings back.

#include <asm/termbits.h>  // the kernel's struct termios, not libc's
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <atomic>

#include "fs/host_stream_internal.h"
#include "mm/user_access.h"

namespace rf::fs {
namespace {

constexpr Nanos kDrainPoll = 1'000'000;

struct Saved {
  int fd = -1;
  struct termios settings {};
  std::atomic<bool> changed{false};
};
Saved g_saved;

SpinLock g_terminal_lock;
Ref<HostTerminal> g_terminal;

// Waits until the terminal has sent what was written, tcdrain(3), without blocking the thread on the host.
Result<void> drain(int fd) {
  for (;;) {
    s32 queued = 0;
    if (!hostio::ioctl_now(fd, TIOCOUTQ, &queued) || queued == 0) return {};
    if (sleep_until(monotonic_now() + kDrainPoll, Interruptible::kYes) == WakeReason::kInterrupted)
      return err(kERESTARTSYS);
  }
}

template <class T>
Result<u64> get(const Context& ctx, int fd, u32 request, u64 arg) {
  T data{};
  TRY(hostio::ioctl_now(fd, request, &data));
  TRY(mm::UserPtr<T>(arg).write(*ctx.mm, data));
  return 0;
}

}  // namespace

Result<u64> HostTerminal::set_attributes(const Context& ctx, int fd, u32 request, u64 arg) {
  const bool second = request == TCSETS2 || request == TCSETSW2 || request == TCSETSF2;
  const bool wait = request != TCSETS && request != TCSETS2;
  const bool flush = request == TCSETSF || request == TCSETSF2;
  struct termios2 data {};
  const size_t size = second ? sizeof data : sizeof(struct termios);
  if (ctx.mm->copy_in(&data, arg, size) != size) return err(EFAULT);
  TRY(check_background(ctx, SIGTTOU));
  if (wait) TRY(drain(fd));
  if (flush) TRY(hostio::host_call(SYS_ioctl, fd, TCFLSH, TCIFLUSH));
  g_saved.changed.store(true, std::memory_order_relaxed);
  return restartable(hostio::ioctl_now(fd, second ? TCSETS2 : TCSETS, &data));
}

Result<void> HostTerminal::check_write(const Context& ctx, int fd) {
  if (!in_background(ctx)) return {};
  struct termios settings {};
  if (!hostio::ioctl_now(fd, TCGETS, &settings) || (settings.c_lflag & TOSTOP) == 0) return {};
  return check_background(ctx, SIGTTOU);
}

Result<u64> HostTerminal::ioctl(const Context& ctx, int fd, u32 request, u64 arg) {
  if (auto done = TRY(job_control_ioctl(ctx, request, arg))) return *done;
  if (ctx.mm == nullptr) return err(ENOTTY);
  switch (request) {
    case TCGETS:
      return get<struct termios>(ctx, fd, request, arg);
    case TCGETS2:
      return get<struct termios2>(ctx, fd, request, arg);
    case TIOCGWINSZ:
      return get<winsize>(ctx, fd, request, arg);
    case FIONREAD:
    case TIOCOUTQ:
    case TIOCGETD:
      return get<s32>(ctx, fd, request, arg);
    case TCSETS:
    case TCSETSW:
    case TCSETSF:
    case TCSETS2:
    case TCSETSW2:
    case TCSETSF2:
      return set_attributes(ctx, fd, request, arg);
    case TIOCSWINSZ: {
      winsize size = TRY(mm::UserPtr<winsize>(arg).read(*ctx.mm));
      return hostio::ioctl_now(fd, request, &size);
    }
    case TCSBRK:
    case TCSBRKP:
      TRY(check_background(ctx, SIGTTOU));
      TRY(drain(fd));
      return 0;
    case TCFLSH:
    case TCXONC:
      TRY(check_background(ctx, SIGTTOU));
      return restartable(hostio::host_call(SYS_ioctl, fd, request, arg));
    default:
      return err(ENOTTY);
  }
}

Result<Ref<File>> HostTerminal::open(const Context& ctx, const Path& path, int flags) {
  if (!end_->allows(flags)) return err(EACCES);
  acquire_on_open(ctx, flags);
  return make_ref<HostStream>(path, flags, end_, Ref<HostTerminal>(this), false);
}

Ref<HostTerminal> host_terminal_for(int fd, u64 rdev) {
  {
    SpinGuard guard(g_terminal_lock);
    if (g_terminal && g_terminal->rdev() == rdev) return g_terminal;
  }
  auto own = rdev == makedev(5, 2) ? hostio::HostFd() : reopen_nonblocking(fd, O_RDWR);
  auto kind = HostEnd::Kind::kOwn;
  int access = O_RDWR;
  if (!own.valid()) {
    kind = HostEnd::Kind::kOther;
    access = static_cast<int>(hostio::host_call(SYS_fcntl, fd, F_GETFL, 0).value_or(O_RDONLY)) & O_ACCMODE;
    if (auto copy = hostio::duplicate(fd, 3)) own = std::move(*copy);
  }
  auto terminal = make_ref<HostTerminal>(make_ref<HostEnd>(std::move(own), kind, access), rdev);

  SpinGuard guard(g_terminal_lock);
  // A second terminal among the three streams is a Tty too, but not the one that controls the session.
  if (g_terminal) return terminal;
  g_terminal = terminal;
  auto kept = hostio::duplicate(fd, 3);
  if (kept && hostio::ioctl_now(kept->get(), TCGETS, &g_saved.settings)) g_saved.fd = kept->release();
  return terminal;
}

Ref<Tty> host_terminal() {
  SpinGuard guard(g_terminal_lock);
  return g_terminal;
}

void restore_host_terminal() noexcept {
  if (g_saved.fd < 0 || !g_saved.changed.load(std::memory_order_relaxed)) return;
  // From the background the call would stop this process instead: SIGTTOU is held back meanwhile.
  const u64 block = u64{1} << (SIGTTOU - 1);
  u64 before = 0;
  (void)hostio::host_call(SYS_rt_sigprocmask, SIG_BLOCK, &block, &before, sizeof before);
  (void)hostio::ioctl_now(g_saved.fd, TCSETS, &g_saved.settings);
  (void)hostio::host_call(SYS_rt_sigprocmask, SIG_SETMASK, &before, nullptr, sizeof before);
}

}  // namespace rf::fs
