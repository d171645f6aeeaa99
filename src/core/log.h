// Logging, off the hot path: a line below the level costs one relaxed load and a branch. Formatting and
// output (spdlog) happen in log.cc, so that including this header stays cheap.
#pragma once

#include <fmt/core.h>

#include <atomic>
#include <string>
#include <string_view>

#include "core/result.h"

namespace rf::log {

enum class Level : int { kTrace, kDebug, kInfo, kWarning, kError, kOff };

extern std::atomic<Level> g_level;

inline bool enabled(Level level) { return level >= g_level.load(std::memory_order_relaxed); }

// Sends lines at or above `level` to `file` (stderr when empty). Once, before other threads run.
Setup<void> init(Level level, const std::string& file);
Result<Level> parse_level(std::string_view name);

[[gnu::cold]] void write(Level level, fmt::string_view format, fmt::format_args args);

#define RF_LOG_(level, ...)                     \
  do {                                          \
    if (::rf::log::enabled(level)) [[unlikely]] \
      ::rf::log::emit(level, __VA_ARGS__);      \
  } while (0)

template <class... T>
void emit(Level level, fmt::format_string<T...> format, T&&... args) {
  write(level, format, fmt::make_format_args(args...));
}

#define RF_TRACE(...) RF_LOG_(::rf::log::Level::kTrace, __VA_ARGS__)
#define RF_DEBUG(...) RF_LOG_(::rf::log::Level::kDebug, __VA_ARGS__)
#define RF_INFO(...) RF_LOG_(::rf::log::Level::kInfo, __VA_ARGS__)
#define RF_WARN(...) RF_LOG_(::rf::log::Level::kWarning, __VA_ARGS__)
#define RF_ERROR(...) RF_LOG_(::rf::log::Level::kError, __VA_ARGS__)

}  // namespace rf::log
