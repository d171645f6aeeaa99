// Files that are in no directory: made by calls of their own.
#pragma once

#include <signal.h>

#include <functional>
#include <utility>

#include "fs/file.h"

namespace rf::fs {

// The file system of pipes, sockets and anonymous inodes ("pipe:[n]", "anon_inode:[eventpoll]").
class AnonFs;
// A place of its own for each call. A name that ends in ':' gets the inode's number: "pipe:" becomes "pipe:[12]".
// `mode` of anonymous inodes has no type, as on Linux: that tells them from files that are always ready.
inline constexpr u16 kAnonMode = 0600;
Path make_anon_path(std::string name, u16 mode = kAnonMode);
// The inode's number at such a place.
u64 anon_inode_number(const Path& path);

// pipe2(2): read end, write end. flags: O_NONBLOCK, O_DIRECT (packet mode).
Result<std::pair<Ref<File>, Ref<File>>> make_pipe(int flags);
// Opens a FIFO inode, waiting for the other end as fifo(7) says. Suspends.
Result<Ref<File>> open_fifo(const Context& ctx, const Path& path, int flags);
bool is_pipe(File& f);
// F_GETPIPE_SZ and F_SETPIPE_SZ, in bytes; both give the capacity. EBADF if not a pipe, EBUSY, EPERM, EINVAL.
Result<u64> pipe_capacity(File& f);
Result<u64> set_pipe_capacity(const Context& ctx, File& f, u64 bytes);
// splice(2)/tee(2)/vmsplice(2) between pipes and files move whole pages where they can; semantic checks are theirs.
Result<size_t> splice(const Context& ctx, File& in, s64* in_offset, File& out, s64* out_offset, u64 len, u32 flags);
Result<size_t> tee(const Context& ctx, File& in, File& out, u64 len, u32 flags);

Result<Ref<File>> make_eventfd(u64 initial, int flags);
Result<Ref<File>> make_timerfd(int clock, int flags);
struct TimerSpec {  // ns; 0 value: disarmed
  Nanos value = 0, interval = 0;
};
Result<TimerSpec> timerfd_settime(File& f, int flags, TimerSpec spec);  // the old setting; EINVAL if not a timerfd
Result<TimerSpec> timerfd_gettime(File& f);

// signalfd(2) reads signals through `source`, which the task room provides.
class SignalSource : public RefCounted {
 public:
  // Takes a pending signal of `mask` that the calling task (ctx.task) would get; false if none.
  virtual bool take(const Context& ctx, u64 mask, siginfo_t& info) = 0;
  virtual bool pending(void* task, u64 mask) = 0;
  virtual WaitQueue& queue() = 0;  // notified when a signal becomes pending for the task it was made for
};
Result<Ref<File>> make_signalfd(Ref<SignalSource> source, u64 mask, int flags);
Result<void> signalfd_set_mask(File& f, u64 mask);  // EINVAL if not a signalfd

Result<Ref<File>> make_memfd(mm::Frames& frames, const std::string& name, u32 flags);
// File seals, memfd_create(2), F_ADD_SEALS/F_GET_SEALS; EINVAL for other files.
Result<u32> get_seals(File& f);
Result<void> add_seals(File& f, u32 seals);

// epoll(7).
struct EpollEvent {
  u32 events;
  u64 data;
};
Result<Ref<File>> make_epoll(int flags);
// EPOLL_CTL_*; `fd` identifies the registration together with `target`.
Result<void> epoll_ctl(File& epoll, int op, int fd, const Ref<File>& target, EpollEvent event);
// Up to out.size() events; 0 at the deadline; EINTR. Suspends.
Result<size_t> epoll_wait(File& epoll, std::span<EpollEvent> out, Nanos deadline);

// A host descriptor that the sandbox was started with (stdin, stdout, stderr). The file works on a copy, so the caller
// should close or redirect its own: else a host reader of a pipe sees no end of file when the guest closes it. Access
// mode, O_APPEND and O_NONBLOCK are the descriptor's, `flags` are added. Terminals pass a fixed set of terminal ioctls
// on; see host_terminal() in fs/tty.h: that one is an open file of `console`, the guest's device for it, if given.
// Regular files can be mapped when `frames` is given. From any thread; ignores SIGPIPE in the process.
Setup<Ref<File>> make_host_stream(int host_fd, int flags, mm::Frames* frames = nullptr, const Path& console = {});

// poll(2) and select(2) are made of these: fills revents and returns how many are not 0; waits until `deadline`.
struct PollEntry {
  Ref<File> file;  // null: not watched (revents as the caller set it)
  EventMask events = 0, revents = 0;
};
Result<size_t> poll_files(std::span<PollEntry> entries, Nanos deadline);

// --- Locks ---
// flock(2) and fcntl(2) record locks (POSIX and open-file-description). Wait interruptibly when asked to; EAGAIN,
// EDEADLK.
struct RecordLock {
  short type;  // F_RDLCK, F_WRLCK, F_UNLCK
  u64 start;
  u64 end;  // inclusive; ~0: to the end
  s32 pid = 0;
};
Result<void> flock_file(File& f, int operation);
Result<void> set_record_lock(File& f, const void* owner, s32 pid, const RecordLock& lock, bool wait);
Result<RecordLock> get_record_lock(File& f, const void* owner, const RecordLock& lock);
// Called when a process closes any descriptor of the inode, and by release.
void release_record_locks(Inode& inode, const void* owner);
void release_flock(File& f);

}  // namespace rf::fs
