#include "kvm/context.h"

#include <signal.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/check.h"
#include "kvm/exceptions.h"
#include "kvm/interpreted.h"
#include "kvm/platform.h"
#include "platform/xstate.h"

namespace rf::kvm {

using platform::Exit;

namespace {

constexpr u64 kTrapFlag = 0x100;
// What ring 3 may set, as Linux's sigreturn has it (FIX_EFLAGS), and ID: AC OF DF TF SF ZF AF PF CF RF.
constexpr u64 kUserFlags = 0x50dd5 | 0x200000;
constexpr u64 kFixedFlags = 0x202;  // IF and the bit that is always set

bool canonical(u64 va) { return static_cast<u64>(static_cast<s64>(va << 16) >> 16) == va; }

constexpr u32 kInvalidOpcode = 6;

// The code at `rip`, or less of it if it is not there. Through the host, since the page may go away at any moment.
std::vector<u8> read_code(AddressSpace& as, u64 rip) {
  std::vector<u8> code(kMaxInstruction);
  size_t have = 0;
  while (have < code.size()) {
    const u64 va = rip + have;
    const auto mapping = as.lookup(va);
    if (!mapping.present() || mapping.phys >= GuestMemory::kWindowEnd) break;
    const size_t n = std::min<u64>(code.size() - have, kPageSize - (va & kPageMask));
    iovec local{&code[have], n}, remote{as.vm().memory().host_ptr(mapping.phys), n};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != static_cast<ssize_t>(n)) break;
    have += n;
  }
  code.resize(have);
  return code;
}

Exit plain_exception(int signo, int code, u64 address, u8 vector) {
  Exit e;
  e.kind = Exit::Kind::kException;
  e.signo = signo;
  e.code = code;
  e.address = address;
  e.vector = vector;
  return e;
}

}  // namespace

Context::Context(Platform& platform)
    : platform_(platform), fp_(new (std::align_val_t{kFpAlign}) std::byte[platform.capabilities().fp_size]) {
  reset_fp();
}

Context::~Context() { drop_resident_fp(); }

Exit Context::run(platform::AddressSpace& as, Registers& regs) {
  auto& space = static_cast<AddressSpace&>(as);
  // IRET to such an address faults in the kernel on Linux; no vCPU could hold it.
  if (!canonical(regs.rip)) return plain_exception(SIGSEGV, SI_KERNEL, 0, 13);
  if (take_interrupt()) return Exit{};
  regs.eflags = (regs.eflags & kUserFlags) | kFixedFlags;
  if (!canonical(regs.fs_base)) regs.fs_base = 0;
  if (!canonical(regs.gs_base)) regs.gs_base = 0;

  Worker* worker = Worker::current();
  Vcpu& vcpu = platform_.vcpus().at(worker->index());
  vcpu.arm();
  if (!worker->enter_guest(vcpu)) return Exit{};
  running_on_.store(worker, std::memory_order_seq_cst);
  // Who set it before it could see running_on_ did not kick.
  if (interrupted_.load(std::memory_order_seq_cst)) {
    running_on_.store(nullptr, std::memory_order_release);
    worker->leave_guest();
    interrupted_.store(false, std::memory_order_relaxed);
    return Exit{};
  }
  bool stepping = (regs.eflags & kTrapFlag) != 0;
  Trap trap;
  if (vcpu.resident()) {
    trap = vcpu.run_resident(space, regs, fp_.get());
  } else {
    bring_fp_to(vcpu);
    trap = vcpu.run(space, regs);
  }
  running_on_.store(nullptr, std::memory_order_release);  // who still sees the worker kicks it for nothing
  worker->leave_guest();
  if (trap.vector == kTrapSyscall) [[likely]] {
    platform_.counts.add(*worker, Platform::kSyscall);
    Exit e;
    e.kind = Exit::Kind::kSyscall;
    return e;
  }
  trap.stepped = stepping || (regs.eflags & kTrapFlag);
  return to_exit(trap, space, regs);
}

Exit Context::to_exit(const Trap& trap, AddressSpace& as, const Registers& regs) {
  const auto count = [&, &worker = *Worker::current()](Platform::Event e) { platform_.counts.add(worker, e); };
  Exit e;
  switch (trap.vector) {
    case kTrapInterrupted:
      count(Platform::kInterrupt);
      interrupted_.store(false, std::memory_order_relaxed);
      return e;
    case kTrapLostPage:
      count(Platform::kException);
      return plain_exception(SIGBUS, BUS_ADRERR, as.find(trap.address).value_or(regs.rip), 14);
    case kTrapBroken:
      count(Platform::kException);
      return plain_exception(SIGILL, ILL_ILLOPC, regs.rip, 6);
    case 14:
      count(Platform::kPageFault);
      return exception_exit(trap, regs, nullptr);
    case kInvalidOpcode:
      count(Platform::kException);
      if (platform_.vm().kind().interpreted_ring0) {
        if (auto error = hidden_general_protection(read_code(as, regs.rip))) {
          Exit e = plain_exception(SIGSEGV, SI_KERNEL, 0, 13);
          e.error = *error;
          return e;
        }
      }
      return exception_exit(trap, regs, nullptr);
    default:
      count(Platform::kException);
      if (needs_fp_state(trap.vector)) sync_fp();
      return exception_exit(trap, regs, fp_.get());
  }
}

void Context::interrupt() {
  interrupted_.store(true, std::memory_order_seq_cst);
  if (Worker* w = running_on_.load(std::memory_order_seq_cst)) w->kick();
}

// --- Vector state ---------------------------------------------------------------------------------

void Context::bring_fp_to(Vcpu& vcpu) {
  // Only this fiber and this thread could change it.
  if (vcpu.fp_owner.load(std::memory_order_relaxed) == this) [[likely]]
    return;
  sync_fp();
  drop_resident_fp();
  const size_t size = platform_.capabilities().fp_size;
  SpinGuard guard(vcpu.fp_lock);
  if (Context* other = vcpu.fp_owner.load(std::memory_order_relaxed)) {
    vcpu.get_xsave(other->fp_.get(), size);
    // The last use of `other`: its owner may destroy it from here on.
    other->resident_.store(nullptr, std::memory_order_release);
  }
  vcpu.set_xsave(fp_.get(), size);
  vcpu.fp_owner.store(this, std::memory_order_relaxed);
  resident_.store(&vcpu, std::memory_order_relaxed);
}

ring0::Cpu* Context::live_in() const {
  Worker* worker = Worker::current();
  if (!worker || !platform_.in_ring0()) return nullptr;
  ring0::Cpu& cpu = platform_.vcpus().at(worker->index()).resident()->cpu();
  return cpu.math == fp_.get() ? &cpu : nullptr;
}

void Context::sync_fp() {
  if (live_in()) return ring0::rf_ring0_save_math();
  Vcpu* v = resident_.load(std::memory_order_acquire);
  if (!v) return;
  // While it holds our state the vCPU is not in KVM_RUN, or it runs another context that has yet to evict us
  // and needs the lock for it.
  SpinGuard guard(v->fp_lock);
  if (v->fp_owner.load(std::memory_order_relaxed) == this) v->get_xsave(fp_.get(), platform_.capabilities().fp_size);
}

void Context::drop_resident_fp() {
  if (ring0::Cpu* cpu = live_in()) cpu->math = nullptr;
  Vcpu* v = resident_.load(std::memory_order_acquire);
  if (!v) return;
  SpinGuard guard(v->fp_lock);
  if (v->fp_owner.load(std::memory_order_relaxed) == this) v->fp_owner.store(nullptr, std::memory_order_relaxed);
  resident_.store(nullptr, std::memory_order_relaxed);
}

void Context::save_fp(std::span<std::byte> out) {
  sync_fp();
  std::memcpy(out.data(), fp_.get(), std::min(out.size(), platform_.capabilities().fp_size));
}

Result<void> Context::load_fp(std::span<const std::byte> in) {
  const auto& caps = platform_.capabilities();
  if (in.size() != caps.fp_size) return err(EINVAL);
  if (!platform::xstate::valid(in, caps.xcr0)) return err(EINVAL);
  drop_resident_fp();
  std::memcpy(fp_.get(), in.data(), in.size());
  return {};
}

void Context::reset_fp() {
  drop_resident_fp();
  platform::xstate::reset({fp_.get(), platform_.capabilities().fp_size});
}

void Context::copy_fp_from(platform::Context& other) {
  auto& o = static_cast<Context&>(other);
  o.sync_fp();
  drop_resident_fp();
  std::memcpy(fp_.get(), o.fp_.get(), platform_.capabilities().fp_size);
}

}  // namespace rf::kvm
