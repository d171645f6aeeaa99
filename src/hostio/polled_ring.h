// An io_uring whose submissions a thread of the kernel's takes out of memory (IORING_SETUP_SQPOLL): while that thread
// is awake a request costs no host call. Internal to hostio.
//
// The thread costs a CPU while it is awake. It falls asleep after a millisecond without work, and is woken only under
// load; what comes before goes through the worker's own ring.
#pragma once

#include <liburing.h>

#include <memory>

#include "core/result.h"
#include "core/time.h"
#include "hostio/ring_setup.h"

namespace rf::hostio {

class PolledRing {
 public:
  // Completions are announced by writing to `eventfd`, as long as announce() says so. Where there is a `sharer` its
  // thread serves this ring too. What the thread may do is decided here: it keeps the calling thread's credentials of
  // this moment.
  static Setup<std::unique_ptr<PolledRing>> create(int eventfd, const PolledRing* sharer);
  ~PolledRing();

  // Whether the next request should go through this ring. Counts how often it is asked: that is the load.
  bool worthwhile();
  // Hands over a request; the caller has asked worthwhile(). `data` comes back with the completion. Returns whether
  // that took a host call.
  template <class Prep>
  bool submit(void* data, Prep&& prep) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    prep(sqe);
    io_uring_sqe_set_data(sqe, data);
    in_flight_++;
    return publish();
  }
  u32 in_flight() const { return in_flight_; }

  // Takes the oldest completion, if there is one. Each is its request's last.
  bool take(void*& data, s32& result);
  // Whether completions from now on are announced. Look for earlier ones after it.
  void announce(bool on) { set_announcing(ring_, on); }

 private:
  PolledRing() = default;
  bool publish();
  bool asleep() const;

  io_uring ring_{};
  bool made_ = false;
  u32 in_flight_ = 0;
  Nanos window_start_ = 0;
  u32 in_window_ = 0;
};

}  // namespace rf::hostio
