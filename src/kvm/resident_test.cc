// Ring-0 mode from the inside. It needs a hardware KVM and a static executable, so these tests run as `ring0_test`, and
// in the machine of tools/svm-vm.
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "core/fault.h"
#include "kvm/kvm_fixture.h"
#include "kvm/mode.h"

namespace rf::kvm {
namespace {

RF_GUEST(ring0_caller, "1: syscall\n inc %rbx\n jmp 1b")
RF_GUEST(ring0_spinner, "1: inc %rbx\n jmp 1b")
RF_GUEST(ring0_toucher, "1: mov %rbx,(%rbx)\n syscall\n jmp 1b")
RF_GUEST(ring0_vector_keeper, "movq %rbx,%xmm3\n 1: syscall\n movq %xmm3,%rax\n jmp 1b")

class ResidentTest : public KvmTest {
 protected:
  void SetUp() override { start_ring0(1); }

  void start_ring0(u32 vcpus) {
    start(vcpus);
    if (IsSkipped()) return;
    if (auto obstacle = ring0_obstacle(platform_->vm(), platform_->vcpus().at(0)))
      GTEST_SKIP() << "no ring-0 mode here: " << *obstacle;
    platform_.reset();
    auto platform = Platform::create({.vcpus = vcpus, .kvm_mode = platform::KvmMode::kRing0}, *memory_);
    ASSERT_TRUE(platform) << platform.error().message;
    platform_ = *std::move(platform);
    vcpus_ = vcpus;
  }

  // Runs `body` on a fiber in ring 0.
  void in_ring0(const std::function<void()>& body) {
    SchedulerOptions o = test_options(vcpus_);
    o.run_loop = [this](u32 worker, const std::function<void()>& loop) { platform_->run_loop(worker, loop); };
    o.leave_fiber = platform_->leave_fiber();
    run_fibers(std::move(o), body);
  }
  u64 exits() {
    u64 n = 0;
    for (u32 i = 0; i < vcpus_; ++i) n += platform_->vcpus().at(i).counters.exits;
    return n;
  }
  u32 vcpus_ = 1;
};

u16 code_segment() {
  u16 cs;
  asm volatile("mov %%cs, %0" : "=r"(cs));
  return cs;
}

TEST_F(ResidentTest, SentryCodeRunsInRing0AndMakesHostCalls) {
  const pid_t pid = getpid();
  u16 cs = 3;
  pid_t seen = 0;
  in_ring0([&] {
    cs = code_segment();
    seen = static_cast<pid_t>(syscall(SYS_getpid));
  });
  EXPECT_EQ(cs & 3, 0);
  EXPECT_EQ(seen, pid);
  EXPECT_GE(platform_->vcpus().at(0).resident()->counters.host_calls[SYS_getpid].load(), 1u);
}

TEST_F(ResidentTest, GuestCallsExitNowhere) {
  u64 before = 0, after = 0, count = 0;
  in_ring0([&] {
    auto c = make_context();
    auto as = make_space(ring0_caller);
    Registers r = start_registers();
    for (int i = 0; i < 10; ++i) (void)run(*c, *as, r);
    before = exits();
    for (int i = 0; i < 20000; ++i) RF_CHECK(run(*c, *as, r).kind == Exit::Kind::kSyscall);
    after = exits();
    count = r.rbx;
  });
  EXPECT_EQ(count, 20009u);
  EXPECT_LE(after - before, 10u);
}

TEST_F(ResidentTest, MappingsAreFollowed) {
  in_ring0([&] {
    constexpr size_t kSize = 8 << 20;
    for (int round = 0; round < 5; ++round) {
      void* p = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      RF_CHECK(p != MAP_FAILED);
      std::memset(p, round + 1, kSize);
      RF_CHECK(mprotect(p, kSize, PROT_READ) == 0);
      RF_CHECK(static_cast<char*>(p)[kSize - 1] == round + 1);
      RF_CHECK(mprotect(p, kSize, PROT_READ | PROT_WRITE) == 0);
      std::memset(p, round + 2, kSize);
      void* q = mremap(p, kSize, 2 * kSize, MREMAP_MAYMOVE);
      RF_CHECK(q != MAP_FAILED && static_cast<char*>(q)[kSize - 1] == round + 2 && static_cast<char*>(q)[kSize] == 0);
      RF_CHECK(munmap(q, 2 * kSize) == 0);
    }
  });
}

TEST_F(ResidentTest, AWriteToWhatTheHostProtectsIsNotedThoughTheGuestTablesAllowIt) {
  static volatile bool caught;
  caught = false;
  add_fault_fixup([](int, siginfo_t*, void* context) noexcept {
    greg_t& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
    caught = true;
    rip += 2;  // mov %al,(%rdi)
    return true;
  });
  in_ring0([&] {
    void* p = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *static_cast<volatile char*>(p) = 1;
    mprotect(p, kPageSize, PROT_READ);
    asm volatile("mov %%al, (%%rdi)" : : "D"(p), "a"(2) : "memory");
    RF_CHECK(*static_cast<volatile char*>(p) == 1);
  });
  EXPECT_TRUE(caught);
}

TEST_F(ResidentTest, PageFaultsArriveWithoutAnExit) {
  in_ring0([&] {
    auto c = make_context();
    auto as = make_space(ring0_toucher);
    Phys p = take_pages(64);
    std::memset(at(p), 1, 64 * kPageSize);
    Registers r = start_registers();
    u64 before = 0;
    for (u64 i = 0; i < 64; ++i) {
      if (i == 8) before = exits();
      r.rbx = kData + i * kPageSize;
      Exit e = run(*c, *as, r);
      RF_CHECK(e.kind == Exit::Kind::kPageFault && e.address == r.rbx && e.access == Access::kWrite && !e.present);
      RF_CHECK(as->map(r.rbx, p + i * kPageSize, kPageSize, kRw).has_value());
      e = run(*c, *as, r);
      RF_CHECK(e.kind == Exit::Kind::kSyscall && word(p + i * kPageSize) == r.rbx);
    }
    RF_CHECK(exits() - before <= 10);
  });
}

TEST_F(ResidentTest, VectorStateSurvivesTheSentrysUseAndOtherContexts) {
  in_ring0([&] {
    auto a = make_context(), b = make_context();
    auto as = make_space(ring0_vector_keeper);
    Registers ra = start_registers(), rb = start_registers();
    ra.rbx = 0x1111, rb.rbx = 0x2222;
    (void)run(*a, *as, ra);
    (void)run(*b, *as, rb);
    for (int i = 0; i < 200; ++i) {
      if (i % 3 == 0) asm volatile("pcmpeqd %%xmm3, %%xmm3" : : : "xmm3");
      if (i % 5 == 0) yield();
      (void)run(*a, *as, ra);
      RF_CHECK(ra.rax == 0x1111);
      if (i % 2 == 0) continue;
      (void)run(*b, *as, rb);
      RF_CHECK(rb.rax == 0x2222);
    }
  });
}

TEST_F(ResidentTest, APendingInterruptKeepsTheGuestOut) {
  in_ring0([&] {
    auto c = make_context();
    auto as = make_space(ring0_spinner);
    Registers r = start_registers();
    for (int i = 0; i < 20; ++i) {
      const u64 before = r.rbx;
      c->interrupt();
      Exit e = c->run(*as, r);  // pending: nothing runs
      RF_CHECK(e.kind == Exit::Kind::kInterrupted && r.rbx == before);
    }
  });
}

TEST_F(ResidentTest, AnotherWorkerStopsASpinningGuest) {
  start_ring0(2);
  if (IsSkipped()) return;
  in_ring0([&] {
    Countdown countdown(1);
    auto c = make_context();
    auto as = make_space(ring0_spinner);
    std::atomic<int> rounds{0};
    spawn("spinner", [&] {
      Registers r = start_registers();
      for (int i = 0; i < 50; ++i) {
        while (c->run(*as, r).kind != Exit::Kind::kInterrupted) {
        }
        rounds.fetch_add(1);
        yield();
      }
      countdown.done();
    });
    while (rounds.load() < 50) {
      c->interrupt();
      (void)sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
    }
    countdown.wait();
  });
}

// Whose turn begins with a host call, because the alarm must be set, must not lose it to that.
TEST_F(ResidentTest, ThoseWhoComputeTakeTurnsOnOneVcpu) {
  in_ring0([&] {
    constexpr u32 kGuests = 2, kTurns = 5;
    Countdown countdown(kGuests);
    std::atomic<u32> enough{0};
    const Nanos give_up = monotonic_now() + 20'000 * kMillisecond;
    for (u32 i = 0; i < kGuests; ++i)
      spawn("spinner", [&] {
        auto c = make_context();
        auto as = make_space(ring0_spinner);
        Registers r = start_registers();
        u32 turns = 0;
        while (enough < kGuests && monotonic_now() < give_up) {
          const u64 before = r.rbx;
          (void)c->run(*as, r);
          if (r.rbx != before && ++turns == kTurns) enough++;
          yield();
        }
        countdown.done();
      });
    countdown.wait();
    RF_CHECK(enough == kGuests);
  });
}

TEST_F(ResidentTest, NonMaskableInterruptsAreHarmless) {
  in_ring0([&] {
    const int fd = platform_->vcpus().at(0).fd();
    auto c = make_context();
    auto as = make_space(ring0_caller);
    Registers r = start_registers();
    for (int i = 0; i < 200; ++i) {
      RF_CHECK(ioctl(fd, KVM_NMI, 0) == 0);
      RF_CHECK(run(*c, *as, r).kind == Exit::Kind::kSyscall);
    }
    RF_CHECK(r.rbx == 199);
  });
}

class ResidentDeathTest : public ResidentTest {
 protected:
  // In the test's child process, which cannot use its parent's virtual machine.
  void crash_in_ring0(const std::function<void()>& body) {
    start_ring0(1);
    in_ring0(body);
  }
};

TEST_F(ResidentDeathTest, FaultsOfTheSentryAreReportedAsOnTheHost) {
  struct Case {
    void (*crash)();
    const char* report;
  };
  static const Case cases[] = {
      {[] { asm volatile("mov %%rax, (%%rax)"
                         :
                         : "a"(0x18)); }, "SIGSEGV in fiber test at address 0x18"},
      {[] { asm volatile("mov (%%rax), %%rax"
                         :
                         : "a"(1ull << 63)); }, "SIGSEGV in fiber test"},
      {[] { asm volatile("ud2"); }, "SIGILL in fiber test"},
      {[] { asm volatile("xor %%ecx, %%ecx\n div %%ecx"
                         :
                         :
                         : "eax", "ecx", "edx"); }, "SIGFPE in fiber test"},
      {[] { asm volatile("int3"); }, "SIGTRAP in fiber test"},
      {[] {
         asm volatile("pushf\n orl $0x100, (%%rsp)\n popf\n nop" ::: "cc", "memory");
       },
       "SIGTRAP in fiber test"},
      {[] { asm volatile("mov %%rax, (%%rax)"
                         :
                         : "a"(code_segment)); }, "SIGSEGV in fiber test"},
      {[] { syscall(SYS_fork); }, "SIGSYS in fiber test"},
      {[] { RF_CHECK(false, "on purpose"); }, "check failed"},
  };
  for (const Case& c : cases)
    EXPECT_EXIT(crash_in_ring0(c.crash), testing::ExitedWithCode(kInternalErrorStatus), c.report) << c.report;
}

// Those that instructions of ring 0 do not raise as well, machine check and double fault among them: KVM is told that
// the exception has just happened. (Of a breakpoint it would skip the instruction.)
TEST_F(ResidentDeathTest, EveryVectorIsReported) {
  struct Case {
    u8 vector;
    bool has_error;
    const char* report;
  };
  static const Case cases[] = {
      {0, false, "SIGFPE in"},  {1, false, "SIGTRAP in"}, {6, false, "SIGILL in"},  {8, true, "SIGSEGV in"},
      {10, true, "SIGSEGV in"}, {11, true, "SIGSEGV in"}, {12, true, "SIGBUS in"},  {13, true, "SIGSEGV in"},
      {16, false, "SIGFPE in"}, {17, true, "SIGBUS in"},  {18, false, "SIGBUS in"}, {19, false, "SIGFPE in"},
  };
  for (const Case& c : cases) {
    auto crash = [&] {
      const int fd = platform_->vcpus().at(0).fd();
      kvm_vcpu_events events{};
      RF_CHECK(ioctl(fd, KVM_GET_VCPU_EVENTS, &events) == 0);
      events.exception.injected = 1;
      events.exception.nr = c.vector;
      events.exception.has_error_code = c.has_error;
      RF_CHECK(ioctl(fd, KVM_SET_VCPU_EVENTS, &events) == 0);
    };
    EXPECT_EXIT(crash_in_ring0(crash), testing::ExitedWithCode(kInternalErrorStatus), c.report) << int{c.vector};
  }
}

TEST_F(ResidentDeathTest, StackOverflowNamesTheFiber) {
  struct Deep {
    [[gnu::noinline]] static int fall(volatile char* above) {
      volatile char frame[512];
      frame[0] = *above;
      return frame[0] == 1 ? 0 : fall(frame) + frame[0];  // it is never 1
    }
  };
  EXPECT_EXIT(crash_in_ring0([] {
                volatile char top = 0;
                Deep::fall(&top);
              }),
              testing::ExitedWithCode(kInternalErrorStatus), "stack overflow in fiber test");
}

}  // namespace
}  // namespace rf::kvm
