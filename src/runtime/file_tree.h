// The mount tree of a new sandbox.
#pragma once

#include <memory>

#include "fs/vfs.h"
#include "runtime/options.h"
#include "task/kernel.h"

namespace rf::runtime {

// Root (with its overlay), /proc, /sys, /dev, /dev/pts, /dev/shm and the volumes. On a fiber; suspends.
Setup<std::unique_ptr<fs::Vfs>> make_file_tree(const RunOptions& options, task::Kernel& kernel);

}  // namespace rf::runtime
