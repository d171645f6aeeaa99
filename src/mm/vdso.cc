#include "mm/vdso.h"

#include <time.h>

namespace rf::mm {
namespace {

// Clocks only: programs without AT_SYSINFO_EHDR make the system calls.
class HostClock final : public VdsoClock {
 public:
  Nanos now(int clock) override {
    timespec ts{};
    clock_gettime(clock, &ts);
    return ts.tv_sec * kNanosPerSecond + ts.tv_nsec;
  }
  Ref<MapObject> image() override { return {}; }
  u64 image_size() const override { return 0; }
  u64 elf_offset() const override { return 0; }
  u64 restorer_offset() const override { return 0; }
};

}  // namespace

Result<std::unique_ptr<VdsoClock>> VdsoClock::create(Frames&) { return std::make_unique<HostClock>(); }

}  // namespace rf::mm
