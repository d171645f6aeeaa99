#include "core/result.h"

#include <string.h>

namespace rf {
namespace {

// The kernel-internal codes, which libc does not know.
const char* restart_name(int e) {
  switch (e) {
    case kERESTARTSYS:
      return "ERESTARTSYS";
    case kERESTARTNOINTR:
      return "ERESTARTNOINTR";
    case kERESTARTNOHAND:
      return "ERESTARTNOHAND";
    case kERESTART_RESTARTBLOCK:
      return "ERESTART_RESTARTBLOCK";
    default:
      return nullptr;
  }
}

}  // namespace

std::string errno_name(int e) {
  if (const char* name = restart_name(e)) return name;
  if (e > 0)
    if (const char* name = strerrorname_np(e)) return name;
  return "errno " + std::to_string(e);
}

std::string errno_text(int e) {
  if (restart_name(e)) return "To be restarted";
  if (e > 0)
    if (const char* text = strerrordesc_np(e)) return text;
  return "Unknown error " + std::to_string(e);
}

}  // namespace rf
