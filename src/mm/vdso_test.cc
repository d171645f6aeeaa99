#include "mm/vdso.h"

#include <dlfcn.h>
#include <elf.h>
#include <time.h>

#include <cstring>
#include <thread>

#include "mm/mm_fixture.h"
#include "mm/vdso/clock_page.h"

namespace rf::mm {
namespace {

class VdsoTest : public MmTest {
 protected:
  const rf_clock_page& page() {
    PhysRun run = *clock_->image()->mappable().pin(0, kPageSize, false);
    auto* p = reinterpret_cast<const rf_clock_page*>(frames_->host_ptr(run.phys));
    frames_->unref(run.phys);
    return *p;
  }
  static Nanos host(clockid_t c) {
    timespec ts;
    clock_gettime(c, &ts);
    return ts.tv_sec * kNanosPerSecond + ts.tv_nsec;
  }
  bool settle() {  // until a line is published
    Nanos end = host(CLOCK_MONOTONIC) + kNanosPerSecond;
    while (page().max_ticks == 0 && host(CLOCK_MONOTONIC) < end) clock_->now(CLOCK_MONOTONIC);
    return page().max_ticks != 0;
  }
};

TEST_F(VdsoTest, TellsTheHostsTime) {
  settle();
  for (clockid_t c : {CLOCK_MONOTONIC, CLOCK_REALTIME}) {
    Nanos before = host(c), now = clock_->now(c), after = host(c);
    EXPECT_GE(now, before - 50'000);
    EXPECT_LE(now, after + 50'000);
  }
}

TEST_F(VdsoTest, MonotonicNeverGoesBack) {
  std::atomic<Nanos> last{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; t++) {
    threads.emplace_back([&] {
      Nanos end = host(CLOCK_MONOTONIC) + 100'000'000;
      while (host(CLOCK_MONOTONIC) < end) {
        Nanos seen = last.load();
        Nanos now = clock_->now(CLOCK_MONOTONIC);
        EXPECT_GE(now, seen);
        while (seen < now && !last.compare_exchange_weak(seen, now)) {
        }
      }
    });
  }
  for (auto& t : threads) t.join();
}

TEST_F(VdsoTest, ImageIsWhatGlibcReads) {
  const u64 size = clock_->image_size() - clock_->elf_offset();
  PhysRun run = *clock_->image()->mappable().pin(clock_->elf_offset(), size, false);
  ASSERT_EQ(run.len, size);
  const auto* base = reinterpret_cast<const char*>(frames_->host_ptr(run.phys));
  const auto* eh = reinterpret_cast<const Elf64_Ehdr*>(base);
  EXPECT_EQ(std::memcmp(eh->e_ident, ELFMAG, SELFMAG), 0);
  EXPECT_EQ(eh->e_type, ET_DYN);
  const auto* ph = reinterpret_cast<const Elf64_Phdr*>(base + eh->e_phoff);
  int loads = 0;
  for (int i = 0; i < eh->e_phnum; i++) {
    EXPECT_EQ(ph[i].p_offset, ph[i].p_vaddr);
    if (ph[i].p_type == PT_LOAD) {
      loads++;
      EXPECT_EQ(ph[i].p_flags, u32{PF_R | PF_X});
      EXPECT_EQ(ph[i].p_filesz, ph[i].p_memsz);
    }
  }
  EXPECT_EQ(loads, 1);
  // rt_sigreturn: mov $15, %eax; syscall
  const auto* restorer = base + clock_->restorer_offset() - clock_->elf_offset();
  EXPECT_EQ(std::memcmp(restorer, "\xb8\x0f\x00\x00\x00\x0f\x05", 7), 0);
  frames_->unref(run.phys, run.len >> kPageShift);
}

TEST_F(VdsoTest, CodeReadsTheClockPage) {
  if (!settle()) GTEST_SKIP() << "the TSC of this machine is not invariant";
  // The code finds the page by its place before the ELF header: run it where the sentry sees it.
  PhysRun run = *clock_->image()->mappable().pin(0, clock_->image_size(), false);
  std::byte* base = frames_->host_ptr(run.phys);
  if (mprotect(base, run.len, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) GTEST_SKIP() << "no executable memory";
  const char* elf = reinterpret_cast<const char*>(base) + clock_->elf_offset();
  const auto* eh = reinterpret_cast<const Elf64_Ehdr*>(elf);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(elf + eh->e_shoff);
  auto find = [&](const char* name) -> const void* {
    for (int i = 0; i < eh->e_shnum; i++) {
      if (sections[i].sh_type != SHT_DYNSYM) continue;
      const auto* symbols = reinterpret_cast<const Elf64_Sym*>(elf + sections[i].sh_offset);
      const char* names = elf + sections[sections[i].sh_link].sh_offset;
      for (u64 k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); k++)
        if (std::strcmp(names + symbols[k].st_name, name) == 0) return elf + symbols[k].st_value;
    }
    return nullptr;
  };
  auto gettime = reinterpret_cast<int (*)(int, timespec*)>(reinterpret_cast<u64>(find("__vdso_clock_gettime")));
  ASSERT_TRUE(gettime);
  for (int clock : {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW}) {
    int kind = clock == CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    Nanos before = clock_->now(kind);
    timespec ts{};
    ASSERT_EQ(gettime(clock, &ts), 0);
    Nanos told = ts.tv_sec * kNanosPerSecond + ts.tv_nsec;
    EXPECT_GE(told, before) << clock;
    EXPECT_LE(told, clock_->now(kind) + 1000) << clock;
  }
  timespec ts{};
  EXPECT_EQ(gettime(CLOCK_PROCESS_CPUTIME_ID, &ts), 0) << "by the system call";
  auto gettimeofday = reinterpret_cast<int (*)(timeval*, void*)>(reinterpret_cast<u64>(find("__vdso_gettimeofday")));
  timeval tv{};
  ASSERT_EQ(gettimeofday(&tv, nullptr), 0);
  EXPECT_NEAR(static_cast<double>(tv.tv_sec), static_cast<double>(time(nullptr)), 1);
  mprotect(base, run.len, PROT_READ | PROT_WRITE);
  frames_->unref(run.phys, run.len >> kPageShift);
}

TEST_F(VdsoTest, GuestsWithAnotherTscAreToldNothing) {
  settle();
  clock_->use_platform({.host_tsc = false});
  EXPECT_EQ(page().max_ticks, 0u);
  Nanos before = host(CLOCK_MONOTONIC), now = clock_->now(CLOCK_MONOTONIC);
  EXPECT_GE(now, before);
  EXPECT_EQ(page().max_ticks, 0u);
}

}  // namespace
}  // namespace rf::mm
