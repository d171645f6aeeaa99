// Which kind of KVM this is, by trying.
#pragma once

#include "kvm/supervisor.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"

namespace rf::kvm {

// Runs a few instructions on `vcpu`, sets vm.kind() from what they did, and installs the stub that goes with it. The
// first thing to happen to a VM; other vCPUs are made after it.
Setup<void> find_kind(Vm& vm, Supervisor& supervisor, Vcpu& vcpu);

}  // namespace rf::kvm
