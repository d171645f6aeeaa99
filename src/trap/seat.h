// A worker's seat at the stub threads: how it waits for one that runs guest code, and is called away from it.
#pragma once

#include <atomic>

#include "core/scheduler.h"
#include "core/types.h"

namespace rf::trap {

class Seat final : public GuestKicker {
 public:
  void on_kick_signal() noexcept override;

  // Before Worker::enter_guest(): forgets earlier kicks.
  void arm() { kicked_.store(false, std::memory_order_relaxed); }
  bool kicked() const { return kicked_.load(std::memory_order_relaxed); }

  // Waits until *word is neither kRunning nor kSentryWaits, and returns it; or until the worker is kicked or `deadline`
  // passes, and returns kRunning.
  u32 wait(u32& word, Nanos deadline);

 private:
  std::atomic<bool> kicked_{false};
  std::atomic<u32*> word_{nullptr};  // slept on
};

}  // namespace rf::trap
