#include <fmt/format.h>

#include "core/log.h"
#include "kvm/factory.h"
#include "platform/call_time.h"
#include "platform/choice.h"
#include "platform/platform.h"
#include "trap/factory.h"

namespace rf::platform {
namespace {

// The candidates, best first where nothing is known: the trap platform always is one, KVM where its device works.
std::vector<Candidate> candidates(bool kvm) {
  std::vector<Candidate> c;
  if (kvm) c.push_back({Kind::kKvm, [] { return measure_call(Kind::kKvm); }});
  c.push_back({Kind::kTrap, [] { return measure_call(Kind::kTrap); }});
  return c;
}

ChoiceCache cache_of_this_host() { return {ChoiceCache::default_path(), ChoiceCache::key_of_this_host()}; }

Setup<std::unique_ptr<Platform>> create_fastest(Options options, GuestMemory& memory) {
  const Setup<void> kvm = kvm::probe();
  if (!kvm) RF_DEBUG("no platform kvm: {}", kvm.error().message);
  options.kind = choose(candidates(kvm.has_value()), cache_of_this_host(), false).kind;
  if (options.kind == Kind::kAuto) options.kind = Kind::kTrap;  // none worked when tried; its error tells more
  auto first = create(options, memory);
  if (first) return first;
  // What worked then does not now.
  RF_DEBUG("no platform {}: {}", name_of(options.kind), first.error().message);
  const std::string other_obstacle = [&] {
    if (!kvm) return kvm.error().message;
    options.kind = options.kind == Kind::kKvm ? Kind::kTrap : Kind::kKvm;
    auto second = create(options, memory);
    if (!second) return second.error().message;
    first = *std::move(second);
    return std::string();
  }();
  if (first) return first;
  return setup_error(
      fmt::format("{}; and the other platform does not work either: {}", first.error().message, other_obstacle));
}

}  // namespace

Setup<std::unique_ptr<Platform>> create(const Options& options, GuestMemory& memory) {
  switch (options.kind) {
    case Kind::kKvm:
      return kvm::create_platform(options, memory);
    case Kind::kTrap:
      return trap::create_platform(options, memory);
    case Kind::kAuto:
      break;
  }
  return create_fastest(options, memory);
}

std::vector<Check> diagnose() {
  const bool kvm = kvm::probe().has_value();
  const ChoiceCache cache = cache_of_this_host();
  const Choice choice = choose(candidates(kvm), cache, true);
  std::vector<Check> checks = kvm::diagnose();
  // One platform is enough.
  for (Check& c : checks)
    if (c.state == Check::State::kBad && choice.kind == Kind::kTrap) c.state = Check::State::kWarning;
  std::string times;
  for (const Trial& t : choice.trials) {
    if (t.works()) times += fmt::format("{}{} {:.1f} us", times.empty() ? "" : ", ", name_of(t.kind), t.call_ns / 1000);
    if (t.kind != Kind::kTrap) continue;
    if (t.works())
      checks.push_back(
          {"trap", Check::State::kGood, "stub processes, whose system calls seccomp traps, run guest code"});
    else
      checks.push_back({"trap", choice.kind == Kind::kAuto ? Check::State::kBad : Check::State::kWarning, t.obstacle});
  }
  if (choice.kind == Kind::kAuto) return checks;
  const std::string source =
      choice.cached                   ? fmt::format("measured earlier; remove {} to have it done again", cache.path())
      : choice.cache_obstacle.empty() ? fmt::format("measured now, and kept in {}", cache.path())
                                      : fmt::format("measured now, and not kept: {}", choice.cache_obstacle);
  checks.push_back({"--platform=auto", Check::State::kGood,
                    fmt::format("{}; a system call takes {} ({})", name_of(choice.kind), times, source)});
  return checks;
}

}  // namespace rf::platform
