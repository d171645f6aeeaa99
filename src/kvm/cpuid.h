// What the CPUID instruction shows to guest code, where the host lets KVM decide.
#pragma once

#include "kvm/kvm_api.h"

#include <vector>

#include "core/result.h"
#include "core/types.h"

namespace rf::kvm {

// KVM_GET_SUPPORTED_CPUID, without what a sandbox's program must not rely on.
Setup<std::vector<kvm_cpuid_entry2>> guest_cpuid(int kvm_fd);

// The XSAVE features that guest state is kept for: what the KVM and this CPU have of x87, SSE, AVX and AVX-512.
u64 guest_xcr0(const std::vector<kvm_cpuid_entry2>& cpuid);

}  // namespace rf::kvm
