#include "core/check.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>

#include "core/fault.h"
#include "core/fiber.h"
#include "core/log_internal.h"

namespace rf {

void check_failed(const char* expression, const char* message, std::source_location where) {
  // A check that fails while reporting another must not go round in circles.
  static std::atomic<bool> failing{false};
  char text[512];
  Fiber* fiber = Fiber::current_or_null();
  snprintf(text, sizeof text, "internal error: check failed: %s%s%s at %s:%u (%s%s)", expression, *message ? ": " : "",
           message, where.file_name(), static_cast<unsigned>(where.line()), fiber ? "fiber " : "no fiber",
           fiber ? fiber->name().c_str() : "");
  char line[600];
  int n = snprintf(line, sizeof line, "ringfence: %s\n", text);
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, line, static_cast<size_t>(n));
  if (!failing.exchange(true)) {
    write_backtrace_here(STDERR_FILENO);
    run_crash_reports(STDERR_FILENO);
    log::write_last_words(text);
    fflush(nullptr);
  }
  _exit(kInternalErrorStatus);
}

}  // namespace rf
