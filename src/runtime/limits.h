// Resource limits, setrlimit(2), that the sentry was started with: what they must allow, and what is raised.
#pragma once

#include <string>
#include <vector>

#include "core/result.h"
#include "platform/platform.h"

namespace rf::runtime {

// Raises the soft limits that bound the sentry to their hard ones; says which of the hard ones are too low for any
// sandbox and how to raise them. Before lockdown.
Setup<void> raise_limits();

// The same for the doctor: a line for each limit.
std::vector<platform::Check> check_limits();

}  // namespace rf::runtime
