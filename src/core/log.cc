#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <time.h>

#include <array>
#include <utility>

#include "core/log_internal.h"

namespace rf::log {

std::atomic<Level> g_level{Level::kWarning};

namespace {

constexpr const char* kPattern = "%Y-%m-%dT%H:%M:%S.%f%z ringfence[%P] %l: %v";

constexpr std::array<std::pair<std::string_view, Level>, 7> kNames{{{"trace", Level::kTrace},
                                                                    {"debug", Level::kDebug},
                                                                    {"info", Level::kInfo},
                                                                    {"warning", Level::kWarning},
                                                                    {"warn", Level::kWarning},
                                                                    {"error", Level::kError},
                                                                    {"off", Level::kOff}}};

spdlog::level::level_enum spdlog_level(Level level) {
  switch (level) {
    case Level::kTrace:
      return spdlog::level::trace;
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarning:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
    case Level::kOff:
      break;
  }
  return spdlog::level::off;
}

std::shared_ptr<spdlog::logger> make_logger(spdlog::sink_ptr sink) {
  auto logger = std::make_shared<spdlog::logger>("ringfence", std::move(sink));
  logger->set_level(spdlog::level::trace);  // g_level has decided already
  logger->flush_on(spdlog::level::trace);   // a line is worth most when the sentry dies right after it
  logger->set_pattern(kPattern);
  return logger;
}

// Never destroyed: threads may log while the process exits.
std::shared_ptr<spdlog::logger>& logger() {
  static auto* instance =
      new std::shared_ptr<spdlog::logger>(make_logger(std::make_shared<spdlog::sinks::stderr_sink_mt>()));
  return *instance;
}

bool g_to_stderr = true;

}  // namespace

Setup<void> init(Level level, const std::string& file) {
  tzset();  // reads /etc/localtime now, not after the sentry has left its root
  if (!file.empty()) {
    try {
      logger() = make_logger(std::make_shared<spdlog::sinks::basic_file_sink_mt>(file));
      g_to_stderr = false;
    } catch (const spdlog::spdlog_ex& e) {
      return setup_error("cannot open the log file: " + std::string(e.what()) + "; give --log a writable path");
    }
  }
  g_level.store(level, std::memory_order_relaxed);
  return {};
}

Result<Level> parse_level(std::string_view name) {
  for (auto& [text, level] : kNames)
    if (text == name) return level;
  return err(EINVAL);
}

void write(Level level, fmt::string_view format, fmt::format_args args) {
  fmt::memory_buffer line;
  try {
    fmt::vformat_to(fmt::appender(line), format, args);
    logger()->log(spdlog_level(level), spdlog::string_view_t(line.data(), line.size()));
  } catch (...) {  // NOLINT(bugprone-empty-catch)
    // A log line is never worth the sentry: formats are checked at compile time, so this is memory or the disk.
  }
}

void write_last_words(std::string_view text) {
  if (g_to_stderr || !enabled(Level::kError)) return;
  try {
    logger()->log(spdlog::level::err, spdlog::string_view_t(text.data(), text.size()));
    logger()->flush();
  } catch (...) {  // NOLINT(bugprone-empty-catch): likewise
  }
}

}  // namespace rf::log
