// Exit mode or ring-0 mode: what the second needs of a host.
#pragma once

#include <optional>
#include <string>

#include "kvm/vcpu.h"
#include "kvm/vm.h"

namespace rf::kvm {

// Why the sentry cannot live in the guest's ring 0 here; nothing where it can.
std::optional<std::string> ring0_obstacle(const Vm& vm, const Vcpu& vcpu);
// As measured: is a system call that stays in the guest the faster one?
inline bool ring0_is_faster(const Kind& kind) { return kind.call_ns < kind.exit_ns; }

// What protects ring 0 from ring 3, as far as the CPU has it: SMEP, SMAP, UMIP, and enhanced IBRS of either maker.
Ring0Protection ring0_protection(const Vm& vm, const Vcpu& vcpu);

// Can KVM map only such pages of io_uring's as have reference counts of their own?
bool needs_small_rings();

// Does the CPU map 1 GiB by one entry?
bool has_gib_pages(const Vm& vm);

}  // namespace rf::kvm
