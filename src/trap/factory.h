// How the platform room reaches this one.
#pragma once

#include <memory>

#include "platform/platform.h"

namespace rf::trap {

Setup<std::unique_ptr<platform::Platform>> create_platform(const platform::Options& options,
                                                           platform::GuestMemory& memory);

}  // namespace rf::trap
