// KVM's own counters of a vCPU, read through KVM_GET_STATS_FD.
#pragma once

#include <map>
#include <string>

#include "core/types.h"
#include "hostio/fd.h"

namespace rf::kvm {

// The file that tells a vCPU's counters; invalid where KVM has none (before Linux 5.14).
hostio::HostFd open_stats(int vcpu_fd);

// Adds the counters of one vCPU, those of a single number that is not 0, to `sum` by name.
void add_stats(int stats_fd, std::map<std::string, u64>& sum);

}  // namespace rf::kvm
