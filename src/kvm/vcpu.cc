#include "kvm/vcpu.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cstring>
#include <span>

#include "core/check.h"
#include "core/log.h"
#include "kvm/cpuid.h"

namespace rf::kvm {

namespace {

constexpr u32 kMsrStar = 0xc0000081, kMsrLstar = 0xc0000082, kMsrSyscallMask = 0xc0000084, kMsrTscAux = 0xc0000103;
constexpr u64 kCr0 = 0x80050033;                                              // PG AM WP NE ET MP PE
constexpr u64 kCr4 = (1 << 5) | (1 << 7) | (1 << 9) | (1 << 10) | (1 << 18);  // PAE PGE OSFXSR OSXMMEXCPT OSXSAVE
constexpr u64 kCr4Fsgsbase = 1 << 16;
constexpr u64 kEfer = 0xd01;            // SCE LME LMA NXE
constexpr u64 kSyscallMask = 0x257fd5;  // what Linux clears on SYSCALL: all but the reserved bit

// KVM_EXIT_MEMORY_FAULT and its data, which this build's headers may lack: it tells where with an EFAULT.
constexpr u32 kExitMemoryFault = 39;
u64 memory_fault_address(const kvm_run& run) {
  u64 words[3];  // flags, guest-physical address, size
  std::memcpy(words, &run.padding, sizeof words);
  return words[1];
}

kvm_segment segment(u16 selector, u8 type, u8 dpl, bool code) {
  kvm_segment s{};
  s.limit = 0xffffffff;
  s.selector = selector;
  s.type = type;
  s.present = 1;
  s.dpl = dpl;
  s.s = 1;
  s.g = 1;
  s.l = code;
  s.db = !code;
  return s;
}

struct Msr {
  u32 index;
  u64 value;
};

bool set_msrs(int vcpu, std::span<const Msr> msrs) {
  std::vector<std::byte> raw(sizeof(kvm_msrs) + msrs.size() * sizeof(kvm_msr_entry));
  auto* list = reinterpret_cast<kvm_msrs*>(raw.data());
  list->nmsrs = static_cast<u32>(msrs.size());
  for (size_t i = 0; i < msrs.size(); ++i) list->entries[i] = {msrs[i].index, 0, msrs[i].value};
  return ioctl(vcpu, KVM_SET_MSRS, list) == static_cast<int>(msrs.size());
}

kvm_segment null_segment() {
  kvm_segment s{};
  s.unusable = 1;
  return s;
}

}  // namespace

Setup<std::unique_ptr<Vcpu>> Vcpu::create(Vm& vm, Supervisor& supervisor, u32 index) {
  std::unique_ptr<Vcpu> v(new Vcpu(vm, supervisor, index));
  if (!supervisor.add_vcpu(index)) return setup_error("no memory for a vCPU's stack");
  v->stack_page_ = supervisor.host_page(ring0::stack_of(index));
  int fd = ioctl(vm.fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(index));
  if (fd < 0) return setup_error(fmt::format("KVM cannot create vCPU {}: {}", index, errno_text(errno)));
  v->fd_ = hostio::HostFd(fd);
  int size = ioctl(vm.kvm_fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
  void* p = size > 0 ? mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (p == MAP_FAILED) return setup_error(fmt::format("cannot map the state of vCPU {}: {}", index, errno_text(errno)));
  v->run_ = static_cast<kvm_run*>(p);
  v->run_size_ = static_cast<size_t>(size);
  int xsave = ioctl(vm.fd(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  if (xsave > 4096) v->xsave_buffer_size_ = static_cast<size_t>(xsave);

  std::vector<std::byte> raw(sizeof(kvm_cpuid2) + vm.cpuid().size() * sizeof(kvm_cpuid_entry2));
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(raw.data());
  cpuid->nent = static_cast<u32>(vm.cpuid().size());
  std::memcpy(cpuid->entries, vm.cpuid().data(), vm.cpuid().size() * sizeof(kvm_cpuid_entry2));
  if (ioctl(fd, KVM_SET_CPUID2, cpuid) != 0)
    return setup_error(fmt::format("KVM refuses the CPU features it said it supports: {}", errno_text(errno)));
  TRY(v->configure());
  return v;
}

Vcpu::~Vcpu() {
  if (run_) munmap(run_, run_size_);
}

Setup<void> Vcpu::configure() {
  auto failed = [&](const char* what) {
    return setup_error(fmt::format("KVM refuses the {} of vCPU {}: {}", what, index_, errno_text(errno)));
  };
  kvm_sregs s;
  if (ioctl(fd_.get(), KVM_GET_SREGS, &s) != 0) return failed("system registers (reading)");
  s.cr0 = kCr0;
  s.cr3 = 0;
  s.efer = kEfer;
  s.cs = segment(ring0::kUserCs, 11, 3, true);
  s.ss = segment(ring0::kUserSs, 3, 3, false);
  s.ds = s.es = s.fs = s.gs = null_segment();
  s.gdt.base = ring0::kGdt;
  s.gdt.limit = ring0::kGdtLimit;
  s.idt.base = ring0::kIdt;
  s.idt.limit = ring0::kIdtLimit;
  s.tr = kvm_segment{};
  s.tr.base = ring0::tss_of(index_);
  s.tr.limit = ring0::kTssLimit;
  s.tr.selector = ring0::kTssSelector;
  s.tr.type = 11;
  s.tr.present = 1;
  s.ldt = null_segment();
  std::memset(s.interrupt_bitmap, 0, sizeof s.interrupt_bitmap);
  s.cr4 = kCr4 | kCr4Fsgsbase;
  if (ioctl(fd_.get(), KVM_SET_SREGS, &s) != 0) {
    s.cr4 = kCr4;
    if (ioctl(fd_.get(), KVM_SET_SREGS, &s) != 0) return failed("system registers");
  }
  ring3_ = s;

  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = guest_xcr0(vm_.cpuid());
  if (ioctl(fd_.get(), KVM_SET_XCRS, &xcrs) != 0) return failed("XCR0");

  const Msr msrs[] = {
      {kMsrStar, (u64{ring0::kUserCs - 16} << 48) | (u64{ring0::kKernelCs} << 32)},
      {kMsrLstar, ring0::kLstar},
      {kMsrSyscallMask, kSyscallMask},
  };
  if (!set_msrs(fd_.get(), msrs)) return failed("system call registers");
  // For RDTSCP and RDPID, which need not exist.
  const Msr aux[] = {{kMsrTscAux, index_}};
  set_msrs(fd_.get(), aux);
  // The guest's vDSO reads the host's clock parameters, so its TSC has to be the host's, to the tick.
  u64 offset = 0;
  kvm_device_attr attr{};
  attr.group = KVM_VCPU_TSC_CTRL;
  attr.attr = KVM_VCPU_TSC_OFFSET;
  attr.addr = reinterpret_cast<u64>(&offset);
  ioctl(fd_.get(), KVM_SET_DEVICE_ATTR, &attr);

  run_->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
  run_->kvm_dirty_regs = 0;
  return {};
}

Vcpu::Stop Vcpu::enter() {
  counters.exits.fetch_add(1, std::memory_order_relaxed);
  run_->exit_reason = KVM_EXIT_UNKNOWN;
  int r = ioctl(fd_.get(), KVM_RUN, 0);
  if (r < 0) [[unlikely]] {
    if (errno == EINTR || errno == EAGAIN) return Stop::kInterrupted;
    if (errno == EFAULT) return Stop::kLostPage;
    recover(errno_text(errno).c_str());
    return Stop::kBroken;
  }
  switch (run_->exit_reason) {
    case KVM_EXIT_HLT:
      return Stop::kHalt;
    case KVM_EXIT_INTR:
      return Stop::kInterrupted;
    default:
      recover("an exit that should not happen");
      return Stop::kBroken;
  }
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

void Vcpu::take_registers(Registers& regs) const {
  const kvm_regs& k = run_->s.regs.regs;
  regs.rax = k.rax, regs.rbx = k.rbx, regs.rcx = k.rcx, regs.rdx = k.rdx;
  regs.rsi = k.rsi, regs.rdi = k.rdi, regs.rbp = k.rbp, regs.rsp = k.rsp;
  regs.r8 = k.r8, regs.r9 = k.r9, regs.r10 = k.r10, regs.r11 = k.r11;
  regs.r12 = k.r12, regs.r13 = k.r13, regs.r14 = k.r14, regs.r15 = k.r15;
  regs.rip = k.rip, regs.eflags = k.rflags;
  regs.fs_base = run_->s.regs.sregs.fs.base;
  regs.gs_base = run_->s.regs.sregs.gs.base;
  regs.cs = ring0::kUserCs;
  regs.ss = ring0::kUserSs;
  regs.orig_rax = ~0ull;
}

// The stub halted: RIP tells which of its entries it was, the stack what the CPU pushed there.
bool Vcpu::take_halt(Registers& regs, Trap& trap) {
  take_registers(regs);
  u64 at = regs.rip - 1;
  if (at == ring0::kLstar) {
    regs.rip = regs.rcx;
    regs.eflags = regs.r11;
    trap.vector = kTrapSyscall;
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
  if (vector != 14) return true;
  trap.address = run_->s.regs.sregs.cr2;
  // A KVM that leaves CPL at 3 on SYSCALL: the first instruction fetch at LSTAR faults.
  if (regs.rip == ring0::kLstar && trap.address == ring0::kLstar) {
    regs.rip = regs.rcx;
    regs.eflags = regs.r11;
    trap.vector = kTrapSyscall;
  }
  return true;
}

Trap Vcpu::run(AddressSpace& as, Registers& regs) {
  put_registers(as.root(), regs);
  for (;;) {
    Stop stop = enter();
    Trap trap;
    if (stop == Stop::kHalt) [[likely]] {
      if (take_halt(regs, trap)) {
        if (trap.vector == kTrapSyscall) regs.orig_rax = regs.rax;
        return trap;
      }
      recover("a halt that is not the stub's");
      stop = Stop::kBroken;
    }
    if (stop == Stop::kBroken) {
      trap.vector = kTrapBroken;
      return trap;
    }
    bool in_stub = (run_->s.regs.sregs.cs.selector & 3) == 0;
    kvm_vcpu_events& events = run_->s.regs.events;
    if (stop == Stop::kInterrupted && (in_stub || events.exception.injected || events.exception.pending)) {
      // Half-way through an exception: let it reach its halt, or it would hit whoever runs here next.
      arm();
      continue;
    }
    take_registers(regs);
    trap.vector = stop == Stop::kLostPage ? kTrapLostPage : kTrapInterrupted;
    trap.address = run_->exit_reason == kExitMemoryFault ? memory_fault_address(*run_) : kNoPhys;
    return trap;
  }
}

bool Vcpu::run_stub(Phys root, u64 rip, u64 rcx) {
  Registers regs{};
  regs.rip = rip;
  regs.rcx = rcx;
  regs.eflags = 2;
  put_registers(root, regs);
  run_->s.regs.sregs.cs = segment(ring0::kKernelCs, 11, 0, true);
  run_->s.regs.sregs.ss = segment(ring0::kKernelSs, 3, 0, false);
  Stop stop;
  do {
    arm();
    stop = enter();
  } while (stop == Stop::kInterrupted);
  return stop == Stop::kHalt;
}

void Vcpu::recover(const char* what) {
  counters.broken.fetch_add(1, std::memory_order_relaxed);
  RF_WARN("vCPU {} stopped with {} (exit reason {}, suberror {}) at rip {:#x}; reset", index_, what, run_->exit_reason,
          run_->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run_->internal.suberror : 0, run_->s.regs.regs.rip);
  kvm_vcpu_events events{};
  ioctl(fd_.get(), KVM_SET_VCPU_EVENTS, &events);
  kvm_mp_state state{KVM_MP_STATE_RUNNABLE};
  ioctl(fd_.get(), KVM_SET_MP_STATE, &state);
  auto configured = configure();
  RF_CHECK(configured.has_value(), "a vCPU cannot be reset");
}

void Vcpu::get_xsave(std::byte* out, size_t size) {
  std::vector<std::byte> big;
  alignas(64) kvm_xsave x;
  int r;
  const void* from = &x;
  if (xsave_buffer_size_ > sizeof(kvm_xsave)) {
    big.resize(xsave_buffer_size_);
    r = ioctl(fd_.get(), KVM_GET_XSAVE2, big.data());
    from = big.data();
  } else {
    r = ioctl(fd_.get(), KVM_GET_XSAVE, &x);
  }
  RF_CHECK(r == 0, "KVM does not give a vCPU's vector state");
  std::memcpy(out, from, size);
  counters.fp_saves.fetch_add(1, std::memory_order_relaxed);
}

void Vcpu::set_xsave(const std::byte* in, size_t size) {
  std::vector<std::byte> buffer(xsave_buffer_size_);
  std::memcpy(buffer.data(), in, size);
  int r = ioctl(fd_.get(), KVM_SET_XSAVE, buffer.data());
  RF_CHECK(r == 0, "KVM refuses a vector state that was checked");
  counters.fp_loads.fetch_add(1, std::memory_order_relaxed);
}

Setup<void> VcpuSet::add(Supervisor& supervisor, u32 count) {
  for (u32 i = size(); i < count; ++i) vcpus_.push_back(TRY(Vcpu::create(vm_, supervisor, i)));
  return {};
}

void VcpuSet::flush(AddressSpace&) {}

void VcpuSet::retire_root(Phys root) { vm_.free_pages({root}); }

}  // namespace rf::kvm
