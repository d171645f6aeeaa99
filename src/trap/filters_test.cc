// What the seccomp filters of stub processes let through, tried call by call: a child with the filter makes each call
// from a page at the stub's code and from one elsewhere, and tells which ones raised SIGSYS.
#include "trap/filters.h"

#include <asm/prctl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <set>

#include "core/sanitizer.h"
#include "trap/stub_code.h"

namespace rf::trap {
namespace {

constexpr u64 kElsewhere = 0x10'0000'0000;
// mov %rdi, %rax; mov %rsi, %rdi; mov %rdx, %rsi; mov %rcx, %rdx; xor %r10d, %r10d; syscall; ret
constexpr u8 kCall[] = {0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6,
                        0x48, 0x89, 0xca, 0x45, 0x31, 0xd2, 0x0f, 0x05, 0xc3};
// The same with int $0x80: the number is in eax, the arguments in ebx, ecx and edx, which the 64-bit filter never sees.
constexpr u8 kOldCall[] = {0x53, 0x89, 0xf8, 0x89, 0xf3, 0x48, 0x89, 0xd1, 0xcd, 0x80, 0x5b, 0xc3};
constexpr u64 kOldCallAt = 64;

constexpr u64 kX32 = 0x40000000;
// Nothing is mapped there, so what gets through has no effect.
constexpr u64 kNowhere = 0x6000'0000'0000;

jmp_buf g_back;

// Not back by sigreturn, which is a call as well. SIGSEGV: a kernel without int $0x80.
void on_refusal(int) { ::longjmp(g_back, 1); }

bool map_code(u64 va) {
  void* p = ::mmap(reinterpret_cast<void*>(va), kTextSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (p != reinterpret_cast<void*>(va)) return false;
  std::memcpy(p, kCall, sizeof kCall);
  std::memcpy(static_cast<char*>(p) + kOldCallAt, kOldCall, sizeof kOldCall);
  return ::mprotect(p, kTextSize, PROT_READ | PROT_EXEC) == 0;
}

struct Call {
  u64 place, number, a, b;
  auto operator<=>(const Call&) const = default;
};

// Those of the calls that the filter lets through.
class FilterTest : public testing::Test {
 protected:
  void SetUp() override {
    if (RF_ASAN || RF_TSAN) GTEST_SKIP() << "sanitizers have that address";
  }

  std::set<Call> passed(FilterProgram filter, const std::vector<Call>& calls) {
    const size_t size = calls.size();
    auto* passed =
        static_cast<volatile u8*>(::mmap(nullptr, size + 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const pid_t child = ::fork();
    if (child == 0) {
      struct sigaction action {};
      action.sa_handler = on_refusal;
      action.sa_flags = SA_NODEFER;
      const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
      if (!map_code(kText) || !map_code(kElsewhere) || ::sigaction(SIGSYS, &action, nullptr) != 0 ||
          ::sigaction(SIGSEGV, &action, nullptr) != 0 || ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
          ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        ::_exit(1);                               // NOLINT: with the filter it is a SIGSYS, and the loop below
      for (static size_t i = 0; i < size; ++i) {  // not in a register that longjmp() turns back
        const Call& c = calls[i];
        if (_setjmp(g_back) != 0) continue;
        reinterpret_cast<u64 (*)(u64, u64, u64, u64)>(c.place)(c.number, c.a, c.b, kNowhere);
        passed[i] = 1;
      }
      passed[size] = 1;
      __builtin_trap();  // no call to leave by
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGILL) << "status " << status;
    EXPECT_EQ(passed[size], 1) << "the child did not get to the end";
    std::set<Call> result;
    for (size_t i = 0; i < size; ++i)
      if (passed[i]) result.insert(calls[i]);
    ::munmap(const_cast<u8*>(passed), size + 1);
    return result;
  }
};

TEST_F(FilterTest, GuestThreadsMayDoLittle) {
  // Every number there is and will be for long, those of the x32 ABI, and the odd ones.
  std::vector<u64> numbers;
  // But for uretprobe and uprobe, which Linux hides from all filters: they raise SIGILL unless a probe's code makes
  // them.
  for (u64 n = 0; n < 1100; ++n)
    if (n != 335 && n != 336) numbers.push_back(n), numbers.push_back(n | kX32);
  for (u64 n : {u64{0x7fffffff}, u64{0x80000000}, u64{0xffffffff}, ~u64{0}, u64{SYS_getpid} | u64{1} << 32})
    numbers.push_back(n);
  std::vector<Call> calls;
  for (u64 place : {kText, kElsewhere, kText + kOldCallAt, kElsewhere + kOldCallAt})
    for (u64 n : numbers)
      if (n != SYS_futex && n != SYS_arch_prctl && n != SYS_sched_setaffinity)
        calls.push_back({place, n, kNowhere, kNowhere});
  const Call yield{kText, SYS_sched_yield, kNowhere, kNowhere}, rseq{kText, SYS_rseq, kNowhere, kNowhere};
  EXPECT_EQ(passed(guest_filter(), calls), (std::set<Call>{yield, rseq}));
}

TEST_F(FilterTest, GuestThreadsMaySetTheirOwnAffinityOnly) {
  std::vector<Call> calls;
  for (u64 place : {kText, kElsewhere})
    for (u64 tid : {u64{0}, u64{1}, u64{2}, static_cast<u64>(::getpid()), u64{0xffffffff}})
      calls.push_back({place, SYS_sched_setaffinity, tid, 128});
  const Call own{kText, SYS_sched_setaffinity, 0, 128};
  EXPECT_EQ(passed(guest_filter(), calls), std::set<Call>{own});
}

TEST_F(FilterTest, GuestThreadsHaveTwoFutexOperations) {
  std::vector<Call> calls;
  for (u64 place : {kText, kElsewhere})
    for (u64 op = 0; op < 1024; ++op) calls.push_back({place, SYS_futex, kNowhere, op});
  for (const Call& c : passed(guest_filter(), calls)) {
    EXPECT_EQ(c.place, kText);
    EXPECT_TRUE(c.b == FUTEX_WAIT || c.b == FUTEX_WAKE) << c.b;
  }
  EXPECT_EQ(passed(guest_filter(), calls).size(), 2u);
}

TEST_F(FilterTest, GuestThreadsHaveTwoArchPrctls) {
  std::vector<Call> calls;
  for (u64 place : {kText, kElsewhere})
    for (u64 option = 0; option < 0x6000; ++option)
      // FS at the child's own thread block would be pulled away from under it: an address that is refused.
      calls.push_back({place, SYS_arch_prctl, option, u64{1} << 63});
  for (const Call& c : passed(guest_filter(), calls)) {
    EXPECT_EQ(c.place, kText);
    EXPECT_TRUE(c.a == ARCH_SET_FS || c.a == ARCH_SET_GS) << c.a;
  }
  EXPECT_EQ(passed(guest_filter(), calls).size(), 2u);
}

}  // namespace
}  // namespace rf::trap
