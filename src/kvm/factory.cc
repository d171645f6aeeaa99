#include "kvm/factory.h"

#include "kvm/platform.h"

namespace rf::kvm {

Setup<std::unique_ptr<platform::Platform>> create_platform(const platform::Options& options,
                                                           platform::GuestMemory& memory) {
  return TRY(Platform::create(options, memory));
}

std::vector<platform::Check> diagnose() {
  using State = platform::Check::State;
  auto kvm = open_kvm();
  if (!kvm) return {{"kvm", State::kBad, kvm.error().message}};
  return {{"kvm", State::kGood, "/dev/kvm can be used"}};
}

}  // namespace rf::kvm
