// The host's side of a thread whose sentry code runs in ring 0. See resident.h and docs/ring0.md.
#include <fmt/format.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "core/check.h"
#include "core/cycles.h"
#include "core/fault.h"
#include "hostio/calls.h"
#include "kvm/resident.h"
#include "kvm/segments.h"
#include "kvm/vcpu.h"

namespace rf::kvm {

namespace {

constexpr size_t kStackSize = 1 << 20, kGuard = 64 << 10;
constexpr u32 kMsrLstar = 0xc0000082, kMsrKernelGsBase = 0xc0000102;
constexpr u32 kMsrSpecCtrl = 0x48;
constexpr u64 kIbrs = 1;

u64 address_of(const char* label) { return reinterpret_cast<u64>(label); }

u64 own_fs_base() {
  u64 self;  // the first word of the TLS control block is its own address
  asm("mov %%fs:0, %0" : "=r"(self));
  return self;
}

void call_body(void* body) { (*static_cast<const std::function<void()>*>(body))(); }

// What would take the calling thread apart or replace it, host side and all.
bool impossible_in_ring0(u64 call) {
  switch (call) {
    case SYS_clone:
    case SYS_clone3:
    case SYS_fork:
    case SYS_vfork:
    case SYS_execve:
    case SYS_execveat:
    case SYS_rt_sigreturn:
    case SYS_exit:
    case SYS_arch_prctl:
      return true;
    default:
      return false;
  }
}

struct SignalOf {
  int sig, code;
};
SignalOf signal_of(u64 vector) {
  switch (vector) {
    case 0:
      return {SIGFPE, FPE_INTDIV};
    case 16:
    case 19:
      return {SIGFPE, FPE_FLTINV};
    case 1:
    case 3:
      return {SIGTRAP, SI_KERNEL};
    case 6:
      return {SIGILL, ILL_ILLOPN};
    case 12:
    case 17:
    case ring0::kMachineCheckVector:
      return {SIGBUS, SI_KERNEL};
    default:
      return {SIGSEGV, SI_KERNEL};
  }
}

void to_context(const kvm_regs& r, ucontext_t& u) {
  greg_t* g = u.uc_mcontext.gregs;
  auto put = [&](int i, u64 v) { g[i] = static_cast<greg_t>(v); };
  put(REG_RAX, r.rax), put(REG_RBX, r.rbx), put(REG_RCX, r.rcx), put(REG_RDX, r.rdx);
  put(REG_RSI, r.rsi), put(REG_RDI, r.rdi), put(REG_RBP, r.rbp), put(REG_RSP, r.rsp);
  put(REG_R8, r.r8), put(REG_R9, r.r9), put(REG_R10, r.r10), put(REG_R11, r.r11);
  put(REG_R12, r.r12), put(REG_R13, r.r13), put(REG_R14, r.r14), put(REG_R15, r.r15);
  put(REG_RIP, r.rip), put(REG_EFL, r.rflags);
}

void to_context(const ring0::FaultFrame& f, ucontext_t& u) {
  greg_t* g = u.uc_mcontext.gregs;
  auto put = [&](int i, u64 v) { g[i] = static_cast<greg_t>(v); };
  put(REG_RAX, f.rax), put(REG_RBX, f.rbx), put(REG_RCX, f.rcx), put(REG_RDX, f.rdx);
  put(REG_RSI, f.rsi), put(REG_RDI, f.rdi), put(REG_RBP, f.rbp), put(REG_RSP, f.rsp);
  put(REG_R8, f.r8), put(REG_R9, f.r9), put(REG_R10, f.r10), put(REG_R11, f.r11);
  put(REG_R12, f.r12), put(REG_R13, f.r13), put(REG_R14, f.r14), put(REG_R15, f.r15);
  put(REG_RIP, f.rip), put(REG_EFL, f.rflags), put(REG_ERR, f.error), put(REG_CR2, f.cr2);
  put(REG_TRAPNO, f.vector);
}

void count(std::atomic<u64>& n, u64 by = 1) {
  n.store(n.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

}  // namespace

Setup<std::unique_ptr<Resident>> Resident::create(Vcpu& vcpu, SentryMap& map, const Ring0Protection& protection,
                                                  u64 xcr0) {
  std::unique_ptr<Resident> r(new Resident(vcpu, map));
  auto reserve = [](size_t size) {
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<std::byte*>(p);
  };
  r->cpu_ = reinterpret_cast<ring0::Cpu*>(reserve(sizeof(ring0::Cpu)));
  r->stack_ = reserve(kStackSize);
  if (!r->cpu_ || !r->stack_ || mprotect(r->stack_, kGuard, PROT_NONE) != 0)
    return setup_error(fmt::format("no memory for a ring-0 stack: {}", errno_text(errno)));
  ring0::set_up_cpu(*r->cpu_, xcr0);
  r->protection_ = protection;
  // What an exception's entry needs must be there: a fault on the way could not be told.
  if (!map.map_range(reinterpret_cast<u64>(r->cpu_), sizeof(ring0::Cpu)) ||
      !map.map_range(reinterpret_cast<u64>(&ring0::rf_ring0_enter_ring3), 2 * kPageSize))
    return setup_error("the sentry's pages cannot be mapped in the guest");
  return r;
}

Resident::~Resident() {
  if (cpu_) munmap(cpu_, sizeof(ring0::Cpu));
  if (stack_) munmap(stack_, kStackSize);
}

void Resident::set_registers(u64 function, u64 argument) {
  kvm_sregs s = vcpu_.ring3_;
  s.cr3 = map_.root();
  s.cr4 |= protection_.cr4;
  s.efer |= protection_.efer;
  s.cs = segment(ring0::kKernelCs, 11, 0, true);
  s.ss = segment(ring0::kKernelSs, 3, 0, false);
  s.fs.base = cpu_->sentry_fs = own_fs_base();
  s.gs.base = reinterpret_cast<u64>(cpu_);
  s.gdt.base = reinterpret_cast<u64>(cpu_->gdt);
  s.gdt.limit = sizeof cpu_->gdt - 1;
  s.idt.base = reinterpret_cast<u64>(cpu_->idt);
  s.idt.limit = sizeof cpu_->idt - 1;
  s.tr.base = reinterpret_cast<u64>(&cpu_->tss);
  const int fd = vcpu_.fd();
  RF_CHECK(ioctl(fd, KVM_SET_SREGS, &s) == 0, "KVM refuses ring 0's system registers");
  RF_CHECK(vcpu_.set_msr(kMsrLstar, address_of(ring0::rf_ring0_system_call)) && vcpu_.set_msr(kMsrKernelGsBase, 0),
           "KVM refuses ring 0's system call registers");
  if (protection_.ibrs) RF_CHECK(vcpu_.set_msr(kMsrSpecCtrl, kIbrs), "KVM refuses IBRS though its CPU has it");
  kvm_fpu fpu{};
  fpu.fcw = 0x37f;
  fpu.mxcsr = 0x1f80;
  RF_CHECK(ioctl(fd, KVM_SET_FPU, &fpu) == 0, "KVM refuses an initial vector state");
  kvm_regs r{};
  r.rip = address_of(ring0::rf_ring0_start);
  r.rdi = function;
  r.rsi = argument;
  r.rsp = reinterpret_cast<u64>(stack_) + kStackSize;
  r.rflags = 2;
  RF_CHECK(ioctl(fd, KVM_SET_REGS, &r) == 0, "KVM refuses ring 0's registers");
}

void Resident::run(const std::function<void()>& body) {
  set_registers(reinterpret_cast<u64>(&call_body), reinterpret_cast<u64>(&body));
  vcpu_.run_->kvm_valid_regs = KVM_SYNC_X86_REGS;
  vcpu_.run_->kvm_dirty_regs = 0;
  while (step()) {
  }
}

bool Resident::step() {
  kvm_run& run = *vcpu_.run_;
  run.exit_reason = KVM_EXIT_UNKNOWN;
  const s64 r = hostio::detail::raw_call(SYS_ioctl, static_cast<u64>(vcpu_.fd()), KVM_RUN, 0, 0, 0, 0);
  const u64 begin = cycles();
  count(vcpu_.counters.exits);
  run.kvm_dirty_regs = 0;
  if (r == -EINTR || r == -EAGAIN ||
      (r == 0 && (run.exit_reason == KVM_EXIT_INTR || run.exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN))) {
    interrupted();
  } else if (r == -EFAULT) {
    page_unavailable();
  } else if (r == 0 && run.exit_reason == KVM_EXIT_HLT && !run.if_flag) [[likely]] {
    // A completion that the host's kernel posts on the way out of KVM_RUN or of a host call interrupts nothing any
    // more: who is about to enter ring 3 looks again.
    kick();
    const u64 rip = run.s.regs.regs.rip;
    if (rip == address_of(ring0::rf_ring0_host_call_halted)) [[likely]]
      make_host_call();
    else if (rip == address_of(ring0::rf_ring0_fault_halted))
      ring0_fault();
    else if (rip == address_of(ring0::rf_ring0_ended))
      return false;
    else
      broken();
  } else {
    broken();
  }
  count(counters.host_cycles, cycles() - begin);
  return true;
}

// --- Interrupts -------------------------------------------------------------------------------------------

// A signal, or work that the host has for the thread, such as completions. Interrupts are on in ring 3 and off in ring
// 0, so one that is injected has ring 3 left; ring 0 looks at `stop` before it enters ring 3. Between that look and
// ring 3 KVM is asked to come back at the first instruction that can be interrupted.
void Resident::interrupted() {
  kvm_run& run = *vcpu_.run_;
  std::atomic_ref(run.immediate_exit).store(0, std::memory_order_relaxed);
  run.request_interrupt_window = 0;
  if (run.if_flag) {
    if (run.ready_for_interrupt_injection)
      inject(ring0::kInterruptVector);
    else
      run.request_interrupt_window = 1;
    return;
  }
  kick();
  const u64 rip = run.s.regs.regs.rip;
  if (rip < address_of(ring0::rf_ring0_window_begin) || rip >= address_of(ring0::rf_ring0_window_end)) return;
  count(counters.windows);
  run.request_interrupt_window = 1;
}

void Resident::inject(u32 vector) {
  count(counters.interrupts);
  kvm_interrupt interrupt{.irq = vector};
  const auto r = hostio::host_call(SYS_ioctl, vcpu_.fd(), KVM_INTERRUPT, &interrupt);
  if (!r) broken();
}

// --- Host calls -------------------------------------------------------------------------------------------

void Resident::make_host_call() {
  kvm_regs& r = vcpu_.run_->s.regs.regs;
  const u64 call = r.rax;
  count(counters.host_calls[call < kCallLimit ? call : kCallLimit - 1]);
  if (impossible_in_ring0(call)) [[unlikely]] {
    ucontext_t context{};
    to_context(r, context);
    report(SIGSYS, static_cast<int>(call), r.rcx, context);
  }
  r.rax = static_cast<u64>(hostio::detail::raw_call(static_cast<long>(call), r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9));
  r.rip = r.rcx;
  r.rflags = r.r11;
  vcpu_.run_->kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

// --- Faults -----------------------------------------------------------------------------------------------

// As the signal's handler would: returns when a fix-up has changed `context`, else ends the sandbox with a report.
void Resident::report(int sig, int code, u64 address, ucontext_t& context) {
  siginfo_t info{};
  info.si_signo = sig;
  info.si_code = code;
  info.si_addr = reinterpret_cast<void*>(address);
  deliver_fault(sig, &info, &context);
}

// An exception in ring 0.
void Resident::ring0_fault() {
  constexpr u64 kPresent = 1, kWrite = 2, kFetch = 16;
  count(counters.faults);
  auto& f = *reinterpret_cast<ring0::FaultFrame*>(vcpu_.run_->s.regs.regs.rsp);
  if (f.vector == ring0::kNmiVector) return;
  auto [sig, code] = signal_of(f.vector);
  if (f.vector == ring0::kPageFaultVector) {
    using Access = SentryMap::Access;
    const Access access = f.error & kFetch ? Access::kExec : f.error & kWrite ? Access::kWrite : Access::kRead;
    if (map_.map_in(f.cr2, access)) [[likely]]
      return;
    code = f.error & kPresent ? SEGV_ACCERR : SEGV_MAPERR;
  }
  ucontext_t context{};
  to_context(f, context);
  report(sig, code, f.cr2, context);
  f.rip = static_cast<u64>(context.uc_mcontext.gregs[REG_RIP]);
}

// The host has no page behind what is mapped: a host file that has become shorter, or memory that the sentry itself
// has given back.
void Resident::page_unavailable() {
  kvm_run& run = *vcpu_.run_;
  const Phys phys = vcpu_.lost_page().address;
  count(counters.lost_pages);
  if (run.if_flag) {
    cpu_->lost_page = phys;
    if (!run.ready_for_interrupt_injection) broken();
    inject(ring0::kLostPageVector);
    return;
  }
  kvm_regs& r = run.s.regs.regs;
  // Where KVM does not tell the address, the stack pointer at least tells an overflow.
  const u64 address = phys == kNoPhys ? r.rsp - 8 : map_.host_address(phys);
  ucontext_t context{};
  to_context(r, context);
  report(SIGBUS, BUS_ADRERR, address, context);
  r.rip = static_cast<u64>(context.uc_mcontext.gregs[REG_RIP]);
  run.kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

void Resident::broken() {
  kvm_run& run = *vcpu_.run_;
  char text[160];
  const int n = std::snprintf(text, sizeof text,
                              "ringfence: internal error: KVM gave up in ring-0 mode: exit reason %u, suberror %u\n",
                              run.exit_reason, run.exit_reason == KVM_EXIT_INTERNAL_ERROR ? run.internal.suberror : 0);
  (void)!::write(STDERR_FILENO, text, static_cast<size_t>(n));
  ucontext_t context{};
  to_context(run.s.regs.regs, context);
  report(SIGILL, ILL_ILLOPC, run.s.regs.regs.rip, context);
  _exit(kInternalErrorStatus);
}

}  // namespace rf::kvm
