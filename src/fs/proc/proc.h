// /proc, as the programs of a sandbox see it. Above the task room, unlike the rest of fs: it shows tasks.
#pragma once

#include "fs/inode.h"

namespace rf::task {
class Kernel;
}

namespace rf::proc {

// One per sandbox. Contents are made when read; nothing is cached, links in fd/, cwd, exe and root lead to the place
// itself.
Ref<fs::FileSystem> make_procfs(task::Kernel& kernel);

}  // namespace rf::proc
