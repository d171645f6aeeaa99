#include <sys/stat.h>

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

HostFilePages::HostFilePages(Frames& frames, int fd, bool writable)
    : impl_(std::make_unique<Impl>(frames, fd, writable)) {}

HostFilePages::~HostFilePages() { impl_->frames.window_cache().drop_all(impl_->chunks); }

Result<PhysRun> HostFilePages::pin(u64 offset, u64 len, bool) {
  // Asked each time: others may change the file. The pages past its end would be a SIGBUS to touch.
  struct stat st;
  TRY(host_result(fstat(impl_->fd, &st)));
  u64 end = page_up(static_cast<u64>(st.st_size));
  if (offset >= end) return err(ENXIO);
  u64 in_chunk = GuestMemory::kWindowChunk - offset % GuestMemory::kWindowChunk;
  len = std::min({len, end - offset, in_chunk});
  return impl_->frames.window_cache().get(impl_->chunks, impl_->fd, impl_->writable, offset, len);
}

Result<void> HostFilePages::sync(u64, u64) {
  if (!impl_->writable) return {};
  return hostio::fsync(impl_->fd, true);
}

}  // namespace rf::mm
