// Copies that survive a fault in guest memory. The pages of the file window belong to host files, which others can
// truncate: touching them then raises SIGBUS. These routines are known to a fault fix-up, which ends them early.
#pragma once

#include <cstddef>

#include "core/types.h"

namespace rf::mm {

// Return how many bytes were not copied (0 when all were).
extern "C" size_t rf_mm_safe_copy(void* dst, const void* src, size_t len);
extern "C" size_t rf_mm_safe_zero(void* dst, size_t len);
// Return 0, or 1 after a fault. Aligned words.
extern "C" int rf_mm_safe_load_u32(const void* src, u32* out);
// Sequentially consistent. *expected gets what was found, *swapped whether it was what was expected.
extern "C" int rf_mm_safe_compare_exchange_u32(void* dst, u32* expected, u32 desired, u32* swapped);

// Registers the fix-up with core's fault handlers; the first MemoryEnv user calls it. Idempotent.
void install_copy_fixup();

inline size_t safe_copy(void* dst, const void* src, size_t len) { return rf_mm_safe_copy(dst, src, len); }
inline size_t safe_zero(void* dst, size_t len) { return rf_mm_safe_zero(dst, len); }

}  // namespace rf::mm
