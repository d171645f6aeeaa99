// What this host's io_uring offers, and sentences for when it does not. Internal to hostio.
#pragma once

#include <liburing.h>

#include <string>

#include "core/result.h"

namespace rf::hostio {

// Why io_uring_setup(2) failed with errno `e`, and what to do.
std::string describe_ring_failure(int e);
// Checks that the kernel has the features and operations that the reactor uses.
Setup<void> check_ring_features(io_uring& ring);

// Enables a ring that was made with IORING_SETUP_R_DISABLED, for the operations that the reactor uses and no others: a
// seccomp filter does not see what goes through a ring.
Setup<void> restrict_ring(io_uring& ring);

// Whether completions are announced by the ring's eventfd, from now on: what is looked for after the call has either
// been seen then or will be announced.
void set_announcing(io_uring& ring, bool on);

// Cancels what is in flight, for requests write to memory that is about to go, and gives the ring up. On another thread
// than the ring's nothing is cancelled, but then that thread has ended, and the kernel cancelled what was its own.
void cancel_and_close(io_uring& ring);

}  // namespace rf::hostio
