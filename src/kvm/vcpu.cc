#include "kvm/vcpu.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cstring>
#include <span>

#include "core/check.h"
#include "core/futex.h"
#include "core/log.h"
#include "core/time.h"
#include "kvm/cpuid.h"
#include "kvm/kvm_stats.h"
#include "kvm/segments.h"

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

// How long to spin for a vCPU that was kicked before sleeping: about as long as a signal takes to another CPU.
constexpr int kFlushSpins = 2000;

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
  v->save_ = reinterpret_cast<ring0::SaveArea*>(supervisor.host_page(ring0::save_area_of(index)));
  v->save_->frame_address = ring0::save_area_of(index) + offsetof(ring0::SaveArea, rip);
  int fd = ioctl(vm.fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(index));
  if (fd < 0) return setup_error(fmt::format("KVM cannot create vCPU {}: {}", index, errno_text(errno)));
  v->fd_ = hostio::HostFd(fd);
  v->stats_ = open_stats(fd);
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

Setup<void> Vcpu::set_system_registers() {
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
  fsgsbase_ = (s.cr4 & kCr4Fsgsbase) != 0;
  ring3_ = s;
  return {};
}

Setup<void> Vcpu::configure() {
  auto failed = [&](const char* what) {
    return setup_error(fmt::format("KVM refuses the {} of vCPU {}: {}", what, index_, errno_text(errno)));
  };
  TRY(set_system_registers());
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = guest_xcr0(vm_.cpuid());
  if (ioctl(fd_.get(), KVM_SET_XCRS, &xcrs) != 0) return failed("XCR0");

  const Msr msrs[] = {
      {kMsrStar, (u64{ring0::kUserCs - 16} << 48) | (u64{ring0::kKernelCs} << 32)},
      {kMsrLstar, vm_.kind().syscall_to_nothing ? ring0::kNothing : ring0::kLstar},
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
  host_tsc_ = ioctl(fd_.get(), KVM_SET_DEVICE_ATTR, &attr) == 0;

  // Every exit shows all of the state, at no measurable cost, except where the stub saves the registers itself.
  run_->kvm_valid_regs = vm_.kind().interpreted_ring0 ? kAllState : 0;
  run_->kvm_dirty_regs = 0;
  at_resume_ = false;
  cr3_space_ = 0;
  loaded_root_.store(0);
  resume_ = ring0::resume_code(fsgsbase_);
  return {};
}

bool Vcpu::set_msr(u32 index, u64 value) {
  const Msr msrs[] = {{index, value}};
  return set_msrs(fd_.get(), msrs);
}

std::optional<u64> Vcpu::get_msr(u32 index) const {
  struct {
    kvm_msrs head;
    kvm_msr_entry entry;
  } list{};
  list.head.nmsrs = 1;
  list.entry.index = index;
  if (ioctl(fd_.get(), KVM_GET_MSRS, &list) != 1) return {};
  return list.entry.data;
}

Setup<void> Vcpu::make_resident(SentryMap& map, const Ring0Protection& protection) {
  resident_ = TRY(Resident::create(*this, map, protection, guest_xcr0(vm_.cpuid())));
  return {};
}

void Vcpu::enter_ring0(const std::function<void()>& body) {
  worker_.store(Worker::current(), std::memory_order_release);
  cr3_space_ = 0;
  resident_->run(body);
  cr3_space_ = 0;  // ring 0 is over, and invalidate_pages() with it
}

Vcpu::Stop Vcpu::enter() {
  counters.exits.fetch_add(1, std::memory_order_relaxed);
  run_->exit_reason = KVM_EXIT_UNKNOWN;
  int r = ioctl(fd_.get(), KVM_RUN, 0);
  if (r < 0) [[unlikely]] {
    if (errno == EINTR || errno == EAGAIN) return Stop::kInterrupted;
    return errno == EFAULT ? Stop::kLostPage : Stop::kBroken;
  }
  switch (run_->exit_reason) {
    case KVM_EXIT_HLT:
      return Stop::kHalt;
    case KVM_EXIT_INTR:
      return Stop::kInterrupted;
    default:
      return Stop::kBroken;
  }
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

bool Vcpu::exception_pending() const {
  const kvm_vcpu_events& events = run_->s.regs.events;
  return events.exception.injected || events.exception.pending;
}

Trap Vcpu::run(AddressSpace& as, Registers& regs) {
  Trap trap = vm_.kind().interpreted_ring0 ? run_direct(as, regs) : run_saving(as, regs);
  if (trap.vector == kTrapSyscall) regs.orig_rax = regs.rax;
  return trap;
}

std::optional<u64> Vcpu::run_ring0(Phys root, u64 rip, u64 rcx) {
  Registers regs{};
  regs.rip = rip;
  regs.rcx = rcx;
  regs.eflags = 2;
  run_->kvm_valid_regs = kAllState;
  put_registers(root, regs);
  run_->s.regs.sregs.cs = segment(ring0::kKernelCs, 11, 0, true);
  run_->s.regs.sregs.ss = segment(ring0::kKernelSs, 3, 0, false);
  loaded_root_.store(root);
  Stop stop;
  do {
    arm();
    stop = enter();
  } while (stop == Stop::kInterrupted);
  if (stop != Stop::kHalt) return {};
  return run_->s.regs.regs.rax;
}

std::optional<bool> Vcpu::syscall_enters_ring0(Phys root, u64 rip) {
  Registers regs{};
  regs.rip = rip;
  regs.eflags = 2;
  run_->kvm_valid_regs = kAllState;
  put_registers(root, regs);
  loaded_root_.store(root);
  Stop stop;
  do {
    arm();
    stop = enter();
  } while (stop == Stop::kInterrupted);
  bool native = run_->s.regs.regs.rip == ring0::kLstar + 1;
  Trap trap;
  if (stop != Stop::kHalt || !take_halt(regs, trap) || trap.vector != kTrapSyscall) return {};
  return native;
}

std::optional<Nanos> Vcpu::time_bare_calls(Phys root, u64 rip, u64 calls) {
  constexpr u64 kGeneralProtection = 13;
  Registers regs{};
  regs.rip = rip;
  regs.rbx = calls;
  regs.eflags = 2;
  run_->kvm_valid_regs = kAllState;
  put_registers(root, regs);
  loaded_root_.store(root);
  if (!set_msr(kMsrLstar, ring0::kBareSysret)) return {};
  const Nanos begin = monotonic_now();
  Stop stop;
  do {
    arm();
    stop = enter();
  } while (stop == Stop::kInterrupted);
  const Nanos took = monotonic_now() - begin;
  const u64 at = run_->s.regs.regs.rip;
  if (!set_msr(kMsrLstar, ring0::kLstar) || stop != Stop::kHalt) return {};
  if (at != ring0::kVectors + kGeneralProtection * ring0::kVectorStride + 1) return {};
  return took;
}

Trap Vcpu::lost_page() {
  Trap trap;
  trap.vector = kTrapLostPage;
  trap.address = run_->exit_reason == kExitMemoryFault ? memory_fault_address(*run_) : kNoPhys;
  return trap;
}

Trap Vcpu::recover() {
  counters.broken.fetch_add(1, std::memory_order_relaxed);
  bool internal = run_->exit_reason == KVM_EXIT_INTERNAL_ERROR;
  RF_WARN("vCPU {} was stopped by what the guest did (exit reason {}, suberror {}) and is reset", index_,
          run_->exit_reason, internal ? run_->internal.suberror : 0);
  kvm_vcpu_events events{};
  ioctl(fd_.get(), KVM_SET_VCPU_EVENTS, &events);
  kvm_mp_state state{KVM_MP_STATE_RUNNABLE};
  ioctl(fd_.get(), KVM_SET_MP_STATE, &state);
  auto configured = configure();
  RF_CHECK(configured.has_value(), "a vCPU cannot be reset");
  Trap trap;
  trap.vector = kTrapBroken;
  return trap;
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

void VcpuSet::flush(AddressSpace& as) {
  // Who enters the guest after the generation was raised flushes by itself.
  for (auto& v : vcpus_) {
    if (v->live_space_.load(std::memory_order_seq_cst) != as.id()) continue;
    u32 run = v->runs_.load(std::memory_order_seq_cst);
    auto still_there = [&] {
      return v->live_space_.load(std::memory_order_seq_cst) == as.id() &&
             v->runs_.load(std::memory_order_seq_cst) == run;
    };
    if (!still_there()) continue;
    if (Worker* w = v->worker_.load(std::memory_order_acquire)) w->kick();
    for (int i = 0; i < kFlushSpins && still_there(); ++i) __builtin_ia32_pause();
    v->run_watchers_.fetch_add(1, std::memory_order_seq_cst);
    while (still_there()) futex_wait(v->runs_, run, kNever);
    v->run_watchers_.fetch_sub(1, std::memory_order_seq_cst);
  }
}

u64 VcpuSet::invalidate_pages_here(const AddressSpace& as, u64 generation,
                                   std::span<const platform::Invalidation::Range> ranges) {
  Worker* worker = Worker::current();
  if (!worker || worker->index() >= size() || !at(worker->index()).resident()) return 0;
  return at(worker->index()).invalidate_pages(as, generation, ranges);
}

// With shadow paging a vCPU's CR3 may point anywhere while it runs nothing: the page is not used again before all
// shadows are dropped. Otherwise the vCPU enters its stub through the old tables, so these have to stay.
void VcpuSet::retire_root(Phys root) {
  if (vm_.kind().interpreted_ring0) return vm_.free_pages({root});
  std::vector<Phys> unused;
  {
    SpinGuard guard(retired_lock_);
    retired_roots_.push_back(root);
    std::erase_if(retired_roots_, [&](Phys p) {
      for (auto& v : vcpus_)
        if (v->loaded_root_.load() == p) return false;
      unused.push_back(p);
      return true;
    });
  }
  vm_.free_pages(unused);
}

}  // namespace rf::kvm
