// A worker's seat at the stub threads: how it waits for one that runs guest code, and is called away from it.
#pragma once

#include <algorithm>
#include <atomic>

#include "core/cycles.h"
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

// Whether others want the core. A thread that yields then is out of it for a whole time slice of theirs, several
// milliseconds; one that sleeps has it back as soon as it is woken. So who saw that yields no more for a while.
class Crowd {
 public:
  bool is_here(u64 now) const { return now < until_; }
  void seen(u64 now) {
    pause_ = now < until_ + 4 * pause_ ? std::min(2 * pause_, kMost) : kLeast;
    until_ = now + pause_;
  }

 private:
  static constexpr u64 kLeast = 100'000'000, kMost = 3'000'000'000;  // cycles
  u64 until_ = 0, pause_ = kLeast;
};

class Seat final : public GuestKicker {
 public:
  void on_kick_signal() noexcept override;
  bool steps_out() const noexcept override { return true; }

  // Before Worker::enter_guest(): forgets earlier kicks.
  void arm() { kicked_.store(false, std::memory_order_relaxed); }
  bool kicked() const { return kicked_.load(std::memory_order_relaxed); }

  // Waits until the state of `area` is not kRunning, and returns it; or until the worker is kicked, `deadline` passes,
  // or there is something for `reactor` to do, if it is not null, and returns kRunning. `begin`: cycles() when the
  // thread was resumed, or now. `same_core`: it was last seen on this core.
  u32 wait(Area& area, Patience& patience, u64 begin, bool same_core, Nanos deadline, const Reactor* reactor = nullptr);
  // cycles() at the end of the last wait(), or a moment before.
  u64 looked_at() const { return looked_at_; }

  // A stub thread has stopped that the worker had resumed: sees from its Area whether its core is crowded.
  void stopped(Area& area) {
    if (std::atomic_ref(area.crowded).load(std::memory_order_relaxed) == 0) return;
    std::atomic_ref(area.crowded).store(0, std::memory_order_relaxed);
    stub_crowd_.seen(cycles());
  }
  // Whether the cores of stub threads are.
  bool stubs_crowded(u64 now) const { return stub_crowd_.is_here(now); }

  // The worker resumes the thread of `area`: the one that it resumed before is to make room, if it looks for more to
  // do.
  void resumes(Area& area) {
    if (last_ && last_ != &area) std::atomic_ref(last_->step_aside).store(1, std::memory_order_relaxed);
    last_ = &area;
  }

 private:
  u32 wait_from(u64 begin, Area& area, u64 spin_cycles, u64 look_cycles, Nanos deadline, const Reactor* reactor);

  Crowd crowd_, stub_crowd_;
  std::atomic<bool> kicked_{false};
  std::atomic<u32*> word_{nullptr};  // slept on
  u64 looked_at_ = 0;
  Area* last_ = nullptr;  // resumed by resumes()
};

}  // namespace rf::trap
