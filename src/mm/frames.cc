#include "mm/frames.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/scheduler.h"
#include "core/spinlock.h"
#include "core/timer.h"
#include "mm/chunk_map.h"
#include "mm/lazy_array.h"
#include "mm/window_cache.h"

namespace rf::mm {
namespace {

constexpr u64 kFrames = GuestMemory::kWindowBase >> kPageShift;
constexpr u64 kWindowChunks = (GuestMemory::kSize - GuestMemory::kWindowBase) / GuestMemory::kWindowChunk;

// A frame's word: references (pins included), pins, and two marks. A free frame has no references; its dirty mark
// says that it must be cleared before a guest sees it.
constexpr u64 kRefMask = 0xffff'ffff;
constexpr u64 kPin = u64{1} << 32;
constexpr u64 kPinMask = u64{0xff'ffff} << 32;
constexpr u64 kFile = u64{1} << 62;
constexpr u64 kDirty = u64{1} << 63;

// A worker's reserve: small requests are cut from it without the shared lock.
constexpr u64 kReservePages = 64;
constexpr u64 kReserveRequest = 16;
constexpr u64 kMaxWorkers = 64;

// Free chunks that still hold host memory. To get a page from the host costs many times what clearing one does, so they
// are kept for a while: beyond kKeepMost they are given back at once, beyond kKeepIdle when they were not needed for
// a time, one by one so that no worker is held up.
constexpr u64 kKeepMost = 128;
constexpr u64 kKeepIdle = 4;
constexpr Nanos kIdleTime = kNanosPerSecond;
constexpr Nanos kTrimInterval = 20'000'000;

// Serves allocations.
// Locks, in order: a worker's reserve, the chunk map.
class FramesImpl final : public Frames {
 public:
  FramesImpl(GuestMemory& memory, u64 limit)
      : Frames(memory),
        words_(kFrames),
        window_(kWindowChunks),
        chunks_(memory, limit >> kPageShift),
        limit_pages_(limit >> kPageShift),
        window_cache_(std::make_unique<WindowCache>(*this)) {}
  ~FramesImpl() override = default;

  Result<PhysRun> allocate(u64 max_pages, Fill fill) override;
  Result<PhysRun> allocate_huge() override;
  void ref(Phys p, u64 pages) override;
  void unref(Phys p, u64 pages) override { drop(p, pages, 1); }
  u32 ref_count(Phys p) const override;
  void pin(Phys p, u64 pages) override;
  void unpin(Phys p, u64 pages) override;
  bool any_pinned(Phys p, u64 pages) const override;
  u32 owners(Phys p) const override;
  void mark_file(Phys p, u64 pages) override;
  bool is_file(Phys p) const override;
  u64 used() const override { return used_pages_.load(std::memory_order_relaxed) << kPageShift; }
  u64 limit() const override { return limit_pages_ << kPageShift; }
  void adopt_window(Phys p, u64 len) override;
  bool window_idle(Phys p) const override;
  WindowCache& window_cache() override { return *window_cache_; }

 private:
  struct WindowRange {
    std::atomic<u64> refs;
    u64 len;
  };
  struct alignas(64) Reserve {
    SpinLock lock;
    PageRange range;
  };

  std::atomic<u64>& word(Phys p) { return words_[p >> kPageShift]; }
  const std::atomic<u64>& word(Phys p) const { return words_[p >> kPageShift]; }
  WindowRange& window(Phys p) { return window_[(p - GuestMemory::kWindowBase) / GuestMemory::kWindowChunk]; }
  const WindowRange& window(Phys p) const {
    return window_[(p - GuestMemory::kWindowBase) / GuestMemory::kWindowChunk];
  }

  u64 charge(u64 pages);
  void uncharge(u64 pages) { used_pages_.fetch_sub(pages, std::memory_order_relaxed); }
  PageRange take(u64 pages);
  PageRange take_from_reserve(Reserve& reserve, u64 pages);
  PhysRun hand_out(PageRange range, Fill fill);
  void drop(Phys p, u64 pages, u64 amount);
  void drop_window(Phys p, u64 pages);
  void trim(u64 keep);

  class TrimTimer final : public Timer {
   public:
    explicit TrimTimer(FramesImpl& frames) : frames_(frames) {}
    // A scheduler that is gone has forgotten the timer; there is nothing to cancel then.
    ~TrimTimer() override {
      if (armed()) cancel();
    }
    void start() {
      SpinGuard guard(lock_);
      if (!armed()) arm(monotonic_now() + kIdleTime);
    }

   private:
    void expire() override;
    FramesImpl& frames_;
    SpinLock lock_;
    u64 excess_ = 0;  // of the timer's own thread
  };

  LazyArray<std::atomic<u64>> words_;
  LazyArray<WindowRange> window_;
  ChunkMap chunks_;
  const u64 limit_pages_;
  std::atomic<u64> used_pages_{0};
  std::atomic<u64> active_pins_{0};
  std::array<Reserve, kMaxWorkers> reserves_;
  std::unique_ptr<WindowCache> window_cache_;
  TrimTimer trim_timer_{*this};
};

// Counts up to `pages` against the limit; returns how many there was room for.
u64 FramesImpl::charge(u64 pages) {
  u64 used = used_pages_.load(std::memory_order_relaxed);
  for (;;) {
    u64 room = used < limit_pages_ ? limit_pages_ - used : 0;
    u64 n = std::min(pages, room);
    if (n == 0 || used_pages_.compare_exchange_weak(used, used + n, std::memory_order_relaxed)) return n;
  }
}

PageRange FramesImpl::take_from_reserve(Reserve& reserve, u64 pages) {
  SpinGuard guard(reserve.lock);
  PageRange& r = reserve.range;
  if (r.count < pages) {
    PageRange fresh = chunks_.take(kReservePages);
    if (fresh.count >= pages || r.count == 0) {
      if (r.count != 0) chunks_.give_back(r);
      r = fresh;
    } else if (fresh.count != 0) {
      chunks_.give_back(fresh);
    }
  }
  PageRange out{r.first, std::min(pages, r.count)};
  r.first += out.count;
  r.count -= out.count;
  return out;
}

PageRange FramesImpl::take(u64 pages) {
  if (pages <= kReserveRequest) {
    Worker* worker = Worker::current();
    if (worker && worker->index() < kMaxWorkers) return take_from_reserve(reserves_[worker->index()], pages);
  }
  return chunks_.take(pages);
}

PhysRun FramesImpl::hand_out(PageRange range, Fill fill) {
  u64 clear_from = 0, clear_count = 0;
  auto clear = [&] {
    if (clear_count != 0) std::memset(host_ptr(clear_from << kPageShift), 0, clear_count << kPageShift);
    clear_count = 0;
  };
  for (u64 f = range.first; f < range.first + range.count; f++) {
    u64 old = words_[f].load(std::memory_order_relaxed);
    words_[f].store(kDirty | 1, std::memory_order_relaxed);
    if (fill == Fill::kUninitialised || (old & kDirty) == 0) continue;
    if (clear_count != 0 && clear_from + clear_count != f) clear();
    if (clear_count == 0) clear_from = f;
    clear_count++;
  }
  clear();
  return {range.first << kPageShift, range.count << kPageShift};
}

Result<PhysRun> FramesImpl::allocate(u64 max_pages, Fill fill) {
  u64 n = charge(std::clamp<u64>(max_pages, 1, kChunkPages));
  if (n == 0) return err(ENOMEM);
  PageRange range = take(n);
  if (range.count < n) uncharge(n - range.count);
  if (range.count == 0) return err(ENOMEM);
  return hand_out(range, fill);
}

Result<PhysRun> FramesImpl::allocate_huge() {
  u64 n = charge(kChunkPages);
  PageRange range;
  if (n == kChunkPages) range = chunks_.take_whole();
  if (range.count == 0) {
    uncharge(n);
    return err(ENOMEM);
  }
  return hand_out(range, Fill::kZero);
}

void FramesImpl::ref(Phys p, u64 pages) {
  if (GuestMemory::in_window(p)) {
    window(p).refs.fetch_add(pages, std::memory_order_relaxed);
    return;
  }
  for (u64 i = 0; i < pages; i++) word(p + (i << kPageShift)).fetch_add(1, std::memory_order_relaxed);
}

u32 FramesImpl::ref_count(Phys p) const {
  if (GuestMemory::in_window(p)) {
    u64 refs = window(p).refs.load(std::memory_order_acquire);
    return static_cast<u32>(std::min<u64>(refs, ~0u));
  }
  return static_cast<u32>(word(p).load(std::memory_order_acquire) & kRefMask);
}

void FramesImpl::pin(Phys p, u64 pages) {
  if (GuestMemory::in_window(p)) return ref(p, pages);
  active_pins_.fetch_add(pages, std::memory_order_relaxed);
  for (u64 i = 0; i < pages; i++) word(p + (i << kPageShift)).fetch_add(1 + kPin, std::memory_order_relaxed);
}

void FramesImpl::unpin(Phys p, u64 pages) {
  if (!GuestMemory::in_window(p)) active_pins_.fetch_sub(pages, std::memory_order_relaxed);
  drop(p, pages, 1 + kPin);
}

bool FramesImpl::any_pinned(Phys p, u64 pages) const {
  if (GuestMemory::in_window(p) || active_pins_.load(std::memory_order_relaxed) == 0) return false;
  for (u64 i = 0; i < pages; i++)
    if ((word(p + (i << kPageShift)).load(std::memory_order_relaxed) & kPinMask) != 0) return true;
  return false;
}

u32 FramesImpl::owners(Phys p) const {
  if (GuestMemory::in_window(p)) return ref_count(p);
  u64 w = word(p).load(std::memory_order_acquire);
  return static_cast<u32>((w & kRefMask) - ((w & kPinMask) >> 32));
}

void FramesImpl::mark_file(Phys p, u64 pages) {
  for (u64 i = 0; i < pages; i++) word(p + (i << kPageShift)).fetch_or(kFile, std::memory_order_relaxed);
}

bool FramesImpl::is_file(Phys p) const {
  return GuestMemory::in_window(p) || (word(p).load(std::memory_order_relaxed) & kFile) != 0;
}

void FramesImpl::drop(Phys p, u64 pages, u64 amount) {
  if (GuestMemory::in_window(p)) return drop_window(p, pages);
  u64 first = p >> kPageShift, freed = 0, run = 0;
  // `run` frames before f are free now and not yet given back.
  auto flush = [&](u64 f) {
    if (run != 0) chunks_.give_back({f - run, run});
    freed += run;
    run = 0;
  };
  for (u64 f = first; f < first + pages; f++) {
    if (f % kChunkPages == 0) flush(f);
    u64 old = words_[f].fetch_sub(amount, std::memory_order_acq_rel);
    RF_CHECK((old & kRefMask) != 0, "reference of a free frame dropped");
    if ((old & kRefMask) != 1) {
      flush(f);
      continue;
    }
    words_[f].store(kDirty, std::memory_order_relaxed);
    run++;
  }
  flush(first + pages);
  if (freed == 0) return;
  uncharge(freed);
  u64 idle = chunks_.free_dirty_chunks();
  if (idle > kKeepMost) trim(kKeepMost / 2);
  // Outside the scheduler (at its end, in tests) nothing waits for a timer.
  if (idle > kKeepIdle && !trim_timer_.armed() && Worker::current()) trim_timer_.start();
}

void FramesImpl::drop_window(Phys p, u64 pages) {
  WindowRange& w = window(p);
  RF_CHECK(p % GuestMemory::kWindowChunk + (pages << kPageShift) <= GuestMemory::kWindowChunk,
           "references of more than one chunk of the file window dropped at once");
  u64 old = w.refs.fetch_sub(pages, std::memory_order_acq_rel);
  RF_CHECK(old >= pages, "reference of a free window page dropped");
  if (old != pages) return;
  Phys base = p & ~(GuestMemory::kWindowChunk - 1);
  memory_.unmap_window(base, std::exchange(w.len, 0));
}

// Every kIdleTime looks how many free chunks were never used since, and then gives that many back.
void FramesImpl::TrimTimer::expire() {
  ChunkMap& chunks = frames_.chunks_;
  if (excess_ == 0) {
    u64 unused = chunks.reset_low_water();
    excess_ = unused > kKeepIdle ? unused - kKeepIdle : 0;
  } else if (u64 now = chunks.free_dirty_chunks(); now > kKeepIdle) {
    frames_.trim(now - 1);
    excess_--;
  } else {
    excess_ = 0;
  }
  if (chunks.free_dirty_chunks() > kKeepIdle) arm(monotonic_now() + (excess_ != 0 ? kTrimInterval : kIdleTime));
}

// Gives the host free chunks back until `keep` are left.
void FramesImpl::trim(u64 keep) {
  std::vector<u32> victims = chunks_.detach_free_dirty(keep);
  std::sort(victims.begin(), victims.end());
  for (size_t i = 0; i < victims.size();) {
    size_t j = i + 1;
    while (j < victims.size() && victims[j] == victims[j - 1] + 1) j++;
    memory_.decommit(u64{victims[i]} * kHugePageSize, (j - i) * kHugePageSize);
    for (u64 f = victims[i] * kChunkPages; f < (victims[j - 1] + 1) * kChunkPages; f++)
      words_[f].store(0, std::memory_order_relaxed);
    i = j;
  }
  chunks_.attach_clean(victims);
}

void FramesImpl::adopt_window(Phys p, u64 len) {
  RF_CHECK(p % GuestMemory::kWindowChunk == 0 && len != 0 && len <= GuestMemory::kWindowChunk,
           "a window range that is not one chunk");
  WindowRange& w = window(p);
  RF_CHECK(w.refs.load(std::memory_order_relaxed) == 0, "a window range adopted twice");
  w.len = len;
  w.refs.store(len >> kPageShift, std::memory_order_release);
}

bool FramesImpl::window_idle(Phys p) const {
  const WindowRange& w = window(p);
  return w.refs.load(std::memory_order_acquire) == w.len >> kPageShift;
}

}  // namespace

std::unique_ptr<Frames> Frames::create(GuestMemory& memory, u64 limit) {
  return std::make_unique<FramesImpl>(memory, std::min(limit, GuestMemory::kWindowBase));
}

}  // namespace rf::mm
