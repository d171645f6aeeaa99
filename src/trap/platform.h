// Platform "trap": guest code in stub processes, whose system calls, faults and exceptions become signals there.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "core/worker_counts.h"
#include "platform/platform.h"
#include "trap/code_patches.h"
#include "trap/seat.h"
#include "trap/stub_process.h"

namespace rf::trap {

class Platform final : public platform::Platform {
 public:
  static Setup<std::unique_ptr<Platform>> create(const platform::Options& options, platform::GuestMemory& memory);

  const platform::Capabilities& capabilities() const override { return capabilities_; }
  Result<std::unique_ptr<platform::AddressSpace>> create_address_space() override;
  Result<std::unique_ptr<platform::Context>> create_context() override;
  platform::PlatformStats stats() const override;

  // Whether stub threads can set GS base without a host call.
  bool fsgsbase() const { return fsgsbase_; }
  Seat& seat(u32 worker) { return seats_[worker]; }

  enum Event : u8 { kSyscall, kPatchedCall, kPageFault, kException, kInterrupt, kInstall, kEvents };
  WorkerCounts<kEvents> counts;

 private:
  explicit Platform(platform::GuestMemory& memory, u32 workers) : counts(workers), memory_(memory), seats_(workers) {}
  platform::GuestMemory& memory_;
  platform::Capabilities capabilities_;
  bool fsgsbase_ = false;
  std::unique_ptr<Family> family_;
  std::unique_ptr<CodePatches> patches_;
  std::vector<Seat> seats_;
};

}  // namespace rf::trap
