// For tests that provoke exceptions of all kinds: every signal that a CPU raises comes back to the test.
#pragma once

#include "memory.h"

#include <sys/ucontext.h>

static sigjmp_buf g_jump;
static volatile int g_signal;  // the last one

// The program's own: notes what it wants of the context, sets g_signal and jumps to g_jump.
static void caught(int signo, siginfo_t* info, void* context);

static void catch_all(void) {
  static char stack[65536];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  CHECK_EQ(sigaltstack(&alternate, NULL), 0);
  const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct sigaction act = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    CHECK_EQ(sigaction(signals[i], &act, NULL), 0);
  }
}

// The signal that the statement raises; 0 for none.
#define SIGNAL_OF(...)               \
  __extension__({                    \
    g_signal = 0;                    \
    if (sigsetjmp(g_jump, 1) == 0) { \
      __VA_ARGS__;                   \
    }                                \
    g_signal;                        \
  })
