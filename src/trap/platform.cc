#include "trap/platform.h"

#include <sys/auxv.h>

#include "platform/host_tsc.h"
#include "platform/xstate.h"
#include "trap/address_space.h"
#include "trap/context.h"

namespace rf::trap {

Setup<std::unique_ptr<Platform>> Platform::create(const platform::Options& options, platform::GuestMemory& memory) {
  std::unique_ptr<Platform> p(new Platform(memory, options.vcpus));
  auto& c = p->capabilities_;
  c.name = "trap";
  c.description = "processes whose system calls are trapped by seccomp";
  c.xcr0 = platform::xstate::host_features();
  c.host_tsc = platform::host_clock_reads_tsc();
  c.child_processes = true;
  c.fp_size = platform::xstate::size_of(c.xcr0);
  constexpr u64 kFsGsBase = 2;
  p->fsgsbase_ = (::getauxval(AT_HWCAP2) & kFsGsBase) != 0;
  p->patches_ = TRY(CodePatches::create());
  p->family_ = TRY(Family::create(options.vcpus));
  return p;
}

Result<std::unique_ptr<platform::AddressSpace>> Platform::create_address_space() {
  return std::make_unique<AddressSpace>(memory_, *patches_, family_.get());
}

Result<std::unique_ptr<platform::Context>> Platform::create_context() { return std::make_unique<Context>(*this); }

platform::PlatformStats Platform::stats() const {
  platform::PlatformStats s;
  s.syscalls = counts.total(kSyscall);
  s.page_faults = counts.total(kPageFault);
  s.exceptions = counts.total(kException);
  s.interrupts = counts.total(kInterrupt);
  s.details = {{"faults on pages that only the stub process lacked", counts.total(kInstall)},
               {"patched system calls", counts.total(kPatchedCall)}};
  return s;
}

}  // namespace rf::trap
