// Registers as ring 3 may have them, whoever wrote them: a signal frame, a debugger.
#pragma once

#include "platform/platform.h"

namespace rf::platform {

// What ring 3 may set, as Linux's sigreturn has it (FIX_EFLAGS), and ID: AC OF DF TF SF ZF AF PF CF RF.
inline constexpr u64 kUserFlags = 0x50dd5 | 0x200000;
inline constexpr u64 kFixedFlags = 0x202;  // IF and the bit that is always set
inline constexpr u64 kTrapFlag = 0x100, kResumeFlag = 0x10000;

inline bool canonical(u64 va) { return static_cast<u64>(static_cast<s64>(va << 16) >> 16) == va; }

// Flags become such as ring 3 may have; bases that are not canonical, 0. False: RIP is not canonical. IRET to such an
// address faults in the kernel on Linux: SIGSEGV.
inline bool make_enterable(Registers& regs) {
  regs.eflags = (regs.eflags & kUserFlags) | kFixedFlags;
  if (((regs.rip | regs.fs_base | regs.gs_base) >> 47) == 0) [[likely]]
    return true;
  if (!canonical(regs.fs_base)) regs.fs_base = 0;
  if (!canonical(regs.gs_base)) regs.gs_base = 0;
  return canonical(regs.rip);
}

}  // namespace rf::platform
