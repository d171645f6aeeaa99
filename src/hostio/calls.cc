#include "hostio/calls.h"

#include <poll.h>

namespace rf::hostio {

u32 poll_now(int fd, u32 events) {
  pollfd entry{fd, static_cast<short>(events), 0};
  if (!host_call(SYS_poll, &entry, 1, 0)) return 0;
  return static_cast<u16>(entry.revents);
}

}  // namespace rf::hostio
