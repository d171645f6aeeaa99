#include "core/cycles.h"

namespace rf {
namespace {

struct Origin {
  u64 cycles = rf::cycles();
  Nanos time = monotonic_now();
};
const Origin g_origin;

}  // namespace

Nanos cycles_to_nanos(u64 n) {
  const u64 cycles_passed = cycles() - g_origin.cycles;
  const Nanos time_passed = monotonic_now() - g_origin.time;
  if (cycles_passed == 0 || time_passed <= 0) return 0;
  return static_cast<Nanos>(static_cast<double>(n) *
                            (static_cast<double>(time_passed) / static_cast<double>(cycles_passed)));
}

}  // namespace rf
