#include "ring0/cpu.h"

#include <cstddef>

namespace rf::ring0 {

namespace {

// What entry.S has as numbers.
static_assert(offsetof(Cpu, regs) == 0 && offsetof(Cpu, kernel_rsp) == 8 && offsetof(Cpu, scratch) == 16);
static_assert(offsetof(Cpu, sentry_fs) == 24 && offsetof(Cpu, cr0_no_math) == 32 && offsetof(Cpu, vector) == 40);
static_assert(offsetof(Cpu, error) == 48 && offsetof(Cpu, cr2) == 56 && offsetof(Cpu, math) == 64);
static_assert(offsetof(Cpu, math_features) == 72 && offsetof(Cpu, iret_frame) == 80 && offsetof(Cpu, stop) == 120);
static_assert(offsetof(Cpu, math_traps) == 128 && offsetof(Cpu, math_loads) == 136);
static_assert(offsetof(Cpu, math_trap_rip) == 144);
static_assert(offsetof(user_regs_struct, r15) == 0 && offsetof(user_regs_struct, rbx) == 40);
static_assert(offsetof(user_regs_struct, rax) == 80 && offsetof(user_regs_struct, orig_rax) == 120);
static_assert(offsetof(user_regs_struct, rip) == 128 && offsetof(user_regs_struct, gs_base) == 176);
static_assert(sizeof(FaultFrame) == 23 * 8);

constexpr u8 kInterruptGate = 0x8e;
constexpr u8 kInterruptGateForUser = 0xee;  // INT3 and INT 4 may be used from ring 3
constexpr u64 kCr0 = 0x80050033, kTaskSwitched = 8;

Stack stack_for(u32 vector) {
  switch (vector) {
    case kPageFaultVector:
      return kFaultStack;
    case kNoMathVector:
      return kMathStack;
    case kNmiVector:
      return kNmiStack;
    case kDoubleFaultVector:
    case kMachineCheckVector:
      return kDisasterStack;
    default:
      return kOtherStack;
  }
}

}  // namespace

void set_up_cpu(Cpu& cpu, u64 xcr0) {
  cpu.math_features = xcr0;
  cpu.cr0_no_math = kCr0 | kTaskSwitched;
  // All marked as accessed already: the CPU then never writes to the table.
  cpu.gdt[kKernelCs >> 3] = 0x00af9b000000ffff;
  cpu.gdt[kKernelSs >> 3] = 0x00cf93000000ffff;
  cpu.gdt[kUserSs >> 3] = 0x00cff3000000ffff;
  cpu.gdt[kUserCs >> 3] = 0x00affb000000ffff;
  for (u32 i = 0; i < kStackCount; ++i) cpu.tss.ist[i] = reinterpret_cast<u64>(cpu.stacks[i]) + kStackSize;
  cpu.tss.rsp[0] = cpu.tss.ist[kOtherStack];
  cpu.tss.io_map = sizeof(TaskState);  // beyond the limit: no port is open to ring 3
  for (u32 v = 0; v < kEntryCount; ++v) {
    const u64 entry = reinterpret_cast<u64>(rf_ring0_exceptions) + v * kVectorStride;
    const bool user = v == 3 || v == 4;
    cpu.idt[v] = {static_cast<u16>(entry),
                  kKernelCs,
                  static_cast<u8>(stack_for(v) + 1),
                  user ? kInterruptGateForUser : kInterruptGate,
                  static_cast<u16>(entry >> 16),
                  static_cast<u32>(entry >> 32),
                  0};
  }
}

}  // namespace rf::ring0
