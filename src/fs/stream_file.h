// The base of files without a position or contents of their own: pipes, sockets, event, timer, signal and epoll
// descriptions. It answers the operations that make no sense on them as Linux does.
#pragma once

#include "fs/file.h"

namespace rf::fs {

class StreamFile : public File {
 public:
  using File::File;

  Result<size_t> read(const Context&, mm::IoBuffer&) override { return err(EINVAL); }
  Result<size_t> write(const Context&, mm::IoBuffer&) override { return err(EINVAL); }
  Result<size_t> pread(const Context&, mm::IoBuffer&, u64) override { return err(ESPIPE); }
  Result<size_t> pwrite(const Context&, mm::IoBuffer&, u64) override { return err(ESPIPE); }
  Result<u64> seek(const Context&, s64, int) override { return err(ESPIPE); }
  bool seekable() const override { return false; }
  Result<void> fsync(bool) override { return err(EINVAL); }
  Result<void> truncate(const Context&, u64) override { return err(EINVAL); }
  Result<void> fallocate(const Context&, int, u64, u64) override { return err(ENODEV); }
  Result<Ref<mm::MapObject>> map_object() override { return err(ENODEV); }
};

// Waits, as a blocking read or write does: until condition() holds. EAGAIN at once when the description is
// O_NONBLOCK, ERESTARTSYS when interrupted. Suspends.
template <class Condition>
Result<void> wait_for_io(WaitQueue& queue, bool nonblocking, Condition&& condition, EventMask mask = kWaitAny) {
  if (condition()) return {};
  if (nonblocking) return err(EAGAIN);
  WakeReason reason = wait_until(queue, condition, Interruptible::kYes, kNever, mask);
  if (reason != WakeReason::kWoken) return err(kERESTARTSYS);
  return {};
}

}  // namespace rf::fs
