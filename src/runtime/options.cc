#include "runtime/options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace rf::runtime {
namespace {

// A number at the front of `text`, which is advanced past it.
template <class T>
std::optional<T> take_number(std::string_view& text) {
  T value{};
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

}  // namespace

Setup<Overlay> parse_overlay(std::string_view text) {
  if (text == "memory") return Overlay::kMemory;
  if (text == "none") return Overlay::kNone;
  return setup_error(fmt::format("'{}' is no overlay: give memory or none", text));
}

Setup<platform::Kind> parse_platform(std::string_view text) {
  if (text == "auto") return platform::Kind::kAuto;
  if (text == "kvm") return platform::Kind::kKvm;
  if (text == "trap") return platform::Kind::kTrap;
  return setup_error(fmt::format("'{}' is no platform: give auto, kvm or trap", text));
}

Setup<platform::KvmMode> parse_kvm_mode(std::string_view text) {
  if (text == "auto") return platform::KvmMode::kAuto;
  if (text == "ring0") return platform::KvmMode::kRing0;
  if (text == "exit") return platform::KvmMode::kExit;
  return setup_error(fmt::format("'{}' is no mode of the kvm platform: give auto, ring0 or exit", text));
}

Setup<SubmissionThread> parse_submission_thread(std::string_view text) {
  if (text == "auto") return SubmissionThread::kAuto;
  if (text == "on") return SubmissionThread::kOn;
  if (text == "off") return SubmissionThread::kOff;
  return setup_error(fmt::format("'{}' is not auto, on or off", text));
}

Setup<u64> parse_size(std::string_view text) {
  std::string_view rest = text;
  const std::optional<u64> n = take_number<u64>(rest);
  int shift = -1;
  if (rest.ends_with("iB"))
    rest.remove_suffix(2);
  else if (rest.size() > 1 && rest.ends_with('B'))
    rest.remove_suffix(1);
  if (rest.empty() || rest == "B")
    shift = 0;
  else if (rest == "K" || rest == "k")
    shift = 10;
  else if (rest == "M" || rest == "m")
    shift = 20;
  else if (rest == "G" || rest == "g")
    shift = 30;
  else if (rest == "T" || rest == "t")
    shift = 40;
  if (!n || *n == 0 || shift < 0 || *n > (u64{1} << 50 >> shift))
    return setup_error(fmt::format("'{}' is not a size: give a number with K, M, G or T, such as 512M", text));
  return *n << shift;
}

Setup<Nanos> parse_duration(std::string_view text) {
  std::string_view rest = text;
  const std::optional<double> n = take_number<double>(rest);
  double unit = 0;
  if (rest.empty() || rest == "s")
    unit = 1e9;
  else if (rest == "ms")
    unit = 1e6;
  else if (rest == "us")
    unit = 1e3;
  else if (rest == "m")
    unit = 60e9;
  else if (rest == "h")
    unit = 3600e9;
  else if (rest == "d")
    unit = 86400e9;
  // The limit is a hundred years, far from overflow; the comparison also rejects NaN.
  if (!n || unit == 0 || !(*n > 0 && *n * unit < 3.2e18))
    return setup_error(
        fmt::format("'{}' is not a duration: give a positive number with ms, s, m or h, such as 30s", text));
  return static_cast<Nanos>(*n * unit);
}

Setup<Volume> parse_volume(std::string_view text) {
  Volume v;
  std::string_view rest = text;
  if (rest.ends_with(":ro")) {
    v.read_only = true;
    rest.remove_suffix(3);
  } else if (rest.ends_with(":rw")) {
    rest.remove_suffix(3);
  }
  const size_t colon = rest.find(':');
  v.host = rest.substr(0, colon);
  v.guest = colon == std::string_view::npos ? rest : rest.substr(colon + 1);
  if (v.host.empty() || !v.guest.starts_with('/'))
    return setup_error(fmt::format("'{}' is not a volume: give HOST:GUEST[:ro], GUEST an absolute path", text));
  return v;
}

Setup<std::pair<u32, u32>> parse_user(std::string_view text) {
  std::string_view rest = text;
  const std::optional<u32> uid = take_number<u32>(rest);
  std::optional<u32> gid = uid;
  if (uid && rest.starts_with(':')) {
    rest.remove_prefix(1);
    gid = take_number<u32>(rest);
  }
  if (!uid || !gid || !rest.empty() || *uid == ~0u || *gid == ~0u)
    return setup_error(fmt::format("'{}' is not a user: give UID or UID:GID as numbers", text));
  return std::pair(*uid, *gid);
}

}  // namespace rf::runtime
