// Pseudo-terminals, pty(7): a master that a terminal emulator holds, a slave that programs see as their terminal, and
// N_TTY between them. Internal to the terminals of this room; devpts.cc makes them.
//
// Lock order: Pty::lock_ is a leaf; queues and job control are called without it.
#pragma once

#include <asm/termbits.h>
#include <sys/ioctl.h>

#include "fs/line_discipline.h"
#include "fs/tty.h"

namespace rf::fs {

class Pty final : public Tty {
 public:
  explicit Pty(u32 index) : index_(index) {}

  static constexpr u32 kSlaveMajor = 136;  // Documentation/admin-guide/devices.txt of Linux

  u32 index() const { return index_; }
  std::pair<u32, u32> device() const override { return {kSlaveMajor, index_}; }

  // A new slave. EIO while it is locked (TIOCSPTLCK) or when the master is gone; EBUSY when exclusive.
  Result<Ref<File>> open(const Context& ctx, const Path& path, int flags) override;

  // --- For the files over it ---
  void slave_closed();
  // Hangs the slave up: what is open of it reads end of file, and EIO for the rest.
  void master_closed();

  enum class Taken : u8 { kData, kNothing, kEndOfFile, kHungUp };
  // Input for a reader of the slave: at most a line in canonical mode.
  Taken slave_take(std::span<u8> out, size_t& n);
  // How slave reads wait: bytes wanted and the time for them (0: none), from VMIN and VTIME.
  struct ReadMode {
    bool canonical;
    u8 minimum;
    Nanos time;
  };
  ReadMode read_mode() const;
  bool has_input() const;
  // Bytes used up: 0 when there is no room. EIO once hung up.
  Result<size_t> slave_write(std::span<const u8> data);
  // Output for the master, behind a status byte in packet mode; 0: nothing. EIO when no slave is open any more.
  Result<size_t> master_take(std::span<u8> out);
  size_t master_write(std::span<const u8> data);

  EventMask slave_poll() const;
  EventMask master_poll() const;
  WaitQueue slave_queue, master_queue;

  bool background_writes_stop() const;  // TOSTOP

  Result<u64> ioctl(const Context& ctx, u32 request, u64 arg, bool master);

 private:
  ~Pty() override = default;
  Result<u64> settings_ioctl(const Context& ctx, u32 request, u64 arg);
  Result<u64> master_ioctl(const Context& ctx, u32 request, u64 arg);
  Result<u64> common_ioctl(const Context& ctx, u32 request, u64 arg, bool master);
  void set_settings(const struct termios2& settings, bool flush);
  Result<void> set_window(const winsize& size);
  Result<void> flush(u64 what);
  Result<void> flow(u64 action);
  Result<u64> group_ioctl(const Context& ctx, u32 request, u64 arg);
  void packet_event(u8 status);  // lock_ held
  void notify_all();

  const u32 index_;
  mutable SpinLock lock_;  // guards what follows
  LineDiscipline line_;
  winsize window_{};
  u32 slaves_ = 0;
  bool slave_seen_ = false;
  bool hung_up_ = false;
  bool locked_ = true;
  bool exclusive_ = false;
  bool packet_ = false;
  u8 packet_status_ = 0;
};

class PtySlave final : public File {
 public:
  PtySlave(Path path, int flags, Ref<Pty> pty) : File(std::move(path), flags), pty_(std::move(pty)) {}
  Result<size_t> read(const Context& ctx, mm::IoBuffer& dst) override;
  Result<size_t> write(const Context& ctx, mm::IoBuffer& src) override;
  bool seekable() const override { return false; }
  EventMask poll() override { return pty_->slave_poll(); }
  void poll_register(Waiter& w) override { pty_->slave_queue.add(w); }
  void poll_unregister(Waiter& w) override { pty_->slave_queue.remove(w); }
  Result<u64> ioctl(const Context& ctx, u32 request, u64 arg) override { return pty_->ioctl(ctx, request, arg, false); }
  Result<u64> seek(const Context&, s64, int) override { return err(ESPIPE); }

 protected:
  void release() override { pty_->slave_closed(); }

 private:
  const Ref<Pty> pty_;
};

class PtyMaster final : public File {
 public:
  // `on_close` takes the slave's name out of devpts.
  PtyMaster(Path path, int flags, Ref<Pty> pty, std::function<void()> on_close)
      : File(std::move(path), flags), pty_(std::move(pty)), on_close_(std::move(on_close)) {}
  Pty& pty() { return *pty_; }
  Result<size_t> read(const Context& ctx, mm::IoBuffer& dst) override;
  Result<size_t> write(const Context& ctx, mm::IoBuffer& src) override;
  bool seekable() const override { return false; }
  EventMask poll() override { return pty_->master_poll(); }
  void poll_register(Waiter& w) override { pty_->master_queue.add(w); }
  void poll_unregister(Waiter& w) override { pty_->master_queue.remove(w); }
  Result<u64> ioctl(const Context& ctx, u32 request, u64 arg) override { return pty_->ioctl(ctx, request, arg, true); }
  Result<u64> seek(const Context&, s64, int) override { return err(ESPIPE); }
  std::string fdinfo() override { return "tty-index:\t" + std::to_string(pty_->index()) + "\n"; }

 protected:
  void release() override {
    on_close_();
    pty_->master_closed();
  }

 private:
  const Ref<Pty> pty_;
  const std::function<void()> on_close_;
};

}  // namespace rf::fs
