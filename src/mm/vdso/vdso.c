// The vDSO: runs in guests. No libc, no relocations, no writable data.
#include <linux/time.h>
#include <linux/time_types.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "clock_page.h"

// The page before the ELF header.
extern const volatile struct rf_clock_page rf_clock __attribute__((visibility("hidden")));

#define NS_PER_SEC 1000000000ull

struct timezone_words {
  int minutes_west, dst;
};

static inline long call2(long nr, long a, long b) {
  long r;
  __asm__ volatile("syscall" : "=a"(r) : "0"(nr), "D"(a), "S"(b) : "rcx", "r11", "memory");
  return r;
}

static inline long call3(long nr, long a, long b, long c) {
  long r;
  __asm__ volatile("syscall" : "=a"(r) : "0"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return r;
}

static inline uint64_t ticks_now(void) {
  uint32_t lo, hi;
  // Not before the loads that come before it.
  __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
  return (uint64_t)hi << 32 | lo;
}

// CLOCK_MONOTONIC, or CLOCK_REALTIME; 0 when the system call must tell.
static inline uint64_t clock_ns(int realtime) {
  for (;;) {
    uint32_t sequence = __atomic_load_n(&rf_clock.sequence, __ATOMIC_ACQUIRE);
    if (sequence & 1) {
      __asm__ volatile("pause");
      continue;
    }
    struct rf_clock_page p = {
        .shift = rf_clock.shift,
        .max_ticks = rf_clock.max_ticks,
        .base_tsc = rf_clock.base_tsc,
        .mult = rf_clock.mult,
        .monotonic_ns = rf_clock.monotonic_ns,
        .realtime_offset = rf_clock.realtime_offset,
    };
    uint64_t ticks = ticks_now() - p.base_tsc;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(&rf_clock.sequence, __ATOMIC_RELAXED) != sequence) continue;
    // Also when another CPU's counter is a little behind: the difference is then huge.
    if (ticks >= p.max_ticks) return 0;
    return rf_clock_line(&p, ticks) + (realtime ? p.realtime_offset : 0);
  }
}

// Splits by multiplication: a 64-bit division is slow on many CPUs, and the compiler knows how.
static inline void split(uint64_t ns, int64_t* sec, int64_t* rest) {
  *sec = (int64_t)(ns / NS_PER_SEC);
  *rest = (int64_t)(ns % NS_PER_SEC);
}

int __vdso_clock_gettime(int clock, struct __kernel_timespec* ts) {
  uint64_t ns = 0;
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
      ns = clock_ns(1);
      break;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
      ns = clock_ns(0);
      break;
    default:
      break;
  }
  if (__builtin_expect(ns == 0, 0)) return (int)call2(SYS_clock_gettime, clock, (long)ts);
  int64_t sec, rest;
  split(ns, &sec, &rest);
  ts->tv_sec = sec;
  ts->tv_nsec = rest;
  return 0;
}

int __vdso_clock_getres(int clock, struct __kernel_timespec* res) {
  return (int)call2(SYS_clock_getres, clock, (long)res);
}

int __vdso_gettimeofday(struct __kernel_old_timeval* tv, struct timezone_words* tz) {
  if (tv) {
    uint64_t ns = clock_ns(1);
    if (__builtin_expect(ns == 0, 0)) return (int)call2(SYS_gettimeofday, (long)tv, (long)tz);
    int64_t sec, rest;
    split(ns, &sec, &rest);
    tv->tv_sec = sec;
    tv->tv_usec = rest / 1000;
  }
  if (tz) tz->minutes_west = tz->dst = 0;
  return 0;
}

long __vdso_time(long* t) {
  uint64_t ns = clock_ns(1);
  if (__builtin_expect(ns == 0, 0)) return call2(SYS_time, (long)t, 0);
  long sec = (long)(ns / NS_PER_SEC);
  if (t) *t = sec;
  return sec;
}

long __vdso_getcpu(unsigned* cpu, unsigned* node, void* unused) {
  uint64_t number;
  switch (rf_clock.cpu_number) {
    case RF_CPU_BY_RDPID:
      __asm__ volatile("rdpid %0" : "=r"(number));
      break;
    case RF_CPU_BY_RDTSCP: {
      uint32_t lo, hi, aux;
      __asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
      number = aux;
      break;
    }
    default:
      return call3(SYS_getcpu, (long)cpu, (long)node, (long)unused);
  }
  if (cpu) *cpu = (unsigned)number & 0xfff;
  if (node) *node = 0;
  return 0;
}

int clock_gettime(int, struct __kernel_timespec*) __attribute__((weak, alias("__vdso_clock_gettime")));
int clock_getres(int, struct __kernel_timespec*) __attribute__((weak, alias("__vdso_clock_getres")));
int gettimeofday(struct __kernel_old_timeval*, struct timezone_words*)
    __attribute__((weak, alias("__vdso_gettimeofday")));
long time(long*) __attribute__((weak, alias("__vdso_time")));
long getcpu(unsigned*, unsigned*, void*) __attribute__((weak, alias("__vdso_getcpu")));

// Where signal handlers return to when the program gave no restorer of its own.
__asm__(
    ".text\n"
    ".globl __kernel_rt_sigreturn\n"
    ".type __kernel_rt_sigreturn, @function\n"
    "nop\n"  // unwinders look up the address before the return address
    "__kernel_rt_sigreturn:\n"
    "  movl $15, %eax\n"
    "  syscall\n"
    ".size __kernel_rt_sigreturn, . - __kernel_rt_sigreturn\n");
