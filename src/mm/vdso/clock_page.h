// The clock page: written by the sentry, read by the vDSO's code in guests. Plain C, for both.
#pragma once

#include <stdint.h>

#define RF_CLOCK_PAGE_SIZE 4096

// A line: at tick t, `base_tsc` <= t < base_tsc + max_ticks, CLOCK_MONOTONIC is
// monotonic_ns + (((t - base_tsc) * mult) >> shift), and CLOCK_REALTIME that plus realtime_offset.
struct rf_clock_page {
  uint32_t sequence;  // odd while the sentry writes
  uint32_t shift;
  uint64_t max_ticks;  // 0: the TSC cannot be used (yet); make the system call
  uint64_t base_tsc;
  uint64_t mult;
  uint64_t monotonic_ns;
  uint64_t realtime_offset;
  uint32_t cpu_number;  // how to learn it: one of the below
};

enum { RF_CPU_BY_SYSCALL = 0, RF_CPU_BY_RDTSCP = 1, RF_CPU_BY_RDPID = 2 };

static inline uint64_t rf_clock_line(const struct rf_clock_page* page, uint64_t ticks) {
  return page->monotonic_ns + (uint64_t)(((unsigned __int128)ticks * page->mult) >> page->shift);
}
