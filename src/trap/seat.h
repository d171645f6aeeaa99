// A worker's seat at the stub threads: how it waits for one that runs guest code, and is called away from it.
#pragma once

#include <algorithm>
#include <atomic>

#include "core/scheduler.h"
#include "core/types.h"

namespace rf::trap {

// How long to look for something before going to sleep. To be woken costs about kMost, on another core: who sleeps when
// that has passed never pays more than twice the least. But where waits turn out to be long, it stops trying.
class Patience {
 public:
  u64 cycles() const { return kMost >> misses_; }
  void waited(u64 cycles) { misses_ = cycles <= kMost ? 0 : std::min(misses_ + 1, kMostMisses); }

 private:
  static constexpr u64 kMost = 150'000;
  static constexpr u32 kMostMisses = 7;
  u32 misses_ = 0;
};

class Seat final : public GuestKicker {
 public:
  void on_kick_signal() noexcept override;

  // Before Worker::enter_guest(): forgets earlier kicks.
  void arm() { kicked_.store(false, std::memory_order_relaxed); }
  bool kicked() const { return kicked_.load(std::memory_order_relaxed); }

  // Waits until *word is neither kRunning nor kSentryWaits, and returns it; or until the worker is kicked or `deadline`
  // passes, and returns kRunning.
  u32 wait(u32& word, Patience& patience, Nanos deadline);

 private:
  u32 wait_from(u64 begin, u32& word, u64 spin_cycles, Nanos deadline);

  std::atomic<bool> kicked_{false};
  std::atomic<u32*> word_{nullptr};  // slept on
};

}  // namespace rf::trap
