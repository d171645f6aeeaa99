// The families of system calls: each source of this folder holds one, and its part of the table.
#pragma once

#include "task/syscall.h"

namespace rf::task {

Family process_family();
Family resource_family();
Family signal_family();
Family time_family();
Family identity_family();
Family prctl_family();
Family futex_family();
Family misc_family();
Family mm_family();
Family file_family();
Family fd_family();
Family path_family();
Family metadata_family();
Family poll_family();
Family socket_family();
Family socket_message_family();

}  // namespace rf::task
