// Waiting for many descriptors: poll(2), select(2), epoll(7).
#include <asm/unistd_64.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "fs/special_files.h"
#include "task/call_helpers.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

// What is left until `deadline`, for calls that report it.
__kernel_timespec remaining(Nanos deadline) {
  const Nanos left = std::max<Nanos>(deadline - monotonic_now(), 0);
  return {left / kNanosPerSecond, left % kNanosPerSecond};
}

// --- poll ---

Result<u64> do_poll(Task& t, mm::UserAddr addr, u32 count, Nanos deadline) {
  if (count > t.group->limit(RLIMIT_NOFILE).rlim_cur) return err(EINVAL);
  std::vector<pollfd> fds(count);
  TRY(mm::UserPtr<pollfd>(addr).read_array(*t.mm, fds));
  std::vector<fs::PollEntry> entries(count);
  size_t invalid = 0;
  for (u32 i = 0; i < count; ++i) {
    fds[i].revents = 0;
    if (fds[i].fd < 0) continue;
    Result<Ref<fs::File>> f = t.file(fds[i].fd);
    if (!f || ((*f)->flags() & O_PATH) != 0) {
      fds[i].revents = POLLNVAL;
      ++invalid;
      continue;
    }
    entries[i].file = *std::move(f);
    entries[i].events = static_cast<u16>(fds[i].events) | POLLERR | POLLHUP;
  }
  size_t ready = TRY(fs::poll_files(entries, invalid != 0 ? 0 : deadline));
  for (u32 i = 0; i < count; ++i)
    if (entries[i].file) fds[i].revents = static_cast<s16>(entries[i].revents);
  // Only revents is the kernel's to write; the rest is what was read.
  TRY(mm::UserPtr<const pollfd>(addr).write_array(*t.mm, fds));
  return ready + invalid;
}

SysResult poll_until(Task& t, mm::UserAddr addr, u32 count, Nanos deadline) {
  Result<u64> r = do_poll(t, addr, count, deadline);
  if (r || r.error() != Errno{EINTR}) return r;
  t.restart.function = [addr, count, deadline](Task& task) { return poll_until(task, addr, count, deadline); };
  return err(kERESTART_RESTARTBLOCK);
}

SysResult sys_poll(Task& t, const SyscallArgs& a) {
  const s32 ms = a.i(2);
  const Nanos deadline = ms < 0 ? kNever : ms == 0 ? 0 : deadline_after(Nanos{ms} * 1'000'000);
  return poll_until(t, a.addr(0), a.u32_(1), deadline);
}

SysResult sys_ppoll(Task& t, const SyscallArgs& a) {
  const Nanos deadline = TRY(read_timeout(t, a.ptr<__kernel_timespec>(2)));
  TRY(set_temporary_mask(t, a.addr(3), a.u(4)));
  Result<u64> r = do_poll(t, a.addr(0), a.u32_(1), deadline);
  // The time left is told where it can be; failure to write it does not fail the call.
  if (a.addr(2) != 0) (void)a.ptr<__kernel_timespec>(2).write(*t.mm, remaining(deadline));
  if (!r && r.error() == Errno{EINTR}) return err(kERESTARTNOHAND);
  return r;
}

// --- select ---

constexpr EventMask kSelectIn = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR;
constexpr EventMask kSelectOut = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR;
constexpr EventMask kSelectExcept = POLLPRI;

using Words = std::vector<u64>;

Result<Words> read_fd_set(Task& t, mm::UserAddr addr, size_t words) {
  Words set(words);
  if (addr != 0) TRY(mm::UserPtr<u64>(addr).read_array(*t.mm, set));
  return set;
}

Result<u64> do_select(Task& t, int count, const std::array<mm::UserAddr, 3>& addrs, Nanos deadline) {
  if (count < 0) return err(EINVAL);
  count = static_cast<int>(std::min<u64>(static_cast<u64>(count), t.group->limit(RLIMIT_NOFILE).rlim_cur));
  const size_t words = (static_cast<size_t>(count) + 63) / 64;
  std::array<Words, 3> sets;
  for (int s = 0; s < 3; ++s) sets[s] = TRY(read_fd_set(t, addrs[s], words));
  constexpr EventMask kMasks[3] = {kSelectIn, kSelectOut, kSelectExcept};
  std::vector<fs::PollEntry> entries;
  std::vector<int> fds;
  for (int fd = 0; fd < count; ++fd) {
    EventMask events = 0;
    for (int s = 0; s < 3; ++s)
      if ((sets[s][fd / 64] >> (fd % 64) & 1) != 0) events |= kMasks[s];
    if (events == 0) continue;
    Ref<fs::File> f = TRY(t.file(fd));
    entries.push_back({std::move(f), events, 0});
    fds.push_back(fd);
  }
  TRY(fs::poll_files(entries, deadline));
  u64 total = 0;
  std::array<Words, 3> out{Words(words), Words(words), Words(words)};
  for (size_t i = 0; i < entries.size(); ++i) {
    for (int s = 0; s < 3; ++s) {
      const u64 bit = u64{1} << (fds[i] % 64);
      if ((sets[s][fds[i] / 64] & bit) == 0 || (entries[i].revents & kMasks[s]) == 0) continue;
      out[s][fds[i] / 64] |= bit;
      ++total;
    }
  }
  for (int s = 0; s < 3; ++s)
    if (addrs[s] != 0) TRY(mm::UserPtr<const u64>(addrs[s]).write_array(*t.mm, out[s]));
  return total;
}

SysResult sys_select(Task& t, const SyscallArgs& a) {
  Nanos deadline = kNever;
  if (a.addr(4) != 0) {
    const timeval tv = TRY(a.ptr<timeval>(4).read(*t.mm));
    if (tv.tv_sec < 0 || tv.tv_usec < 0) return err(EINVAL);
    const s64 sec = tv.tv_sec + tv.tv_usec / 1'000'000;
    deadline = deadline_after(TRY(to_nanos({sec, tv.tv_usec % 1'000'000 * 1000})));
  }
  Result<u64> r = do_select(t, a.i(0), {a.addr(1), a.addr(2), a.addr(3)}, deadline);
  if (a.addr(4) != 0) {
    const __kernel_timespec left = remaining(deadline);
    (void)a.ptr<timeval>(4).write(*t.mm, {left.tv_sec, left.tv_nsec / 1000});
  }
  if (!r && r.error() == Errno{EINTR}) return err(kERESTARTNOHAND);
  return r;
}

SysResult sys_pselect6(Task& t, const SyscallArgs& a) {
  const Nanos deadline = TRY(read_timeout(t, a.ptr<__kernel_timespec>(4)));
  if (a.addr(5) != 0) {
    const auto [set, size] = TRY(a.ptr<std::array<u64, 2>>(5).read(*t.mm));
    TRY(set_temporary_mask(t, set, size));
  }
  Result<u64> r = do_select(t, a.i(0), {a.addr(1), a.addr(2), a.addr(3)}, deadline);
  if (a.addr(4) != 0) (void)a.ptr<__kernel_timespec>(4).write(*t.mm, remaining(deadline));
  if (!r && r.error() == Errno{EINTR}) return err(kERESTARTNOHAND);
  return r;
}

// --- epoll ---

// The layout of the kernel's struct epoll_event on x86-64: packed.
struct [[gnu::packed]] GuestEpollEvent {
  u32 events;
  u64 data;
};

SysResult make_epoll(Task& t, bool cloexec) {
  return t.files->install(TRY(fs::make_epoll(0)), cloexec, 0, t.group->limit(RLIMIT_NOFILE).rlim_cur);
}
SysResult sys_epoll_create(Task& t, const SyscallArgs& a) {
  if (a.i(0) <= 0) return err(EINVAL);
  return make_epoll(t, false);
}
SysResult sys_epoll_create1(Task& t, const SyscallArgs& a) {
  if ((a.i(0) & ~EPOLL_CLOEXEC) != 0) return err(EINVAL);
  return make_epoll(t, (a.i(0) & EPOLL_CLOEXEC) != 0);
}

SysResult sys_epoll_ctl(Task& t, const SyscallArgs& a) {
  fs::EpollEvent event{};
  if (a.i(1) != EPOLL_CTL_DEL) {
    const GuestEpollEvent e = TRY(a.ptr<GuestEpollEvent>(3).read(*t.mm));
    event = {e.events, e.data};
  }
  Ref<fs::File> epoll = TRY(t.file(a.fd(0)));
  Ref<fs::File> target = TRY(t.file(a.fd(2)));
  if ((epoll->flags() & O_PATH) != 0 || (target->flags() & O_PATH) != 0) return err(EBADF);
  if (epoll == target) return err(EINVAL);
  return fs::epoll_ctl(*epoll, a.i(1), a.fd(2), target, event);
}

SysResult wait_for_events(Task& t, const SyscallArgs& a, Nanos deadline) {
  const s32 max = a.i(2);
  if (max <= 0 || max > static_cast<s32>(INT32_MAX / sizeof(GuestEpollEvent))) return err(EINVAL);
  Ref<fs::File> epoll = TRY(t.file(a.fd(0)));
  std::vector<fs::EpollEvent> events(std::min(max, 1024));
  const size_t n = TRY(fs::epoll_wait(*epoll, events, deadline));
  std::vector<GuestEpollEvent> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = {events[i].events, events[i].data};
  TRY(mm::UserPtr<const GuestEpollEvent>(a.addr(1)).write_array(*t.mm, out));
  return n;
}

Nanos epoll_deadline(s32 ms) { return ms < 0 ? kNever : ms == 0 ? 0 : deadline_after(Nanos{ms} * 1'000'000); }

SysResult sys_epoll_wait(Task& t, const SyscallArgs& a) { return wait_for_events(t, a, epoll_deadline(a.i(3))); }
SysResult sys_epoll_pwait(Task& t, const SyscallArgs& a) {
  TRY(set_temporary_mask(t, a.addr(4), a.u(5)));
  return wait_for_events(t, a, epoll_deadline(a.i(3)));
}
SysResult sys_epoll_pwait2(Task& t, const SyscallArgs& a) {
  const Nanos deadline = TRY(read_timeout(t, a.ptr<__kernel_timespec>(3)));
  TRY(set_temporary_mask(t, a.addr(4), a.u(5)));
  return wait_for_events(t, a, deadline);
}

constexpr SyscallEntry kEntries[] = {
    {__NR_poll, "poll", sys_poll, Support::kFull, "", {Arg::kPollFds, Arg::kUint, Arg::kInt}},
    {__NR_ppoll,
     "ppoll",
     sys_ppoll,
     Support::kFull,
     "",
     {Arg::kPollFds, Arg::kUint, Arg::kTimespec, Arg::kSigset, Arg::kSize}},
    {__NR_select,
     "select",
     sys_select,
     Support::kFull,
     "",
     {Arg::kInt, Arg::kAddr, Arg::kAddr, Arg::kAddr, Arg::kTimeval}},
    {__NR_pselect6,
     "pselect6",
     sys_pselect6,
     Support::kFull,
     "",
     {Arg::kInt, Arg::kAddr, Arg::kAddr, Arg::kAddr, Arg::kTimespec, Arg::kAddr}},
    {__NR_epoll_create, "epoll_create", sys_epoll_create, Support::kFull, "", {Arg::kInt}},
    {__NR_epoll_create1, "epoll_create1", sys_epoll_create1, Support::kFull, "", {Arg::kHex}},
    {__NR_epoll_ctl, "epoll_ctl", sys_epoll_ctl, Support::kFull, "", {Arg::kFd, Arg::kEpollOp, Arg::kFd, Arg::kAddr}},
    {__NR_epoll_wait, "epoll_wait", sys_epoll_wait, Support::kFull, "", {Arg::kFd, Arg::kAddr, Arg::kInt, Arg::kInt}},
    {__NR_epoll_pwait,
     "epoll_pwait",
     sys_epoll_pwait,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kAddr, Arg::kInt, Arg::kInt, Arg::kSigset, Arg::kSize}},
    {__NR_epoll_pwait2,
     "epoll_pwait2",
     sys_epoll_pwait2,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kAddr, Arg::kInt, Arg::kTimespec, Arg::kSigset, Arg::kSize}},
};

}  // namespace

Family poll_family() { return kEntries; }

}  // namespace rf::task
