// Making pipes and opening FIFOs.
#include "fs/dentry.h"
#include "fs/pipe.h"
#include "fs/special_files.h"

namespace rf::fs {

Result<void> Pipe::wait_for_partner(std::atomic<u32>& counter, u32 seen, bool read_end, bool write_end) {
  // A partner that came and went again counts too.
  auto came = [&] { return counter.load() != seen; };
  if (wait_until(open_wait_, came) == WakeReason::kWoken) return {};
  close_end(read_end, write_end);
  return err(kERESTARTSYS);
}

Result<void> Pipe::open_end(int flags, u32& seen_writers) {
  const bool reads = (flags & O_ACCMODE) != O_WRONLY, writes = (flags & O_ACCMODE) != O_RDONLY;
  const bool nonblocking = (flags & O_NONBLOCK) != 0;
  u32 readers_seen, writers_seen;
  bool no_partner;
  seen_writers = 0;
  {
    FiberGuard guard(mutex_);
    if (writes && !reads && !anonymous_ && nonblocking && readers_.load() == 0) return err(ENXIO);
    if (reads) readers_.fetch_add(1), reader_openings_.fetch_add(1);
    if (writes) writers_.fetch_add(1), writer_openings_.fetch_add(1);
    readers_seen = reader_openings_.load();
    writers_seen = writer_openings_.load();
    no_partner = !anonymous_ && (readers_.load() == 0 || writers_.load() == 0);
  }
  open_wait_.notify();
  if (!no_partner) return {};
  if (reads && nonblocking) {
    seen_writers = writers_seen;
    return {};
  }
  if (reads) return wait_for_partner(writer_openings_, writers_seen, true, false);
  return wait_for_partner(reader_openings_, readers_seen, false, true);
}

void Pipe::close_end(bool read_end, bool write_end) {
  bool one_sided;
  {
    FiberGuard guard(mutex_);
    if (read_end) readers_.fetch_sub(1);
    if (write_end) writers_.fetch_sub(1);
    one_sided = (readers_.load() == 0) != (writers_.load() == 0);
  }
  if (one_sided) wake_all();
}

namespace {

// The pipe of a FIFO's inode, made when there is none, with one more user.
Result<Ref<Pipe>> attach_pipe(Inode& inode) {
  Ref<Pipe> fresh;
  for (;;) {
    {
      SpinGuard guard(inode.attached_lock);
      if (!inode.fifo && fresh) inode.fifo = fresh;
      if (inode.fifo) {
        Ref<Pipe> pipe(static_cast<Pipe*>(inode.fifo.get()));
        pipe->users++;
        return pipe;
      }
    }
    fresh = TRY(Pipe::create(false));
  }
}

void detach_pipe(Inode& inode, Pipe& pipe) {
  Ref<RefCounted> last;  // dropped outside the spin lock
  SpinGuard guard(inode.attached_lock);
  if (--pipe.users == 0 && inode.fifo == &pipe) last = std::exchange(inode.fifo, {});
}

}  // namespace

Result<std::pair<Ref<File>, Ref<File>>> make_pipe(int flags) {
  Ref<Pipe> pipe = TRY(Pipe::create(true));
  u32 seen = 0;
  TRY(pipe->open_end(O_RDWR, seen));
  Path path = make_anon_path("pipe:", S_IFIFO | 0600);
  {
    // Through /proc/self/fd/N the inode can be opened like a FIFO.
    Ref<Inode> inode = path.dentry->inode();
    SpinGuard guard(inode->attached_lock);
    inode->fifo = pipe;
    pipe->users = 2;
  }
  int status = flags & (O_NONBLOCK | O_DIRECT);
  Ref<File> reader = make_ref<PipeFile>(path, O_RDONLY | status, pipe, seen);
  Ref<File> writer = make_ref<PipeFile>(std::move(path), O_WRONLY | status, pipe, seen);
  return std::pair(std::move(reader), std::move(writer));
}

Result<Ref<File>> open_fifo(const Context&, const Path& path, int flags) {
  Ref<Inode> inode = path.dentry->inode();
  Ref<Pipe> pipe = TRY(attach_pipe(*inode));
  u32 seen = 0;
  Result<void> opened = pipe->open_end(flags, seen);
  if (!opened) {
    detach_pipe(*inode, *pipe);
    return err(opened.error());
  }
  return make_ref<PipeFile>(path, flags, std::move(pipe), seen);
}

}  // namespace rf::fs
