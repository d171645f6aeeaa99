// Entering ring 3 where ring 0 is interpreted. See docs/kvm.md.
#include <cstring>

#include "kvm/vcpu.h"

namespace rf::kvm {

namespace {

// Where SYSCALL has left ring 3's RIP and RFLAGS.
Trap system_call(Registers& regs) {
  regs.rip = regs.rcx;
  regs.eflags = regs.r11;
  Trap trap;
  trap.vector = kTrapSyscall;
  return trap;
}

}  // namespace

// Whether ring 3 came where it is by SYSCALL, which clears IF. Who jumps there has IF set.
bool Vcpu::called(const Registers& regs) const {
  constexpr u64 kInterruptFlag = 0x200;
  return regs.rip == (vm_.kind().syscall_to_nothing ? ring0::kNothing : ring0::kLstar) &&
         (regs.eflags & kInterruptFlag) == 0;
}

void Vcpu::put_registers(Phys root, const Registers& regs) {
  kvm_regs& k = run_->s.regs.regs;
  k.rax = regs.rax, k.rbx = regs.rbx, k.rcx = regs.rcx, k.rdx = regs.rdx;
  k.rsi = regs.rsi, k.rdi = regs.rdi, k.rbp = regs.rbp, k.rsp = regs.rsp;
  k.r8 = regs.r8, k.r9 = regs.r9, k.r10 = regs.r10, k.r11 = regs.r11;
  k.r12 = regs.r12, k.r13 = regs.r13, k.r14 = regs.r14, k.r15 = regs.r15;
  k.rip = regs.rip, k.rflags = regs.eflags;
  kvm_sregs& s = run_->s.regs.sregs;
  s = ring3_;
  s.cr3 = root;
  s.fs.base = regs.fs_base;
  s.gs.base = regs.gs_base;
  run_->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

// The stub halted: RIP tells which of its entries it was, the stack what the CPU pushed there.
bool Vcpu::take_halt(Registers& regs, Trap& trap) {
  take_registers(regs);
  u64 at = regs.rip - 1;
  if (at == ring0::kLstar) {
    trap = system_call(regs);
    return true;
  }
  u64 vector = (at - ring0::kVectors) / ring0::kVectorStride;
  u64 stack = ring0::stack_of(index_), depth = stack + kPageSize - regs.rsp;
  u64 words = ring0::has_error_code(static_cast<u32>(vector)) ? 6 : 5;
  if (at < ring0::kVectors || vector >= ring0::kVectorCount || depth != words * 8) return false;
  u64 frame[6];
  std::memcpy(frame, stack_page_ + (kPageSize - depth), words * 8);
  const u64* f = frame;
  if (words == 6) trap.error = *f++;
  if ((f[1] & 3) != 3) return false;  // from ring 0: the stub itself cannot fault unless something is badly wrong
  regs.rip = f[0];
  regs.eflags = f[2];
  regs.rsp = f[3];
  trap.vector = static_cast<u32>(vector);
  if (vector == 14) trap.address = run_->s.regs.sregs.cr2;
  // A KVM that leaves CPL at 3 on SYSCALL: the first instruction fetch at LSTAR faults. At kNothing, where it should
  // make KVM give up, it is an invalid instruction if RSP is not canonical.
  if ((vector == 14 || vector == 6) && called(regs)) trap = system_call(regs);
  return true;
}

// KVM met an instruction in ring 3 that it can neither run nor emulate. That leaves the vCPU as it is.
std::optional<Trap> Vcpu::take_give_up(Registers& regs) {
  if ((run_->s.regs.sregs.cs.selector & 3) != 3) return {};
  if (run_->exit_reason == KVM_EXIT_INTERNAL_ERROR && run_->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
    take_registers(regs);
    if (called(regs)) return system_call(regs);
    Trap trap;
    trap.vector = 6;
    if (regs.rip != ring0::kNothing) return trap;
    constexpr u64 kUser = 4, kFetch = 16;
    trap.vector = 14;
    trap.address = regs.rip;
    trap.error = kUser | kFetch;
    return trap;
  }
  if (run_->exit_reason == KVM_EXIT_MMIO) {
    // Ring 3 touched kNothing, the only page there is without memory: a page fault to all the world.
    take_registers(regs);
    Trap trap;
    trap.vector = 14;
    trap.address = ring0::kNothing + (run_->mmio.phys_addr & kPageMask);
    trap.error = 4 | (run_->mmio.is_write ? 2 : 0);
    // KVM believes the access to be under way, and would finish it on whoever runs here next.
    do {
      on_kick_signal();
      enter();
    } while (run_->exit_reason == KVM_EXIT_MMIO);
    return trap;
  }
  return {};
}

Trap Vcpu::run_direct(AddressSpace& as, Registers& regs) {
  put_registers(as.root(), regs);
  for (;;) {
    Stop stop = enter();
    Trap trap;
    if (stop == Stop::kHalt && take_halt(regs, trap)) [[likely]]
      return trap;
    if (stop == Stop::kBroken) {
      if (auto gave_up = take_give_up(regs)) [[likely]]
        return *gave_up;
    }
    bool in_ring0 = (run_->s.regs.sregs.cs.selector & 3) == 0;
    if (stop == Stop::kInterrupted && (in_ring0 || exception_pending())) {
      // Half-way through an exception: let it reach its halt, or it would hit whoever runs here next.
      arm();
      continue;
    }
    if (!in_ring0) take_registers(regs);
    if (stop == Stop::kInterrupted) return called(regs) ? system_call(regs) : trap;
    return stop == Stop::kLostPage && !in_ring0 ? lost_page() : recover();
  }
}

}  // namespace rf::kvm
