// The first stub process.
#pragma once

#include <sys/types.h>

#include "core/result.h"
#include "trap/control.h"
#include "trap/filters.h"

namespace rf::trap {

// Makes the zygote, a child of the calling thread that shares its descriptors, whose command page is that of stub
// process `stub` and whose memory has room for the Area of `thread`. Its end is the calling thread's end. The error
// says what the host refused.
Setup<pid_t> spawn_zygote(Control& control, u32 stub, u32 thread, const FilterProgram& filter);

}  // namespace rf::trap
