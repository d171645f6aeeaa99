// The program break of the static executable, in place of libc's: a reserved high mapping.
//
// The kernel puts the break of a static-PIE at 0x5555_xxxx_xxxx, where guest addresses are; malloc's main arena and the
// main thread's TLS block (__libc_setup_tls) live there. These definitions replace libc's brk.o and sbrk.o, so that
// both come from a mapping, which the kernel puts high like all others. Only for static links: a dynamic libc uses its
// own.
//
// The first call comes before TLS and errno exist, so nothing here may use either, nor the stack protector's canary.

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>

namespace {

constexpr size_t kReserved = size_t{64} << 30;  // address space, not memory
constexpr long kPage = 4096;

char* g_start = nullptr;
char* g_break = nullptr;  // malloc calls with its main arena's lock held; before threads nobody else does

long system_call(long number, long a, long b, long c, long d = 0, long e = 0, long f = 0) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

long map_reserved() {
  return system_call(__NR_mmap, 0, static_cast<long>(kReserved), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

bool failed(long result) { return result < 0 && result > -kPage; }

void raise_soft_limit(int resource) {
  rlimit64 limit{};
  if (failed(system_call(__NR_prlimit64, 0, resource, 0, reinterpret_cast<long>(&limit)))) return;
  limit.rlim_cur = limit.rlim_max;
  system_call(__NR_prlimit64, 0, resource, reinterpret_cast<long>(&limit));
}

// RLIMIT_DATA bounds every writable mapping, so that libc's start would go on without memory, and crash.
[[noreturn]] void give_up() {
  constexpr char kMessage[] =
      "ringfence: no memory to start with: the data segment is limited: run 'ulimit -Hd unlimited' as root\n";
  system_call(__NR_write, 2, reinterpret_cast<long>(kMessage), sizeof kMessage - 1);
  system_call(__NR_exit_group, 125, 0, 0);
  __builtin_unreachable();
}

bool reserve() {
  if (g_start) return true;
  long p = map_reserved();
  if (failed(p)) {
    raise_soft_limit(RLIMIT_DATA);
    raise_soft_limit(RLIMIT_AS);
    p = map_reserved();
  }
  if (failed(p)) {
    rlimit64 data{};
    if (failed(system_call(__NR_prlimit64, 0, RLIMIT_DATA, 0, reinterpret_cast<long>(&data)))) return false;
    if (data.rlim_max < kReserved) give_up();
    return false;
  }
  g_start = g_break = reinterpret_cast<char*>(p);
  return true;
}

void* const kFailed = reinterpret_cast<void*>(-1);  // malloc then falls back on mmap

}  // namespace

extern "C" {

// libc's copy of the break. Not null means to __libc_setup_tls that sbrk() works already.
void* __curbrk = reinterpret_cast<void*>(1);

void* __sbrk(intptr_t increment) {
  if (!reserve()) return kFailed;
  char* old = g_break;
  if (increment > g_start + kReserved - old || increment < g_start - old) return kFailed;
  g_break = old + increment;
  if (increment < 0) {
    // malloc trims: the pages above the new break go back, and read as zero when they come again.
    auto page = (reinterpret_cast<uintptr_t>(g_break) + kPage - 1) & ~static_cast<uintptr_t>(kPage - 1);
    if (page < reinterpret_cast<uintptr_t>(old))
      system_call(__NR_madvise, static_cast<long>(page), old - reinterpret_cast<char*>(page), MADV_DONTNEED);
  }
  __curbrk = g_break;
  return old;
}

int __brk(void* address) {
  if (!reserve()) return -1;
  return __sbrk(static_cast<char*>(address) - g_break) == kFailed ? -1 : 0;
}

void* sbrk(intptr_t increment) noexcept __attribute__((alias("__sbrk")));
int brk(void* address) noexcept __attribute__((alias("__brk")));

}  // extern "C"
