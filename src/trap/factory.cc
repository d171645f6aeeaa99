#include "trap/factory.h"

#include "trap/platform.h"

namespace rf::trap {

Setup<std::unique_ptr<platform::Platform>> create_platform(const platform::Options& options,
                                                           platform::GuestMemory& memory) {
  return TRY(Platform::create(options, memory));
}

}  // namespace rf::trap
