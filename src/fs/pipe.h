// Pipes and FIFOs, pipe(7): a ring of pages.
//
// Lock order: Inode::attached_lock (users of a FIFO's pipe) is never held together with the pipe's mutex. The mutex
// is held while guest memory is copied, which may suspend; it is never held while waiting for the other end. Two
// pipes are locked in order of address.
#pragma once

#include <memory>

#include "fs/stream_file.h"

namespace rf::fs {

inline constexpr u32 kDefaultPipeSlots = 16;
inline constexpr u64 kMaxPipeBytes = 1 << 20;  // /proc/sys/fs/pipe-max-size: what F_SETPIPE_SZ gives without privilege

class Pipe final : public RefCounted {
 public:
  // `anonymous`: from pipe(2); opening it anew through /proc never waits for a partner. ENFILE when the pages all
  // pipes may hold are used up, ENOMEM.
  static Result<Ref<Pipe>> create(bool anonymous);

  // As read(2) and write(2). ERESTARTSYS, EAGAIN, EPIPE, EFAULT. Suspend.
  Result<size_t> read(mm::IoBuffer& dst, bool nonblocking);
  Result<size_t> write(mm::IoBuffer& src, bool nonblocking, bool packet);

  // Poll bits of an end. `seen_writers`: see PipeFile.
  EventMask poll(bool read_end, bool write_end, u32 seen_writers) const;
  WaitQueue& poll_queue() { return poll_; }

  u64 unread_bytes();  // FIONREAD
  u64 capacity() const { return u64{capacity_.load(std::memory_order_relaxed)} << kPageShift; }
  // F_SETPIPE_SZ; returns the new capacity. EBUSY, EPERM, EINVAL, ENOMEM.
  Result<u64> set_capacity(u64 bytes, bool privileged);

  // Opens an end (or both) as fifo(7) says: waits for the other end unless the pipe is anonymous or `flags` has
  // O_NONBLOCK (for writing alone: ENXIO). On success `seen_writers` is what the description keeps for poll().
  Result<void> open_end(int flags, u32& seen_writers);
  void close_end(bool read_end, bool write_end);

  // How many descriptions (and opens in progress) use the pipe of an inode; guarded by Inode::attached_lock.
  u32 users = 0;

  // --- splice and tee: a side is claimed while data moves between it and something that may block, so that the
  // mutex is not held meanwhile. Others of that side wait, interruptibly. ---
  // Waits for data; true with the read side claimed, false at end of file. EAGAIN, ERESTARTSYS.
  Result<bool> claim_read(bool nonblocking);
  // Copies up to out.size() of the bytes that come next.
  size_t peek(std::span<std::byte> out);
  void consume(size_t bytes);  // at most what peek() gave
  void release_read();
  // Waits for room; the bytes that can be put. EPIPE, EAGAIN, ERESTARTSYS.
  Result<size_t> claim_write(bool nonblocking);
  void release_write();
  // Puts at most what claim_write() gave, into slots of their own; fewer when memory is short. EPIPE, ENOMEM.
  Result<size_t> append(std::span<const std::byte> data);
  // Moves (or, with `keep`, copies) from `in` to `out` as far as both allow, without waiting: 0 if nothing could be
  // moved now. EPIPE, ENOMEM.
  static Result<size_t> transfer(Pipe& in, Pipe& out, size_t len, bool keep);
  // Waits until there is something to read (false: end of file) or room to write.
  Result<bool> wait_readable(bool nonblocking);
  Result<void> wait_writable(bool nonblocking);

 private:
  struct Page {
    alignas(64) std::byte data[kPageSize];
  };
  struct Slot {
    Page* page = nullptr;
    u32 offset = 0;
    u32 len = 0;
    bool packet = false;
    bool mergeable = false;
  };

  Pipe(std::unique_ptr<Slot[]> ring, u32 slots, bool anonymous);
  ~Pipe() override;

  Slot& slot(u32 index) { return ring_[index & (capacity_.load(std::memory_order_relaxed) - 1)]; }
  bool is_empty() const { return head_.load() == tail_.load(); }
  bool is_full() const { return head_.load() - tail_.load() >= capacity_.load(); }
  bool can_read() const { return (!is_empty() || writers_.load() == 0) && !read_claimed_.load(); }
  bool can_write() const { return (!is_full() || readers_.load() == 0) && !write_claimed_.load(); }

  // With the mutex held.
  Page* get_page();
  void put_page(Page* page);
  void drop_front();
  bool take_data(mm::IoBuffer& dst, size_t& done, int& error);
  bool put_data(mm::IoBuffer& src, bool packet, size_t& done, int& error);
  bool merge_data(mm::IoBuffer& src, size_t& done, int& error);
  void push_back(Page* page, u32 len, bool packet);

  // Without it.
  void wake_readers();
  void wake_writers();
  void wake_all();
  Result<void> wait_for_partner(std::atomic<u32>& counter, u32 seen, bool read_end, bool write_end);

  const bool anonymous_;
  FiberMutex mutex_;
  std::unique_ptr<Slot[]> ring_;  // capacity_ slots, a power of two
  std::atomic<u32> capacity_;
  // Slots [tail, head) are filled. Changed under mutex_, read by poll and waiters without.
  std::atomic<u32> head_{0}, tail_{0};
  std::atomic<u32> readers_{0}, writers_{0};                  // descriptions, changed under mutex_
  std::atomic<u32> reader_openings_{0}, writer_openings_{0};  // ever
  std::atomic<bool> read_claimed_{false}, write_claimed_{false};
  Page* spare_[2] = {};

  WaitQueue read_wait_, write_wait_;  // one is woken at a time, and passes the wake-up on if there is more to do
  WaitQueue open_wait_;
  WaitQueue poll_;
};

class PipeFile final : public StreamFile {
 public:
  PipeFile(Path path, int flags, Ref<Pipe> pipe, u32 seen_writers)
      : StreamFile(std::move(path), flags), pipe_(std::move(pipe)), seen_writers_(seen_writers) {}

  Pipe& pipe() { return *pipe_; }

  Result<size_t> read(const Context&, mm::IoBuffer& dst) override { return pipe_->read(dst, nonblocking()); }
  Result<size_t> write(const Context&, mm::IoBuffer& src) override {
    return pipe_->write(src, nonblocking(), (flags() & O_DIRECT) != 0);
  }
  EventMask poll() override { return pipe_->poll(readable(), writable(), seen_writers_); }
  void poll_register(Waiter& w) override { pipe_->poll_queue().add(w); }
  void poll_unregister(Waiter& w) override { pipe_->poll_queue().remove(w); }
  Result<u64> ioctl(const Context& ctx, u32 request, u64 arg) override;
  Result<void> fallocate(const Context&, int, u64, u64) override { return err(ESPIPE); }

 protected:
  void release() override;

 private:
  Ref<Pipe> pipe_;
  // A FIFO opened with O_NONBLOCK and no writer shows no POLLHUP until a writer has come and gone.
  u32 seen_writers_;
};

// The pipe of a description, or null.
Pipe* pipe_of(File& f);

}  // namespace rf::fs
