// The kvm platform: one VM for the sandbox, one vCPU per worker.
#pragma once

#include <memory>

#include "core/worker_counts.h"
#include "kvm/context.h"
#include "kvm/sentry_map.h"
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
  void run_loop(u32 worker, const std::function<void()>& loop) override;
  void (*leave_fiber() const)() override { return in_ring0() ? &ring0::rf_ring0_save_math : nullptr; }

  Vm& vm() { return *vm_; }
  VcpuSet& vcpus() { return *vcpus_; }
  Supervisor& supervisor() { return *supervisor_; }
  bool in_ring0() const { return sentry_map_ != nullptr; }

  enum Event : u8 { kSyscall, kPageFault, kException, kInterrupt, kEvents };
  WorkerCounts<kEvents> counts;

 private:
  explicit Platform(u32 vcpus) : counts(vcpus) {}
  Setup<void> choose_mode(platform::KvmMode mode);
  void add_ring0_stats(platform::PlatformStats& s) const;

  platform::Capabilities capabilities_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<SentryMap> sentry_map_;  // in ring-0 mode alone
  std::unique_ptr<VcpuSet> vcpus_;
};

}  // namespace rf::kvm
