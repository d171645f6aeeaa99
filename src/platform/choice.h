// Which platform `auto` means: the fastest of those that work here. Their speed is measured once for each boot, user
// and build of this program, and kept in a file in the user's cache directory. Nothing depends on that file but the
// choice: whatever it says, or if it cannot be had, a platform that works is found.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "platform/platform.h"

namespace rf::platform {

const char* name_of(Kind kind);

// How a platform did when it was tried.
struct Trial {
  Kind kind = Kind::kAuto;
  double call_ns = 0;    // a guest's system call, there and back
  std::string obstacle;  // why it does not work; then call_ns means nothing
  bool works() const { return obstacle.empty(); }
  bool operator==(const Trial&) const = default;
};

// The one with the shortest call; kAuto when none works.
Kind fastest(std::span<const Trial> trials);

// The file. Its text is a heading, the key, and a line for each trial.
class ChoiceCache {
 public:
  // What tells this boot, user and build from others; empty if that cannot be told.
  static std::string key_of_this_host();
  // $XDG_CACHE_HOME/ringfence/platforms, or that in ~/.cache; empty if neither variable is an absolute path.
  static std::string default_path();

  // With an empty path or key nothing is ever loaded or stored.
  ChoiceCache(std::string path, std::string key) : path_(std::move(path)), key_(std::move(key)) {}

  const std::string& path() const { return path_; }
  // The trials stored with this key; nothing if there are none, or if the file is not a plain file of ours that nobody
  // else can write, or is not as store() makes it.
  std::optional<std::vector<Trial>> load() const;
  // Replaces the file as a whole; makes the directory. The error says why it cannot.
  Setup<void> store(std::span<const Trial> trials) const;

 private:
  std::string path_, key_;
};

// A platform that may work here, and how to find out how well.
struct Candidate {
  Kind kind;
  std::function<Setup<double>()> measure;
};

struct Choice {
  Kind kind = Kind::kAuto;
  std::vector<Trial> trials;   // in the order of the candidates; empty if they were not needed
  bool cached = false;         // the trials come from the cache
  std::string cache_obstacle;  // why they could not be kept there
};

// Chooses among the candidates. Of a single one the measurement is not needed, and only made if `with_times`.
Choice choose(std::span<const Candidate> candidates, const ChoiceCache& cache, bool with_times);

}  // namespace rf::platform
