// Host futexes on private words, for locks and for tests' reactors.
#pragma once

#include <atomic>

#include "core/time.h"

namespace rf {

// Sleeps while *word == expected, until woken or `deadline` (absolute monotonic); may return early.
void futex_wait(std::atomic<u32>& word, u32 expected, Nanos deadline = kNever);
void futex_wake(std::atomic<u32>& word, int count);

}  // namespace rf
