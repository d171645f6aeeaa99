// The CPU's time-stamp counter, for accounting at every switch: cheaper than any clock.
#pragma once

#include "core/time.h"

namespace rf {

inline u64 cycles() { return __builtin_ia32_rdtsc(); }

// A number of cycles as ns, by the counter's rate since the process began (the TSC is taken to be invariant, as the
// host's own clock needs it to be).
Nanos cycles_to_nanos(u64 n);

}  // namespace rf
