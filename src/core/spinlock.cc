#include "core/spinlock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

#include "core/futex.h"

namespace rf {

void futex_wait(std::atomic<u32>& word, u32 expected, Nanos deadline) {
  timespec ts{deadline / kNanosPerSecond, deadline % kNanosPerSecond};
  // WAIT_BITSET rather than WAIT: its time-out is absolute.
  syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, expected, deadline == kNever ? nullptr : &ts, nullptr,
          FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(std::atomic<u32>& word, int count) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

namespace {

// About a microsecond: longer than the sections these locks guard, far shorter than a futex round trip.
constexpr int kSpins = 50;

inline void pause() { __builtin_ia32_pause(); }

}  // namespace

void SpinLock::lock_slow() {
  for (int i = 0; i < kSpins; i++) {
    u32 expected = 0;
    if (word_.load(std::memory_order_relaxed) == 0 &&
        word_.compare_exchange_weak(expected, 1, std::memory_order_acquire))
      return;
    pause();
  }
  // From here on the lock is taken as 2: whether others still sleep is not known.
  while (word_.exchange(2, std::memory_order_acquire) != 0) futex_wait(word_, 2);
}

void SpinLock::unlock_slow() { futex_wake(word_, 1); }

// kWriterWaits means that somebody, writer or reader, sleeps or is about to. It is only ever set while the
// lock is held, so that the holder who leaves last sees it and wakes everybody.

void SpinRwLock::lock() {
  for (int i = 0;; i++) {
    u32 v = word_.load(std::memory_order_relaxed);
    if ((v & ~kWriterWaits) == 0) {
      if (word_.compare_exchange_weak(v, v | kWriter, std::memory_order_acquire)) return;
      continue;
    }
    // Announced at once: it keeps new readers out, which is how writers are preferred.
    if (!(v & kWriterWaits)) {
      word_.compare_exchange_weak(v, v | kWriterWaits, std::memory_order_relaxed);
      continue;
    }
    if (i < kSpins)
      pause();
    else
      futex_wait(word_, v);
  }
}

void SpinRwLock::unlock() {
  if (word_.fetch_and(~kWriter, std::memory_order_release) & kWriterWaits) wake();
}

void SpinRwLock::lock_shared_slow() {
  for (int i = 0;; i++) {
    u32 v = word_.load(std::memory_order_relaxed);
    // With no holder a left-over kWriterWaits is about to be cleared by wake().
    if (!(v & kWriter) && (!(v & kWriterWaits) || v == kWriterWaits)) {
      if (word_.compare_exchange_weak(v, v + 1, std::memory_order_acquire)) return;
      continue;
    }
    if (i < kSpins) {
      pause();
      continue;
    }
    if (!(v & kWriterWaits)) {
      word_.compare_exchange_weak(v, v | kWriterWaits, std::memory_order_relaxed);
      continue;
    }
    futex_wait(word_, v);
  }
}

void SpinRwLock::wake() {
  word_.fetch_and(~kWriterWaits, std::memory_order_relaxed);
  futex_wake(word_, INT_MAX);
}

}  // namespace rf
