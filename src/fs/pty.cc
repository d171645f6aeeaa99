#include "fs/pty.h"

#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <array>

namespace rf::fs {
namespace {

constexpr size_t kBuffer = 2048;            // moved at once, on the stack
constexpr Nanos kDecisecond = 100'000'000;  // VTIME's unit
constexpr EventMask kReadable = POLLIN | POLLRDNORM;
constexpr EventMask kWritable = POLLOUT | POLLWRNORM;

}  // namespace

Result<Ref<File>> Pty::open(const Context& ctx, const Path& path, int flags) {
  {
    SpinGuard guard(lock_);
    if (locked_ || hung_up_) return err(EIO);
    if (exclusive_ && !ctx.creds.capable(CAP_SYS_ADMIN)) return err(EBUSY);
    ++slaves_;
    slave_seen_ = true;
  }
  acquire_on_open(ctx, flags);
  master_queue.notify();
  return make_ref<PtySlave>(path, flags, Ref<Pty>(this));
}

void Pty::slave_closed() {
  {
    SpinGuard guard(lock_);
    if (--slaves_ > 0) return;
    exclusive_ = false;
  }
  master_queue.notify();
}

void Pty::master_closed() {
  {
    SpinGuard guard(lock_);
    hung_up_ = true;
    line_.flush_output();
  }
  hang_up();
  notify_all();
}

void Pty::notify_all() {
  slave_queue.notify();
  master_queue.notify();
}

void Pty::packet_event(u8 status) {
  if (packet_) packet_status_ |= status;
}

// --- The slave's side ---

Pty::Taken Pty::slave_take(std::span<u8> out, size_t& n) {
  Taken taken = Taken::kData;
  {
    SpinGuard guard(lock_);
    n = 0;
    if (hung_up_) return Taken::kHungUp;
    if (!line_.readable(1)) return Taken::kNothing;
    n = line_.read(out);
    if (n == 0) taken = Taken::kEndOfFile;
  }
  master_queue.notify(kWritable);
  return taken;
}

Pty::ReadMode Pty::read_mode() const {
  SpinGuard guard(lock_);
  return {line_.canonical(), line_.control(VMIN), line_.control(VTIME) * kDecisecond};
}

Result<size_t> Pty::slave_write(std::span<const u8> data) {
  size_t used;
  {
    SpinGuard guard(lock_);
    if (hung_up_) return err(EIO);
    used = line_.write(data);
  }
  if (used > 0) master_queue.notify(kReadable);
  return used;
}

bool Pty::has_input() const {
  SpinGuard guard(lock_);
  return line_.readable(1);
}

bool Pty::background_writes_stop() const {
  SpinGuard guard(lock_);
  return line_.local(TOSTOP);
}

EventMask Pty::slave_poll() const {
  SpinGuard guard(lock_);
  if (hung_up_) return kReadable | kWritable | POLLERR | POLLHUP;
  EventMask events = 0;
  const size_t wanted =
      line_.control(VTIME) == 0 && line_.control(VMIN) > 0 ? static_cast<size_t>(line_.control(VMIN)) : 1;
  if (line_.readable(wanted)) events |= kReadable;
  if (line_.output_room() > 0) events |= kWritable;
  return events;
}

// n_tty_read() of Linux.
Result<size_t> PtySlave::read(const Context& ctx, mm::IoBuffer& dst) {
  if (dst.remaining() == 0) return 0;
  TRY(pty_->check_background(ctx, SIGTTIN));
  const Pty::ReadMode mode = pty_->read_mode();
  const size_t minimum = mode.canonical ? 1 : mode.minimum;
  // With VMIN the time runs between bytes, without it runs from here.
  Nanos deadline = kNever;
  if (!mode.canonical && mode.time > 0 && minimum == 0) deadline = monotonic_now() + mode.time;
  std::array<u8, kBuffer> buffer;
  size_t done = 0;
  for (;;) {
    size_t n = 0;
    const auto taken = pty_->slave_take(std::span(buffer).first(std::min(dst.remaining(), kBuffer)), n);
    if (taken == Pty::Taken::kEndOfFile || taken == Pty::Taken::kHungUp) return done;
    if (taken == Pty::Taken::kData) {
      auto put = dst.put(std::as_bytes(std::span(buffer).first(n)));
      if (!put && done == 0) return put;
      if (!put) return done;
      done += *put;
      if (mode.canonical || dst.remaining() == 0 || *put < n) return done;
      if (mode.time > 0 && minimum > 0) deadline = monotonic_now() + mode.time;
      continue;
    }
    if (done > 0 && done >= minimum) return done;
    if (!mode.canonical && minimum == 0 && mode.time == 0) return done;
    if (nonblocking()) return done > 0 ? Result<size_t>(done) : err(EAGAIN);
    const WakeReason reason = wait_until(
        pty_->slave_queue, [&] { return pty_->has_input() || (pty_->slave_poll() & POLLHUP) != 0; },
        Interruptible::kYes, deadline);
    if (reason == WakeReason::kTimeout) return done;
    if (reason == WakeReason::kInterrupted) return done > 0 ? Result<size_t>(done) : err(kERESTARTSYS);
  }
}

Result<size_t> PtySlave::write(const Context& ctx, mm::IoBuffer& src) {
  if (pty_->background_writes_stop()) TRY(pty_->check_background(ctx, SIGTTOU));
  std::array<u8, kBuffer> buffer;
  size_t done = 0;
  while (src.remaining() > 0) {
    mm::IoBuffer cursor = src.prefix(std::min(src.remaining(), kBuffer));
    auto got = cursor.get(std::as_writable_bytes(std::span(buffer)).first(cursor.remaining()));
    auto used = got ? pty_->slave_write(std::span(buffer).first(*got)) : err(got.error());
    if (!used) return done > 0 ? Result<size_t>(done) : used;
    src.advance(*used);
    done += *used;
    if (*used > 0) continue;
    if (nonblocking()) return done > 0 ? Result<size_t>(done) : err(EAGAIN);
    const WakeReason reason =
        wait_until(pty_->slave_queue, [&] { return (pty_->slave_poll() & (POLLOUT | POLLHUP)) != 0; });
    if (reason == WakeReason::kInterrupted) return done > 0 ? Result<size_t>(done) : err(kERESTARTSYS);
  }
  return done;
}

// --- The master's side ---

Result<size_t> Pty::master_take(std::span<u8> out) {
  size_t n = 0;
  {
    SpinGuard guard(lock_);
    if (packet_ && packet_status_ != 0) {
      out[0] = std::exchange(packet_status_, 0);
      return 1;
    }
    std::string& output = line_.output();
    if (output.empty() && slave_seen_ && slaves_ == 0) return err(EIO);
    if (output.empty()) return 0;
    if (packet_) {
      out[0] = TIOCPKT_DATA;
      out = out.subspan(1);
    }
    const size_t taken = std::min(out.size(), output.size());
    std::copy_n(output.data(), taken, out.data());
    output.erase(0, taken);
    n = taken + (packet_ ? 1 : 0);
  }
  slave_queue.notify(kWritable);
  return n;
}

size_t Pty::master_write(std::span<const u8> data) {
  LineDiscipline::Events events;
  size_t used;
  {
    SpinGuard guard(lock_);
    used = line_.receive(data, events);
    if (events.flushed) packet_event(TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE);
    if (events.stopped) packet_event(TIOCPKT_STOP);
    if (events.started) packet_event(TIOCPKT_START);
  }
  if (used == 0) return 0;
  if (events.signal != 0) signal_foreground(events.signal);
  slave_queue.notify();
  master_queue.notify(kReadable | POLLPRI);  // the echo
  return used;
}

EventMask Pty::master_poll() const {
  SpinGuard guard(lock_);
  EventMask events = 0;
  if (!line_.output().empty()) events |= kReadable;
  if (packet_ && packet_status_ != 0) events |= kReadable | POLLPRI;
  if (line_.can_receive()) events |= kWritable;
  if (slave_seen_ && slaves_ == 0) events |= POLLHUP;
  return events;
}

Result<size_t> PtyMaster::read(const Context&, mm::IoBuffer& dst) {
  if (dst.remaining() == 0) return 0;
  std::array<u8, kBuffer> buffer;
  for (;;) {
    const size_t n = TRY(pty_->master_take(std::span(buffer).first(std::min(dst.remaining(), kBuffer))));
    if (n > 0) return dst.put(std::as_bytes(std::span(buffer).first(n)));
    if (nonblocking()) return err(EAGAIN);
    const WakeReason reason =
        wait_until(pty_->master_queue, [&] { return (pty_->master_poll() & (POLLIN | POLLHUP)) != 0; });
    if (reason == WakeReason::kInterrupted) return err(kERESTARTSYS);
  }
}

Result<size_t> PtyMaster::write(const Context&, mm::IoBuffer& src) {
  std::array<u8, kBuffer> buffer;
  size_t done = 0;
  while (src.remaining() > 0) {
    mm::IoBuffer cursor = src.prefix(std::min(src.remaining(), kBuffer));
    auto got = cursor.get(std::as_writable_bytes(std::span(buffer)).first(cursor.remaining()));
    if (!got) return done > 0 ? Result<size_t>(done) : got;
    const size_t used = pty_->master_write(std::span(buffer).first(*got));
    src.advance(used);
    done += used;
    if (used > 0) continue;
    if (nonblocking()) return done > 0 ? Result<size_t>(done) : err(EAGAIN);
    const WakeReason reason = wait_until(pty_->master_queue, [&] { return (pty_->master_poll() & POLLOUT) != 0; });
    if (reason == WakeReason::kInterrupted) return done > 0 ? Result<size_t>(done) : err(kERESTARTSYS);
  }
  return done;
}

}  // namespace rf::fs
