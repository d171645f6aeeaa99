#include "fs/devices.h"

#include "fs/devpts.h"
#include "fs/pty.h"
#include "fs/tty.h"
#include "mm/memory_manager.h"

namespace rf::fs {
namespace {

// Documentation/admin-guide/devices.txt of Linux.
constexpr u32 kMemoryMajor = 1;
constexpr u32 kTtyMajor = 5;
constexpr u32 kControllingTty = 0, kConsole = 1, kPtmx = 2;

}  // namespace

Result<Ref<File>> open_device(const Context& ctx, const Path& path, bool block, u32 major, u32 minor, int flags) {
  if (block) return err(ENXIO);
  if (major == kMemoryMajor) return open_memory_device(path, minor, flags, ctx.mm ? &ctx.mm->env().frames : nullptr);
  if (major == kTtyMajor && minor == kControllingTty) {
    Ref<Tty> tty = job_control().controlling_tty(ctx);
    if (!tty) return err(ENXIO);
    return tty->open(ctx, path, flags);
  }
  if (major == kTtyMajor && minor == kConsole) {
    Ref<Tty> tty = host_terminal();
    if (!tty) return err(ENXIO);
    return tty->open(ctx, path, flags);
  }
  if (major == kTtyMajor && minor == kPtmx) return open_ptmx(ctx, path, flags);
  if (major == Pty::kSlaveMajor) return open_pts(ctx, path, minor, flags);
  return err(ENXIO);
}

}  // namespace rf::fs
