#include "kvm/factory.h"

#include "kvm/platform.h"

namespace rf::kvm {

Setup<std::unique_ptr<platform::Platform>> create_platform(const platform::Options& options,
                                                           platform::GuestMemory& memory) {
  return TRY(Platform::create(options, memory));
}

Setup<void> probe() {
  TRY(open_kvm());
  return {};
}

}  // namespace rf::kvm
