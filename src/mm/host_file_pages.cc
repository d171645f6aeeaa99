#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>

#include "hostio/ring.h"
#include "mm/mappable.h"
#include "mm/window_cache.h"

namespace rf::mm {

struct HostFilePages::Impl {
  Frames& frames;
  const int fd;
  const bool writable;
  WindowChunks chunks;
};

namespace {

constexpr u64 kReadAhead = 128 << 10;

// A page that the host has to fetch from its disk would hold up the worker, and every task on it, when it is touched:
// it is fetched through the ring first.
void warm(int fd, u64 offset) {
  std::byte byte;
  iovec v{&byte, 1};
  auto at = static_cast<off_t>(offset);
  if (preadv2(fd, &v, 1, at, RWF_NOWAIT) >= 0 || errno != EAGAIN || !hostio::ring_available()) return;
  posix_fadvise(fd, at, kReadAhead, POSIX_FADV_WILLNEED);
  (void)hostio::read(fd, {&byte, 1}, at);  // an error shows when the page is used
}

}  // namespace

HostFilePages::HostFilePages(Frames& frames, int fd, bool writable)
    : impl_(std::make_unique<Impl>(frames, fd, writable)) {}

HostFilePages::~HostFilePages() { impl_->frames.window_cache().drop_all(impl_->chunks); }

Result<PhysRun> HostFilePages::pin(u64 offset, u64 len, bool) {
  // Asked each time: others may change the file. The pages past its end would be a SIGBUS to touch.
  struct stat st;
  TRY(host_result(fstat(impl_->fd, &st)));
  u64 end = page_up(static_cast<u64>(st.st_size));
  if (offset >= end) return err(ENXIO);
  warm(impl_->fd, offset);
  u64 in_chunk = GuestMemory::kWindowChunk - offset % GuestMemory::kWindowChunk;
  len = std::min({len, end - offset, in_chunk});
  return impl_->frames.window_cache().get(impl_->chunks, impl_->fd, impl_->writable, offset, len);
}

Result<void> HostFilePages::sync(u64, u64) {
  if (!impl_->writable) return {};
  return hostio::fsync(impl_->fd, true);
}

}  // namespace rf::mm
