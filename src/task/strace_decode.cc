#include "task/strace_decode.h"

#include <asm/prctl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/time_types.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "task/strace_values.h"
#include "task/task.h"

namespace rf::task {
namespace {

#define F(x) \
  { static_cast<u64>(x), #x }
constexpr FlagName kOpen[] = {F(O_CREAT),    F(O_EXCL),    F(O_NOCTTY),  F(O_TRUNC),     F(O_APPEND),  F(O_NONBLOCK),
                              F(O_SYNC),     F(O_DSYNC),   F(O_DIRECT),  F(O_LARGEFILE), F(O_TMPFILE), F(O_DIRECTORY),
                              F(O_NOFOLLOW), F(O_NOATIME), F(O_CLOEXEC), F(O_PATH)};
constexpr FlagName kProt[] = {F(PROT_READ), F(PROT_WRITE), F(PROT_EXEC), F(PROT_GROWSDOWN), F(PROT_GROWSUP)};
constexpr FlagName kMmap[] = {F(MAP_FIXED_NOREPLACE), F(MAP_FIXED),  F(MAP_ANONYMOUS), F(MAP_GROWSDOWN),
                              F(MAP_DENYWRITE),       F(MAP_LOCKED), F(MAP_NORESERVE), F(MAP_POPULATE),
                              F(MAP_STACK),           F(MAP_32BIT)};
constexpr FlagName kClone[] = {F(CLONE_VM),
                               F(CLONE_FS),
                               F(CLONE_FILES),
                               F(CLONE_SIGHAND),
                               F(CLONE_PTRACE),
                               F(CLONE_VFORK),
                               F(CLONE_PARENT),
                               F(CLONE_THREAD),
                               F(CLONE_NEWNS),
                               F(CLONE_SYSVSEM),
                               F(CLONE_SETTLS),
                               F(CLONE_PARENT_SETTID),
                               F(CLONE_CHILD_CLEARTID),
                               F(CLONE_CHILD_SETTID),
                               F(CLONE_NEWUSER),
                               F(CLONE_NEWPID),
                               F(CLONE_NEWNET)};
constexpr FlagName kAt[] = {F(AT_SYMLINK_NOFOLLOW), F(AT_REMOVEDIR), F(AT_SYMLINK_FOLLOW), F(AT_NO_AUTOMOUNT),
                            F(AT_EMPTY_PATH)};
constexpr FlagName kWait[] = {F(WNOHANG), F(WUNTRACED), F(WCONTINUED), F(WEXITED), F(WNOWAIT)};
constexpr FlagName kPoll[] = {F(POLLIN),   F(POLLPRI),    F(POLLOUT),    F(POLLERR),  F(POLLHUP),
                              F(POLLNVAL), F(POLLRDNORM), F(POLLWRNORM), F(POLLRDHUP)};

constexpr FlagName kWhence[] = {F(SEEK_SET), F(SEEK_CUR), F(SEEK_END), F(SEEK_DATA), F(SEEK_HOLE)};
constexpr FlagName kClocks[] = {F(CLOCK_REALTIME),          F(CLOCK_MONOTONIC),     F(CLOCK_PROCESS_CPUTIME_ID),
                                F(CLOCK_THREAD_CPUTIME_ID), F(CLOCK_MONOTONIC_RAW), F(CLOCK_REALTIME_COARSE),
                                F(CLOCK_MONOTONIC_COARSE),  F(CLOCK_BOOTTIME),      F(CLOCK_TAI)};
constexpr FlagName kFutex[] = {F(FUTEX_WAIT),          F(FUTEX_WAKE),        F(FUTEX_FD),
                               F(FUTEX_REQUEUE),       F(FUTEX_CMP_REQUEUE), F(FUTEX_WAKE_OP),
                               F(FUTEX_LOCK_PI),       F(FUTEX_UNLOCK_PI),   F(FUTEX_TRYLOCK_PI),
                               F(FUTEX_WAIT_BITSET),   F(FUTEX_WAKE_BITSET), F(FUTEX_WAIT_REQUEUE_PI),
                               F(FUTEX_CMP_REQUEUE_PI)};
constexpr FlagName kEpollOp[] = {F(EPOLL_CTL_ADD), F(EPOLL_CTL_DEL), F(EPOLL_CTL_MOD)};
constexpr FlagName kIoctl[] = {F(TCGETS),     F(TCSETS),    F(TCSETSW),   F(TCSETSF),   F(TIOCGWINSZ), F(TIOCSWINSZ),
                               F(TIOCGPGRP),  F(TIOCSPGRP), F(TIOCSCTTY), F(TIOCNOTTY), F(TIOCGSID),   F(TIOCGPTN),
                               F(TIOCSPTLCK), F(FIONREAD),  F(FIONBIO),   F(FIOCLEX),   F(FIONCLEX),   F(FIOASYNC)};
constexpr FlagName kFcntl[] = {F(F_DUPFD),         F(F_GETFD),      F(F_SETFD),      F(F_GETFL),     F(F_SETFL),
                               F(F_GETLK),         F(F_SETLK),      F(F_SETLKW),     F(F_SETOWN),    F(F_GETOWN),
                               F(F_DUPFD_CLOEXEC), F(F_SETPIPE_SZ), F(F_GETPIPE_SZ), F(F_ADD_SEALS), F(F_GET_SEALS),
                               F(F_OFD_GETLK),     F(F_OFD_SETLK),  F(F_OFD_SETLKW)};
constexpr FlagName kRlimit[] = {F(RLIMIT_CPU),      F(RLIMIT_FSIZE), F(RLIMIT_DATA),  F(RLIMIT_STACK),
                                F(RLIMIT_CORE),     F(RLIMIT_RSS),   F(RLIMIT_NPROC), F(RLIMIT_NOFILE),
                                F(RLIMIT_MEMLOCK),  F(RLIMIT_AS),    F(RLIMIT_LOCKS), F(RLIMIT_SIGPENDING),
                                F(RLIMIT_MSGQUEUE), F(RLIMIT_NICE),  F(RLIMIT_RTPRIO)};
constexpr FlagName kPrctl[] = {
    F(PR_SET_PDEATHSIG),       F(PR_GET_PDEATHSIG),    F(PR_GET_DUMPABLE),     F(PR_SET_DUMPABLE),
    F(PR_SET_KEEPCAPS),        F(PR_GET_KEEPCAPS),     F(PR_SET_NAME),         F(PR_GET_NAME),
    F(PR_SET_SECCOMP),         F(PR_CAPBSET_READ),     F(PR_CAPBSET_DROP),     F(PR_SET_TIMERSLACK),
    F(PR_SET_CHILD_SUBREAPER), F(PR_SET_NO_NEW_PRIVS), F(PR_GET_NO_NEW_PRIVS), F(PR_SET_VMA)};
constexpr FlagName kArchPrctl[] = {F(ARCH_SET_GS), F(ARCH_SET_FS), F(ARCH_GET_FS), F(ARCH_GET_GS)};
constexpr FlagName kMadvise[] = {F(MADV_NORMAL),   F(MADV_RANDOM),     F(MADV_SEQUENTIAL), F(MADV_WILLNEED),
                                 F(MADV_DONTNEED), F(MADV_FREE),       F(MADV_REMOVE),     F(MADV_DONTFORK),
                                 F(MADV_DOFORK),   F(MADV_HUGEPAGE),   F(MADV_NOHUGEPAGE), F(MADV_DONTDUMP),
                                 F(MADV_DODUMP),   F(MADV_WIPEONFORK), F(MADV_COLD),       F(MADV_PAGEOUT)};
#undef F

std::string string(Task& t, u64 addr, size_t max) {
  if (addr == 0) return "NULL";
  Result<std::string> s = mm::read_string(*t.mm, addr, max);
  return s ? quote(*s, false) : address(addr);
}

std::string string_array(Task& t, u64 addr) {
  if (addr == 0) return "NULL";
  std::string out = "[";
  for (int i = 0; i < 32; ++i) {
    Result<u64> p = mm::UserPtr<u64>(addr + 8 * static_cast<u64>(i)).read(*t.mm);
    if (!p) return address(addr);
    if (*p == 0) return out + "]";
    out += (i ? ", " : "") + string(t, *p, 256);
  }
  return out + ", ...]";
}

std::string sigset(Task& t, u64 addr) {
  if (addr == 0) return "NULL";
  Result<u64> set = mm::UserPtr<u64>(addr).read(*t.mm);
  if (!set) return address(addr);
  const bool inverted = __builtin_popcountll(*set) > 32;
  std::string out = inverted ? "~[" : "[";
  bool first = true;
  for (int s = 1; s <= kSignalMax; ++s) {
    if (((*set & signal_bit(s)) != 0) == inverted) continue;
    if (!first) out += ' ';
    first = false;
    out += std::string_view(signal_name(s)).substr(3);
  }
  return out + "]";
}

std::string stat_buffer(Task& t, u64 addr) {
  Result<struct stat> s = mm::UserPtr<struct stat>(addr).read(*t.mm);
  if (!s) return address(addr);
  const char* type = S_ISREG(s->st_mode)    ? "S_IFREG"
                     : S_ISDIR(s->st_mode)  ? "S_IFDIR"
                     : S_ISLNK(s->st_mode)  ? "S_IFLNK"
                     : S_ISCHR(s->st_mode)  ? "S_IFCHR"
                     : S_ISFIFO(s->st_mode) ? "S_IFIFO"
                     : S_ISSOCK(s->st_mode) ? "S_IFSOCK"
                                            : "S_IFBLK";
  if (S_ISCHR(s->st_mode) || S_ISBLK(s->st_mode))
    return fmt::format("{{st_mode={}|{:#o}, st_rdev=makedev({:#x}, {:#x}), ...}}", type, s->st_mode & 07777,
                       major(s->st_rdev), minor(s->st_rdev));
  return fmt::format("{{st_mode={}|{:#o}, st_size={}, ...}}", type, s->st_mode & 07777, s->st_size);
}

std::string poll_fds(Task& t, u64 addr, u64 count, bool after) {
  std::string out = "[";
  for (u64 i = 0; i < std::min<u64>(count, 8); ++i) {
    Result<pollfd> p = mm::UserPtr<pollfd>(addr + i * sizeof(pollfd)).read(*t.mm);
    if (!p) return address(addr);
    out += fmt::format("{}{{fd={}, events={}", i ? ", " : "", p->fd, decode_flags(static_cast<u16>(p->events), kPoll));
    if (after && p->revents) out += ", revents=" + decode_flags(static_cast<u16>(p->revents), kPoll);
    out += "}";
  }
  return out + (count > 8 ? ", ...]" : "]");
}

std::string wait_status(Task& t, u64 addr) {
  if (addr == 0) return "NULL";
  Result<int> s = mm::UserPtr<int>(addr).read(*t.mm);
  if (!s) return address(addr);
  if (WIFEXITED(*s)) return fmt::format("[{{WIFEXITED(s) && WEXITSTATUS(s) == {}}}]", WEXITSTATUS(*s));
  if (WIFSIGNALED(*s)) return fmt::format("[{{WIFSIGNALED(s) && WTERMSIG(s) == {}}}]", signal_name(WTERMSIG(*s)));
  if (WIFSTOPPED(*s)) return fmt::format("[{{WIFSTOPPED(s) && WSTOPSIG(s) == {}}}]", signal_name(WSTOPSIG(*s)));
  return fmt::format("[{:#x}]", *s);
}

std::string mmap_flags(u64 v) {
  const char* type = (v & MAP_TYPE) == MAP_SHARED            ? "MAP_SHARED"
                     : (v & MAP_TYPE) == MAP_PRIVATE         ? "MAP_PRIVATE"
                     : (v & MAP_TYPE) == MAP_SHARED_VALIDATE ? "MAP_SHARED_VALIDATE"
                                                             : "0";
  const u64 rest = v & ~static_cast<u64>(MAP_TYPE);
  return rest ? fmt::format("{}|{}", type, decode_flags(rest, kMmap)) : type;
}

std::string open_flags(u64 v) {
  const char* mode = (v & O_ACCMODE) == O_RDONLY ? "O_RDONLY" : (v & O_ACCMODE) == O_WRONLY ? "O_WRONLY" : "O_RDWR";
  const u64 rest = v & ~static_cast<u64>(O_ACCMODE);
  return rest ? fmt::format("{}|{}", mode, decode_flags(rest, kOpen)) : mode;
}

std::string futex_op(u64 v) {
  std::string out = decode_value(v & FUTEX_CMD_MASK, kFutex);
  if (v & FUTEX_PRIVATE_FLAG) out += "_PRIVATE";
  if (v & FUTEX_CLOCK_REALTIME) out += "|FUTEX_CLOCK_REALTIME";
  return out;
}

std::string seconds(Task& t, u64 addr, const char* fraction) {
  if (addr == 0) return "NULL";
  Result<__kernel_timespec> ts = mm::UserPtr<__kernel_timespec>(addr).read(*t.mm);
  if (!ts) return address(addr);
  return fmt::format("{{tv_sec={}, {}={}}}", ts->tv_sec, fraction, ts->tv_nsec);
}

}  // namespace

// --- strace_values.h --------------------------------------------------------------------------------

std::string decode_value(u64 v, std::span<const FlagName> names) {
  for (const FlagName& n : names)
    if (n.value == v) return n.name;
  return fmt::format("{:#x}", v);
}

std::string address(u64 v) { return v == 0 ? "NULL" : fmt::format("{:#x}", v); }

std::string quote(std::string_view bytes, bool truncated) {
  std::string out = "\"";
  for (size_t i = 0; i < bytes.size(); ++i) {
    const unsigned char c = bytes[i];
    switch (c) {
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      default:
        if (c >= 0x20 && c < 0x7f) {
          out += static_cast<char>(c);
        } else {
          const bool digit_next = i + 1 < bytes.size() && bytes[i + 1] >= '0' && bytes[i + 1] <= '9';
          out += digit_next ? fmt::format("\\{:03o}", c) : fmt::format("\\{:o}", c);
        }
    }
  }
  return out + (truncated ? "\"..." : "\"");
}

namespace {

constexpr size_t kShown = 32;  // bytes of a buffer, as strace does

}  // namespace

std::string buffer(Task& t, u64 addr, u64 len) {
  if (addr == 0) return "NULL";
  char bytes[kShown];
  const size_t want = std::min<u64>(len, kShown);
  const size_t got = t.mm->copy_in(bytes, addr, want);
  if (got < want) return address(addr);
  return quote({bytes, got}, len > kShown);
}

std::string iovecs(Task& t, u64 addr, u64 count, bool show, u64 limit) {
  std::string out = "[";
  for (u64 i = 0; i < std::min<u64>(count, 4); ++i) {
    Result<iovec> v = mm::UserPtr<iovec>(addr + i * sizeof(iovec)).read(*t.mm);
    if (!v) return address(addr);
    const u64 base = reinterpret_cast<u64>(v->iov_base);
    const u64 len = std::min<u64>(v->iov_len, limit);
    limit -= len;
    out += fmt::format("{}{{iov_base={}, iov_len={}}}", i ? ", " : "", show ? buffer(t, base, len) : address(base),
                       v->iov_len);
  }
  return out + (count > 4 ? ", ...]" : "]");
}

// ----------------------------------------------------------------------------------------------------

std::string decode_flags(u64 v, std::span<const FlagName> names) {
  if (v == 0) return "0";
  std::string out;
  for (const FlagName& n : names) {
    if (n.value == 0 || (v & n.value) != n.value) continue;
    if (!out.empty()) out += '|';
    out += n.name;
    v &= ~n.value;
  }
  if (v != 0) out += fmt::format("{}{:#x}", out.empty() ? "" : "|", v);
  return out;
}

bool decoded_after(Arg kind) {
  switch (kind) {
    case Arg::kBufOut:
    case Arg::kStat:
    case Arg::kIovecOut:
    case Arg::kPollFds:
    case Arg::kFdPair:
    case Arg::kWaitStatus:
    case Arg::kSockaddrOut:
    case Arg::kLengthPtr:
    case Arg::kSockValueOut:
    case Arg::kMsghdrOut:
    case Arg::kMmsghdrOut:
      return true;
    default:
      return false;
  }
}

std::string decode_argument(Task& t, const SyscallEntry& entry, int i, bool after, s64 result) {
  const u64 v = t.args.v[static_cast<size_t>(i)];
  const u64 next = i < 5 ? t.args.v[static_cast<size_t>(i) + 1] : 0;
  const bool failed = result < 0;
  switch (entry.args[static_cast<size_t>(i)]) {
    case Arg::kNone:
    case Arg::kUnused:
      return "";
    case Arg::kInt:
    case Arg::kFd:
    case Arg::kPid:
      return fmt::format("{}", static_cast<s32>(v));
    case Arg::kUint:
    case Arg::kSize:
      return fmt::format("{}", v);
    case Arg::kOffset:
      return fmt::format("{}", static_cast<s64>(v));
    case Arg::kHex:
      return v == 0 ? "0" : fmt::format("{:#x}", v);
    case Arg::kOct:
    case Arg::kMode:
      return fmt::format("0{:o}", v & 07777);
    case Arg::kAddr:
      return address(v);
    case Arg::kPath:
      return string(t, v, PATH_MAX);
    case Arg::kString:
      return string(t, v, 256);
    case Arg::kBufIn:
      return buffer(t, v, next);
    case Arg::kBufOut:
      return failed ? address(v) : buffer(t, v, static_cast<u64>(result));
    case Arg::kIovecIn:
      return iovecs(t, v, next, true, ~u64{0});
    case Arg::kIovecOut:
      return iovecs(t, v, next, !failed, failed ? 0 : static_cast<u64>(result));
    case Arg::kSignal:
      return v >= 1 && v <= 64 ? signal_name(static_cast<int>(v)) : fmt::format("{}", static_cast<s32>(v));
    case Arg::kSigset:
      return sigset(t, v);
    case Arg::kClock:
      return decode_value(v, kClocks);
    case Arg::kTimespec:
      return seconds(t, v, "tv_nsec");
    case Arg::kTimeval:
      return seconds(t, v, "tv_usec");
    case Arg::kStat:
      return failed ? address(v) : stat_buffer(t, v);
    case Arg::kOpenFlags:
      return open_flags(v);
    case Arg::kProt:
      return v == 0 ? "PROT_NONE" : decode_flags(v, kProt);
    case Arg::kMmapFlags:
      return mmap_flags(v);
    case Arg::kCloneFlags:
      return (v & ~u64{0xff} ? decode_flags(v & ~u64{0xff}, kClone) + "|" : "") +
             ((v & 0xff) ? signal_name(v & 0xff) : "0");
    case Arg::kWhence:
      return decode_value(v, kWhence);
    case Arg::kStringArray:
      return string_array(t, v);
    case Arg::kFutexOp:
      return futex_op(v);
    case Arg::kEpollOp:
      return decode_value(v, kEpollOp);
    case Arg::kPollFds:
      return poll_fds(t, v, next, after);
    case Arg::kSockaddr:
    case Arg::kSockaddrOut:
    case Arg::kLengthPtr:
    case Arg::kSockFamily:
    case Arg::kSockType:
    case Arg::kSockFlags:
    case Arg::kSockLevel:
    case Arg::kSockOption:
    case Arg::kSockValueIn:
    case Arg::kSockValueOut:
    case Arg::kShutdownHow:
    case Arg::kMsgFlags:
    case Arg::kMsghdrIn:
    case Arg::kMsghdrOut:
    case Arg::kMmsghdrIn:
    case Arg::kMmsghdrOut:
      return decode_socket_argument(t, entry, i, result);
    case Arg::kIoctl:
      return decode_value(v & 0xffffffff, kIoctl);
    case Arg::kFcntl:
      return decode_value(v, kFcntl);
    case Arg::kAtFlags:
      return decode_flags(v & 0xffffffff, kAt);
    case Arg::kDirFd:
      return static_cast<s32>(v) == AT_FDCWD ? "AT_FDCWD" : fmt::format("{}", static_cast<s32>(v));
    case Arg::kWaitStatus:
      return result <= 0 ? address(v) : wait_status(t, v);
    case Arg::kWaitOptions:
      return decode_flags(v & 0xffffffff, kWait);
    case Arg::kRlimit:
      return decode_value(v, kRlimit);
    case Arg::kPrctl:
      return decode_value(v, kPrctl);
    case Arg::kArchPrctl:
      return decode_value(v, kArchPrctl);
    case Arg::kMadvise:
      return decode_value(v, kMadvise);
    case Arg::kFdPair: {
      Result<std::array<int, 2>> p = mm::UserPtr<std::array<int, 2>>(v).read(*t.mm);
      return failed || !p ? address(v) : fmt::format("[{}, {}]", (*p)[0], (*p)[1]);
    }
  }
  return "";
}

std::string decode_result(SysResult result, bool address_result) {
  if (result.next() != nullptr) return "?";
  const int e = result.error();
  switch (e) {
    case 0:
      return address_result ? fmt::format("{:#x}", result.rax()) : fmt::format("{}", static_cast<s64>(result.rax()));
    case kERESTARTSYS:
      return "? ERESTARTSYS (To be restarted if SA_RESTART is set)";
    case kERESTARTNOINTR:
      return "? ERESTARTNOINTR (To be restarted)";
    case kERESTARTNOHAND:
      return "? ERESTARTNOHAND (To be restarted if no handler)";
    case kERESTART_RESTARTBLOCK:
      return "? ERESTART_RESTARTBLOCK (Interrupted by signal)";
    default:
      return fmt::format("-1 {} ({})", errno_name(e), errno_text(e));
  }
}

}  // namespace rf::task
