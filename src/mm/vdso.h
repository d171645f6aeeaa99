// The vDSO that guests see (clock_gettime, gettimeofday, time, getcpu, clock_getres) and the clock page behind it.
//
// The clock page holds, under a sequence count, a line (base TSC, base ns, multiplier) for each of CLOCK_MONOTONIC and
// CLOCK_REALTIME. The code in the vDSO extrapolates; when the line is older than a limit in TSC ticks it makes the
// real system call, and the sentry re-measures: an idle sandbox needs no timer to keep the page fresh.
#pragma once

#include <memory>

#include "core/result.h"
#include "core/time.h"
#include "mm/mappable.h"
#include "platform/platform.h"

namespace rf::mm {

class VdsoClock {
 public:
  // Measures the TSC against the host's clocks and fills the page.
  static Result<std::unique_ptr<VdsoClock>> create(Frames& frames);
  virtual ~VdsoClock() = default;
  // The guest's clocks, consistent with what the vDSO tells: never behind what it has told already. Refreshes the page
  // when it is due. CLOCK_REALTIME and its COARSE form; any other clock id is CLOCK_MONOTONIC, which the vDSO gives for
  // CLOCK_MONOTONIC_COARSE, _RAW and CLOCK_BOOTTIME too. Any thread.
  virtual Nanos now(int clock) = 0;
  // How the code learns the CPU's number; called before any guest runs.
  virtual void use_platform(const platform::Capabilities& capabilities) = 0;
  // Code and data, to be mapped at exec: data pages (read-only) first, then the ELF image.
  virtual Ref<MapObject> image() = 0;
  virtual u64 image_size() const = 0;       // bytes to map, data pages included
  virtual u64 elf_offset() const = 0;       // of the ELF header in it (AT_SYSINFO_EHDR)
  virtual u64 restorer_offset() const = 0;  // of the rt_sigreturn trampoline in the image
};

}  // namespace rf::mm
