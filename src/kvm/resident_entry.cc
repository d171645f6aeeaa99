// The sentry's side of ring-0 mode: ring 3 as a function call. See docs/ring0.md.
#include "core/futex.h"
#include "kvm/resident.h"
#include "kvm/vcpu.h"
#include "platform/user_registers.h"

namespace rf::kvm {

namespace {

// More are not worth it: what a reload of CR3 drops is found again for less.
constexpr u64 kMostSinglePages = 32;

void invalidate_page(u64 va) { asm volatile("invlpg (%0)" : : "r"(va) : "memory"); }
void load_cr3(Phys root) { asm volatile("mov %0, %%cr3" : : "r"(root) : "memory"); }

}  // namespace

u64 Vcpu::invalidate_pages(const AddressSpace& as, u64 generation,
                           std::span<const platform::Invalidation::Range> ranges) {
  if (cr3_space_ != as.id() || cr3_generation_ != generation) return 0;
  u64 pages = 0;
  for (const auto& r : ranges) pages += r.len >> kPageShift;
  if (pages > kMostSinglePages) return 0;
  for (const auto& r : ranges)
    for (u64 at = 0; at < r.len; at += kPageSize) invalidate_page(r.va + at);
  cr3_generation_ = generation + 1;
  return pages;
}

// Translations of the sentry's are global and stay; those of ring 3 go when the space is another one, or has had some
// of its own taken away.
u32 Vcpu::run_resident(AddressSpace& as, Registers& regs, std::byte* math) {
  ring0::Cpu& cpu = resident_->cpu();
  // Before the generation is read: see VcpuSet::flush().
  live_space_.store(as.id(), std::memory_order_seq_cst);
  const u64 generation = as.generation();
  if (cr3_space_ != as.id() || cr3_generation_ != generation) {
    load_cr3(as.root());
    translations_are_of(as, generation);
  }
  // As Linux decides it. An RIP that is not the guest's must not be SYSRET's: on some CPUs that faults in ring 0.
  const bool sysret = regs.rcx == regs.rip && regs.r11 == regs.eflags && regs.rip < platform::kGuestAddressLimit &&
                      !(regs.eflags & (platform::kTrapFlag | platform::kResumeFlag));
  const u32 vector = ring0::rf_ring0_enter_ring3(&cpu, &regs, sysret, math);
  live_space_.store(0, std::memory_order_release);
  runs_.fetch_add(1, std::memory_order_seq_cst);
  if (run_watchers_.load(std::memory_order_seq_cst) != 0) [[unlikely]]
    futex_wake(runs_, ~0u >> 1);
  return vector;
}

Trap Vcpu::resident_trap(u32 vector) const {
  const ring0::Cpu& cpu = resident_->cpu();
  Trap trap;
  if (vector == ring0::kInterruptVector || vector == ring0::kNmiVector) {
    trap.vector = kTrapInterrupted;
  } else if (vector == ring0::kLostPageVector) {
    trap.vector = kTrapLostPage;
    trap.address = cpu.lost_page;
  } else {
    trap.vector = vector;
    trap.error = cpu.error;
    trap.address = cpu.cr2;
  }
  return trap;
}

}  // namespace rf::kvm
