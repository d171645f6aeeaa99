#include "platform/choice.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "core/log.h"
#include "hostio/fd.h"

namespace rf::platform {
namespace {

using hostio::HostFd;

constexpr std::string_view kHeading = "ringfence platforms 1";
constexpr size_t kLongest = 4096;  // of the file
constexpr double kSlowest = 1e9;   // ns that a call may take and be believed
constexpr Kind kKinds[] = {Kind::kKvm, Kind::kTrap};

bool plain_text(std::string_view s) {
  return std::ranges::none_of(s, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; });
}

// Whether this is only ours to change.
bool is_ours(const struct stat& st) { return st.st_uid == ::geteuid() && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0; }

std::string read_small(int fd) {
  std::string text(kLongest + 1, '\0');
  const ssize_t n = ::read(fd, text.data(), text.size());
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

std::optional<Trial> parse_trial(std::string_view line) {
  for (Kind kind : kKinds) {
    const std::string_view name = name_of(kind);
    if (!line.starts_with(name) || line.substr(name.size(), 1) != " ") continue;
    const std::string_view rest = line.substr(name.size() + 1);
    if (rest.starts_with("- ") && rest.size() > 2 && plain_text(rest))
      return Trial{kind, 0, std::string(rest.substr(2))};
    double ns = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), ns, std::chars_format::fixed);
    if (error != std::errc() || end != rest.data() + rest.size() || !(ns > 0 && ns < kSlowest)) return {};
    return Trial{kind, ns, ""};
  }
  return {};
}

std::string text_of(const Trial& t) {
  if (t.works()) return fmt::format("{} {:.1f}\n", name_of(t.kind), t.call_ns);
  std::string why = t.obstacle;
  std::ranges::replace_if(
      why,
      [](char c) {
        return !plain_text({&c, 1});
      },
      ' ');
  return fmt::format("{} - {}\n", name_of(t.kind), why);
}

// The directory `name`, which is made if it is missing, in a directory that is ours.
Setup<HostFd> directory_in(int parent, const std::string& name, const std::string& path) {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  HostFd fd(::openat(parent, name.c_str(), kFlags));
  struct stat st {};
  if (!fd.valid() && errno == ENOENT && ::fstatat(parent, "", &st, AT_EMPTY_PATH) == 0 && is_ours(st) &&
      (::mkdirat(parent, name.c_str(), 0700) == 0 || errno == EEXIST))
    fd = HostFd(::openat(parent, name.c_str(), kFlags));
  if (!fd.valid()) return setup_error(fmt::format("there is no directory for {}", path));
  return fd;
}

}  // namespace

const char* name_of(Kind kind) { return kind == Kind::kKvm ? "kvm" : kind == Kind::kTrap ? "trap" : "auto"; }

Kind fastest(std::span<const Trial> trials) {
  const Trial* best = nullptr;
  for (const Trial& t : trials)
    if (t.works() && (!best || t.call_ns < best->call_ns)) best = &t;
  return best ? best->kind : Kind::kAuto;
}

std::string ChoiceCache::key_of_this_host() {
  const HostFd fd(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  std::string boot = fd.valid() ? read_small(fd.get()) : "";
  while (boot.ends_with('\n')) boot.pop_back();
  struct stat exe {};
  if (boot.empty() || boot.size() > 64 || !plain_text(boot) || ::stat("/proc/self/exe", &exe) != 0) return "";
  return fmt::format("boot {} build {}.{:09}.{} uid {}", boot, exe.st_mtim.tv_sec, exe.st_mtim.tv_nsec, exe.st_size,
                     ::geteuid());
}

std::string ChoiceCache::default_path() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  if (cache && *cache == '/') return fmt::format("{}/ringfence/platforms", cache);
  if (home && *home == '/') return fmt::format("{}/.cache/ringfence/platforms", home);
  return "";
}

std::optional<std::vector<Trial>> ChoiceCache::load() const {
  if (path_.empty() || key_.empty()) return {};
  // O_NONBLOCK: it may be a FIFO.
  const HostFd fd(::open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat st {};
  if (!fd.valid() || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || !is_ours(st)) return {};
  const std::string text = read_small(fd.get());
  if (text.size() > kLongest || !text.ends_with('\n')) return {};
  std::vector<Trial> trials;
  std::string_view rest = text;
  for (size_t n = 0; !rest.empty(); ++n) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(line.size() + 1);
    if (n < 2) {
      if (line != (n == 0 ? kHeading : std::string_view(key_))) return {};
      continue;
    }
    auto trial = parse_trial(line);
    if (!trial || std::ranges::find(trials, trial->kind, &Trial::kind) != trials.end()) return {};
    trials.push_back(*std::move(trial));
  }
  if (trials.empty()) return {};
  return trials;
}

Setup<void> ChoiceCache::store(std::span<const Trial> trials) const {
  if (path_.empty()) return setup_error("neither XDG_CACHE_HOME nor HOME names a directory");
  if (key_.empty()) return setup_error("/proc does not tell which boot this is");
  // The two directories above the file are made; what is above those has to be there.
  const size_t file = path_.rfind('/'), directory = path_.rfind('/', file - 1), cache = path_.rfind('/', directory - 1);
  const std::string top = path_.substr(0, cache + 1);
  const HostFd top_fd(::open(top.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const HostFd cache_fd = TRY(directory_in(top_fd.get(), path_.substr(cache + 1, directory - cache - 1), path_));
  const HostFd fd = TRY(directory_in(cache_fd.get(), path_.substr(directory + 1, file - directory - 1), path_));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0 || !is_ours(st))
    return setup_error(fmt::format("{} is in a directory that others may write", path_));

  std::string text = fmt::format("{}\n{}\n", kHeading, key_);
  for (const Trial& t : trials) text += text_of(t);
  const std::string name = path_.substr(file + 1), fresh = fmt::format("{}.{}", name, ::getpid());
  ::unlinkat(fd.get(), fresh.c_str(), 0);
  HostFd out(::openat(fd.get(), fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!out.valid()) return setup_error(fmt::format("cannot write {}: {}", path_, errno_text(errno)));
  const bool written = ::write(out.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (written && ::renameat(fd.get(), fresh.c_str(), fd.get(), name.c_str()) == 0) return {};
  const int error = errno;
  ::unlinkat(fd.get(), fresh.c_str(), 0);
  return setup_error(fmt::format("cannot write {}: {}", path_, errno_text(error)));
}

Choice choose(std::span<const Candidate> candidates, const ChoiceCache& cache, bool with_times) {
  Choice choice;
  if (candidates.size() == 1 && !with_times) {
    choice.kind = candidates[0].kind;
    return choice;
  }
  auto trials = cache.load();
  if (trials && std::ranges::equal(*trials, candidates, {}, &Trial::kind, &Candidate::kind)) {
    choice.trials = *std::move(trials);
    choice.cached = true;
  } else {
    for (const Candidate& c : candidates) {
      auto ns = c.measure();
      choice.trials.push_back(ns ? Trial{c.kind, *ns, ""} : Trial{c.kind, 0, ns.error().message});
    }
    if (auto stored = cache.store(choice.trials); !stored) choice.cache_obstacle = stored.error().message;
  }
  choice.kind = fastest(choice.trials);
  for (const Trial& t : choice.trials)
    RF_DEBUG("platform {}: {}", name_of(t.kind), t.works() ? fmt::format("{:.0f} ns a call", t.call_ns) : t.obstacle);
  return choice;
}

}  // namespace rf::platform
