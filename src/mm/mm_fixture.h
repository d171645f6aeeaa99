// For tests: a sandbox's memory on the fake platform, in which one may act as a guest.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/fault.h"
#include "mm/fake_platform.h"
#include "mm/memory_manager.h"
#include "mm/vdso.h"

namespace rf::mm {

class MmTest : public ::testing::Test {
 protected:
  static constexpr u64 kLimit = u64{256} << 20;
  static constexpr int kRw = PROT_READ | PROT_WRITE;
  static constexpr int kPrivateAnon = MAP_PRIVATE | MAP_ANONYMOUS;
  static constexpr int kSharedAnon = MAP_SHARED | MAP_ANONYMOUS;

  explicit MmTest(u64 limit = kLimit) {
    install_fault_handlers();
    memory_ = std::move(*platform::GuestMemory::create());
    frames_ = Frames::create(*memory_, limit);
    clock_ = std::move(*VdsoClock::create(*frames_));
    mm_ = fresh();
    mm_->layout().mmap_base = 0x6f00'0000'0000;
  }
  ~MmTest() override {
    mm_.reset();
    clock_.reset();
    EXPECT_EQ(frames_->used(), 0u) << "frames leaked";
  }

  Ref<MemoryManager> fresh() {
    auto mm = MemoryManager::create({platform_, *frames_, *clock_});
    EXPECT_TRUE(mm.has_value());
    return *mm;
  }
  static FakeAddressSpace& tables(MemoryManager& mm) { return static_cast<FakeAddressSpace&>(mm.address_space()); }

  // From here on mm_ is one of a platform that maps lazily.
  void map_lazily() {
    platform_.maps_lazily = true;
    mm_ = fresh();
    mm_->layout().mmap_base = 0x6f00'0000'0000;
  }

  UserAddr map(u64 pages, int prot = kRw, int flags = kPrivateAnon, UserAddr addr = 0) {
    auto r = mm_->mmap({.addr = addr, .len = pages * kPageSize, .prot = prot, .flags = flags});
    EXPECT_EQ(error_of(r), 0);
    return r.value_or(0);
  }
  static u64 peek(MemoryManager& mm, UserAddr a) {
    u64 v = ~u64{0};
    EXPECT_EQ(mm.copy_in(&v, a, sizeof v), sizeof v) << std::hex << a;
    return v;
  }
  static void put(MemoryManager& mm, UserAddr a, u64 v) { EXPECT_EQ(mm.copy_out(a, &v, sizeof v), sizeof v); }
  u64 peek(UserAddr a) { return peek(*mm_, a); }
  void put(UserAddr a, u64 v) { put(*mm_, a, v); }

  // "start-end rwxp" lines, addresses relative to `base` in pages.
  static std::string maps(MemoryManager& mm, UserAddr base = 0) {
    std::string out;
    mm.for_each_vma(false, [&](const VmaInfo& v) {
      auto page = [&](UserAddr a) { return std::to_string((a - base) / kPageSize); };
      out += page(v.start) + "-" + page(v.end) + " ";
      out += (v.prot & PROT_READ) ? 'r' : '-';
      out += (v.prot & PROT_WRITE) ? 'w' : '-';
      out += (v.prot & PROT_EXEC) ? 'x' : '-';
      out += v.shared ? 's' : 'p';
      out += '\n';
    });
    return out;
  }
  std::string maps(UserAddr base) { return maps(*mm_, base); }
  static int error_of(const auto& result) { return result ? 0 : errno_value(result.error()); }
  FaultFailure::Kind fault_kind(UserAddr a, Access access) {
    auto r = mm_->handle_fault(a, access);
    EXPECT_FALSE(r.has_value());
    return r.error().kind;
  }

  FakePlatform platform_;
  std::unique_ptr<platform::GuestMemory> memory_;
  std::unique_ptr<Frames> frames_;
  std::unique_ptr<VdsoClock> clock_;
  Ref<MemoryManager> mm_;
};

}  // namespace rf::mm
