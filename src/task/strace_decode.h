// How arguments and results look in strace's notation. Decoders read guest memory and may suspend.
#pragma once

#include <string>

#include "task/syscall.h"

namespace rf::task {

class Task;

// Argument `i` of the call in t.args. `after`: the call returned `result`, so what it wrote can be shown.
std::string decode_argument(Task& t, const SyscallEntry& entry, int i, bool after, s64 result);
// Whether the argument can only be shown once the call has returned.
bool decoded_after(Arg kind);
// "0", "-1 ENOENT (No such file or directory)", "0x7f0000000000", "? ERESTARTSYS (...)".
std::string decode_result(SysResult result, bool address);
// Flags as names joined by '|', the rest in hex; "0" for none.
struct FlagName {
  u64 value;
  const char* name;
};
std::string decode_flags(u64 v, std::span<const FlagName> names);

}  // namespace rf::task
