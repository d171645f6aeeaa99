// From x86 exceptions to what Linux would tell the task about them.
#pragma once

#include <cstddef>

#include "kvm/vcpu.h"
#include "platform/platform.h"

namespace rf::kvm {

// Does the signal's code for this exception depend on the x87 or SSE state?
bool needs_fp_state(u32 vector);

// The exit for exception `trap.vector` (0 to 31) met at `regs`. `fp`: an XSAVE area, where needs_fp_state().
platform::Exit exception_exit(const Trap& trap, const Registers& regs, const std::byte* fp);

}  // namespace rf::kvm
