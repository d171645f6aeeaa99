#include "kvm/factory.h"
#include "platform/platform.h"
#include "trap/factory.h"

namespace rf::platform {

Setup<std::unique_ptr<Platform>> create(const Options& options, GuestMemory& memory) {
  if (options.kind == Kind::kTrap) return trap::create_platform(options, memory);
  return kvm::create_platform(options, memory);
}

std::vector<Check> diagnose() { return kvm::diagnose(); }

}  // namespace rf::platform
