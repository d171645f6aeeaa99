// futex(2), futex_waitv(2), robust lists.
#include <asm/unistd_64.h>
#include <linux/futex.h>

#include <mutex>
#include <shared_mutex>

#include "task/call_helpers.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

// The time-out of a wait as a deadline: absolute on the monotonic or real-time clock, or (FUTEX_WAIT alone) relative.
Result<Nanos> wait_deadline(Task& t, mm::UserPtr<__kernel_timespec> p, bool absolute, bool realtime) {
  if (!absolute || !p) return read_timeout(t, p);
  const Nanos when = TRY(to_nanos(TRY(p.read(*t.mm))));
  const Nanos now = TRY(t.kernel.now(realtime ? CLOCK_REALTIME : CLOCK_MONOTONIC, &t));
  return when <= now ? monotonic_now() : deadline_after(when - now);
}

// An interrupted wait with a time-out goes on to the same deadline; one without is made again.
SysResult wait_to(Task& t, mm::UserAddr addr, bool shared, u32 expected, u32 bitset, Nanos deadline) {
  const Result<void> r = t.kernel.futexes.wait(t, addr, shared, expected, bitset, deadline);
  if (r || r.error() != Errno{EINTR}) return r;
  if (deadline == kNever) return err(kERESTARTSYS);
  t.restart.function = [=](Task& task) { return wait_to(task, addr, shared, expected, bitset, deadline); };
  return err(kERESTART_RESTARTBLOCK);
}

SysResult restart_if_interrupted(const Result<void>& r) {
  if (!r && r.error() == Errno{EINTR}) return err(kERESTARTNOINTR);
  return r;
}

SysResult sys_futex(Task& t, const SyscallArgs& a) {
  const int op = a.i(1);
  const int command = op & FUTEX_CMD_MASK;
  const bool shared = (op & FUTEX_PRIVATE_FLAG) == 0;
  const bool realtime = (op & FUTEX_CLOCK_REALTIME) != 0;
  if (realtime && command != FUTEX_WAIT && command != FUTEX_WAIT_BITSET && command != FUTEX_WAIT_REQUEUE_PI &&
      command != FUTEX_LOCK_PI2)
    return err(ENOSYS);
  FutexTable& table = t.kernel.futexes;
  const mm::UserAddr addr = a.addr(0), addr2 = a.addr(4);
  const u32 value = a.u32_(2), value2 = a.u32_(3), value3 = a.u32_(5);
  switch (command) {
    case FUTEX_WAIT:
      return wait_to(t, addr, shared, value, FUTEX_BITSET_MATCH_ANY,
                     TRY(wait_deadline(t, a.ptr<__kernel_timespec>(3), false, realtime)));
    case FUTEX_WAIT_BITSET:
      return wait_to(t, addr, shared, value, value3,
                     TRY(wait_deadline(t, a.ptr<__kernel_timespec>(3), true, realtime)));
    case FUTEX_WAKE:
      return table.wake(t, addr, shared, FUTEX_BITSET_MATCH_ANY, value);
    case FUTEX_WAKE_BITSET:
      return table.wake(t, addr, shared, value3, value);
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE:
      if (static_cast<s32>(value) < 0 || static_cast<s32>(value2) < 0) return err(EINVAL);
      return table.requeue(t, addr, shared, value, addr2, value2, command == FUTEX_CMP_REQUEUE, value3);
    case FUTEX_WAKE_OP:
      return table.wake_op(t, addr, shared, value, addr2, value2, value3);
    case FUTEX_LOCK_PI:
    case FUTEX_LOCK_PI2:
      return restart_if_interrupted(table.lock_pi(
          t, addr, shared,
          TRY(wait_deadline(t, a.ptr<__kernel_timespec>(3), true, command == FUTEX_LOCK_PI || realtime)), false));
    case FUTEX_TRYLOCK_PI:
      return table.lock_pi(t, addr, shared, kNever, true);
    case FUTEX_UNLOCK_PI:
      return table.unlock_pi(t, addr, shared);
    case FUTEX_WAIT_REQUEUE_PI:
      return restart_if_interrupted(
          table.wait_requeue_pi(t, addr, shared, value, FUTEX_BITSET_MATCH_ANY,
                                TRY(wait_deadline(t, a.ptr<__kernel_timespec>(3), true, realtime)), addr2));
    case FUTEX_CMP_REQUEUE_PI:
      if (value != 1) return err(EINVAL);
      return table.cmp_requeue_pi(t, addr, shared, addr2, value2, value3);
    default:
      return err(ENOSYS);
  }
}

SysResult sys_futex_waitv(Task& t, const SyscallArgs& a) {
  const u32 count = a.u32_(1);
  if (a.u32_(2) != 0 || count == 0 || count > FUTEX_WAITV_MAX || a.addr(0) == 0) return err(EINVAL);
  Nanos deadline = kNever;
  if (a.addr(3) != 0) {
    if (a.i(4) != CLOCK_MONOTONIC && a.i(4) != CLOCK_REALTIME) return err(EINVAL);
    deadline = TRY(wait_deadline(t, a.ptr<__kernel_timespec>(3), true, a.i(4) == CLOCK_REALTIME));
  }
  std::vector<futex_waitv> given(count);
  TRY(a.ptr<futex_waitv>(0).read_array(*t.mm, given));
  std::vector<FutexTable::WaitvEntry> entries;
  for (const futex_waitv& w : given) {
    if ((w.flags & ~u32{FUTEX_32 | FUTEX_PRIVATE_FLAG}) != 0 || (w.flags & FUTEX_32) == 0 || w.__reserved != 0)
      return err(EINVAL);
    entries.push_back({w.uaddr, static_cast<u32>(w.val), (w.flags & FUTEX_PRIVATE_FLAG) == 0});
  }
  const Result<u64> r = t.kernel.futexes.waitv(t, entries, deadline);
  if (!r && r.error() == Errno{EINTR}) return err(kERESTARTSYS);
  return r;
}

constexpr u64 kRobustHeadSize = 24;

SysResult sys_set_robust_list(Task& t, const SyscallArgs& a) {
  if (a.u(1) != kRobustHeadSize) return err(EINVAL);
  t.robust_list = a.addr(0);
  return 0;
}

SysResult sys_get_robust_list(Task& t, const SyscallArgs& a) {
  u64 head = t.robust_list;
  if (a.i(0) != 0 && a.i(0) != t.tid) {
    std::shared_lock guard(t.kernel.tree_lock);
    Task* other = t.kernel.find_task(a.i(0));
    if (!other) return err(ESRCH);
    if (other->group != t.group && !t.creds->capable(CAP_SYS_PTRACE)) return err(EPERM);
    head = other->robust_list;
  }
  TRY(a.ptr<u64>(2).write(*t.mm, kRobustHeadSize));
  return a.ptr<u64>(1).write(*t.mm, head);
}

constexpr SyscallEntry kEntries[] = {
    {__NR_futex,
     "futex",
     sys_futex,
     Support::kPartial,
     "priority inheritance keeps the protocol, without priorities",
     {Arg::kAddr, Arg::kFutexOp, Arg::kUint, Arg::kAddr, Arg::kAddr, Arg::kUint}},
    {__NR_futex_waitv,
     "futex_waitv",
     sys_futex_waitv,
     Support::kFull,
     "",
     {Arg::kAddr, Arg::kUint, Arg::kHex, Arg::kTimespec, Arg::kClock}},
    {__NR_set_robust_list, "set_robust_list", sys_set_robust_list, Support::kFull, "", {Arg::kAddr, Arg::kSize}},
    {__NR_get_robust_list,
     "get_robust_list",
     sys_get_robust_list,
     Support::kFull,
     "",
     {Arg::kPid, Arg::kAddr, Arg::kAddr}},
};

}  // namespace

Family futex_family() { return kEntries; }

}  // namespace rf::task
