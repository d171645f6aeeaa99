// Where the supervisor part lies in every guest address space: one entry of the top-level table, shared by all.
// Guest code (ring 3) cannot read it, the host writes it, and guest ring 0 runs nothing but the stub in it.
#pragma once

#include "core/types.h"

namespace rf::ring0 {

inline constexpr u32 kMaxVcpus = 64;

inline constexpr u64 kBase = 0xffff'ff00'0000'0000;
inline constexpr u32 kTopIndex = (kBase >> 39) & 511;  // in the top-level table

// Pages from kBase on.
inline constexpr u64 kStub = kBase;
inline constexpr u64 kGdt = kBase + 1 * kPageSize;
inline constexpr u64 kIdt = kBase + 2 * kPageSize;
// Open to ring 3 and mapped to nothing, where ring 0 is interpreted: the instruction fetch of a SYSCALL that enters
// there has KVM give up, which is the cheapest exit there is.
inline constexpr u64 kNothing = kBase + 3 * kPageSize;
// Per vCPU: a task state segment, a page that stays unmapped, the stack that exceptions push to where ring 0 is
// interpreted, and the register save area.
inline constexpr u64 kVcpuBase = kBase + 16 * kPageSize;
inline constexpr u64 kVcpuStride = 4 * kPageSize;
constexpr u64 tss_of(u32 vcpu) { return kVcpuBase + vcpu * kVcpuStride; }
constexpr u64 stack_of(u32 vcpu) { return tss_of(vcpu) + 2 * kPageSize; }
constexpr u64 save_area_of(u32 vcpu) { return tss_of(vcpu) + 3 * kPageSize; }
inline constexpr u64 kEnd = kVcpuBase + kMaxVcpus * kVcpuStride;

// In the stub page. Vector n is entered at kVectors + n * kVectorStride.
inline constexpr u64 kLstar = kStub;
inline constexpr u64 kVectors = kStub + 0x200;
inline constexpr u64 kVectorStride = 16;
inline constexpr u32 kVectorCount = 32;
// Runs RCX times round a loop of two instructions and halts: tells interpreted ring 0 from the real thing.
inline constexpr u64 kTimingLoop = kStub + 0x100;
// Returns to ring 3 at once: what is timed as a system call that leaves nothing.
inline constexpr u64 kBareSysret = kStub + 0x108;
// Reloads CR3, reads the word at RCX into RAX and halts: tells whether changed page tables are noticed.
inline constexpr u64 kReadThroughNewCr3 = kStub + 0x110;

// Selectors, as Linux has them, so that guests see the values they know.
inline constexpr u16 kKernelCs = 0x10;
inline constexpr u16 kKernelSs = 0x18;
inline constexpr u16 kUserSs = 0x2b;
inline constexpr u16 kUserCs = 0x33;
inline constexpr u16 kTssSelector = 0x40;
inline constexpr u16 kGdtLimit = 10 * 8 - 1;
// No gate beyond the exceptions: INT n of any other n is #GP, as on Linux without its 32-bit entry.
inline constexpr u16 kIdtLimit = kVectorCount * 16 - 1;
inline constexpr u32 kTssLimit = 0x67;

// Ring 3's registers while the vCPU is in the stub (or, at a halt, in the host). stub.S knows the offsets.
struct SaveArea {
  u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
  u64 fs_base, gs_base;
  u64 cr2;            // out
  u64 new_cr3;        // in: loaded on the way to ring 3 unless 0
  u64 sysret;         // in: not 0 when SYSRET will do; RCX and R11 must then be RIP and RFLAGS
  u64 frame_address;  // guest address of `rip` below; constant
  u64 unused[4];
  u64 vector;                    // out: the exception, or 256
  u64 error;                     // out
  u64 rip, cs, rflags, rsp, ss;  // as exceptions push and IRETQ pops them
};
static_assert(sizeof(SaveArea) == 256);

// Does the CPU push an error code for this exception?
constexpr bool has_error_code(u32 vector) {
  return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30;
}

}  // namespace rf::ring0
