// Host calls made at once, on the calling thread: for what is short and has no place in the ring (metadata of files
// whose inodes are in memory, ioctls, reads that may not wait). They go around libc, so no errno: a fiber may move to
// another thread between two of them, and nothing here remembers the thread.
//
// None suspends. All may be called from plain threads too. Errors are the host's errno. EINTR is possible only where
// the host call itself waits.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <linux/membarrier.h>
#include <linux/openat2.h>

#include <span>
#include <type_traits>

#include "core/result.h"
#include "core/types.h"
#include "hostio/fd.h"

struct statx;

namespace rf::hostio {

namespace detail {
inline s64 raw_call(long number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
  s64 result;
  register u64 r10 asm("r10") = d;
  register u64 r8 asm("r8") = e;
  register u64 r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}
template <class T>
u64 word(T v) {
  if constexpr (std::is_pointer_v<T>)
    return reinterpret_cast<u64>(v);
  else if constexpr (std::is_null_pointer_v<T>)
    return 0;
  else
    return static_cast<u64>(static_cast<s64>(v));  // as the C prototypes do: ints are sign-extended
}
}  // namespace detail

// Any host call, by number: `host_call(SYS_unlinkat, fd, name, 0)`. Pointers are the sentry's.
template <class... Args>
Result<u64> host_call(long number, Args... args) {
  static_assert(sizeof...(args) <= 6);
  const u64 words[7] = {detail::word(args)...};
  const s64 r = detail::raw_call(number, words[0], words[1], words[2], words[3], words[4], words[5]);
  if (r < 0 && r >= -4095) return err(static_cast<int>(-r));
  return static_cast<u64>(r);
}
// The same for calls whose result says nothing.
template <class... Args>
Result<void> host_call_void(long number, Args... args) {
  if (auto r = host_call(number, args...); !r) return err(r.error());
  return {};
}

// statx(2) by name or fd; waits for the disk when the name is not in the host's cache.
inline Result<void> statx_now(int dirfd, const char* path, int flags, unsigned mask, struct ::statx* out) {
  return host_call_void(SYS_statx, dirfd, path, flags, mask, out);
}

// openat2(2); may wait for the disk unless RESOLVE_CACHED is in `how`.
inline Result<HostFd> openat2_now(int dirfd, const char* path, const open_how& how) {
  return HostFd(static_cast<int>(TRY(host_call(SYS_openat2, dirfd, path, &how, sizeof how))));
}

// preadv2(2) and pwritev2(2); offset -1 is the file's own position. With RWF_NOWAIT: EAGAIN when it would wait,
// EOPNOTSUPP when the file cannot tell.
inline Result<size_t> preadv2_now(int fd, std::span<const iovec> iov, s64 offset, int flags) {
  return host_call(SYS_preadv2, fd, iov.data(), iov.size(), offset, 0, flags);
}
inline Result<size_t> pwritev2_now(int fd, std::span<const iovec> iov, s64 offset, int flags) {
  return host_call(SYS_pwritev2, fd, iov.data(), iov.size(), offset, 0, flags);
}

inline Result<u64> ioctl_now(int fd, u32 request, void* arg) { return host_call(SYS_ioctl, fd, u64{request}, arg); }

// Once at the start, while there is one thread (later it takes milliseconds): makes memory_barrier() usable.
inline Result<void> register_memory_barrier() {
  return host_call_void(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
}
// A full memory barrier on every CPU that one of our threads runs on, by interrupts. EPERM, ENOSYS: not to be had.
inline Result<void> memory_barrier() { return host_call_void(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0); }

// The poll(2) bits of `events` (and POLLERR, POLLHUP) that hold now.
u32 poll_now(int fd, u32 events);

// A copy of the descriptor, close-on-exec, numbered `min` or higher.
inline Result<HostFd> duplicate(int fd, int min) {
  return HostFd(static_cast<int>(TRY(host_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, min))));
}

}  // namespace rf::hostio
