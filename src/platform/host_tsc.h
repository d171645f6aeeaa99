// Whether the host's time-stamp counter is fit for clocks.
#pragma once

namespace rf::platform {

// The host's own clock_gettime() makes no system call: it reads the TSC, which is thus steady and the same on all CPUs.
// Linux sees to that whatever its clock source is called (tsc, kvm-clock, hyperv_clocksource_tsc_page).
bool host_clock_reads_tsc();

}  // namespace rf::platform
