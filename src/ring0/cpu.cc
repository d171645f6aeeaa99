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
  fill_gdt(cpu.gdt);
  for (u32 i = 0; i < kStackCount; ++i) cpu.tss.ist[i] = reinterpret_cast<u64>(cpu.stacks[i]) + kStackSize;
  cpu.tss.rsp[0] = cpu.tss.ist[kOtherStack];
  cpu.tss.io_map = kNoIoMap;
  for (u32 v = 0; v < kEntryCount; ++v) {
    const u64 entry = reinterpret_cast<u64>(rf_ring0_exceptions) + v * kVectorStride;
    cpu.idt[v] = make_gate(v, entry, static_cast<u8>(stack_for(v) + 1));
  }
}

}  // namespace rf::ring0
