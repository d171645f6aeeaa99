// How long the sentry believes what it has learnt of a host tree that others change, too.
//
// Names and attributes count for kBelieved, or until news: something came in from outside (bytes on a stream, a
// signal), or the sandbox itself changed a host tree (which other mounts may show as well). So a guest that has been
// told of a change by whoever made it sees the change; one that only looks again and again sees it kBelieved later.
// What a file holds is never kept: reads ask the host or its page cache.
#pragma once

#include <atomic>

#include "core/time.h"

namespace rf::fs {

class HostNews {
 public:
  static constexpr Nanos kBelieved = 1'000'000;

  // What was learnt before does not count any more. Thread-safe; no host call.
  static void arrived() { latest_.store(monotonic_now(), std::memory_order_release); }

  // What was learnt at or before this time is to be asked for again. Learnt: the monotonic time before the host was
  // asked.
  static Nanos horizon(Nanos now) {
    const Nanos latest = latest_.load(std::memory_order_acquire), oldest = now - kBelieved;
    return latest > oldest ? latest : oldest;
  }

 private:
  static inline std::atomic<Nanos> latest_{0};
};

}  // namespace rf::fs
