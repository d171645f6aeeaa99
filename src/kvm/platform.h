// The kvm platform: one VM for the sandbox, one vCPU per worker.
#pragma once

#include <memory>

#include "kvm/context.h"
#include "kvm/supervisor.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"
#include "platform/platform.h"

namespace rf::kvm {

class Platform final : public platform::Platform {
 public:
  static Setup<std::unique_ptr<Platform>> create(const platform::Options& options, GuestMemory& memory);

  const platform::Capabilities& capabilities() const override { return capabilities_; }
  Result<std::unique_ptr<platform::AddressSpace>> create_address_space() override;
  Result<std::unique_ptr<platform::Context>> create_context() override;
  platform::PlatformStats stats() const override;

  Vm& vm() { return *vm_; }
  VcpuSet& vcpus() { return *vcpus_; }
  Supervisor& supervisor() { return *supervisor_; }

  struct Counters {
    std::atomic<u64> syscalls{0}, page_faults{0}, exceptions{0}, interrupts{0};
  };
  Counters counters;

 private:
  Platform() = default;

  platform::Capabilities capabilities_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<VcpuSet> vcpus_;
};

}  // namespace rf::kvm
