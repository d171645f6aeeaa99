#include "hostio/fd.h"

#include <unistd.h>

namespace rf::hostio {

// The result is not looked at: Linux frees the descriptor whatever close(2) returns.
void HostFd::reset() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

}  // namespace rf::hostio
