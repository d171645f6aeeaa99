#include "core/time.h"

#include <time.h>

namespace rf {
namespace {

Nanos read_clock(clockid_t clock) {
  timespec ts;
  clock_gettime(clock, &ts);
  return Nanos{ts.tv_sec} * kNanosPerSecond + ts.tv_nsec;
}

}  // namespace

Nanos monotonic_now() { return read_clock(CLOCK_MONOTONIC); }
Nanos realtime_now() { return read_clock(CLOCK_REALTIME); }

}  // namespace rf
