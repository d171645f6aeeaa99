#include <fmt/format.h>
#include <sys/utsname.h>

#include <cstdio>
#include <vector>

#include "hostio/ring.h"
#include "platform/platform.h"
#include "runtime/commands.h"
#include "runtime/limits.h"

namespace rf::runtime {
namespace {

using platform::Check;

Check check_kernel() {
  utsname u{};
  ::uname(&u);
  return {"host kernel", Check::State::kGood, fmt::format("{} {}", u.sysname, u.release)};
}

Check check_io_uring() {
  if (Setup<void> r = hostio::probe_io_uring(); !r) return {"io_uring", Check::State::kBad, r.error().message};
  return {"io_uring", Check::State::kGood, "works, with the operations needed"};
}

}  // namespace

int run_doctor() {
  std::vector<Check> checks = {check_kernel(), check_io_uring()};
  for (Check& c : check_limits()) checks.push_back(std::move(c));
  for (Check& c : platform::diagnose()) checks.push_back(std::move(c));
  bool bad = false;
  for (const Check& c : checks) {
    const char* mark = c.state == Check::State::kGood ? "ok  " : c.state == Check::State::kWarning ? "warn" : "BAD ";
    fmt::print("{}  {:24} {}\n", mark, c.name, c.detail);
    bad |= c.state == Check::State::kBad;
  }
  fmt::print("{}\n",
             bad ? "A sandbox cannot run here until what is marked BAD is mended." : "Ready: a sandbox can run here.");
  return bad ? 1 : 0;
}

}  // namespace rf::runtime
