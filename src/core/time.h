// Monotonic time in nanoseconds, as the sentry's timers use it (host CLOCK_MONOTONIC, read through the
// vDSO: no host call).
#pragma once

#include <limits>

#include "core/types.h"

namespace rf {

using Nanos = s64;
inline constexpr Nanos kNever = std::numeric_limits<s64>::max();
inline constexpr Nanos kNanosPerSecond = 1'000'000'000;

Nanos monotonic_now();
Nanos realtime_now();

}  // namespace rf
