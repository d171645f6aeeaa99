// What platform's factory needs of this room.
#pragma once

#include <memory>
#include <vector>

#include "platform/platform.h"

namespace rf::kvm {

// The error says why KVM cannot be used here and what to do about it.
Setup<std::unique_ptr<platform::Platform>> create_platform(const platform::Options& options,
                                                           platform::GuestMemory& memory);
// Whether there is a KVM to be used here: a look at its device. The error says what to do.
Setup<void> probe();
std::vector<platform::Check> diagnose();

}  // namespace rf::kvm
