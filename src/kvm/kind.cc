#include "kvm/kind.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>

#include "core/log.h"
#include "core/time.h"

namespace rf::kvm {

namespace {

// Interpreted, an instruction takes 700 ns and more; native 1 ns, or 10 under an emulator. Only the difference between
// two runs counts: the exit takes 10 to 100 us by itself, more when the host is busy.
constexpr u64 kLoops = 200, kInstructions = 2 * kLoops;
constexpr double kInterpretedNs = 400;
constexpr int kTries = 5;

constexpr u64 kTableBits = 0x27, kPageBits = 0x63, kUserBit = 4;
constexpr u64 kProbeVa = 0x1000, kCodeVa = 0x2000;
// 1: syscall ; dec %rbx ; jnz 1b ; hlt, which ring 3 may not
constexpr u8 kSyscallCode[] = {0x0f, 0x05, 0x48, 0xff, 0xcb, 0x75, 0xf9, 0xf4};
constexpr u64 kBareCalls = 1000;

struct Pages {
  Phys root, upper, directory, leaf, first, second;
};

Result<Pages> allocate(Vm& vm) {
  Pages p{};
  for (Phys* page : {&p.root, &p.upper, &p.directory, &p.leaf, &p.first, &p.second}) *page = TRY(vm.allocate_page());
  return p;
}

u64* words(Vm& vm, Phys p) { return static_cast<u64*>(vm.host_page(p)); }

constexpr const char* kBroken =
    "this KVM does not run guest code as a CPU would: a few instructions in ring 0 or a SYSCALL ended in an exit that "
    "should not be; the kernel's log (dmesg) may tell more";

struct Ring0Cost {
  double instruction_ns, exit_ns;
};

std::optional<Ring0Cost> ring0_cost(Vcpu& vcpu, Phys root) {
  Nanos shortest = kNever;
  double cost = 1e9;
  auto time = [&](u64 loops) -> std::optional<Nanos> {
    Nanos begin = monotonic_now();
    if (!vcpu.run_ring0(root, ring0::kTimingLoop, loops)) return {};
    return monotonic_now() - begin;
  };
  for (int i = 0; i < kTries && cost > kInterpretedNs; ++i) {
    auto none = time(1), some = time(kLoops);
    if (!none || !some) return {};
    shortest = std::min(shortest, *none);
    cost = std::min(cost, std::max(0.0, static_cast<double>(*some - shortest) / kInstructions));
  }
  return Ring0Cost{cost, static_cast<double>(shortest)};
}

// Nanoseconds of a system call that stays in the guest.
std::optional<double> call_cost(Vcpu& vcpu, Phys root) {
  Nanos one = kNever, many = kNever;
  for (int i = 0; i < kTries; ++i) {
    const auto a = vcpu.time_bare_calls(root, kCodeVa, 1), b = vcpu.time_bare_calls(root, kCodeVa, 1 + kBareCalls);
    if (!a || !b) return {};
    one = std::min(one, *a), many = std::min(many, *b);
  }
  return static_cast<double>(std::max<Nanos>(many - one, 0)) / kBareCalls;
}

}  // namespace

Setup<void> find_kind(Vm& vm, Supervisor& supervisor, Vcpu& vcpu) {
  auto pages = allocate(vm);
  if (!pages) return setup_error("no memory for the first page tables");
  words(vm, pages->root)[ring0::kTopIndex] = supervisor.entry();
  words(vm, pages->root)[0] = pages->upper | kTableBits;
  words(vm, pages->upper)[0] = pages->directory | kTableBits;
  words(vm, pages->directory)[0] = pages->leaf | kTableBits;
  words(vm, pages->leaf)[kCodeVa >> kPageShift] = pages->first | kPageBits | kUserBit;
  std::memcpy(words(vm, pages->first), kSyscallCode, sizeof kSyscallCode);

  Kind kind;
  auto enters = vcpu.syscall_enters_ring0(pages->root, kCodeVa);
  const auto cost = ring0_cost(vcpu, pages->root);
  if (!enters || !cost) return setup_error(kBroken);
  kind.ring0_ns = cost->instruction_ns;
  kind.exit_ns = cost->exit_ns;
  kind.interpreted_ring0 = !*enters || kind.ring0_ns > kInterpretedNs;
  // An interpreter reads the guest's page tables itself, so it would not show what ring 3 sees; but without hardware
  // there is only shadow paging.
  kind.shadow_paging = true;
  if (!kind.interpreted_ring0) {
    const auto call = call_cost(vcpu, pages->root);
    if (!call) return setup_error(kBroken);
    kind.call_ns = *call;
    supervisor.use_saving_stub(vcpu.has_fsgsbase());
    u64& entry = words(vm, pages->leaf)[kProbeVa >> kPageShift];
    words(vm, pages->first)[0] = 1;
    words(vm, pages->second)[0] = 2;
    entry = pages->first | kPageBits;
    auto before = vcpu.run_ring0(pages->root, ring0::kReadThroughNewCr3, kProbeVa);
    entry = pages->second | kPageBits;
    auto after = vcpu.run_ring0(pages->root, ring0::kReadThroughNewCr3, kProbeVa);
    if (before != 1 || !after) return setup_error(kBroken);
    kind.shadow_paging = after != 2;
  }
  if (kind.interpreted_ring0) {
    kvm_enable_cap cap{};
    cap.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE;
    cap.args[0] = 1;
    kind.syscall_to_nothing = ioctl(vm.fd(), KVM_ENABLE_CAP, &cap) == 0;
    if (kind.syscall_to_nothing) supervisor.map_nothing();
  }
  words(vm, pages->root)[0] = 0;
  vm.set_kind(kind);
  // The root stays: it is, or was, in CR3.
  vm.free_pages({pages->upper, pages->directory, pages->leaf, pages->first, pages->second});
  TRY(vcpu.kind_is_known());
  RF_DEBUG("KVM: {:.0f} ns per ring-0 instruction, {:.0f} ns for an exit, {:.0f} ns for a call without one, {} paging",
           kind.ring0_ns, kind.exit_ns, kind.call_ns, kind.shadow_paging ? "shadow" : "nested");
  return {};
}

}  // namespace rf::kvm
