// RF_CHECK: an invariant of ours. It is never reachable from guest input; when it fails the sentry is
// broken, says so with the fiber's name and ends with status 125.
#pragma once

#include <source_location>

namespace rf {

[[noreturn, gnu::cold]] void check_failed(const char* expression, const char* message, std::source_location where);

#define RF_CHECK(cond, ...) \
  ((cond) ? void() : ::rf::check_failed(#cond, "" __VA_ARGS__, ::std::source_location::current()))

}  // namespace rf
