// What `ringfence run` is asked to do.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/result.h"
#include "core/time.h"
#include "platform/platform.h"

namespace rf::runtime {

struct Volume {
  std::string host;   // path on the host
  std::string guest;  // absolute path in the sandbox
  bool read_only = false;
};

enum class Overlay { kMemory, kNone };
enum class SubmissionThread { kAuto, kOn, kOff };

struct RunOptions {
  std::vector<std::string> command;
  std::string root = "/";
  Overlay overlay = Overlay::kMemory;
  std::vector<Volume> volumes;
  std::string cwd;               // empty: the current directory if it is in the sandbox, else /
  std::vector<std::string> env;  // "K=V", or "K" to pass the caller's
  std::optional<std::pair<u32, u32>> user;
  std::string hostname = "ringfence";
  u64 memory = 0;  // bytes; 0: half of the host's
  u32 vcpus = 0;   // 0: as many as the process may use
  Nanos timeout = kNever;
  platform::Kind platform = platform::Kind::kAuto;
  platform::KvmMode kvm_mode = platform::KvmMode::kAuto;
  SubmissionThread submission_thread = SubmissionThread::kAuto;
  bool stats = false;
  bool strace = false;
  std::string strace_file;
  bool strace_durations = false;
  log::Level log_level = log::Level::kWarning;
  std::string log_file;
};

// What --overlay, --platform, --kvm-mode and --submission-thread may say.
Setup<Overlay> parse_overlay(std::string_view text);
Setup<platform::Kind> parse_platform(std::string_view text);
Setup<platform::KvmMode> parse_kvm_mode(std::string_view text);
Setup<SubmissionThread> parse_submission_thread(std::string_view text);
// "512M", "2G", "1048576": bytes, with K, M, G or T (powers of 1024) after a positive number.
Setup<u64> parse_size(std::string_view text);
// "1.5s", "500ms", "2m", "1h", "30" (seconds).
Setup<Nanos> parse_duration(std::string_view text);
// "HOST:GUEST[:ro|:rw]".
Setup<Volume> parse_volume(std::string_view text);
// "UID[:GID]"; a missing GID is the UID's number.
Setup<std::pair<u32, u32>> parse_user(std::string_view text);

}  // namespace rf::runtime
