// Sockets. None are offered yet: every call of the family is ENOSYS until src/net has sockets.
#include "task/syscalls/families.h"

namespace rf::task {

Family socket_family() { return {}; }

}  // namespace rf::task
