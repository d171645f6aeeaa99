#include "core/stack_pool.h"

#include <sys/mman.h>

#include "core/check.h"
#include "core/log.h"
#include "core/sanitizer.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102  // include/uapi/asm-generic/mman-common.h, Linux 6.13
#endif

namespace rf {
namespace {

// Red zones make frames several times as large.
constexpr size_t kSanitizerFactor = RF_ASAN || RF_TSAN ? 4 : 1;

void log_no_memory(const char* what) {
  RF_ERROR(
      "no memory for a fiber stack ({}: {}): raise the vm.max_map_count sysctl, or the memory limit that the host sets",
      what, errno_name(errno));
}

}  // namespace

StackPool::StackPool(size_t stack_size) : stack_size_(page_up(stack_size * kSanitizerFactor)) {}

StackPool::~StackPool() {
  for (std::byte* arena : arenas_) munmap(arena, slot_size() * kStacksPerArena);
}

Result<void> StackPool::add_arena() {
  size_t size = slot_size() * kStacksPerArena;
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    log_no_memory("mmap");
    return err(ENOMEM);
  }
  // A huge page would make the first touch of a stack cost 2 MiB.
  madvise(p, size, MADV_NOHUGEPAGE);
  arenas_.push_back(static_cast<std::byte*>(p));
  used_in_last_arena_ = 0;
  return {};
}

// Guard regions live in the page tables and split no mapping, so that any number of stacks costs one. Older
// kernels need PROT_NONE, which costs two mappings a stack.
Result<void> StackPool::guard(std::byte* slot) {
  if (!use_mprotect_) {
    if (madvise(slot, kGuardSize, MADV_GUARD_INSTALL) == 0) return {};
    if (errno != EINVAL) {
      log_no_memory("madvise");
      return err(ENOMEM);
    }
    use_mprotect_ = true;
  }
  if (mprotect(slot, kGuardSize, PROT_NONE) == 0) return {};
  log_no_memory("mprotect");
  return err(ENOMEM);
}

Result<Stack> StackPool::allocate() {
  SpinGuard guard_lock(lock_);
  if (!free_.empty()) {
    std::byte* low = free_.back();
    free_.pop_back();
    return Stack{low, stack_size_};
  }
  if (used_in_last_arena_ == kStacksPerArena) TRY(add_arena());
  std::byte* slot = arenas_.back() + used_in_last_arena_ * slot_size();
  TRY(guard(slot));
  used_in_last_arena_++;
  return Stack{slot + kGuardSize, stack_size_};
}

void StackPool::release(Stack stack) {
#if RF_ASAN
  // The fiber left its last frames without returning; their red zones must not meet the next user.
  __asan_unpoison_memory_region(stack.low, stack.size);
#endif
  SpinGuard guard_lock(lock_);
  // What is beyond the warm ones is cooled here, once: it goes below them and stays cold until it is used.
  if (free_.size() >= kWarmStacks) {
    std::byte*& coldest_warm = free_[free_.size() - kWarmStacks];
    madvise(coldest_warm, stack_size_, MADV_DONTNEED);
  }
  free_.push_back(stack.low);
}

size_t StackPool::touched(Stack stack) {
  size_t pages = stack.size / kPageSize;
  std::vector<unsigned char> resident(pages);
  if (mincore(stack.low, stack.size, resident.data()) != 0) return 0;
  size_t first = 0;
  while (first < pages && !(resident[first] & 1)) first++;
  return (pages - first) * kPageSize;
}

}  // namespace rf
