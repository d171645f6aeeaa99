// The clock page and the image around it.
//
// The page's line is fitted to the host's CLOCK_MONOTONIC: its rate is measured between samples, at least a second
// apart once the sandbox is that old. A line never continues below what the one before has told: when the host's clock
// is behind, the new line starts where the old one ended and runs slower until both meet.
#include "mm/vdso.h"

#include <cpuid.h>
#include <elf.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "core/check.h"
#include "core/cycles.h"
#include "core/spinlock.h"
#include "mm/vdso/clock_page.h"

extern "C" {
extern const char rf_vdso_start[], rf_vdso_end[];
}

namespace rf::mm {
namespace {

constexpr u32 kShift = 32;
// Before that much time between samples the rate is not known well enough.
constexpr Nanos kFirstBaseline = 500'000;
constexpr Nanos kBaseline = kNanosPerSecond;
// A line is used no longer than the time its rate was measured over, and no longer than this.
constexpr Nanos kMaxAge = kNanosPerSecond;
// Differences of CLOCK_REALTIME and CLOCK_MONOTONIC below this are errors of measurement.
constexpr Nanos kOffsetNoise = 2'000;

Nanos host_clock(clockid_t clock) {
  timespec ts{};
  clock_gettime(clock, &ts);
  return ts.tv_sec * kNanosPerSecond + ts.tv_nsec;
}

bool invariant_tsc() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & (1u << 8)) != 0;
}

bool has_rdpid() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 22)) != 0;
}

struct Sample {
  u64 tsc = 0;
  Nanos monotonic = 0;
  Nanos realtime_offset = 0;
};

// The TSC and the host's clocks at one moment, as nearly as can be told.
Sample take_sample() {
  Sample best;
  u64 best_span = ~u64{0};
  for (int i = 0; i < 4; i++) {
    u64 before = cycles();
    Nanos m = host_clock(CLOCK_MONOTONIC);
    u64 after = cycles();
    if (after - before >= best_span) continue;
    best_span = after - before;
    best.tsc = before + best_span / 2;
    best.monotonic = m;
  }
  Nanos best_gap = kNever;
  for (int i = 0; i < 2; i++) {
    Nanos m1 = host_clock(CLOCK_MONOTONIC), r = host_clock(CLOCK_REALTIME), m2 = host_clock(CLOCK_MONOTONIC);
    if (m2 - m1 >= best_gap) continue;
    best_gap = m2 - m1;
    best.realtime_offset = r - (m1 + best_gap / 2);
  }
  return best;
}

// The clock page and the ELF image, in one run of the memory file.
class VdsoPages final : public Mappable {
 public:
  VdsoPages(Frames& frames, PhysRun run) : frames_(frames), run_(run) {}
  ~VdsoPages() override { frames_.unref(run_.phys, run_.len >> kPageShift); }
  Result<PhysRun> pin(u64 offset, u64 len, bool) override {
    if (offset >= run_.len) return err(ENXIO);
    PhysRun part{run_.phys + offset, std::min(len, run_.len - offset)};
    frames_.ref(part.phys, part.len >> kPageShift);
    return part;
  }

 private:
  Frames& frames_;
  const PhysRun run_;
};

class VdsoImage final : public MapObject {
 public:
  VdsoImage(Frames& frames, PhysRun run) : pages_(frames, run) {}
  Mappable& mappable() override { return pages_; }
  // No device and no inode: /proc/PID/maps shows the VMA's name alone.
  Identity identity() const override { return {}; }

 private:
  VdsoPages pages_;
};

class Clock final : public VdsoClock {
 public:
  Clock(Frames& frames, PhysRun run)
      : image_(make_ref<VdsoImage>(frames, run)),
        size_(run.len),
        page_(reinterpret_cast<rf_clock_page*>(frames.host_ptr(run.phys))),
        usable_(invariant_tsc()),
        anchor_(take_sample()),
        first_monotonic_(anchor_.monotonic) {}

  Nanos now(int clock) override;
  void use_platform(const platform::Capabilities& capabilities) override;
  Ref<MapObject> image() override { return image_; }
  u64 image_size() const override { return size_; }
  u64 elf_offset() const override { return RF_CLOCK_PAGE_SIZE; }
  u64 restorer_offset() const override;

 private:
  template <class T>
  static T load(T& field) {
    return std::atomic_ref(field).load(std::memory_order_relaxed);
  }
  template <class T>
  static void store(T& field, std::type_identity_t<T> value) {
    std::atomic_ref(field).store(value, std::memory_order_relaxed);
  }
  bool read_page(rf_clock_page& out) const;
  Nanos refresh(bool realtime);
  void publish(const Sample& s, u64 mult, Nanos base, Nanos valid);
  u64 told_at(u64 tsc) const;

  const Ref<MapObject> image_;
  const u64 size_;
  rf_clock_page* const page_;
  std::atomic<bool> usable_;  // the TSC is steady, and the same in guests

  SpinLock lock_;  // of what follows, and of writing the page
  Sample anchor_;  // where the rate is measured from
  const Nanos first_monotonic_;
  u64 rate_ = 0;     // the last one measured; 0: none
  Nanos floor_ = 0;  // CLOCK_MONOTONIC has told this
};

// A consistent copy, monotonic_ns brought to this moment. False while the sentry writes, and when the line is too old.
bool Clock::read_page(rf_clock_page& out) const {
  u32 sequence = std::atomic_ref(page_->sequence).load(std::memory_order_acquire);
  if ((sequence & 1) != 0) return false;
  out = {.sequence = sequence,
         .shift = load(page_->shift),
         .max_ticks = load(page_->max_ticks),
         .base_tsc = load(page_->base_tsc),
         .mult = load(page_->mult),
         .monotonic_ns = load(page_->monotonic_ns),
         .realtime_offset = load(page_->realtime_offset)};
  asm volatile("lfence" ::: "memory");
  u64 ticks = cycles() - out.base_tsc;
  // The CPU keeps loads in order; the compiler must as well.
  asm volatile("" ::: "memory");
  if (load(page_->sequence) != sequence || ticks >= out.max_ticks) return false;
  out.monotonic_ns = rf_clock_line(&out, ticks);
  return true;
}

Nanos Clock::now(int clock) {
  bool realtime = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
  if (!usable_.load(std::memory_order_relaxed)) return host_clock(realtime ? CLOCK_REALTIME : CLOCK_MONOTONIC);
  rf_clock_page p;
  if (read_page(p)) return static_cast<Nanos>(p.monotonic_ns + (realtime ? p.realtime_offset : 0));
  SpinGuard guard(lock_);
  // Another thread may have refreshed it meanwhile.
  if (read_page(p)) return static_cast<Nanos>(p.monotonic_ns + (realtime ? p.realtime_offset : 0));
  return refresh(realtime);
}

// The most that readers of the published line can have been told by `tsc`.
u64 Clock::told_at(u64 tsc) const {
  u64 ticks = tsc - page_->base_tsc;
  return rf_clock_line(page_, std::min(ticks, page_->max_ticks));
}

// Measures anew. lock_ is held.
Nanos Clock::refresh(bool realtime) {
  if (page_->max_ticks != 0) floor_ = std::max(floor_, static_cast<Nanos>(told_at(cycles())));
  Sample s = take_sample();
  Nanos elapsed = s.monotonic - anchor_.monotonic;
  Nanos value = std::max(s.monotonic, floor_);
  Nanos offset_change = s.realtime_offset - static_cast<Nanos>(page_->realtime_offset);
  if (page_->max_ticks != 0 && std::abs(offset_change) < kOffsetNoise)
    s.realtime_offset = static_cast<Nanos>(page_->realtime_offset);

  u64 rate = 0;
  if (s.tsc > anchor_.tsc && elapsed >= kFirstBaseline)
    rate = static_cast<u64>((static_cast<unsigned __int128>(elapsed) << kShift) / (s.tsc - anchor_.tsc));
  // A jump of the TSC (a moved or resumed virtual machine) shows as an impossible rate.
  bool jumped =
      s.tsc <= anchor_.tsc || (rate_ != 0 && rate != 0 && (rate < rate_ - rate_ / 64 || rate > rate_ + rate_ / 64));
  if (jumped) {
    rate_ = 0;
    anchor_ = s;
    publish(s, 0, value, 0);
  } else if (rate != 0) {
    Nanos valid = std::min({kMaxAge, std::max(elapsed, s.monotonic - first_monotonic_)});
    u64 mult = rate;
    if (value > s.monotonic) {
      // Ahead of the host: slower, but not standing, until the line ends.
      Nanos ahead = std::min(value - s.monotonic, valid / 2);
      mult = static_cast<u64>(static_cast<unsigned __int128>(rate) * static_cast<u64>(valid - ahead) /
                              static_cast<u64>(valid));
    }
    rate_ = rate;
    if (elapsed >= kBaseline) anchor_ = s;
    publish(s, mult, value, valid);
  }
  floor_ = std::max(floor_, value);
  return value + (realtime ? s.realtime_offset : 0);
}

void Clock::publish(const Sample& s, u64 mult, Nanos base, Nanos valid) {
  u32 sequence = page_->sequence;
  // A full barrier: readers must see the odd count before they can see a later TSC.
  std::atomic_ref(page_->sequence).exchange(sequence + 1, std::memory_order_seq_cst);
  u64 max_ticks = 0;
  if (mult != 0) max_ticks = static_cast<u64>((static_cast<unsigned __int128>(valid) << kShift) / mult);
  // Readers of the old line may have got a little further since the sample was taken.
  if (page_->max_ticks != 0) base = std::max(base, static_cast<Nanos>(told_at(s.tsc)));
  store(page_->shift, kShift);
  store(page_->max_ticks, max_ticks);
  store(page_->base_tsc, s.tsc);
  store(page_->mult, mult);
  store(page_->monotonic_ns, static_cast<u64>(base));
  store(page_->realtime_offset, static_cast<u64>(s.realtime_offset));
  std::atomic_ref(page_->sequence).store(sequence + 2, std::memory_order_release);
}

void Clock::use_platform(const platform::Capabilities& capabilities) {
  u32 how = RF_CPU_BY_SYSCALL;
  if (capabilities.cpu_in_tsc_aux) how = has_rdpid() ? RF_CPU_BY_RDPID : RF_CPU_BY_RDTSCP;
  store(page_->cpu_number, how);
  if (capabilities.host_tsc || !usable_.load(std::memory_order_relaxed)) return;
  SpinGuard guard(lock_);
  usable_.store(false, std::memory_order_relaxed);
  publish(anchor_, 0, floor_, 0);
}

u64 Clock::restorer_offset() const {
  static const u64 offset = [] {
    const char* base = rf_vdso_start;
    Elf64_Ehdr eh;
    std::memcpy(&eh, base, sizeof eh);
    const auto* sections = reinterpret_cast<const Elf64_Shdr*>(base + eh.e_shoff);
    for (u32 i = 0; i < eh.e_shnum; i++) {
      if (sections[i].sh_type != SHT_DYNSYM) continue;
      const char* names = base + sections[sections[i].sh_link].sh_offset;
      const auto* symbols = reinterpret_cast<const Elf64_Sym*>(base + sections[i].sh_offset);
      for (u64 k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); k++)
        if (std::strcmp(names + symbols[k].st_name, "__kernel_rt_sigreturn") == 0) return u64{symbols[k].st_value};
    }
    return u64{0};
  }();
  return RF_CLOCK_PAGE_SIZE + offset;
}

}  // namespace

Result<std::unique_ptr<VdsoClock>> VdsoClock::create(Frames& frames) {
  const u64 elf_size = static_cast<u64>(rf_vdso_end - rf_vdso_start);
  const u64 pages = 1 + (page_up(elf_size) >> kPageShift);
  PhysRun run = TRY(frames.allocate(pages, Fill::kZero));
  if (run.len >> kPageShift != pages) {
    frames.unref(run.phys, run.len >> kPageShift);
    return err(ENOMEM);
  }
  frames.mark_file(run.phys, pages);
  std::memcpy(frames.host_ptr(run.phys) + RF_CLOCK_PAGE_SIZE, rf_vdso_start, elf_size);
  return std::make_unique<Clock>(frames, run);
}

}  // namespace rf::mm
