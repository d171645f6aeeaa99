// Between check.cc and log.cc.
#pragma once

#include <string_view>

namespace rf::log {

// Logs and flushes the message the sentry ends with, unless the log is stderr, which has it already.
void write_last_words(std::string_view text);

}  // namespace rf::log
