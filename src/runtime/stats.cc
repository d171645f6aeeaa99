#include "runtime/stats.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "core/cycles.h"
#include "hostio/ring.h"
#include "task/syscall.h"

namespace rf::runtime {
namespace {

using Row = std::pair<std::string, u64>;

std::string call_name(u64 number) {
  std::string name = task::SyscallTable::name_of(number);
  return name.empty() ? fmt::format("syscall {}", number) : name;
}

void print_table(const char* title, std::vector<Row> rows) {
  std::erase_if(rows, [](const Row& r) { return r.second == 0; });
  u64 total = 0;
  for (const Row& r : rows) total += r.second;
  fmt::print(stderr, "{:32} {:>12}\n", title, total);
  std::ranges::stable_sort(rows, std::greater{}, &Row::second);
  for (const Row& r : rows) fmt::print(stderr, "  {:30} {:>12}\n", r.first, r.second);
}

void print_line(std::string_view name, u64 value) { fmt::print(stderr, "{:32} {:>12}\n", name, value); }

void print_times(Scheduler& scheduler, const platform::PlatformStats& stats, Nanos elapsed) {
  Nanos guest = 0, idle = 0;
  for (u32 i = 0; i < scheduler.worker_count(); ++i) {
    guest += cycles_to_nanos(scheduler.worker(i).guest_cycles());
    idle += scheduler.worker(i).stats().idle_time;
  }
  const Nanos all = elapsed * scheduler.worker_count();
  auto line = [&](const char* name, Nanos t) {
    fmt::print(stderr, "{:32} {:>12.3f} ms {:5.1f} %\n", name, static_cast<double>(t) / 1e6,
               all > 0 ? 100.0 * static_cast<double>(t) / static_cast<double>(all) : 0);
  };
  line("time in guest code", guest);
  line("time idle", idle);
  line("time in the sentry", std::max<Nanos>(all - guest - idle, 0));
  if (stats.host_cycles != 0) line("  of it, and of idle, in the host", cycles_to_nanos(stats.host_cycles));
}

}  // namespace

void print_stats(const task::Kernel& kernel, const platform::Platform& platform, Scheduler& scheduler, Nanos elapsed) {
  const platform::PlatformStats stats = platform.stats();
  fmt::print(stderr, "ringfence: {}\n", platform.capabilities().description);
  std::vector<Row> calls;
  for (u64 n = 0; n < task::kSyscallLimit; ++n)
    if (const u64 count = kernel.syscall_counts.total(n)) calls.emplace_back(call_name(n), count);
  print_table("guest calls", std::move(calls));
  print_line("page faults", stats.page_faults);
  print_line("exceptions", stats.exceptions);
  print_line("interruptions", stats.interrupts);
  if (stats.counts_host_calls) {
    std::vector<Row> host;
    for (const auto& [number, count] : stats.host_calls) host.emplace_back(call_name(number), count);
    print_table("host calls", std::move(host));
  } else {
    fmt::print(stderr, "{:32} {:>12}\n", "host calls", "not counted in this mode");
  }
  for (const auto& [name, count] : stats.exits) print_line(fmt::format("kvm: {}", name), count);
  for (const auto& [name, count] : stats.details) print_line(name, count);
  u64 switches = 0, steals = 0, kicks = 0, waits = 0, submissions = 0, handed_over = 0, enters = 0;
  for (u32 i = 0; i < scheduler.worker_count(); ++i) {
    Worker& w = scheduler.worker(i);
    switches += w.stats().switches, steals += w.stats().steals;
    kicks += w.stats().kicks, waits += w.stats().idle_waits;
    const hostio::RingStats ring = hostio::ring_stats(w);
    submissions += ring.submissions, handed_over += ring.handed_over, enters += ring.enters;
  }
  print_line("fiber switches", switches);
  print_line("fibers taken from other workers", steals);
  print_line("kicks", kicks);
  print_line("waits for something to do", waits);
  print_line("ring submissions", submissions);
  print_line("  of these by the submission thread", handed_over);
  print_line("ring enters", enters);
  print_times(scheduler, stats, elapsed);
}

}  // namespace rf::runtime
