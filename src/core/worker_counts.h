// Counts of events, kept by each worker for itself: to add to one costs no locked instruction and no shared cache line.
#pragma once

#include <array>
#include <atomic>
#include <vector>

#include "core/scheduler.h"
#include "core/types.h"

namespace rf {

template <size_t N>
class WorkerCounts {
 public:
  explicit WorkerCounts(u32 workers) : cells_(workers) {}

  // On the worker's own thread. `which` < N.
  void add(const Worker& worker, size_t which) {
    std::atomic<u64>& n = cells_[worker.index()].n[which];
    n.store(n.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  // Any thread.
  u64 total(size_t which) const {
    u64 sum = 0;
    for (const Cells& c : cells_) sum += c.n[which].load(std::memory_order_relaxed);
    return sum;
  }

 private:
  struct alignas(64) Cells {
    std::array<std::atomic<u64>, N> n{};
  };
  std::vector<Cells> cells_;
};

}  // namespace rf
