// Opening ptys by device number, wherever the node is. Internal to the terminals of this room.
#pragma once

#include "fs/file.h"

namespace rf::fs {

// A new pty: opens its master. ENOSPC when there are too many, ENODEV without a devpts.
Result<Ref<File>> open_ptmx(const Context& ctx, const Path& path, int flags);
// The slave with that number, in the first devpts made; ENXIO.
Result<Ref<File>> open_pts(const Context& ctx, const Path& path, u32 index, int flags);

}  // namespace rf::fs
