// Entering ring 3 through the saving stub, where ring 0 is native. See docs/kvm.md.
#include "core/futex.h"
#include "kvm/segments.h"
#include "kvm/vcpu.h"

namespace rf::kvm {

namespace {
constexpr u64 kTrapFlag = 0x100, kResumeFlag = 0x10000;
}

void Vcpu::fill_save_area(const Registers& regs) {
  ring0::SaveArea& s = *save_;
  s.rax = regs.rax, s.rbx = regs.rbx, s.rcx = regs.rcx, s.rdx = regs.rdx;
  s.rsi = regs.rsi, s.rdi = regs.rdi, s.rbp = regs.rbp;
  s.r8 = regs.r8, s.r9 = regs.r9, s.r10 = regs.r10, s.r11 = regs.r11;
  s.r12 = regs.r12, s.r13 = regs.r13, s.r14 = regs.r14, s.r15 = regs.r15;
  s.fs_base = regs.fs_base, s.gs_base = regs.gs_base;
  s.rip = regs.rip, s.rflags = regs.eflags, s.rsp = regs.rsp;
  s.cs = ring0::kUserCs, s.ss = ring0::kUserSs;
  // As Linux decides it. An RIP that is not the guest's must not be SYSRET's: on some CPUs that faults in ring 0.
  s.sysret = regs.rcx == regs.rip && regs.r11 == regs.eflags && regs.rip < platform::kGuestAddressLimit &&
             !(regs.eflags & (kTrapFlag | kResumeFlag));
}

bool Vcpu::take_save_area(Registers& regs, Trap& trap) {
  const ring0::SaveArea& s = *save_;
  if (s.vector != kTrapSyscall) {
    // From ring 0 only if something is badly wrong: the stub itself cannot fault.
    if (s.vector >= ring0::kVectorCount || (s.cs & 3) != 3) return false;
    trap.error = s.error;
    trap.address = s.cr2;
  }
  trap.vector = static_cast<u32>(s.vector);
  regs.rax = s.rax, regs.rbx = s.rbx, regs.rcx = s.rcx, regs.rdx = s.rdx;
  regs.rsi = s.rsi, regs.rdi = s.rdi, regs.rbp = s.rbp;
  regs.r8 = s.r8, regs.r9 = s.r9, regs.r10 = s.r10, regs.r11 = s.r11;
  regs.r12 = s.r12, regs.r13 = s.r13, regs.r14 = s.r14, regs.r15 = s.r15;
  regs.fs_base = s.fs_base, regs.gs_base = s.gs_base;
  regs.rip = s.rip, regs.eflags = s.rflags, regs.rsp = s.rsp;
  regs.cs = ring0::kUserCs, regs.ss = ring0::kUserSs;
  regs.orig_rax = ~0ull;
  return true;
}

// Puts the vCPU where it is after a halt, from wherever it was.
void Vcpu::put_at_resume(Phys root) {
  kvm_regs& k = run_->s.regs.regs;
  k = kvm_regs{};
  k.rip = resume_.start;
  k.rflags = 2;
  k.rsp = ring0::stack_of(index_) + kPageSize;
  kvm_sregs& s = run_->s.regs.sregs;
  s = ring3_;
  s.cs = segment(ring0::kKernelCs, 11, 0, true);
  s.ss = segment(ring0::kKernelSs, 3, 0, false);
  s.gs.base = ring0::save_area_of(index_);
  // A changed CR3 would make KVM throw its own tables away; the stub changes it for less.
  if (loaded_root_.load(std::memory_order_relaxed) == 0) loaded_root_.store(root);
  s.cr3 = loaded_root_.load(std::memory_order_relaxed);
  run_->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

// Has KVM write the vCPU's state to run_->s.regs, which exits do not do here.
void Vcpu::fetch_state() {
  u32 reason = run_->exit_reason;
  run_->kvm_valid_regs = kAllState;
  on_kick_signal();
  enter();
  run_->kvm_valid_regs = 0;
  run_->exit_reason = reason;
}

void Vcpu::translations_are_of(AddressSpace& as, u64 generation) {
  cr3_space_ = as.id();
  cr3_generation_ = generation;
  loaded_root_.store(as.root(), std::memory_order_release);
}

Trap Vcpu::run_saving(AddressSpace& as, Registers& regs) {
  worker_.store(Worker::current(), std::memory_order_release);
  // Before the generation is read: see VcpuSet::flush().
  live_space_.store(as.id(), std::memory_order_seq_cst);
  Trap trap = run_saving_until_trap(as, regs, as.generation());
  live_space_.store(0, std::memory_order_seq_cst);
  runs_.fetch_add(1, std::memory_order_seq_cst);
  if (run_watchers_.load(std::memory_order_seq_cst) != 0) [[unlikely]]
    futex_wake(runs_, ~0u >> 1);
  return trap;
}

Trap Vcpu::run_saving_until_trap(AddressSpace& as, Registers& regs, u64 generation) {
  fill_save_area(regs);
  save_->new_cr3 = cr3_space_ == as.id() && cr3_generation_ == generation ? 0 : as.root();
  if (!at_resume_) put_at_resume(as.root());
  at_resume_ = false;
  for (;;) {
    Stop stop = enter();
    Trap trap;
    if (stop == Stop::kHalt && take_save_area(regs, trap)) [[likely]] {
      at_resume_ = true;
      translations_are_of(as, generation);
      return trap;
    }
    if (stop == Stop::kHalt || stop == Stop::kBroken) return recover();
    fetch_state();
    const kvm_sregs& s = run_->s.regs.sregs;
    bool in_ring0 = (s.cs.selector & 3) == 0;
    u64 rip = run_->s.regs.regs.rip;
    if (in_ring0 && rip >= resume_.start && rip < resume_.end && !exception_pending()) {
      // Still on the way in: `regs` are as they were. Whether CR3 was loaded yet nobody knows.
      cr3_space_ = 0;
      loaded_root_.store(s.cr3, std::memory_order_release);
      return stop == Stop::kInterrupted ? trap : recover();
    }
    if (stop == Stop::kInterrupted && (in_ring0 || exception_pending())) {
      // Half-way through an exception or system call: let it reach its halt.
      arm();
      continue;
    }
    if (in_ring0) return recover();
    take_registers(regs);
    translations_are_of(as, generation);
    return stop == Stop::kInterrupted ? trap : lost_page();
  }
}

}  // namespace rf::kvm
