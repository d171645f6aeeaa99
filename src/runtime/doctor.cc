#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <cstdio>
#include <vector>

#include "hostio/ring.h"
#include "platform/platform.h"
#include "runtime/commands.h"

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

Check check_descriptors() {
  rlimit l{};
  ::getrlimit(RLIMIT_NOFILE, &l);
  const std::string text = fmt::format("{} (hard limit)", l.rlim_max);
  if (l.rlim_max >= 4096) return {"open files", Check::State::kGood, text};
  return {"open files", Check::State::kWarning,
          text + ": large programs may run out; raise it with 'ulimit -Hn 65536' or in limits.conf"};
}

Check check_address_space() {
  rlimit l{};
  ::getrlimit(RLIMIT_AS, &l);
  if (l.rlim_cur == RLIM_INFINITY) return {"address space", Check::State::kGood, "unlimited"};
  return {
      "address space", Check::State::kBad,
      fmt::format("limited to {} MiB; the sandbox reserves 512 GiB (it uses little of it): run 'ulimit -v unlimited'",
                  l.rlim_cur >> 20)};
}

}  // namespace

int run_doctor() {
  std::vector<Check> checks = {check_kernel(), check_io_uring(), check_descriptors(), check_address_space()};
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
