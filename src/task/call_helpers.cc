#include "task/call_helpers.h"

#include "task/signal_send.h"

namespace rf::task {

Result<Dirfd> Dirfd::resolve(Task& t, int fd, std::string_view path) {
  Dirfd d;
  if (fd == AT_FDCWD || path.starts_with('/')) return d;
  d.file_ = TRY(t.file(fd));
  return d;
}

SysResult finish_write(Task& t, const fs::File& f, const Result<size_t>& r) {
  if (r) return r;
  if (r.error() == Errno{EPIPE} && f.broken_pipe_signals()) raise_signal(t, SIGPIPE);
  if (r.error() == Errno{EFBIG}) return file_too_big(t);
  return r;
}

SysResult file_too_big(Task& t) {
  raise_signal(t, SIGXFSZ);
  return err(EFBIG);
}

Result<void> own(Task& t, fs::File& f) {
  const fs::Context ctx = t.fs_context();
  const u32 uid = ctx.creds.fsuid, gid = ctx.creds.fsgid;
  if (uid == 0 && gid == 0) return {};
  return f.inode().setattr(ctx,
                           {.mask = fs::AttributeChange::kUid | fs::AttributeChange::kGid, .uid = uid, .gid = gid});
}

Result<Nanos> to_nanos(const __kernel_timespec& ts) {
  if (ts.tv_sec < 0 || ts.tv_nsec < 0 || ts.tv_nsec >= kNanosPerSecond) return err(EINVAL);
  if (ts.tv_sec >= kNever / kNanosPerSecond) return kNever;
  return ts.tv_sec * kNanosPerSecond + ts.tv_nsec;
}

Nanos deadline_after(Nanos d) {
  const Nanos now = monotonic_now();
  return d >= kNever - now ? kNever : now + d;
}

Result<Nanos> read_timeout(Task& t, mm::UserPtr<__kernel_timespec> p) {
  if (!p) return kNever;
  return deadline_after(TRY(to_nanos(TRY(p.read(*t.mm)))));
}

Result<void> set_temporary_mask(Task& t, mm::UserAddr set, u64 size) {
  if (set == 0) return {};
  if (size != sizeof(SignalSet)) return err(EINVAL);
  const SignalSet mask = TRY(mm::UserPtr<SignalSet>(set).read(*t.mm));
  SpinGuard guard(t.group->signal_lock);
  t.saved_mask = t.mask;
  t.restore_mask = true;
  t.mask = mask & ~kUnblockable;
  t.recompute_pending();
  return {};
}

}  // namespace rf::task
