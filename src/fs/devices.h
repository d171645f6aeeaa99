// Device numbers that the sentry knows, whichever file system holds the node.
#pragma once

#include "core/result.h"
#include "fs/context.h"

namespace rf::mm {
class Frames;
}

namespace rf::fs {

class File;

// Opens the device `major`:`minor` for `path`, the node that was found: memory devices and ttys. ENXIO for what there
// is not. May suspend.
Result<Ref<File>> open_device(const Context& ctx, const Path& path, bool block, u32 major, u32 minor, int flags);

// The character devices of major 1 alone: null, zero, full, random, urandom. ENXIO. Does not suspend.
// `frames` (null: zero cannot be mapped) is borrowed for good.
Result<Ref<File>> open_memory_device(const Path& path, u32 minor, int flags, mm::Frames* frames);

}  // namespace rf::fs
