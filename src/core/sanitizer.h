// Which sanitizer this build has.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define RF_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define RF_ASAN 0
#endif

#if defined(__SANITIZE_THREAD__)
#define RF_TSAN 1
#include <sanitizer/tsan_interface.h>
#else
#define RF_TSAN 0
#endif
