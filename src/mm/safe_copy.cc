#include "mm/safe_copy.h"

#include <signal.h>
#include <ucontext.h>

#include <mutex>

#include "core/fault.h"

extern "C" {
extern const char rf_mm_copy_words_begin[], rf_mm_copy_words_end[], rf_mm_copy_words_fault[];
extern const char rf_mm_copy_string_begin[], rf_mm_copy_string_end[];
extern const char rf_mm_zero_begin[], rf_mm_zero_end[];
extern const char rf_mm_word_begin[], rf_mm_word_end[], rf_mm_word_fault[];
}

namespace rf::mm {
namespace {

bool fix_up(int sig, siginfo_t*, void* context) noexcept {
  if (sig != SIGBUS && sig != SIGSEGV) return false;
  greg_t& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  auto within = [&](const char* begin, const char* end) {
    return rip >= reinterpret_cast<greg_t>(begin) && rip < reinterpret_cast<greg_t>(end);
  };
  if (within(rf_mm_copy_words_begin, rf_mm_copy_words_end))
    rip = reinterpret_cast<greg_t>(rf_mm_copy_words_fault);
  else if (within(rf_mm_copy_string_begin, rf_mm_copy_string_end))
    rip = reinterpret_cast<greg_t>(rf_mm_copy_string_end);
  else if (within(rf_mm_zero_begin, rf_mm_zero_end))
    rip = reinterpret_cast<greg_t>(rf_mm_zero_end);
  else if (within(rf_mm_word_begin, rf_mm_word_end))
    rip = reinterpret_cast<greg_t>(rf_mm_word_fault);
  else
    return false;
  return true;
}

}  // namespace

void install_copy_fixup() {
  static std::once_flag once;
  std::call_once(once, [] { add_fault_fixup(fix_up); });
}

}  // namespace rf::mm
