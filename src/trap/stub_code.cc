// The stub's code, second part: signals of stub threads, and their wait for the sentry. Compiled without vector
// registers (they are the guest's), without a stack protector, and copied to kText with stub.S: no data, no calls out
// of the section.
#include <asm/prctl.h>
#include <asm/unistd_64.h>
#include <linux/futex.h>
#include <signal.h>
#include <ucontext.h>

#include "trap/layout.h"
#include "trap/stub_code.h"

#define RF_STUB_CODE [[gnu::section("trap_stub"), gnu::used, gnu::visibility("hidden")]]

using rf::s64;
using rf::u32;
using rf::u64;
using namespace rf::trap;

extern "C" {
// Hidden, so that they are reached relatively and not through a table.
[[gnu::visibility("hidden")]] extern const char rf_trap_exit[], rf_trap_exit_loaded[], rf_trap_exit_end[];
[[noreturn, gnu::visibility("hidden")]] void rf_trap_return(const greg_t* regs, void* fp);
[[noreturn]] void rf_trap_wait(Area* area);
[[noreturn]] void rf_trap_not_started(Area* area);
[[noreturn, gnu::visibility("hidden")]] void rf_trap_called(Area* area);
}

namespace {

[[gnu::always_inline]] inline s64 host_call(s64 number, u64 a, u64 b, u64 c = 0, u64 d = 0) {
  register u64 r10 asm("r10") = d;
  s64 result;
  asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

template <class T>
[[gnu::always_inline]] inline T load(const T& word) {
  return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}

[[gnu::always_inline]] inline void publish(Area* area, u32 state) {
  // Not in one, by an exchange: that would reach the other core later.
  __atomic_store_n(&area->state, state, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (load(area->sentry_sleeps) != 0) {
    __atomic_store_n(&area->sentry_sleeps, 0, __ATOMIC_SEQ_CST);
    host_call(__NR_futex, reinterpret_cast<u64>(&area->sentry_sleeps), FUTEX_WAKE, kEverybody);
  }
}

// Until the wake word changes, or somebody wakes the thread.
[[gnu::always_inline]] inline void sleep(Area* area) {
  const u32& word = *reinterpret_cast<const u32*>(area->wake_word);
  __atomic_store_n(&area->sleeping, 1, __ATOMIC_SEQ_CST);
  if (load(word) == area->last_wake) host_call(__NR_futex, area->wake_word, FUTEX_WAIT, area->last_wake);
  __atomic_store_n(&area->sleeping, 0, __ATOMIC_SEQ_CST);
}

// Until the wake word changes; to what. Between looks the thread yields: what it waits for may need this very core.
[[gnu::always_inline]] inline u32 await_wake(Area* area) {
  const u32 last = area->last_wake;
  const u32& word = *reinterpret_cast<const u32*>(area->wake_word);
  u64 now = __builtin_ia32_rdtsc();
  const u64 deadline = now + area->spin_cycles;
  for (;;) {
    const u64 begin = now;
    do {
      if (const u32 w = load(word); w != last) return area->last_wake = w;
      __builtin_ia32_pause();
      now = __builtin_ia32_rdtsc();
    } while (now - begin < (load(area->step_aside) ? kGlanceCycles : kLookCycles));
    if (now < deadline) {
      host_call(__NR_sched_yield, 0, 0);
      const u64 yielded = now;
      now = __builtin_ia32_rdtsc();
      if (now - yielded <= kLongYieldCycles) continue;
      area->crowded = 1;
    }
    sleep(area);
  }
}

}  // namespace

extern "C" {

// Waits for the sentry to resume this thread, and does what it says.
RF_STUB_CODE void rf_trap_wait(Area* area) {
  for (;;) {
    if (await_wake(area) & kLend) {
      host_call(__NR_futex, kCommand + offsetof(CommandPage, generation), FUTEX_WAKE, kEverybody);
      sleep(area);
      continue;
    }
    const u32 action = area->action;
    if (action & kSetBases) {
      host_call(__NR_arch_prctl, ARCH_SET_FS, area->fs_base);
      host_call(__NR_arch_prctl, ARCH_SET_GS, area->gs_base);
    }
    if (action & kOwnGs) asm volatile("wrgsbase %0" : : "r"(area));
    if (action & kMove) host_call(__NR_sched_setaffinity, 0, sizeof area->cpus, reinterpret_cast<u64>(&area->cpus));
    if (action & kSaveFp) {
      asm volatile("xsave64 (%0)" : : "r"(area->self + kFpOffset), "a"(-1), "d"(-1) : "memory");
      publish(area, kFpSaved);
      continue;
    }
    asm volatile("jmp rf_trap_exit" : : "D"(area));
    __builtin_unreachable();
  }
}

// A patched system call: all but the vector state is in area->regs.
RF_STUB_CODE void rf_trap_called(Area* area) {
  area->kick_pending = 0;
  publish(area, kCalled);
  rf_trap_wait(area);
}

// The way back to guest code met a kick that had come before it.
RF_STUB_CODE void rf_trap_not_started(Area* area) {
  area->kick_pending = 0;
  area->fp_image = area->fp_load;
  publish(area, kNotStarted);
  rf_trap_wait(area);
}

// The handler of all signals, on the thread's own signal stack.
RF_STUB_CODE void rf_trap_signal(int sig, siginfo_t* info, ucontext_t* context) {
  auto* area = reinterpret_cast<Area*>(reinterpret_cast<u64>(__builtin_frame_address(0)) & ~(kAreaSize - 1));
  const greg_t* g = context->uc_mcontext.gregs;
  const auto rip = static_cast<u64>(g[REG_RIP]);
  auto* fp = context->uc_mcontext.fpregs;
  const auto at = [rip](const char* label) {
    const char* address;
    asm("" : "=r"(address) : "0"(label));
    return rip >= reinterpret_cast<u64>(address);
  };
  if (sig == kKickSignal && rip >= kText && rip < kText + kTextSize) {
    if (!at(rf_trap_exit) || at(rf_trap_exit_end)) {
      // It will stop by itself, or has; or, if the sentry has just resumed it, at rf_trap_exit.
      area->kick_pending = 1;
      rf_trap_return(g, fp);
    }
    area->kick_pending = 0;
    area->fp_image = at(rf_trap_exit_loaded) || area->fp_load == 0 ? reinterpret_cast<u64>(fp) : area->fp_load;
    publish(area, kNotStarted);
    rf_trap_wait(area);
  }
  u64* r = area->regs;
  r[RF_REG_R15 / 8] = g[REG_R15], r[RF_REG_R14 / 8] = g[REG_R14], r[RF_REG_R13 / 8] = g[REG_R13];
  r[RF_REG_R12 / 8] = g[REG_R12], r[RF_REG_RBP / 8] = g[REG_RBP], r[RF_REG_RBX / 8] = g[REG_RBX];
  r[RF_REG_R11 / 8] = g[REG_R11], r[RF_REG_R10 / 8] = g[REG_R10], r[RF_REG_R9 / 8] = g[REG_R9];
  r[RF_REG_R8 / 8] = g[REG_R8], r[RF_REG_RAX / 8] = g[REG_RAX], r[RF_REG_RCX / 8] = g[REG_RCX];
  r[RF_REG_RDX / 8] = g[REG_RDX], r[RF_REG_RSI / 8] = g[REG_RSI], r[RF_REG_RDI / 8] = g[REG_RDI];
  r[RF_REG_RIP / 8] = g[REG_RIP], r[RF_REG_EFLAGS / 8] = g[REG_EFL], r[RF_REG_RSP / 8] = g[REG_RSP];
  area->signo = static_cast<u32>(sig);
  area->code = info->si_code;
  area->address = sig == SIGSYS ? info->si_arch : reinterpret_cast<u64>(info->si_addr);
  area->vector = g[REG_TRAPNO], area->error = g[REG_ERR], area->cr2 = g[REG_CR2];
  area->fp_image = reinterpret_cast<u64>(fp);
  area->kick_pending = 0;
  publish(area, kTrapped);
  rf_trap_wait(area);
}

}  // extern "C"
