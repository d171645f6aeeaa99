// Descriptors themselves: making, duplicating, closing and controlling them.
#include <asm/unistd_64.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>

#include "fs/special_files.h"
#include "task/call_helpers.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

u64 descriptor_limit(Task& t) { return t.group->limit(RLIMIT_NOFILE).rlim_cur; }

// close(2)'s work on a description whose descriptor is already gone: record locks of the process go, then the flush.
Result<void> close_description(Task& t, const Ref<fs::File>& f) {
  if ((f->flags() & O_PATH) != 0) return {};
  fs::release_record_locks(f->inode(), t.files.get());
  return f->flush(t.fs_context());
}

SysResult sys_close(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.files->remove(a.fd(0)));
  Result<void> r = close_description(t, f);
  // The descriptor is gone whatever flush said: a restart would close another.
  if (!r && errno_value(r.error()) >= kERESTARTSYS) return err(EINTR);
  return r;
}

SysResult sys_close_range(Task& t, const SyscallArgs& a) {
  const u32 first = a.u32_(0), last = a.u32_(1), flags = a.u32_(2);
  if ((flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)) != 0 || first > last) return err(EINVAL);
  if ((flags & CLOSE_RANGE_UNSHARE) != 0 && t.files->ref_count() > 1) t.files = t.files->fork();
  if ((flags & CLOSE_RANGE_CLOEXEC) != 0) {
    t.files->set_close_on_exec_range(first, last);
    return 0;
  }
  for (const Ref<fs::File>& f : t.files->remove_range(first, last)) (void)close_description(t, f);
  return 0;
}

SysResult sys_dup(Task& t, const SyscallArgs& a) {
  return t.files->install(TRY(t.file(a.fd(0))), false, 0, descriptor_limit(t));
}

SysResult duplicate_to(Task& t, int from, int to, bool cloexec) {
  Ref<fs::File> f = TRY(t.file(from));
  Ref<fs::File> old = TRY(t.files->replace(to, std::move(f), cloexec, descriptor_limit(t)));
  if (old) (void)close_description(t, old);
  return static_cast<u64>(to);
}

SysResult sys_dup2(Task& t, const SyscallArgs& a) {
  if (a.fd(0) == a.fd(1)) {
    TRY(t.file(a.fd(0)));
    return static_cast<u64>(a.fd(1));
  }
  return duplicate_to(t, a.fd(0), a.fd(1), false);
}

SysResult sys_dup3(Task& t, const SyscallArgs& a) {
  if ((a.i(2) & ~O_CLOEXEC) != 0 || a.fd(0) == a.fd(1)) return err(EINVAL);
  return duplicate_to(t, a.fd(0), a.fd(1), (a.i(2) & O_CLOEXEC) != 0);
}

// struct flock to an inclusive range; EINVAL, EOVERFLOW.
Result<fs::RecordLock> to_record_lock(Task& t, fs::File& f, const struct flock& l) {
  s64 base = 0;
  if (l.l_whence == SEEK_CUR)
    base = static_cast<s64>(f.position());
  else if (l.l_whence == SEEK_END)
    base = static_cast<s64>(TRY(f.inode().getattr(t.fs_context())).size);
  else if (l.l_whence != SEEK_SET)
    return err(EINVAL);
  s64 start, end;
  if (__builtin_add_overflow(base, l.l_start, &start)) return err(EOVERFLOW);
  if (l.l_len < 0) {
    end = start - 1;
    if (__builtin_add_overflow(start, l.l_len, &start)) return err(EINVAL);
  } else if (l.l_len == 0) {
    end = -1;  // to the end of the file
  } else if (__builtin_add_overflow(start, l.l_len - 1, &end)) {
    return err(EOVERFLOW);
  }
  if (start < 0) return err(EINVAL);
  return fs::RecordLock{l.l_type, static_cast<u64>(start), end < 0 ? ~u64{0} : static_cast<u64>(end), t.pid()};
}

SysResult fcntl_lock(Task& t, fs::File& f, int cmd, mm::UserPtr<struct flock> p) {
  struct flock l = TRY(p.read(*t.mm));
  const bool ofd = cmd == F_OFD_GETLK || cmd == F_OFD_SETLK || cmd == F_OFD_SETLKW;
  if (ofd && l.l_pid != 0) return err(EINVAL);
  if (l.l_type != F_RDLCK && l.l_type != F_WRLCK && l.l_type != F_UNLCK) return err(EINVAL);
  fs::RecordLock lock = TRY(to_record_lock(t, f, l));
  if (ofd) lock.pid = -1;
  const void* owner = ofd ? static_cast<const void*>(&f) : t.files.get();
  if (cmd == F_GETLK || cmd == F_OFD_GETLK) {
    if (l.l_type == F_UNLCK) return err(EINVAL);
    const fs::RecordLock found = TRY(fs::get_record_lock(f, owner, lock));
    l.l_type = found.type;
    if (found.type != F_UNLCK) {
      l.l_whence = SEEK_SET;
      l.l_start = static_cast<s64>(found.start);
      l.l_len = found.end == ~u64{0} ? 0 : static_cast<s64>(found.end - found.start + 1);
      l.l_pid = found.pid;
    }
    return p.write(*t.mm, l);
  }
  if (l.l_type == F_RDLCK && !f.readable()) return err(EBADF);
  if (l.l_type == F_WRLCK && !f.writable()) return err(EBADF);
  return fs::set_record_lock(f, owner, lock.pid, lock, cmd == F_SETLKW || cmd == F_OFD_SETLKW);
}

SysResult set_status_flags(fs::File& f, int flags) {
  constexpr int kSettable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | FASYNC;
  f.set_flags((f.flags() & ~kSettable) | (flags & kSettable));
  return 0;
}

SysResult fcntl_owner(Task& t, fs::File& f, int cmd, const SyscallArgs& a) {
  switch (cmd) {
    case F_GETOWN:
      return static_cast<u64>(f.owner.type == F_OWNER_PGRP ? -f.owner.pid : f.owner.pid);
    case F_SETOWN: {
      const s32 who = a.i(2);
      if (who == INT32_MIN) return err(EINVAL);
      f.owner = {who < 0 ? F_OWNER_PGRP : F_OWNER_PID, who < 0 ? -who : who, f.owner.signal};
      return 0;
    }
    case F_GETOWN_EX:
      return a.ptr<f_owner_ex>(2).write(*t.mm, {static_cast<__pid_type>(f.owner.type), f.owner.pid});
    case F_SETOWN_EX: {
      const f_owner_ex o = TRY(a.ptr<f_owner_ex>(2).read(*t.mm));
      if (o.type != F_OWNER_TID && o.type != F_OWNER_PID && o.type != F_OWNER_PGRP) return err(EINVAL);
      f.owner = {o.type, o.pid, f.owner.signal};
      return 0;
    }
    case F_GETSIG:
      return static_cast<u64>(f.owner.signal);
    default:
      if (a.u(2) > static_cast<u64>(kSignalMax)) return err(EINVAL);
      f.owner.signal = a.i(2);
      return 0;
  }
}

SysResult sys_fcntl(Task& t, const SyscallArgs& a) {
  const int fd = a.fd(0), cmd = a.i(1);
  Ref<fs::File> f = TRY(t.file(fd));
  if ((f->flags() & O_PATH) != 0 && cmd != F_DUPFD && cmd != F_DUPFD_CLOEXEC && cmd != F_GETFD && cmd != F_SETFD &&
      cmd != F_GETFL)
    return err(EBADF);
  switch (cmd) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
      if (a.s(2) < 0 || a.u(2) >= descriptor_limit(t)) return err(EINVAL);
      return t.files->install(std::move(f), cmd == F_DUPFD_CLOEXEC, a.i(2), descriptor_limit(t));
    case F_GETFD:
      return t.files->close_on_exec(fd) ? FD_CLOEXEC : 0;
    case F_SETFD:
      return t.files->set_close_on_exec(fd, (a.i(2) & FD_CLOEXEC) != 0);
    case F_GETFL:
      return static_cast<u64>(f->flags());
    case F_SETFL:
      return set_status_flags(*f, a.i(2));
    case F_GETLK:
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_GETLK:
    case F_OFD_SETLK:
    case F_OFD_SETLKW:
      return fcntl_lock(t, *f, cmd, a.ptr<struct flock>(2));
    case F_GETOWN:
    case F_SETOWN:
    case F_GETOWN_EX:
    case F_SETOWN_EX:
    case F_GETSIG:
    case F_SETSIG:
      return fcntl_owner(t, *f, cmd, a);
    case F_GETPIPE_SZ:
      return fs::pipe_capacity(*f);
    case F_SETPIPE_SZ:
      return fs::set_pipe_capacity(t.fs_context(), *f, a.u32_(2));
    case F_GET_SEALS:
      return fs::get_seals(*f);
    case F_ADD_SEALS:
      return fs::add_seals(*f, a.u32_(2));
    default:
      return err(EINVAL);
  }
}

SysResult sys_ioctl(Task& t, const SyscallArgs& a) {
  const int fd = a.fd(0);
  Ref<fs::File> f = TRY(t.file(fd));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  switch (const u32 request = a.u32_(1)) {
    case FIOCLEX:
      return t.files->set_close_on_exec(fd, true);
    case FIONCLEX:
      return t.files->set_close_on_exec(fd, false);
    case FIONBIO: {
      const int on = TRY(a.ptr<int>(2).read(*t.mm));
      f->set_flags(on != 0 ? f->flags() | O_NONBLOCK : f->flags() & ~O_NONBLOCK);
      return 0;
    }
    case FIOASYNC: {
      const int on = TRY(a.ptr<int>(2).read(*t.mm));
      f->set_flags(on != 0 ? f->flags() | FASYNC : f->flags() & ~FASYNC);
      return 0;
    }
    default:
      return f->ioctl(t.fs_context(), request, a.u(2));
  }
}

SysResult sys_flock(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  const int op = a.i(1) & ~LOCK_NB;
  if (op != LOCK_SH && op != LOCK_EX && op != LOCK_UN) return err(EINVAL);
  return fs::flock_file(*f, a.i(1));
}

SysResult make_pipe(Task& t, mm::UserPtr<std::array<int, 2>> out, int flags) {
  if ((flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT)) != 0) return err(EINVAL);
  auto [reader, writer] = TRY(fs::make_pipe(flags & ~O_CLOEXEC));
  TRY(own(t, *reader));
  const bool cloexec = (flags & O_CLOEXEC) != 0;
  const int r = TRY(t.files->install(std::move(reader), cloexec, 0, descriptor_limit(t)));
  const Result<int> w = t.files->install(std::move(writer), cloexec, 0, descriptor_limit(t));
  const Result<void> told = w ? out.write(*t.mm, {r, *w}) : err(w.error());
  if (told) return 0;
  (void)t.files->remove(r);
  if (w) (void)t.files->remove(*w);
  return told;
}

SysResult sys_pipe(Task& t, const SyscallArgs& a) { return make_pipe(t, a.ptr<std::array<int, 2>>(0), 0); }
SysResult sys_pipe2(Task& t, const SyscallArgs& a) { return make_pipe(t, a.ptr<std::array<int, 2>>(0), a.i(1)); }

SysResult install(Task& t, Result<Ref<fs::File>> f, bool cloexec) {
  return t.files->install(TRY(std::move(f)), cloexec, 0, descriptor_limit(t));
}

SysResult sys_eventfd(Task& t, const SyscallArgs& a) { return install(t, fs::make_eventfd(a.u32_(0), 0), false); }

SysResult sys_eventfd2(Task& t, const SyscallArgs& a) {
  if ((a.i(1) & ~(EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK)) != 0) return err(EINVAL);
  return install(t, fs::make_eventfd(a.u32_(0), a.i(1) & ~EFD_CLOEXEC), (a.i(1) & EFD_CLOEXEC) != 0);
}

SysResult sys_memfd_create(Task& t, const SyscallArgs& a) {
  if ((a.u32_(1) & ~(MFD_CLOEXEC | MFD_ALLOW_SEALING)) != 0) return err(EINVAL);
  Result<std::string> name = mm::read_string(*t.mm, a.addr(0), 250);
  if (!name) return err(name.error() == Errno{ENAMETOOLONG} ? EINVAL : errno_value(name.error()));
  Ref<fs::File> f = TRY(fs::make_memfd(t.kernel.frames, *name, a.u32_(1)));
  TRY(own(t, *f));
  return install(t, std::move(f), (a.u32_(1) & MFD_CLOEXEC) != 0);
}

SysResult sys_timerfd_create(Task& t, const SyscallArgs& a) {
  if ((a.i(1) & ~(TFD_CLOEXEC | TFD_NONBLOCK)) != 0) return err(EINVAL);
  return install(t, fs::make_timerfd(a.i(0), a.i(1) & ~TFD_CLOEXEC), (a.i(1) & TFD_CLOEXEC) != 0);
}

__kernel_timespec to_timespec(Nanos n) { return {n / kNanosPerSecond, n % kNanosPerSecond}; }

SysResult sys_timerfd_settime(Task& t, const SyscallArgs& a) {
  if ((a.i(1) & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) != 0) return err(EINVAL);
  const __kernel_itimerspec spec = TRY(a.ptr<__kernel_itimerspec>(2).read(*t.mm));
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  const fs::TimerSpec wanted{TRY(to_nanos(spec.it_value)), TRY(to_nanos(spec.it_interval))};
  const fs::TimerSpec old = TRY(fs::timerfd_settime(*f, a.i(1), wanted));
  if (a.addr(3) == 0) return 0;
  return a.ptr<__kernel_itimerspec>(3).write(*t.mm, {to_timespec(old.interval), to_timespec(old.value)});
}

SysResult sys_timerfd_gettime(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  const fs::TimerSpec now = TRY(fs::timerfd_gettime(*f));
  return a.ptr<__kernel_itimerspec>(1).write(*t.mm, {to_timespec(now.interval), to_timespec(now.value)});
}

constexpr SyscallEntry kEntries[] = {
    {__NR_close, "close", sys_close, Support::kFull, "", {Arg::kFd}},
    {__NR_close_range, "close_range", sys_close_range, Support::kFull, "", {Arg::kUint, Arg::kUint, Arg::kHex}},
    {__NR_dup, "dup", sys_dup, Support::kFull, "", {Arg::kFd}},
    {__NR_dup2, "dup2", sys_dup2, Support::kFull, "", {Arg::kFd, Arg::kFd}},
    {__NR_dup3, "dup3", sys_dup3, Support::kFull, "", {Arg::kFd, Arg::kFd, Arg::kOpenFlags}},
    {__NR_fcntl,
     "fcntl",
     sys_fcntl,
     Support::kPartial,
     "no leases, no F_NOTIFY; SIGIO is not sent",
     {Arg::kFd, Arg::kFcntl, Arg::kHex}},
    {__NR_ioctl, "ioctl", sys_ioctl, Support::kPartial, "as the file offers", {Arg::kFd, Arg::kIoctl, Arg::kAddr}},
    {__NR_flock, "flock", sys_flock, Support::kFull, "", {Arg::kFd, Arg::kInt}},
    {__NR_pipe, "pipe", sys_pipe, Support::kFull, "", {Arg::kFdPair}},
    {__NR_pipe2, "pipe2", sys_pipe2, Support::kFull, "", {Arg::kFdPair, Arg::kOpenFlags}},
    {__NR_eventfd, "eventfd", sys_eventfd, Support::kFull, "", {Arg::kUint}},
    {__NR_eventfd2, "eventfd2", sys_eventfd2, Support::kFull, "", {Arg::kUint, Arg::kHex}},
    {__NR_memfd_create,
     "memfd_create",
     sys_memfd_create,
     Support::kPartial,
     "no MFD_HUGETLB",
     {Arg::kString, Arg::kHex}},
    {__NR_timerfd_create, "timerfd_create", sys_timerfd_create, Support::kFull, "", {Arg::kClock, Arg::kHex}},
    {__NR_timerfd_settime,
     "timerfd_settime",
     sys_timerfd_settime,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kHex, Arg::kAddr, Arg::kAddr}},
    {__NR_timerfd_gettime, "timerfd_gettime", sys_timerfd_gettime, Support::kFull, "", {Arg::kFd, Arg::kAddr}},
};

}  // namespace

Family fd_family() { return kEntries; }

}  // namespace rf::task
