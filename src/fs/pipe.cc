#include "fs/pipe.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <bit>
#include <new>

#include "fs/special_files.h"
#include "mm/user_access.h"

namespace rf::fs {

namespace {

// Pages that the pipes of the sandbox may hold together (the sum of their capacities). They are the sentry's own
// memory, so even a privileged guest is bound by it. Past the soft limit a new pipe is small, as Linux makes it past
// pipe-user-pages-soft.
constexpr u32 kSoftPages = 16384;
constexpr u32 kHardPages = 32768;
constexpr u32 kSmallPipeSlots = 2;
std::atomic<u32> g_reserved_pages{0};

bool reserve_pages(u32 count, u32 limit) {
  u32 now = g_reserved_pages.load(std::memory_order_relaxed);
  while (now + count <= limit)
    if (g_reserved_pages.compare_exchange_weak(now, now + count, std::memory_order_relaxed)) return true;
  return false;
}

void unreserve_pages(u32 count) { g_reserved_pages.fetch_sub(count, std::memory_order_relaxed); }

using PipeLock = std::unique_lock<FiberMutex>;

}  // namespace

Result<Ref<Pipe>> Pipe::create(bool anonymous) {
  u32 slots = kDefaultPipeSlots;
  if (!reserve_pages(slots, kSoftPages)) {
    slots = kSmallPipeSlots;
    if (!reserve_pages(slots, kHardPages)) return err(ENFILE);
  }
  return Ref<Pipe>::adopt(new Pipe(std::make_unique<Slot[]>(slots), slots, anonymous));
}

Pipe::Pipe(std::unique_ptr<Slot[]> ring, u32 slots, bool anonymous)
    : anonymous_(anonymous), ring_(std::move(ring)), capacity_(slots) {}

Pipe::~Pipe() {
  for (u32 i = tail_.load(); i != head_.load(); i++) delete slot(i).page;
  for (Page* page : spare_) delete page;
  unreserve_pages(capacity_.load());
}

// --- Pages and slots --------------------------------------------------------------------------------

// Two pages are kept at hand, so that a pipe that carries small messages back and forth never allocates.
Pipe::Page* Pipe::get_page() {
  for (Page*& spare : spare_)
    if (spare) return std::exchange(spare, nullptr);
  return new (std::nothrow) Page;
}

void Pipe::put_page(Page* page) {
  for (Page*& spare : spare_)
    if (!spare) {
      spare = page;
      return;
    }
  delete page;
}

void Pipe::drop_front() {
  u32 tail = tail_.load(std::memory_order_relaxed);
  put_page(std::exchange(slot(tail).page, nullptr));
  tail_.store(tail + 1);
}

void Pipe::push_back(Page* page, u32 len, bool packet) {
  u32 head = head_.load(std::memory_order_relaxed);
  slot(head) = {page, 0, len, packet, !packet};
  head_.store(head + 1);
}

// --- Read -------------------------------------------------------------------------------------------

// Copies what there is, until `dst` is full, a packet ends or a copy fails. Whether any slot became free.
bool Pipe::take_data(mm::IoBuffer& dst, size_t& done, int& error) {
  bool freed = false;
  while (dst.remaining() != 0 && !is_empty()) {
    Slot& s = slot(tail_.load(std::memory_order_relaxed));
    size_t len = std::min<u64>(s.len, dst.remaining());
    Result<size_t> put = dst.put({s.page->data + s.offset, len});
    // Like Linux, a slot that could not be delivered whole stays where it is.
    if (!put || *put < len) {
      error = EFAULT;
      return freed;
    }
    done += len;
    s.offset += len;
    s.len -= len;
    bool packet = s.packet;  // what is left of a packet is dropped
    if (s.len == 0 || packet) {
      drop_front();
      freed = true;
    }
    if (packet) break;
  }
  return freed;
}

Result<size_t> Pipe::read(mm::IoBuffer& dst, bool nonblocking) {
  if (dst.remaining() == 0) return 0;
  size_t done = 0;
  int error = 0;
  bool wake = false, waited = false, interrupted = false;
  {
    PipeLock lock(mutex_);
    for (;;) {
      if (!read_claimed_.load()) {
        bool was_full = is_full();
        if (take_data(dst, done, error) && was_full) wake = true;
        if (done != 0 || error != 0 || (is_empty() && writers_.load() == 0)) break;
      }
      if (nonblocking) {
        error = EAGAIN;
        break;
      }
      if (interrupted) {
        error = kERESTARTSYS;
        break;
      }
      lock.unlock();
      waited = true;
      interrupted = wait_until(read_wait_, [this] { return can_read(); }) == WakeReason::kInterrupted;
      lock.lock();
    }
  }
  if (wake) wake_writers();
  if (waited && can_read()) read_wait_.notify_some(1);
  if (done != 0) return done;
  if (error != 0) return err(error);
  return 0;
}

// --- Write ------------------------------------------------------------------------------------------

// What does not fill pages goes behind the last write if it fits there whole: so writes of up to PIPE_BUF are never
// torn apart. True if that ends the write.
bool Pipe::merge_data(mm::IoBuffer& src, size_t& done, int& error) {
  size_t len = src.remaining() & kPageMask;
  if (len == 0 || is_empty()) return false;
  Slot& s = slot(head_.load(std::memory_order_relaxed) - 1);
  if (!s.mergeable || s.offset + s.len + len > kPageSize) return false;
  Result<size_t> got = src.get({s.page->data + s.offset + s.len, len});
  if (!got || *got < len) {
    error = EFAULT;
    return true;
  }
  s.len += len;
  done += len;
  return src.remaining() == 0;
}

// Fills free slots. True when the write is at its end.
bool Pipe::put_data(mm::IoBuffer& src, bool packet, size_t& done, int& error) {
  while (!is_full()) {
    Page* page = get_page();
    if (!page) {
      error = ENOMEM;
      return true;
    }
    size_t len = std::min<u64>(kPageSize, src.remaining());
    Result<size_t> got = src.get({page->data, len});
    if (!got || *got < len) {
      put_page(page);
      error = EFAULT;
      return true;
    }
    push_back(page, len, packet);
    done += len;
    if (src.remaining() == 0) return true;
  }
  return false;
}

Result<size_t> Pipe::write(mm::IoBuffer& src, bool nonblocking, bool packet) {
  if (src.remaining() == 0) return 0;
  size_t done = 0;
  int error = 0;
  bool waited = false, interrupted = false, merge = true;
  PipeLock lock(mutex_);
  bool was_empty = is_empty();
  for (;;) {
    if (readers_.load() == 0) {
      error = EPIPE;
      break;
    }
    if (!write_claimed_.load()) {
      if (merge && merge_data(src, done, error)) break;
      merge = false;
      if (put_data(src, packet, done, error)) break;
    }
    if (nonblocking) {
      error = EAGAIN;
      break;
    }
    if (interrupted) {
      error = kERESTARTSYS;
      break;
    }
    lock.unlock();
    if (was_empty && !is_empty()) wake_readers();
    waited = true;
    interrupted = wait_until(write_wait_, [this] { return can_write(); }) == WakeReason::kInterrupted;
    lock.lock();
    was_empty = is_empty();
  }
  lock.unlock();
  if (was_empty && done != 0) {
    wake_readers();
  } else if (done != 0 && !poll_.empty()) {
    poll_.notify(POLLIN | POLLRDNORM);  // edge-triggered watchers see every write
  }
  if (waited && can_write()) write_wait_.notify_some(1);
  if (done != 0) return done;
  return err(error);
}

// --- Waking -----------------------------------------------------------------------------------------

void Pipe::wake_readers() {
  read_wait_.notify_some(1);
  if (!poll_.empty()) poll_.notify(POLLIN | POLLRDNORM);
}

void Pipe::wake_writers() {
  write_wait_.notify_some(1);
  if (!poll_.empty()) poll_.notify(POLLOUT | POLLWRNORM);
}

void Pipe::wake_all() {
  read_wait_.notify();
  write_wait_.notify();
  poll_.notify();
}

// --- State ------------------------------------------------------------------------------------------

EventMask Pipe::poll(bool read_end, bool write_end, u32 seen_writers) const {
  EventMask mask = 0;
  if (read_end) {
    if (!is_empty()) mask |= POLLIN | POLLRDNORM;
    if (writers_.load() == 0 && seen_writers != writer_openings_.load()) mask |= POLLHUP;
  }
  if (write_end) {
    if (!is_full()) mask |= POLLOUT | POLLWRNORM;
    if (readers_.load() == 0) mask |= POLLERR;
  }
  return mask;
}

u64 Pipe::unread_bytes() {
  FiberGuard guard(mutex_);
  u64 bytes = 0;
  for (u32 i = tail_.load(); i != head_.load(); i++) bytes += slot(i).len;
  return bytes;
}

Result<u64> Pipe::set_capacity(u64 bytes, bool privileged) {
  if (bytes > u64{1} << 31) return err(EINVAL);
  u32 slots = static_cast<u32>(std::bit_ceil(std::max(page_up(bytes), kPageSize)) >> kPageShift);
  bool grew = false;
  {
    FiberGuard guard(mutex_);
    u32 old = capacity_.load();
    if (slots == old) return capacity();
    if (slots > old && slots > kMaxPipeBytes >> kPageShift && !privileged) return err(EPERM);
    u32 filled = head_.load() - tail_.load();
    if (filled > slots || read_claimed_.load() || write_claimed_.load()) return err(EBUSY);
    if (slots > old && !reserve_pages(slots - old, kSoftPages)) return err(EPERM);
    std::unique_ptr<Slot[]> ring(new (std::nothrow) Slot[slots]);
    if (!ring) {
      if (slots > old) unreserve_pages(slots - old);
      return err(ENOMEM);
    }
    for (u32 i = 0; i < filled; i++) ring[i] = slot(tail_.load() + i);
    ring_ = std::move(ring);
    capacity_.store(slots);
    tail_.store(0);
    head_.store(filled);
    if (slots < old) unreserve_pages(old - slots);
    grew = slots > old;
  }
  // Pollers may have seen the indices half changed.
  if (grew)
    wake_all();
  else
    poll_.notify();
  return u64{slots} << kPageShift;
}

// --- Descriptions -----------------------------------------------------------------------------------

Result<u64> PipeFile::ioctl(const Context& ctx, u32 request, u64 arg) {
  if (request != FIONREAD) return err(ENOTTY);
  if (!ctx.mm) return err(EFAULT);
  TRY(mm::UserPtr<int>(arg).write(*ctx.mm, static_cast<int>(pipe_->unread_bytes())));
  return 0;
}

void PipeFile::release() {
  pipe_->close_end(readable(), writable());
  // What is left unread goes when the last description does; until then a FIFO keeps it for the next reader.
  Inode& node = inode();
  Ref<RefCounted> last;
  {
    SpinGuard guard(node.attached_lock);
    if (--pipe_->users == 0 && node.fifo == pipe_.get()) last = std::exchange(node.fifo, {});
  }
}

Pipe* pipe_of(File& f) {
  auto* file = dynamic_cast<PipeFile*>(&f);
  return file ? &file->pipe() : nullptr;
}

bool is_pipe(File& f) { return pipe_of(f) != nullptr; }

Result<u64> pipe_capacity(File& f) {
  Pipe* pipe = pipe_of(f);
  if (!pipe) return err(EBADF);
  return pipe->capacity();
}

Result<u64> set_pipe_capacity(const Context& ctx, File& f, u64 bytes) {
  Pipe* pipe = pipe_of(f);
  if (!pipe) return err(EBADF);
  return pipe->set_capacity(bytes, ctx.creds.capable(CAP_SYS_RESOURCE));
}

}  // namespace rf::fs
