#include "platform/host_tsc.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>

#include "core/types.h"

namespace rf::platform {

bool host_clock_reads_tsc() {
  // The shortest of several, so that neither a task switch nor a cold cache counts.
  constexpr int kTimes = 32;
  const auto least_cycles = [](auto&& call) {
    u64 least = ~u64{0};
    for (int i = 0; i < kTimes; ++i) {
      timespec t;
      const u64 begin = __rdtsc();
      call(&t);
      least = std::min<u64>(least, __rdtsc() - begin);
    }
    return least;
  };
  const u64 plain = least_cycles([](timespec* t) { return ::clock_gettime(CLOCK_MONOTONIC, t); });
  const u64 by_call = least_cycles([](timespec* t) { return ::syscall(SYS_clock_gettime, CLOCK_MONOTONIC, t); });
  return plain < by_call / 2;
}

}  // namespace rf::platform
