// Vector state as XSAVE's standard (non-compacted) format has it, which is how platforms hand it out. Pure functions.
#pragma once

#include <cstddef>
#include <span>

#include "core/types.h"

namespace rf::platform::xstate {

// The features of the host's XCR0 that guests get: x87, SSE, AVX, AVX-512.
u64 host_features();
// Bytes of an image with these features.
size_t size_of(u64 features);
// Makes `image` the state a new program starts with.
void reset(std::span<std::byte> image);
// Whether a CPU with these features would load `image`, of their size.
bool valid(std::span<const std::byte> image, u64 features);
// Drops what is not of these features from the header of an image that the CPU has written.
void keep_features(std::span<std::byte> image, u64 features);

}  // namespace rf::platform::xstate
