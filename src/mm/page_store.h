// Shared anonymous memory: a page store with a name, as Linux has it on an internal tmpfs.
#pragma once

#include "mm/mappable.h"

namespace rf::mm {

// MAP_SHARED | MAP_ANONYMOUS: "/dev/zero (deleted)".
Ref<MapObject> make_shared_anonymous(Frames& frames, u64 size);

}  // namespace rf::mm
