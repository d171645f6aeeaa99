#include "ring0/image.h"

#include <cstddef>
#include <cstring>

#include "ring0/layout.h"

extern "C" {
extern const rf::u8 rf_stub_fsgsbase[], rf_stub_fsgsbase_resume[], rf_stub_fsgsbase_left[], rf_stub_fsgsbase_end[];
extern const rf::u8 rf_stub_msr[], rf_stub_msr_resume[], rf_stub_msr_left[], rf_stub_msr_end[];
}

namespace rf::ring0 {

namespace {

// One instruction serves every entry: the exit shows the vCPU's registers, and RIP tells which entry it was.
constexpr u8 kHlt = 0xf4;

// dec %rcx ; jnz back ; hlt
constexpr u8 kTimingCode[] = {0x48, 0xff, 0xc9, 0x75, 0xfb, kHlt};

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

struct [[gnu::packed]] Tss {
  u32 reserved0;
  u64 rsp[3];
  u64 reserved1;
  u64 ist[7];
  u64 reserved2;
  u16 reserved3;
  u16 io_map;
};
static_assert(sizeof(Tss) == kTssLimit + 1);

// What stub.S has as numbers.
static_assert(offsetof(SaveArea, r15) == 112 && offsetof(SaveArea, fs_base) == 120 && offsetof(SaveArea, cr2) == 136);
static_assert(offsetof(SaveArea, new_cr3) == 144 && offsetof(SaveArea, sysret) == 152);
static_assert(offsetof(SaveArea, frame_address) == 160 && offsetof(SaveArea, vector) == 200);
static_assert(offsetof(SaveArea, rip) == 216 && offsetof(SaveArea, rflags) == 232 && offsetof(SaveArea, rsp) == 240);
static_assert(kTimingLoop - kStub == 0x100 && kReadThroughNewCr3 - kStub == 0x110 && kVectors - kStub == 0x200);

constexpr u8 kInterruptGate = 0x8e;
constexpr u8 kInterruptGateForUser = 0xee;  // INT3 and INT 4 may be used from ring 3

}  // namespace

void write_halting_stub(void* page) {
  auto* code = static_cast<u8*>(page);
  std::memset(code, 0xcc, kPageSize);
  code[kLstar - kStub] = kHlt;
  std::memcpy(code + (kTimingLoop - kStub), kTimingCode, sizeof kTimingCode);
  for (u32 v = 0; v < kVectorCount; ++v) code[kVectors - kStub + v * kVectorStride] = kHlt;
}

void write_saving_stub(void* page, bool fsgsbase) {
  const u8* start = fsgsbase ? rf_stub_fsgsbase : rf_stub_msr;
  const u8* end = fsgsbase ? rf_stub_fsgsbase_end : rf_stub_msr_end;
  std::memset(page, 0xcc, kPageSize);
  std::memcpy(page, start, static_cast<size_t>(end - start));
}

ResumeCode resume_code(bool fsgsbase) {
  if (fsgsbase)
    return {kStub + static_cast<u64>(rf_stub_fsgsbase_resume - rf_stub_fsgsbase),
            kStub + static_cast<u64>(rf_stub_fsgsbase_left - rf_stub_fsgsbase)};
  return {kStub + static_cast<u64>(rf_stub_msr_resume - rf_stub_msr),
          kStub + static_cast<u64>(rf_stub_msr_left - rf_stub_msr)};
}

void write_gdt(void* page) {
  auto* gdt = static_cast<u64*>(page);
  // All marked as accessed already: the CPU then never writes to the table.
  gdt[kKernelCs >> 3] = 0x00af9b000000ffff;
  gdt[kKernelSs >> 3] = 0x00cf93000000ffff;
  gdt[kUserSs >> 3] = 0x00cff3000000ffff;
  gdt[kUserCs >> 3] = 0x00affb000000ffff;
  // No 32-bit user code segment, and no TSS descriptor: the task register is set from outside.
}

void write_idt(void* page) {
  auto* idt = static_cast<Gate*>(page);
  for (u32 v = 0; v < kVectorCount; ++v) {
    u64 entry = kVectors + v * kVectorStride;
    bool user = v == 3 || v == 4;
    idt[v] = {static_cast<u16>(entry),
              kKernelCs,
              0,
              user ? kInterruptGateForUser : kInterruptGate,
              static_cast<u16>(entry >> 16),
              static_cast<u32>(entry >> 32),
              0};
  }
}

void write_tss(void* page, u64 stack_top) {
  Tss tss{};
  tss.rsp[0] = stack_top;
  for (int i = 0; i < 7; ++i) tss.ist[i] = stack_top;
  tss.io_map = sizeof(Tss);  // beyond the limit: no port is open to ring 3
  std::memcpy(page, &tss, sizeof tss);
}

}  // namespace rf::ring0
