// signalfd(2).
#include <fmt/core.h>
#include <sys/signalfd.h>

#include <cstring>

#include "fs/special_files.h"
#include "fs/stream_file.h"

namespace rf::fs {

namespace {

constexpr u64 kUnblockable = u64{1} << (SIGKILL - 1) | u64{1} << (SIGSTOP - 1);

// signalfd_copyinfo(): which fields say something depends on the signal and its si_code.
signalfd_siginfo to_record(const siginfo_t& info) {
  signalfd_siginfo r;
  memset(&r, 0, sizeof r);
  r.ssi_signo = static_cast<u32>(info.si_signo);
  r.ssi_errno = info.si_errno;
  r.ssi_code = info.si_code;
  const bool from_kernel = info.si_code > 0;
  if (info.si_code == SI_TIMER) {
    r.ssi_tid = static_cast<u32>(info.si_timerid);
    r.ssi_overrun = static_cast<u32>(info.si_overrun);
    r.ssi_int = info.si_int;
    r.ssi_ptr = reinterpret_cast<u64>(info.si_ptr);
  } else if (from_kernel && info.si_code != SI_KERNEL && info.si_signo == SIGCHLD) {
    r.ssi_pid = static_cast<u32>(info.si_pid);
    r.ssi_uid = info.si_uid;
    r.ssi_status = info.si_status;
    r.ssi_utime = static_cast<u64>(info.si_utime);
    r.ssi_stime = static_cast<u64>(info.si_stime);
  } else if (info.si_code == SI_SIGIO || (from_kernel && info.si_signo == SIGIO)) {
    r.ssi_band = static_cast<u32>(info.si_band);
    r.ssi_fd = info.si_fd;
  } else if (from_kernel && info.si_code != SI_KERNEL &&
             (info.si_signo == SIGSEGV || info.si_signo == SIGBUS || info.si_signo == SIGILL ||
              info.si_signo == SIGFPE || info.si_signo == SIGTRAP)) {
    r.ssi_addr = reinterpret_cast<u64>(info.si_addr);
  } else {
    r.ssi_pid = static_cast<u32>(info.si_pid);
    r.ssi_uid = info.si_uid;
    r.ssi_int = info.si_int;
    r.ssi_ptr = reinterpret_cast<u64>(info.si_ptr);
  }
  return r;
}

class SignalFile final : public StreamFile {
 public:
  SignalFile(Path path, int flags, Ref<SignalSource> source, u64 mask)
      : StreamFile(std::move(path), flags), source_(std::move(source)), mask_(mask) {}

  Result<size_t> read(const Context& ctx, mm::IoBuffer& dst) override {
    if (dst.remaining() < sizeof(signalfd_siginfo)) return err(EINVAL);
    size_t done = 0;
    siginfo_t info;
    auto take = [&] { return source_->take(ctx, mask_.load(), info); };
    while (dst.remaining() >= sizeof(signalfd_siginfo)) {
      if (done == 0)
        TRY(wait_for_io(source_->queue(), nonblocking(), take));
      else if (!take())
        break;
      signalfd_siginfo record = to_record(info);
      Result<size_t> put = dst.put(std::as_bytes(std::span(&record, 1)));
      if (!put || *put != sizeof record) return done != 0 ? Result<size_t>(done) : err(EFAULT);
      done += sizeof record;
    }
    return done;
  }

  // What is pending depends on who asks.
  EventMask poll() override {
    Fiber* fiber = Fiber::current_or_null();
    return source_->pending(fiber ? fiber->user_data : nullptr, mask_.load()) ? POLLIN : 0;
  }
  void poll_register(Waiter& w) override { source_->queue().add(w); }
  void poll_unregister(Waiter& w) override { source_->queue().remove(w); }
  std::string fdinfo() override { return fmt::format("sigmask:\t{:016x}\n", mask_.load()); }

  void set_mask(u64 mask) {
    mask_.store(mask);
    source_->queue().notify();
  }

 private:
  const Ref<SignalSource> source_;
  std::atomic<u64> mask_;  // bit n-1: signal n
};

}  // namespace

Result<Ref<File>> make_signalfd(Ref<SignalSource> source, u64 mask, int flags) {
  if ((flags & ~(SFD_NONBLOCK | SFD_CLOEXEC)) != 0) return err(EINVAL);
  return make_ref<SignalFile>(make_anon_path("anon_inode:[signalfd]"), O_RDWR | (flags & SFD_NONBLOCK),
                              std::move(source), mask & ~kUnblockable);
}

Result<void> signalfd_set_mask(File& f, u64 mask) {
  auto* file = dynamic_cast<SignalFile*>(&f);
  if (!file) return err(EINVAL);
  file->set_mask(mask & ~kUnblockable);
  return {};
}

}  // namespace rf::fs
