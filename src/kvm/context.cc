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
#include "platform/user_registers.h"
#include "platform/xstate.h"

namespace rf::kvm {

using platform::Exit;

namespace {

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
  if (!platform::make_enterable(regs)) return plain_exception(SIGSEGV, SI_KERNEL, 0, 13);
  if (take_interrupt()) return Exit{};

  Worker* worker = Worker::current();
  Vcpu& vcpu = platform_.vcpus().at(worker->index());
  vcpu.arm();
  if (!worker->enter_guest(vcpu)) return Exit{};
  running_on_.store(worker, std::memory_order_seq_cst);
  // Who set it before it could see running_on_ did not kick.
  if (interrupted_.load(std::memory_order_seq_cst)) {
    left(*worker);
    interrupted_.store(false, std::memory_order_relaxed);
    return Exit{};
  }
  return vcpu.resident() ? run_in_ring0(vcpu, *worker, space, regs) : run_by_exits(vcpu, *worker, space, regs);
}

void Context::left(Worker& worker) {
  running_on_.store(nullptr, std::memory_order_release);  // who still sees the worker kicks it for nothing
  worker.leave_guest();
}

Exit Context::system_call(Worker& worker) {
  platform_.counts.add(worker, Platform::kSyscall);
  Exit e;
  e.kind = Exit::Kind::kSyscall;
  return e;
}

Exit Context::run_in_ring0(Vcpu& vcpu, Worker& worker, AddressSpace& space, Registers& regs) {
  const u64 flags = regs.eflags;
  const u32 vector = vcpu.run_resident(space, regs, fp_.get());
  left(worker);
  if (vector == ring0::kSyscallVector) [[likely]]
    return system_call(worker);
  Trap trap = vcpu.resident_trap(vector);
  trap.stepped = ((flags | regs.eflags) & platform::kTrapFlag) != 0;
  return to_exit(trap, space, regs);
}

Exit Context::run_by_exits(Vcpu& vcpu, Worker& worker, AddressSpace& space, Registers& regs) {
  const u64 flags = regs.eflags;
  bring_fp_to(vcpu);
  Trap trap = vcpu.run(space, regs);
  left(worker);
  if (trap.vector == kTrapSyscall) [[likely]]
    return system_call(worker);
  trap.stepped = ((flags | regs.eflags) & platform::kTrapFlag) != 0;
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
