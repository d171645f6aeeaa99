// A guest thread's door to the vCPUs, and its vector state.
//
// The state lives in `fp_` or in the vCPU it last ran on: there as long as that vCPU's fp_owner is this context.
// Only the fiber that uses the context, or that vCPU's own thread when another context needs it, moves it.
//
// In ring-0 mode it lives in `fp_` or in the vCPU's registers (Cpu::math), from where it is saved when the sentry
// itself uses them or when the fiber is left: a fiber that runs elsewhere never finds it in another vCPU.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "core/scheduler.h"
#include "kvm/vcpu.h"
#include "platform/platform.h"

namespace rf::kvm {

class Platform;

class Context final : public platform::Context {
 public:
  explicit Context(Platform& platform);
  ~Context() override;

  platform::Exit run(platform::AddressSpace& as, Registers& regs) override;
  void interrupt() override;
  void save_fp(std::span<std::byte> out) override;
  Result<void> load_fp(std::span<const std::byte> in) override;
  void reset_fp() override;
  void copy_fp_from(platform::Context& other) override;

 private:
  platform::Exit run_in_ring0(Vcpu& vcpu, Worker& worker, AddressSpace& space, Registers& regs);
  platform::Exit run_by_exits(Vcpu& vcpu, Worker& worker, AddressSpace& space, Registers& regs);
  void left(Worker& worker);  // the vCPU has stopped
  platform::Exit system_call(Worker& worker);
  bool take_interrupt() {
    return interrupted_.load(std::memory_order_relaxed) && interrupted_.exchange(false, std::memory_order_acq_rel);
  }
  void bring_fp_to(Vcpu& vcpu);
  void sync_fp();  // makes fp_ valid; the vCPU may keep a copy
  void drop_resident_fp();
  // Ring-0 mode: where the registers hold this state, which is on the current worker if anywhere; else null.
  ring0::Cpu* live_in() const;
  platform::Exit to_exit(const Trap& trap, AddressSpace& as, const Registers& regs);

  Platform& platform_;
  std::atomic<bool> interrupted_{false};
  std::atomic<Worker*> running_on_{nullptr};
  std::atomic<Vcpu*> resident_{nullptr};  // the vCPU that holds the state, or did
  struct FreeAligned {
    void operator()(std::byte* p) const { operator delete[](p, std::align_val_t{kFpAlign}); }
  };
  static constexpr size_t kFpAlign = 64;  // XSAVE's
  std::unique_ptr<std::byte[], FreeAligned> fp_;
};

}  // namespace rf::kvm
