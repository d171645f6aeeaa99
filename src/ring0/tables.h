// The CPU's tables as both modes fill them in.
#pragma once

#include "core/types.h"
#include "ring0/layout.h"

namespace rf::ring0 {

struct [[gnu::packed]] TaskState {
  u32 reserved0;
  u64 rsp[3];
  u64 reserved1;
  u64 ist[7];
  u64 reserved2;
  u16 reserved3;
  u16 io_map;
};
static_assert(sizeof(TaskState) == kTssLimit + 1);
inline constexpr u16 kNoIoMap = sizeof(TaskState);  // beyond the limit: no port is open to ring 3

struct [[gnu::packed]] Gate {
  u16 offset_low;
  u16 selector;
  u8 ist;
  u8 type;
  u16 offset_middle;
  u32 offset_high;
  u32 zero;
};
static_assert(sizeof(Gate) == 16);

// An interrupt gate for `vector`. INT3 and INT 4 may be used from ring 3. `ist`: 0, or the stack's number from 1.
constexpr Gate make_gate(u32 vector, u64 entry, u8 ist) {
  const bool user = vector == 3 || vector == 4;
  return {
      static_cast<u16>(entry),       kKernelCs, ist, static_cast<u8>(user ? 0xee : 0x8e), static_cast<u16>(entry >> 16),
      static_cast<u32>(entry >> 32), 0};
}

// All marked as accessed already: the CPU then never writes to the table. There is no 32-bit user code segment, and no
// TSS descriptor: the task register is set from outside.
constexpr void fill_gdt(u64* gdt) {
  gdt[kKernelCs >> 3] = 0x00af9b000000ffff;
  gdt[kKernelSs >> 3] = 0x00cf93000000ffff;
  gdt[kUserSs >> 3] = 0x00cff3000000ffff;
  gdt[kUserCs >> 3] = 0x00affb000000ffff;
}

}  // namespace rf::ring0
