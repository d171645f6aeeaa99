#include "kvm/kind.h"

#include <sys/ioctl.h>

#include <algorithm>

#include "core/log.h"
#include "core/time.h"

namespace rf::kvm {

namespace {

// Interpreted, an instruction takes 700 ns and more; native 1 ns, or 10 under an emulator. The exit and entry take
// some 10 us on any of them, more when the host is busy.
constexpr u64 kLoops = 200, kInstructions = 2 * kLoops;
constexpr double kInterpretedNs = 200;
constexpr int kTries = 5;

constexpr u64 kTableBits = 0x27, kPageBits = 0x63;
constexpr u64 kProbeVa = 0x1000;

struct Pages {
  Phys root, upper, directory, leaf, first, second;
};

Result<Pages> allocate(Vm& vm) {
  Pages p{};
  for (Phys* page : {&p.root, &p.upper, &p.directory, &p.leaf, &p.first, &p.second}) *page = TRY(vm.allocate_page());
  return p;
}

u64* words(Vm& vm, Phys p) { return static_cast<u64*>(vm.host_page(p)); }

}  // namespace

Setup<void> find_kind(Vm& vm, Supervisor& supervisor, Vcpu& vcpu) {
  auto pages = allocate(vm);
  if (!pages) return setup_error("no memory for the first page tables");
  words(vm, pages->root)[ring0::kTopIndex] = supervisor.entry();
  Kind kind;
  kind.ring0_ns = 1e9;
  for (int i = 0; i < kTries && kind.ring0_ns > kInterpretedNs; ++i) {
    Nanos begin = monotonic_now();
    if (!vcpu.run_ring0(pages->root, ring0::kTimingLoop, kLoops))
      return setup_error("this KVM does not run even a loop in guest ring 0; see the kernel's log (dmesg)");
    kind.ring0_ns = std::min(kind.ring0_ns, static_cast<double>(monotonic_now() - begin) / kInstructions);
  }
  kind.interpreted_ring0 = kind.ring0_ns > kInterpretedNs;
  // An interpreter reads the guest's page tables itself, so it would not show what ring 3 sees; but without hardware
  // there is only shadow paging.
  kind.shadow_paging = true;
  if (!kind.interpreted_ring0) {
    supervisor.use_saving_stub(vcpu.has_fsgsbase());
    words(vm, pages->root)[0] = pages->upper | kTableBits;
    words(vm, pages->upper)[0] = pages->directory | kTableBits;
    words(vm, pages->directory)[0] = pages->leaf | kTableBits;
    u64& entry = words(vm, pages->leaf)[kProbeVa >> kPageShift];
    words(vm, pages->first)[0] = 1;
    words(vm, pages->second)[0] = 2;
    entry = pages->first | kPageBits;
    auto before = vcpu.run_ring0(pages->root, ring0::kReadThroughNewCr3, kProbeVa);
    entry = pages->second | kPageBits;
    auto after = vcpu.run_ring0(pages->root, ring0::kReadThroughNewCr3, kProbeVa);
    if (before != 1 || !after) return setup_error("this KVM does not run guest ring 0 as a CPU would");
    kind.shadow_paging = after != 2;
    words(vm, pages->root)[0] = 0;
  }
  if (kind.interpreted_ring0) {
    kvm_enable_cap cap{};
    cap.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE;
    cap.args[0] = 1;
    kind.syscall_to_nothing = ioctl(vm.fd(), KVM_ENABLE_CAP, &cap) == 0;
    if (kind.syscall_to_nothing) supervisor.map_nothing();
  }
  vm.set_kind(kind);
  // The root stays: it is, or was, in CR3.
  vm.free_pages({pages->upper, pages->directory, pages->leaf, pages->first, pages->second});
  TRY(vcpu.kind_is_known());
  RF_DEBUG("KVM: {:.0f} ns per ring-0 instruction, {} paging", kind.ring0_ns, kind.shadow_paging ? "shadow" : "nested");
  return {};
}

}  // namespace rf::kvm
