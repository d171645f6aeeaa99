#include "mm/frames.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "core/test_scheduler.h"
#include "mm/chunk_map.h"

namespace rf::mm {
namespace {

class FramesTest : public testing::Test {
 protected:
  static constexpr u64 kLimitPages = 8192;
  void SetUp() override {
    memory_ = std::move(*GuestMemory::create());
    frames_ = Frames::create(*memory_, kLimitPages * kPageSize);
  }
  std::byte* at(Phys p) { return frames_->host_ptr(p); }
  static u64 pages(const PhysRun& r) { return r.len >> kPageShift; }
  bool zero(const PhysRun& r) {
    std::vector<std::byte> z(r.len);
    return std::memcmp(at(r.phys), z.data(), r.len) == 0;
  }

  // Bytes that the host backs.
  u64 committed() const {
    struct stat st;
    fstat(memory_->memory_file(), &st);
    return static_cast<u64>(st.st_blocks) * 512;
  }
  // Dirties that many chunks and frees them.
  void use_chunks(int n) {
    std::vector<PhysRun> runs;
    for (int i = 0; i < n; i++) {
      runs.push_back(*frames_->allocate_huge());
      std::memset(at(runs.back().phys), 1, kHugePageSize);
    }
    for (const PhysRun& r : runs) frames_->unref(r.phys, pages(r));
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<Frames> frames_;
};

TEST_F(FramesTest, RunsAreContiguousAndCounted) {
  PhysRun r = *frames_->allocate(100, Fill::kZero);
  EXPECT_EQ(pages(r), 100u);
  EXPECT_EQ(frames_->used(), 100 * kPageSize);
  EXPECT_EQ(frames_->ref_count(r.phys + 99 * kPageSize), 1u);
  frames_->ref(r.phys, 2);
  frames_->unref(r.phys, 100);
  EXPECT_EQ(frames_->used(), 2 * kPageSize);
  frames_->unref(r.phys, 2);
  EXPECT_EQ(frames_->used(), 0u);
}

TEST_F(FramesTest, ReusedPagesAreCleared) {
  PhysRun r = *frames_->allocate(64, Fill::kZero);
  std::memset(at(r.phys), 0xaa, r.len);
  frames_->unref(r.phys, 64);
  PhysRun again = *frames_->allocate(64, Fill::kZero);
  EXPECT_EQ(again.phys, r.phys) << "freed pages are reused first";
  EXPECT_TRUE(zero(again));
  frames_->unref(again.phys, 64);
}

TEST_F(FramesTest, LimitIsExact) {
  std::vector<PhysRun> runs;
  u64 total = 0;
  for (;;) {
    auto r = frames_->allocate(300, Fill::kUninitialised);
    if (!r) {
      EXPECT_EQ(errno_value(r.error()), ENOMEM);
      break;
    }
    total += pages(*r);
    runs.push_back(*r);
  }
  EXPECT_EQ(total, kLimitPages);
  EXPECT_EQ(frames_->used(), frames_->limit());
  EXPECT_FALSE(frames_->allocate_huge());
  // One page back is one page to be had, wherever it is.
  frames_->unref(runs[3].phys);
  runs[3] = {runs[3].phys + kPageSize, runs[3].len - kPageSize};
  auto one = frames_->allocate(8, Fill::kZero);
  ASSERT_TRUE(one);
  EXPECT_EQ(pages(*one), 1u);
  EXPECT_FALSE(frames_->allocate(1, Fill::kZero));
  runs.push_back(*one);
  for (const PhysRun& r : runs) frames_->unref(r.phys, pages(r));
}

TEST_F(FramesTest, GapsAreUsedWhenThatIsAllThereIs) {
  // Every second page free: single pages must still be found, up to the limit.
  std::vector<Phys> all;
  while (auto r = frames_->allocate(1, Fill::kUninitialised)) all.push_back(r->phys);
  ASSERT_EQ(all.size(), kLimitPages);
  for (size_t i = 0; i < all.size(); i += 2) frames_->unref(all[i]);
  std::set<Phys> got;
  while (auto r = frames_->allocate(512, Fill::kUninitialised))
    for (u64 i = 0; i < pages(*r); i++) EXPECT_TRUE(got.insert(r->phys + i * kPageSize).second);
  EXPECT_EQ(got.size(), kLimitPages / 2);
  for (size_t i = 1; i < all.size(); i += 2) frames_->unref(all[i]);
  for (Phys p : got) frames_->unref(p);
  EXPECT_EQ(frames_->used(), 0u);
}

TEST_F(FramesTest, FreeChunksGoBackToTheHost) {
  std::vector<PhysRun> runs;
  for (int i = 0; i < 16; i++) runs.push_back(*frames_->allocate_huge());
  for (const PhysRun& r : runs) {
    EXPECT_EQ(r.phys % kHugePageSize, 0u);
    std::memset(at(r.phys), 1, r.len);
  }
  EXPECT_GE(committed(), 16 * kHugePageSize);
  // More than what is kept: give back, but not all.
  for (int round = 0; round < 2; round++) {
    for (const PhysRun& r : runs) frames_->unref(r.phys, pages(r));
    EXPECT_EQ(frames_->used(), 0u);
    for (PhysRun& r : runs) {
      r = *frames_->allocate_huge();
      EXPECT_TRUE(zero(r));
      std::memset(at(r.phys), 2, r.len);
    }
  }
  for (const PhysRun& r : runs) frames_->unref(r.phys, pages(r));
  EXPECT_LE(committed(), 16 * kHugePageSize);
}

TEST_F(FramesTest, ManyFreeChunksAreTrimmedAtOnce) {
  frames_ = Frames::create(*memory_, u64{512} << 20);
  use_chunks(160);
  EXPECT_LE(committed(), u64{256} << 20);
}

TEST_F(FramesTest, IdleChunksAreTrimmedInTime) {
  run_fibers(1, [&] {
    use_chunks(12);
    EXPECT_EQ(committed(), u64{24} << 20) << "kept at first";
    Nanos end = monotonic_now() + 10 * kNanosPerSecond;
    while (committed() > u64{8} << 20 && monotonic_now() < end)
      sleep_until(monotonic_now() + 50'000'000, Interruptible::kNo);
    EXPECT_LE(committed(), u64{8} << 20);
  });
}

TEST_F(FramesTest, PinsAreNotOwners) {
  PhysRun r = *frames_->allocate(4, Fill::kZero);
  EXPECT_FALSE(frames_->any_pinned(r.phys, 4));
  frames_->pin(r.phys + kPageSize);
  EXPECT_TRUE(frames_->any_pinned(r.phys, 4));
  EXPECT_FALSE(frames_->any_pinned(r.phys, 1));
  EXPECT_EQ(frames_->owners(r.phys + kPageSize), 1u);
  EXPECT_EQ(frames_->ref_count(r.phys + kPageSize), 2u);
  frames_->unref(r.phys, 4);
  EXPECT_EQ(frames_->used(), kPageSize) << "a pin keeps its page";
  frames_->unpin(r.phys + kPageSize);
  EXPECT_EQ(frames_->used(), 0u);
}

TEST_F(FramesTest, FileMarkGoesWithThePage) {
  PhysRun r = *frames_->allocate(1, Fill::kZero);
  EXPECT_FALSE(frames_->is_file(r.phys));
  frames_->mark_file(r.phys, 1);
  EXPECT_TRUE(frames_->is_file(r.phys));
  frames_->unref(r.phys);
  PhysRun again = *frames_->allocate(1, Fill::kZero);
  EXPECT_EQ(again.phys, r.phys);
  EXPECT_FALSE(frames_->is_file(again.phys));
  frames_->unref(again.phys);
}

TEST_F(FramesTest, ThreadsNeverGetTheSamePage) {
  constexpr int kThreads = 4, kRounds = 3000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      std::mt19937 rng(static_cast<unsigned>(t));
      std::vector<PhysRun> held;
      for (int i = 0; i < kRounds; i++) {
        if (held.size() < 30 && rng() % 3 != 0) {
          auto r = frames_->allocate(1 + rng() % 40, Fill::kZero);
          if (!r) continue;
          for (u64 k = 0; k < r->len; k += kPageSize) {
            auto* word = reinterpret_cast<u64*>(at(r->phys + k));
            EXPECT_EQ(*word, 0u);
            *word = static_cast<u64>(t) + 1;
          }
          held.push_back(*r);
        } else if (!held.empty()) {
          size_t k = rng() % held.size();
          for (u64 o = 0; o < held[k].len; o += kPageSize)
            EXPECT_EQ(*reinterpret_cast<u64*>(at(held[k].phys + o)), static_cast<u64>(t) + 1);
          frames_->unref(held[k].phys, pages(held[k]));
          held[k] = held.back();
          held.pop_back();
        }
      }
      for (const PhysRun& r : held) frames_->unref(r.phys, pages(r));
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(frames_->used(), 0u);
}

}  // namespace
}  // namespace rf::mm
