// What the VFS needs of a caller. The VFS knows no task: waiting and interruption come from the fiber.
#pragma once

#include "fs/credentials.h"
#include "fs/path.h"

namespace rf::mm {
class MemoryManager;
}

namespace rf::fs {

class Vfs;

struct Context {
  const Credentials& creds;
  Path root;  // of path walks
  Path cwd;
  u32 umask = 022;
  s32 pid = 0;  // thread group id: owner of fcntl locks, SO_PEERCRED
  s32 tid = 0;
  u64 file_size_limit = ~u64{0};    // RLIMIT_FSIZE
  mm::MemoryManager* mm = nullptr;  // the caller's memory, for ioctl arguments; null for the sentry itself
  void* task = nullptr;  // the caller's task, for files that are about tasks (proc, ttys, signalfd); else null
  Vfs* vfs = nullptr;    // for calls whose arguments are paths though they are no file calls: AF_UNIX names
};

}  // namespace rf::fs
