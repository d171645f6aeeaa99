#include "ring0/image.h"

#include <cstddef>
#include <cstring>

#include "ring0/layout.h"
#include "ring0/tables.h"

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

constexpr u8 kSysretCode[] = {0x48, 0x0f, 0x07};

// What stub.S has as numbers.
static_assert(offsetof(SaveArea, r15) == 112 && offsetof(SaveArea, fs_base) == 120 && offsetof(SaveArea, cr2) == 136);
static_assert(offsetof(SaveArea, new_cr3) == 144 && offsetof(SaveArea, sysret) == 152);
static_assert(offsetof(SaveArea, frame_address) == 160 && offsetof(SaveArea, vector) == 200);
static_assert(offsetof(SaveArea, rip) == 216 && offsetof(SaveArea, rflags) == 232 && offsetof(SaveArea, rsp) == 240);
static_assert(kTimingLoop - kStub == 0x100 && kReadThroughNewCr3 - kStub == 0x110 && kVectors - kStub == 0x200);

}  // namespace

void write_halting_stub(void* page) {
  auto* code = static_cast<u8*>(page);
  std::memset(code, 0xcc, kPageSize);
  code[kLstar - kStub] = kHlt;
  std::memcpy(code + (kTimingLoop - kStub), kTimingCode, sizeof kTimingCode);
  std::memcpy(code + (kBareSysret - kStub), kSysretCode, sizeof kSysretCode);
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

void write_gdt(void* page) { fill_gdt(static_cast<u64*>(page)); }

void write_idt(void* page) {
  auto* idt = static_cast<Gate*>(page);
  for (u32 v = 0; v < kVectorCount; ++v) idt[v] = make_gate(v, kVectors + v * kVectorStride, 0);
}

void write_tss(void* page, u64 stack_top) {
  TaskState tss{};
  tss.rsp[0] = stack_top;
  for (int i = 0; i < 7; ++i) tss.ist[i] = stack_top;
  tss.io_map = kNoIoMap;
  std::memcpy(page, &tss, sizeof tss);
}

}  // namespace rf::ring0
