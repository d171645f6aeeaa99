#include "core/fault.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <mutex>

#include "core/test_scheduler.h"

namespace rf {
namespace {

std::atomic<int> g_fixed{0};
void* g_page = nullptr;

bool fix_page(int sig, siginfo_t* info, void*) noexcept {
  if (sig != SIGSEGV || info->si_addr != g_page) return false;
  g_fixed++;
  return mprotect(g_page, 4096, PROT_READ | PROT_WRITE) == 0;
}

TEST(FaultTest, AFixupContinuesTheFiber) {
  g_page = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(g_page, MAP_FAILED);
  static std::once_flag added;
  std::call_once(added, [] { add_fault_fixup(fix_page); });
  g_fixed = 0;
  run_fibers(1, [] {
    auto* p = static_cast<volatile int*>(g_page);
    *p = 7;
    EXPECT_EQ(*p, 7);
  });
  EXPECT_EQ(g_fixed, 1);
  munmap(g_page, 4096);
}

TEST(FaultDeathTest, AWildPointerNamesTheFiberAndTheAddress) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(run_fibers(1,
                         [] {
                           spawn("stray", [] {
                             auto* p = reinterpret_cast<volatile int*>(0x7fffdeadb000 + getpid() * 0);
                             *p = 1;
                           });
                           park(Interruptible::kNo);
                         }),
              testing::ExitedWithCode(125), "SIGSEGV in fiber stray at address 0x7fffdeadb000");
}

TEST(FaultDeathTest, ReportsAreAddedToTheMessage) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        add_crash_report([](int fd) noexcept { dprintf(fd, "last words\n"); });
        RF_CHECK(false, "over");
      },
      testing::ExitedWithCode(125), "last words");
}

TEST(FaultDeathTest, AbortIsReported) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        install_fault_handlers();
        abort();
      },
      testing::ExitedWithCode(125), "SIGABRT in no fiber");
}

}  // namespace
}  // namespace rf
