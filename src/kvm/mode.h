// Exit mode or ring-0 mode: what the second needs of a host.
#pragma once

#include <optional>
#include <string>

#include "kvm/vcpu.h"
#include "kvm/vm.h"

namespace rf::kvm {

// Why the sentry cannot, or had better not, live in the guest's ring 0 here; nothing where it can.
std::optional<std::string> ring0_obstacle(const Vm& vm, const Vcpu& vcpu);

// CR4 bits that protect ring 0 from ring 3 (SMEP, SMAP, UMIP), as far as the CPU has them.
u64 protective_cr4(const Vm& vm);

// Can KVM map only such pages of io_uring's as have reference counts of their own?
bool needs_small_rings();

// Does the CPU map 1 GiB by one entry?
bool has_gib_pages(const Vm& vm);

}  // namespace rf::kvm
