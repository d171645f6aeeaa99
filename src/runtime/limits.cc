#include "runtime/limits.h"

#include <fmt/format.h>
#include <sys/resource.h>

namespace rf::runtime {
namespace {

using platform::Check;

struct Limit {
  __rlimit_resource resource;
  const char* name;
  rlim_t needed;  // less, and no sandbox runs
  rlim_t enough;  // less, and large programs may fail
  u64 unit;       // what the shell's ulimit counts in
  const char* option;
  const char* why;
};

constexpr Limit kLimits[] = {
    {RLIMIT_NOFILE, "open files", 128, 4096, 1, "-n", "the sandbox holds one per open file of the host's"},
    {RLIMIT_AS, "address space", RLIM_INFINITY, RLIM_INFINITY, 1024, "-v",
     "the sandbox reserves 512 GiB (it uses little of it)"},
    {RLIMIT_DATA, "data segment", RLIM_INFINITY, RLIM_INFINITY, 1024, "-d",
     "reserved address space counts, and the sandbox reserves much (it uses little of it)"},
    {RLIMIT_FSIZE, "file size", RLIM_INFINITY, RLIM_INFINITY, 1024, "-f", "the guest's memory is a file"},
};

rlim_t hard_limit(const Limit& l) {
  rlimit now{};
  ::getrlimit(l.resource, &now);
  return now.rlim_max;
}

std::string amount(const Limit& l, rlim_t value) {
  if (value == RLIM_INFINITY) return "unlimited";
  return l.unit == 1 ? fmt::format("{}", value) : fmt::format("{} KiB", value / l.unit);
}

std::string advice(const Limit& l, rlim_t hard) {
  const std::string wanted = l.enough == RLIM_INFINITY ? "unlimited" : fmt::format("{}", l.enough / l.unit);
  return fmt::format("limited to {}; {}: run 'ulimit -H{} {}' as root, or raise it in limits.conf", amount(l, hard),
                     l.why, l.option + 1, wanted);
}

}  // namespace

Setup<void> raise_limits() {
  for (const Limit& l : kLimits) {
    const rlim_t hard = hard_limit(l);
    if (hard < l.needed) return setup_error(fmt::format("{} {}", l.name, advice(l, hard)));
    const rlimit raised{hard, hard};
    ::setrlimit(l.resource, &raised);
  }
  return {};
}

std::vector<Check> check_limits() {
  std::vector<Check> checks;
  for (const Limit& l : kLimits) {
    const rlim_t hard = hard_limit(l);
    if (hard >= l.enough)
      checks.push_back({l.name, Check::State::kGood, amount(l, hard)});
    else
      checks.push_back({l.name, hard < l.needed ? Check::State::kBad : Check::State::kWarning, advice(l, hard)});
  }
  return checks;
}

}  // namespace rf::runtime
