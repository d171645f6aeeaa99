#include "kvm/factory.h"
#include "platform/platform.h"

namespace rf::platform {

Setup<std::unique_ptr<Platform>> create(const Options& options, GuestMemory& memory) {
  if (options.kind == Kind::kTrap)
    return setup_error("the trap platform is not part of this build; use --platform=kvm");
  return kvm::create_platform(options, memory);
}

std::vector<Check> diagnose() { return kvm::diagnose(); }

}  // namespace rf::platform
