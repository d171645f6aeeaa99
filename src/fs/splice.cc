// splice(2) and tee(2). Between two pipes pages are moved; between a pipe and a file the data goes through a buffer,
// with its side of the pipe claimed, since the file may block for long.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "fs/pipe.h"
#include "fs/special_files.h"

namespace rf::fs {

namespace {

constexpr size_t kChunk = 64 << 10;

std::unique_ptr<std::byte[]> make_chunk(size_t size) {
  return std::unique_ptr<std::byte[]>(new (std::nothrow) std::byte[size]);
}

}  // namespace

// --- Claims -----------------------------------------------------------------------------------------

Result<bool> Pipe::claim_read(bool nonblocking) {
  for (;;) {
    if (!TRY(wait_readable(nonblocking))) return false;
    FiberGuard guard(mutex_);
    if (is_empty() || read_claimed_.load()) continue;
    read_claimed_.store(true);
    return true;
  }
}

size_t Pipe::peek(std::span<std::byte> out) {
  FiberGuard guard(mutex_);
  size_t done = 0;
  for (u32 i = tail_.load(); i != head_.load() && done < out.size(); i++) {
    Slot& s = slot(i);
    size_t n = std::min<size_t>(s.len, out.size() - done);
    memcpy(out.data() + done, s.page->data + s.offset, n);
    done += n;
  }
  return done;
}

void Pipe::consume(size_t bytes) {
  bool wake = false;
  {
    FiberGuard guard(mutex_);
    bool was_full = is_full();
    while (bytes != 0 && !is_empty()) {
      Slot& s = slot(tail_.load());
      u32 n = static_cast<u32>(std::min<size_t>(s.len, bytes));
      s.offset += n;
      s.len -= n;
      bytes -= n;
      if (s.len == 0) drop_front();
    }
    wake = was_full && !is_full();
  }
  if (wake) wake_writers();
}

void Pipe::release_read() {
  read_claimed_.store(false);
  if (can_read()) read_wait_.notify_some(1);
}

Result<size_t> Pipe::claim_write(bool nonblocking) {
  for (;;) {
    TRY(wait_writable(nonblocking));
    FiberGuard guard(mutex_);
    if (readers_.load() == 0) return err(EPIPE);
    if (is_full() || write_claimed_.load()) continue;
    write_claimed_.store(true);
    return size_t{capacity_.load() - (head_.load() - tail_.load())} << kPageShift;
  }
}

void Pipe::release_write() {
  write_claimed_.store(false);
  if (can_write()) write_wait_.notify_some(1);
}

Result<size_t> Pipe::append(std::span<const std::byte> data) {
  size_t done = 0;
  bool was_empty;
  {
    FiberGuard guard(mutex_);
    if (readers_.load() == 0) return err(EPIPE);
    was_empty = is_empty();
    while (done < data.size() && !is_full()) {
      Page* page = get_page();
      if (!page) break;
      size_t n = std::min<size_t>(kPageSize, data.size() - done);
      memcpy(page->data, data.data() + done, n);
      push_back(page, static_cast<u32>(n), false);
      done += n;
    }
  }
  if (done == 0) return err(ENOMEM);
  if (was_empty)
    wake_readers();
  else
    poll_.notify(POLLIN | POLLRDNORM);
  return done;
}

Result<bool> Pipe::wait_readable(bool nonblocking) {
  if (!can_read()) {
    TRY(wait_for_io(read_wait_, nonblocking, [this] { return can_read(); }));
    // This wake-up may have been meant for a reader: the caller might not take everything.
    if (can_read()) read_wait_.notify_some(1);
  }
  return !is_empty();
}

Result<void> Pipe::wait_writable(bool nonblocking) {
  if (can_write()) return {};
  TRY(wait_for_io(write_wait_, nonblocking, [this] { return can_write(); }));
  if (can_write()) write_wait_.notify_some(1);
  return {};
}

// --- Pipe to pipe -----------------------------------------------------------------------------------

Result<size_t> Pipe::transfer(Pipe& in, Pipe& out, size_t len, bool keep) {
  Pipe& first = &in < &out ? in : out;
  Pipe& second = &in < &out ? out : in;
  std::unique_lock<FiberMutex> first_lock(first.mutex_), second_lock(second.mutex_);
  if (out.readers_.load() == 0) return err(EPIPE);
  if (in.read_claimed_.load() || out.write_claimed_.load()) return 0;
  const bool in_was_full = in.is_full(), out_was_empty = out.is_empty();
  size_t done = 0;
  bool no_memory = false;
  for (u32 i = in.tail_.load(); i != in.head_.load() && done < len && !out.is_full(); i++) {
    Slot& s = in.slot(i);
    u32 n = static_cast<u32>(std::min<size_t>(s.len, len - done));
    u32 head = out.head_.load();
    if (!keep && n == s.len) {
      out.slot(head) = s;
      s.page = nullptr;
      in.tail_.store(i + 1);
    } else {
      Page* page = out.get_page();
      if (!page) {
        no_memory = true;
        break;
      }
      memcpy(page->data, s.page->data + s.offset, n);
      out.slot(head) = {page, 0, n, s.packet, false};
      if (!keep) s.offset += n, s.len -= n;
    }
    out.head_.store(head + 1);
    done += n;
  }
  const bool in_has_room = in_was_full && !in.is_full();
  second_lock.unlock();
  first_lock.unlock();
  if (done == 0) return no_memory ? Result<size_t>(err(ENOMEM)) : 0;
  if (in_has_room) in.wake_writers();
  if (out_was_empty)
    out.wake_readers();
  else
    out.poll_.notify(POLLIN | POLLRDNORM);
  return done;
}

namespace {

Result<size_t> pipe_to_pipe(Pipe& in, Pipe& out, u64 len, bool nonblocking, bool keep) {
  if (&in == &out) return err(EINVAL);
  for (;;) {
    if (size_t done = TRY(Pipe::transfer(in, out, len, keep))) return done;
    if (!TRY(in.wait_readable(nonblocking))) return 0;
    TRY(out.wait_writable(nonblocking));
  }
}

// --- Pipe and file ----------------------------------------------------------------------------------

Result<size_t> write_out(const Context& ctx, File& out, s64* offset, std::span<const std::byte> data) {
  auto src = mm::IoBuffer::from_const(data);
  if (!offset) return out.write(ctx, src);
  u64 at = static_cast<u64>(*offset);
  size_t n = TRY(out.write_at(ctx, src, at));
  *offset = static_cast<s64>(at);
  return n;
}

Result<size_t> pipe_to_file(const Context& ctx, Pipe& in, File& out, s64* offset, u64 len, bool nonblocking) {
  if ((out.flags() & O_APPEND) != 0 || (offset && !out.seekable())) return err(EINVAL);
  size_t chunk_size = std::min<u64>(len, kChunk);
  auto chunk = make_chunk(chunk_size);
  if (!chunk) return err(ENOMEM);
  if (!TRY(in.claim_read(nonblocking))) return 0;
  size_t done = 0;
  Result<size_t> wrote = 0;
  while (done < len) {
    size_t n = in.peek({chunk.get(), std::min<size_t>(chunk_size, len - done)});
    if (n == 0) break;
    wrote = write_out(ctx, out, offset, {chunk.get(), n});
    if (!wrote) break;
    in.consume(*wrote);
    done += *wrote;
    if (*wrote < n) break;
  }
  in.release_read();
  if (done == 0 && !wrote) return wrote;
  return done;
}

Result<size_t> read_in(const Context& ctx, File& in, s64* offset, std::span<std::byte> data) {
  mm::IoBuffer dst(data);
  if (!offset) return in.read(ctx, dst);
  size_t n = TRY(in.pread(ctx, dst, static_cast<u64>(*offset)));
  *offset += static_cast<s64>(n);
  return n;
}

Result<size_t> file_to_pipe(const Context& ctx, File& in, s64* offset, Pipe& out, u64 len, bool nonblocking) {
  if (in.inode().is_dir() || (offset && !in.seekable())) return err(EINVAL);
  size_t room = TRY(out.claim_write(nonblocking));
  len = std::min<u64>(len, room);
  auto chunk = make_chunk(std::min<u64>(len, kChunk));
  Result<size_t> moved = chunk ? Result<size_t>(0) : err(ENOMEM);
  size_t done = 0;
  while (moved && done < len) {
    size_t n = std::min<size_t>(len - done, kChunk);
    moved = read_in(ctx, in, offset, {chunk.get(), n});
    if (!moved || *moved == 0) break;
    const size_t got = *moved;
    moved = out.append({chunk.get(), got});
    if (!moved) break;
    done += got;
    // A stream gives what it has; more might block.
    if (got < n || !in.seekable()) break;
  }
  out.release_write();
  if (done == 0 && !moved) return moved;
  return done;
}

}  // namespace

Result<size_t> splice(const Context& ctx, File& in, s64* in_offset, File& out, s64* out_offset, u64 len, u32 flags) {
  Pipe *from = pipe_of(in), *to = pipe_of(out);
  if (!from && !to) return err(EINVAL);
  if ((from && in_offset) || (to && out_offset)) return err(ESPIPE);
  if (len == 0) return 0;
  bool nonblocking = (flags & SPLICE_F_NONBLOCK) != 0 || (from && in.nonblocking()) || (to && out.nonblocking());
  if (from && to) return pipe_to_pipe(*from, *to, len, nonblocking, false);
  if (from) return pipe_to_file(ctx, *from, out, out_offset, len, nonblocking);
  return file_to_pipe(ctx, in, in_offset, *to, len, nonblocking);
}

Result<size_t> tee(const Context&, File& in, File& out, u64 len, u32 flags) {
  Pipe *from = pipe_of(in), *to = pipe_of(out);
  if (!from || !to) return err(EINVAL);
  if (len == 0) return 0;
  bool nonblocking = (flags & SPLICE_F_NONBLOCK) != 0 || in.nonblocking() || out.nonblocking();
  return pipe_to_pipe(*from, *to, len, nonblocking, true);
}

}  // namespace rf::fs
