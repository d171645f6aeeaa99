// A worker's seat at the stub threads: how it waits for one that runs guest code, and is called away from it.
#pragma once

#include <algorithm>
#include <atomic>

#include "core/scheduler.h"
#include "core/types.h"
#include "trap/layout.h"

namespace rf::trap {

// How long to look for something before going to sleep. To be woken on an idle core costs about 150,000 cycles, and two
// threads that wait for each other may each have to be, so a wait that might have been much shorter had nobody slept
// lasts up to kMost. Where waits are longer than that, it soon stops trying.
class Patience {
 public:
  u64 cycles() const { return kMost >> misses_; }
  void waited(u64 cycles) { misses_ = cycles <= kMost ? 0 : std::min(misses_ + 1, kMostMisses); }

 private:
  static constexpr u64 kMost = 500'000;
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
  // `same_core`: the thread that is to answer was last seen on this core.
  u32 wait(u32& word, Patience& patience, bool same_core, Nanos deadline);

  // The worker resumes the thread of `area`: the one that it resumed before is to make room, if it looks for more to
  // do.
  void resumes(Area& area) {
    if (last_ && last_ != &area) std::atomic_ref(last_->step_aside).store(1, std::memory_order_relaxed);
    last_ = &area;
  }

 private:
  u32 wait_from(u64 begin, u32& word, u64 spin_cycles, u64 look_cycles, Nanos deadline);

  std::atomic<bool> kicked_{false};
  std::atomic<u32*> word_{nullptr};  // slept on
  Area* last_ = nullptr;             // resumed by resumes()
};

}  // namespace rf::trap
