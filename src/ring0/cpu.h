// What guest ring 0 keeps per vCPU when the sentry lives there (ring-0 mode), and the entry code's interface.
//
// The sentry runs in ring 0 with interrupts disabled, on its own stacks, at its own addresses. GS points at the vCPU's
// Cpu, FS at the thread's own TLS block. In ring 3 both are the guest's. docs/ring0.md draws the picture.
#pragma once

#include <sys/user.h>

#include "core/types.h"
#include "ring0/layout.h"
#include "ring0/tables.h"

namespace rf::ring0 {

// Vectors beyond the exceptions, which the host side injects to have ring 3 left.
inline constexpr u32 kInterruptVector = 0x20;  // look around: a kick, a timer, a completion
inline constexpr u32 kLostPageVector = 0x21;   // a page of the guest's could not be had: Cpu::lost_page
inline constexpr u32 kEntryCount = 0x22;
// What enter_ring3() returns for a system call.
inline constexpr u32 kSyscallVector = 256;

inline constexpr u32 kNmiVector = 2, kNoMathVector = 7, kDoubleFaultVector = 8, kPageFaultVector = 14;
inline constexpr u32 kMachineCheckVector = 18;

// Stacks of the interrupt stack table. Every gate has one, for the sentry's code uses the red zone below its stack
// pointer. An entry may interrupt only one that has another stack.
enum Stack : u32 { kFaultStack, kMathStack, kNmiStack, kDisasterStack, kOtherStack, kStackCount };
inline constexpr u64 kStackSize = 2 * kPageSize;

// Lies in the sentry's memory and never moves. entry.S knows the offsets of the first part.
struct alignas(kPageSize) Cpu {
  user_regs_struct* regs;  // where ring 3's registers go
  u64 kernel_rsp;          // the stack that enter_ring3() returns on
  u64 scratch;
  u64 sentry_fs;
  u64 cr0_no_math;  // CR0 with TS: the next use of a vector register traps
  u64 vector, error, cr2;
  std::byte* math;    // where the vector state now in the registers belongs; null: the registers are the sentry's
  u64 math_features;  // of XCR0: what is saved and loaded
  u64 iret_frame[5];  // aligned to 16
  u32 stop;           // not 0: do not enter ring 3. Set by the host side at any time
  u32 unused;
  u64 math_traps;  // counts
  u64 math_loads;
  u64 math_trap_rip;  // the last instruction that trapped
  u64 lost_page;      // guest-physical address, or kNoPhys

  u64 gdt[10];
  alignas(16) TaskState tss;
  alignas(16) Gate idt[kEntryCount];
  alignas(kPageSize) std::byte stacks[kStackCount][kStackSize];
};

// The stack of a ring-0 exception when it has the host side deal with it (at fault_halt).
struct FaultFrame {
  u64 cr2, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  u64 vector, error;
  u64 rip, cs, rflags, rsp, ss;
};

extern "C" {
// Runs ring 3 from `regs` until it stops, and returns the vector that ended it; regs then hold the guest's state. The
// vector state is loaded from `math` unless the registers hold it already. `sysret`: SYSRET will do (RCX is RIP, R11 is
// RFLAGS). kInterruptVector at once if cpu->stop is set.
u32 rf_ring0_enter_ring3(Cpu* cpu, user_regs_struct* regs, u64 sysret, std::byte* math);
// If the vector registers hold a guest's state, writes it to where it belongs and makes the registers the sentry's.
void rf_ring0_save_math();

// Labels in entry.S. The host side tells by RIP why ring 0 halted.
extern const char rf_ring0_system_call[];                          // LSTAR
extern const char rf_ring0_exceptions[];                           // kEntryCount entries of 16 bytes
extern const char rf_ring0_host_call_halted[];                     // a SYSCALL of the sentry's: registers tell which
extern const char rf_ring0_fault_halted[];                         // RSP: a FaultFrame
extern const char rf_ring0_start[], rf_ring0_ended[];              // RDI(RSI) from start to end
extern const char rf_ring0_window_begin[], rf_ring0_window_end[];  // between the look at `stop` and ring 3
}

// Fills the tables of `cpu`, which is zeroed.
void set_up_cpu(Cpu& cpu, u64 xcr0);

}  // namespace rf::ring0
