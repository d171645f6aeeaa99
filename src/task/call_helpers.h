// What several system call families share: descriptors as places, time arguments, and the results of writes.
#pragma once

#include <linux/time_types.h>

#include "fs/vfs.h"
#include "task/kernel.h"
#include "task/task.h"

namespace rf::task {

// Linux's MAX_RW_COUNT: what one call moves at most.
inline constexpr u64 kMaxRwCount = 0x7fff'f000;

// The data argument of read(2) and write(2): EINVAL if len is negative as ssize_t, EFAULT if the range leaves the
// guest's addresses; clamped to kMaxRwCount.
inline Result<mm::IoBuffer> user_buffer(Task& t, mm::UserAddr addr, u64 len) {
  if (static_cast<s64>(len) < 0) return err(EINVAL);
  if (len > platform::kGuestAddressLimit || addr > platform::kGuestAddressLimit - len) return err(EFAULT);
  return mm::IoBuffer(*t.mm, addr, std::min(len, kMaxRwCount));
}

// Where a relative path starts: nothing for AT_FDCWD (the working directory), else the descriptor's place. EBADF. An
// absolute path ignores the descriptor, even a bad one.
class Dirfd {
 public:
  static Result<Dirfd> resolve(Task& t, int fd, std::string_view path);
  const fs::Path* at() const { return file_ ? &file_->path() : nullptr; }

 private:
  Ref<fs::File> file_;
};

// The end of a write to `f` as write(2) has it: raises SIGPIPE for EPIPE (but for files that have none) and SIGXFSZ for
// EFBIG, and passes the result on.
SysResult finish_write(Task& t, const fs::File& f, const Result<size_t>& r);
// Raises SIGXFSZ and gives EFBIG.
SysResult file_too_big(Task& t);

// What a call made that is in no directory belongs to who made it, as far as its owner can be seen: pipes, sockets and
// memfds. Anonymous inodes stay root's.
Result<void> own(Task& t, fs::File& f);

// A relative time-out from guest memory (null: kNever) as an absolute deadline. EINVAL, EFAULT.
Result<Nanos> read_timeout(Task& t, mm::UserPtr<__kernel_timespec> p);
// EINVAL unless 0 <= nsec < 1e9 and sec >= 0.
Result<Nanos> to_nanos(const __kernel_timespec& ts);
// now + d without overflow.
Nanos deadline_after(Nanos d);

// Swaps in the temporary mask of ppoll, pselect and epoll_pwait (size must be 8; null: none); signal delivery or the
// call's end restores it.
Result<void> set_temporary_mask(Task& t, mm::UserAddr set, u64 size);

}  // namespace rf::task
