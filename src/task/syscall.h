// System calls: arguments, results and the table. How to add one: docs/adding-a-syscall.md.
//
// A handler is `SysResult sys_name(Task&, const SyscallArgs&)`, in task/syscalls/<family>.cc, found by number in one
// table. It validates first, then acts; it may suspend unless it says otherwise.
#pragma once

#include <array>
#include <atomic>
#include <span>
#include <string>
#include <type_traits>

#include "core/result.h"
#include "core/types.h"
#include "mm/user_access.h"

namespace rf::task {

class Task;
class RunState;

// The six argument registers as the guest set them. Accessors truncate as the C prototypes of the calls do.
struct SyscallArgs {
  std::array<u64, 6> v{};

  u64 u(int i) const { return v[i]; }
  s64 s(int i) const { return static_cast<s64>(v[i]); }
  u32 u32_(int i) const { return static_cast<u32>(v[i]); }
  s32 i(int i) const { return static_cast<s32>(v[i]); }
  int fd(int i) const { return static_cast<s32>(v[i]); }
  mm::UserAddr addr(int i) const { return v[i]; }
  template <class T>
  mm::UserPtr<T> ptr(int i) const {
    return mm::UserPtr<T>(v[i]);
  }
};

// What a handler gives back: a value for rax, an error, or a change of the task's course (exit, execve, sigreturn),
// after which rax is not touched. Two words, which come back in registers.
class SysResult {
 public:
  SysResult(u64 value) : word_(value) {}  // NOLINT: handlers `return n;`
  SysResult(std::unexpected<Errno> e)
      : word_(static_cast<u64>(errno_value(e.error()))), tag_(kError) {}  // NOLINT: `return err(EINVAL);`, TRY
  template <class T>
  requires std::is_integral_v<T> SysResult(const Result<T>& r)
      : SysResult(r ? SysResult(static_cast<u64>(*r)) : SysResult(err(r.error()))) {}                 // NOLINT
  SysResult(const Result<void>& r) : SysResult(r ? SysResult(u64{0}) : SysResult(err(r.error()))) {}  // NOLINT
  static SysResult go_to(const RunState& next) {
    SysResult r(u64{0});
    r.tag_ = reinterpret_cast<u64>(&next);
    return r;
  }

  // Null: there is a value or an error.
  const RunState* next() const { return tag_ > kError ? reinterpret_cast<const RunState*>(tag_) : nullptr; }
  // 0: none.
  int error() const { return tag_ == kError ? static_cast<int>(word_) : 0; }
  // What the guest gets.
  u64 rax() const { return tag_ == kError ? -word_ : word_; }

 private:
  static constexpr u64 kError = 1;
  u64 word_;
  u64 tag_ = 0;  // kError, or the address of the state to go to
};
static_assert(std::is_trivially_copyable_v<SysResult>);

using SyscallHandler = SysResult (*)(Task&, const SyscallArgs&);

// How complete an entry is; `ringfence syscalls` prints it.
enum class Support : u8 {
  kFull,     // as the manual page says
  kPartial,  // what is missing is in the note
  kNone,     // ENOSYS
};

// How strace shows an argument.
enum class Arg : u8 {
  kNone,
  kInt,
  kUint,
  kHex,
  kOct,
  kFd,
  kAddr,
  kPath,
  kString,
  kBufIn,
  kBufOut,  // buffers: the next argument is the length
  kSize,
  kOffset,
  kSignal,
  kSigset,
  kClock,
  kTimespec,
  kTimeval,
  kStat,
  kOpenFlags,
  kMode,
  kProt,
  kMmapFlags,
  kCloneFlags,
  kWhence,
  kIovecIn,
  kIovecOut,
  kStringArray,
  kFutexOp,
  kEpollOp,
  kPollFds,
  kSockaddr,     // the next argument is its length
  kSockaddrOut,  // the next argument is a kLengthPtr
  kLengthPtr,
  kSockFamily,
  kSockType,
  kSockFlags,
  kSockLevel,
  kSockOption,    // after a kSockLevel
  kSockValueIn,   // after a kSockOption; the next argument is the length
  kSockValueOut,  // the next argument is a kLengthPtr
  kShutdownHow,
  kMsgFlags,
  kMsghdrIn,
  kMsghdrOut,
  kMmsghdrIn,
  kMmsghdrOut,  // the next argument is their number
  kIoctl,
  kFcntl,
  kAtFlags,
  kDirFd,
  kWaitStatus,
  kWaitOptions,
  kPid,
  kRlimit,
  kPrctl,
  kArchPrctl,
  kMadvise,
  kFdPair,
  kUnused,
};

struct SyscallEntry {
  u16 number;
  const char* name;
  SyscallHandler handler;  // null: ENOSYS
  Support support;
  const char* note;  // what is missing, for kPartial and kNone; else ""
  std::array<Arg, 6> args;
  bool returns_address = false;  // strace prints the result in hex
};

// Families register their entries in syscall_table.cc.
using Family = std::span<const SyscallEntry>;

inline constexpr u32 kSyscallLimit = 512;

class SyscallTable {
 public:
  static const SyscallTable& get();
  // Null for numbers Linux does not know either.
  const SyscallEntry* find(u64 number) const { return number < kSyscallLimit ? entries_[number] : nullptr; }
  // By number; null where there is no entry.
  std::span<const SyscallEntry* const> all() const { return entries_; }
  // "openat"; also for calls of Linux that have no entry; "" for numbers Linux does not know.
  static std::string name_of(u64 number);

 private:
  SyscallTable();
  std::array<const SyscallEntry*, kSyscallLimit> entries_{};
};

}  // namespace rf::task
