// Random bytes from the host, a buffer at a time: small requests cost no host call.
#pragma once

#include <span>

#include "core/types.h"

namespace rf::hostio {

// Fills `out` with bytes as good as getrandom(2)'s. Never fails, does not suspend. Any thread; on workers small
// requests come from the worker's own buffer, whose bytes are wiped as they are handed out.
void random_bytes(std::span<std::byte> out);

}  // namespace rf::hostio
