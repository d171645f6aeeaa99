// The control file: the memory that the sentry and its stub processes share (layout.h), as the sentry sees it, and who
// has which part of it.
#pragma once

#include <memory>
#include <vector>

#include "core/result.h"
#include "core/spinlock.h"
#include "hostio/fd.h"
#include "trap/layout.h"

namespace rf::trap {

class Control {
 public:
  static Setup<std::unique_ptr<Control>> create();
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  int fd() const { return fd_.get(); }
  // The offset in the file of what stub processes see at `va` (but the command page: each has its own).
  static u64 offset_of(u64 va) { return va - kText; }
  static u64 command_offset(u32 stub) { return kCommandPagesAt + u64{stub} * kPageSize; }
  static u64 area_address(u32 thread) { return kAreas + u64{thread} * kAreaSize; }

  std::byte* text() const { return base_; }
  ConstPage& constants() const { return *reinterpret_cast<ConstPage*>(base_ + offset_of(kConst)); }
  u32& wake_word(u32 thread) const { return reinterpret_cast<u32*>(base_ + offset_of(kWake))[thread]; }
  Area& area(u32 thread) const { return *reinterpret_cast<Area*>(base_ + offset_of(area_address(thread))); }
  CommandPage& command_page(u32 stub) const { return *reinterpret_cast<CommandPage*>(base_ + command_offset(stub)); }

  // Numbers for stub processes and threads; what is behind them is zero. EAGAIN: all are taken.
  Result<u32> take_stub() { return stubs_.take(); }
  Result<u32> take_thread() { return threads_.take(); }
  // When no process that could write there is left.
  void give_back_stub(u32 stub);
  void give_back_threads(const std::vector<u32>& threads);

 private:
  // Behind what stub processes see.
  static constexpr u64 kCommandPagesAt = kStubEnd - kText;
  static constexpr u64 kSize = kCommandPagesAt + u64{kMaxStubs} * kPageSize;

  // Lowest first, so that the file stays dense.
  class Numbers {
   public:
    explicit Numbers(u32 limit) : limit_(limit) {}
    Result<u32> take();
    void give_back(u32 n);

   private:
    SpinLock lock_;
    u32 limit_, next_ = 0;
    std::vector<u32> free_;  // a heap
  };

  Control() = default;
  hostio::HostFd fd_;
  std::byte* base_ = nullptr;
  Numbers stubs_{kMaxStubs}, threads_{kMaxThreads};
};

}  // namespace rf::trap
