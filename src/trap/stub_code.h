// The stub's code as the sentry's program contains it. To run it must be copied to kText of a stub process.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include "core/types.h"
#include "trap/layout.h"

extern "C" {
extern const char __start_trap_stub[], __stop_trap_stub[];
extern const char rf_trap_zygote[];  // entry of the zygote, a child of the sentry
extern const char rf_trap_call[];    // where patched system calls lead
void rf_trap_signal(int, siginfo_t*, ucontext_t*);
}

namespace rf::trap {

inline constexpr u64 kTextSize = 0x4000;
// Stops a stub thread that runs guest code.
inline constexpr int kKickSignal = SIGUSR1;

// Where a label of the stub's code is in a stub process.
inline u64 in_stub(const void* label) {
  return kText + static_cast<u64>(static_cast<const char*>(label) - __start_trap_stub);
}

}  // namespace rf::trap
