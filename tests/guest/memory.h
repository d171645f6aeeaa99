// For tests of memory: catching a fault with its siginfo, and asking /proc/self/maps.
#pragma once

#include "check.h"

#include <setjmp.h>
#include <sys/mman.h>

enum { kPage = 4096 };

static sigjmp_buf fault_jump_;
static siginfo_t g_fault;  // of the last caught fault
static volatile int fault_armed_;

static void on_fault_(int signo, siginfo_t* info, void* context) {
  (void)context;
  if (!fault_armed_) {
    signal(signo, SIG_DFL);
    return;
  }
  g_fault = *info;
  fault_armed_ = 0;
  siglongjmp(fault_jump_, 1);
}

// Whether the access faults: FAULTS(*p = 1). g_fault then tells what was raised.
#define FAULTS(...)                                                              \
  __extension__({                                                                \
    struct sigaction act_ = {.sa_sigaction = on_fault_, .sa_flags = SA_SIGINFO}; \
    sigaction(SIGSEGV, &act_, NULL);                                             \
    sigaction(SIGBUS, &act_, NULL);                                              \
    volatile int faulted_ = 1;                                                   \
    if (sigsetjmp(fault_jump_, 1) == 0) {                                        \
      fault_armed_ = 1;                                                          \
      __VA_ARGS__;                                                               \
      faulted_ = 0;                                                              \
    }                                                                            \
    fault_armed_ = 0;                                                            \
    faulted_;                                                                    \
  })

#define READ(p) ((void)*(volatile const unsigned char*)(p))
#define WRITE(p, v) (*(volatile unsigned char*)(p) = (unsigned char)(v))

typedef struct {
  uintptr_t start, end;
  char rights[5];
  unsigned long offset, inode;
  char name[256];
} map_line;

// The line of /proc/self/maps that covers the address; 0 when none does.
__attribute__((unused)) static int find_map(const void* address, map_line* out) {
  FILE* f = fopen("/proc/self/maps", "r");
  if (!f) return 0;
  char line[512];
  int found = 0;
  while (!found && fgets(line, sizeof line, f)) {
    map_line m = {0};
    if (sscanf(line, "%lx-%lx %4s %lx %*s %lu %255[^\n]", &m.start, &m.end, m.rights, &m.offset, &m.inode, m.name) < 5)
      continue;
    if ((uintptr_t)address >= m.start && (uintptr_t)address < m.end) {
      *out = m;
      found = 1;
    }
  }
  fclose(f);
  return found;
}

__attribute__((unused)) static unsigned char* map_anonymous(size_t pages) {
  void* p = mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return p;
}
