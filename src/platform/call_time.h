// How fast a platform is.
#pragma once

#include "platform/platform.h"

namespace rf::platform {

// Nanoseconds that a guest's system call that does nothing takes there and back, at best. Made in a child process,
// which the platform's threads, processes and failures end with; it takes a few ms. Not while other threads run.
Setup<double> measure_call(Kind kind);

}  // namespace rf::platform
