// Fiber stacks: slots of big reserved arenas, [guard | stack], touched lazily and used again last-in-first-out.
#pragma once

#include <vector>

#include "core/result.h"
#include "core/spinlock.h"
#include "core/types.h"

namespace rf {

// The usable part; the guard of StackPool::kGuardSize bytes ends at `low`.
struct Stack {
  std::byte* low = nullptr;
  size_t size = 0;
  std::byte* high() const { return low + size; }
};

class StackPool {
 public:
  // Several pages: a function's frame must not step over it.
  static constexpr size_t kGuardSize = 4 * kPageSize;

  // `stack_size` in bytes, rounded up to pages; enlarged under sanitizers.
  explicit StackPool(size_t stack_size);
  ~StackPool();  // every stack goes with it

  // ENOMEM when the host gives no more memory or mappings; the log says which limit to raise. Any thread.
  Result<Stack> allocate();
  void release(Stack stack);

  size_t stack_size() const { return stack_size_; }
  // Bytes ever touched since the stack's memory was last given back, page granularity.
  static size_t touched(Stack stack);

 private:
  static constexpr size_t kStacksPerArena = 64;
  // Stacks that keep their pages while they wait for the next user; the pages of others go back to the host.
  static constexpr size_t kWarmStacks = 32;

  size_t slot_size() const { return kGuardSize + stack_size_; }
  Result<void> add_arena();
  Result<void> guard(std::byte* slot);

  const size_t stack_size_;
  SpinLock lock_;
  std::vector<std::byte*> arenas_;
  size_t used_in_last_arena_ = kStacksPerArena;
  std::vector<std::byte*> free_;  // lows; the warm ones at the end
  bool use_mprotect_ = false;     // the kernel has no guard regions (before 6.13)
};

}  // namespace rf
