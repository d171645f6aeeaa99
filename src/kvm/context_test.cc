#include <signal.h>

#include "kvm/kvm_fixture.h"

namespace rf::kvm {
namespace {

RF_GUEST(syscall_loop, "1: syscall\n jmp 1b")
RF_GUEST(read_loop, "1: mov (%rbx),%rax\n syscall\n jmp 1b")
RF_GUEST(write_once, "mov %rax,(%rbx)\n syscall")
RF_GUEST(call_rbx, "call *%rbx\n syscall")
RF_GUEST(spin, "1: inc %r12\n jmp 1b")

class ContextTest : public KvmTest {};

TEST_F(ContextTest, SyscallShowsRegistersAndResumes) {
  run_fibers(1, [&] {
    auto as = make_space(syscall_loop);
    auto c = make_context();
    Registers r = start_registers();
    r.rax = 39, r.rdi = 1, r.rsi = 2, r.rdx = 3, r.r10 = 4, r.r8 = 5, r.r9 = 6;
    r.rbx = 7, r.rbp = 8, r.r12 = 9, r.r13 = 10, r.r14 = 11, r.r15 = 12;
    r.fs_base = 0x1234'5000, r.gs_base = 0x5678'9000;
    for (u64 i = 0; i < 10; ++i) {
      r.rax = i;
      Exit e = run(*c, *as, r);
      ASSERT_EQ(e.kind, Exit::Kind::kSyscall);
      EXPECT_EQ(r.orig_rax, i);
      EXPECT_EQ(r.rip, kCode + 2);
      EXPECT_EQ(r.rcx, kCode + 2);
      EXPECT_EQ(r.rsp, kStack);
      EXPECT_EQ(r.rdi, 1u);
      EXPECT_EQ(r.rsi, 2u);
      EXPECT_EQ(r.rdx, 3u);
      EXPECT_EQ(r.r10, 4u);
      EXPECT_EQ(r.r8, 5u);
      EXPECT_EQ(r.r9, 6u);
      EXPECT_EQ(r.rbx, 7u);
      EXPECT_EQ(r.rbp, 8u);
      EXPECT_EQ(r.r12, 9u);
      EXPECT_EQ(r.r15, 12u);
      EXPECT_EQ(r.fs_base, 0x1234'5000u);
      EXPECT_EQ(r.gs_base, 0x5678'9000u);
    }
  });
}

TEST_F(ContextTest, PageFaultsSayWhatTheAccessWas) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(read_loop);
    Registers r = start_registers();
    r.rbx = kData + 8;
    Exit e = run(*c, *as, r);
    ASSERT_EQ(e.kind, Exit::Kind::kPageFault);
    EXPECT_EQ(e.address, kData + 8);
    EXPECT_EQ(e.access, Access::kRead);
    EXPECT_FALSE(e.present);
    EXPECT_EQ(r.rip, kCode);
    Phys p = take_pages(1);
    word(p + 8) = 0xabcd;
    ASSERT_TRUE(as->map(kData, p, kPageSize, kRo));
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rax, 0xabcdu);

    auto as2 = make_space(write_once);
    r = start_registers();
    r.rbx = kData;
    r.rax = 77;
    ASSERT_TRUE(as2->map(kData, p, kPageSize, kRo));
    e = run(*c, *as2, r);
    ASSERT_EQ(e.kind, Exit::Kind::kPageFault);
    EXPECT_EQ(e.access, Access::kWrite);
    EXPECT_TRUE(e.present);
    ASSERT_TRUE(as2->map(kData, p, kPageSize, kRw));
    ASSERT_EQ(run(*c, *as2, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(word(p), 77u);

    auto as3 = make_space(call_rbx);
    r = start_registers();
    r.rbx = kData;
    ASSERT_TRUE(as3->map(kData, p, kPageSize, kRw));
    e = run(*c, *as3, r);
    ASSERT_EQ(e.kind, Exit::Kind::kPageFault);
    EXPECT_EQ(e.access, Access::kExec);
    EXPECT_EQ(e.address, kData);
  });
}

TEST_F(ContextTest, InterruptStopsSpinningGuest) {
  run_fibers(2, [&] {
    auto as = make_space(spin);
    auto c = make_context();
    Registers r = start_registers();
    for (int i = 0; i < 50; ++i) {
      Countdown done(1);
      std::atomic<bool> sent{false};
      auto other = spawn("interrupter", [&] {
        sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
        sent = true;
        c->interrupt();
        done.done();
      });
      while (!sent) {
        EXPECT_EQ(c->run(*as, r).kind, Exit::Kind::kInterrupted);
        EXPECT_GE(r.rip, kCode);
        EXPECT_LT(r.rip, kCode + kPageSize);
        yield();
      }
      done.wait();
    }
    EXPECT_GT(r.r12, 0u);
    c->interrupt();
    while (c->run(*as, r).kind != Exit::Kind::kInterrupted) {
    }
  });
}

TEST_F(ContextTest, SyscallCost) {
  run_fibers(1, [&] {
    auto as = make_space(syscall_loop);
    auto c = make_context();
    Registers r = start_registers();
    run(*c, *as, r);
    // The best of many short batches: the machine may be busy.
    Nanos best = kNever;
    for (int batch = 0; batch < 100; ++batch) {
      constexpr int kRounds = 20;
      Nanos begin = monotonic_now();
      for (int i = 0; i < kRounds; ++i) run(*c, *as, r);
      best = std::min(best, (monotonic_now() - begin) / kRounds);
    }
    printf("%ld ns per syscall\n", best);
  });
}

TEST_F(ContextTest, PageFaultCost) {
  run_fibers(1, [&] {
    auto as = make_space(read_loop);
    auto c = make_context();
    Registers r = start_registers();
    Phys p = take_pages(4000);
    Nanos best_fault = kNever, best_touch = kNever;
    u64 page = 0;
    for (int batch = 0; batch < 100; ++batch) {
      constexpr int kRounds = 20;
      Nanos fault = 0, touch = 0;
      for (int i = 0; i < kRounds; ++i, ++page) {
        word(p + page * kPageSize) = 1;
        r.rip = kCode;
        r.rbx = kData + page * 16 * kPageSize;  // no neighbours to prefetch
        Nanos begin = monotonic_now();
        ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kPageFault);
        Nanos middle = monotonic_now();
        ASSERT_TRUE(as->map(r.rbx, p + page * kPageSize, kPageSize, kRw));
        ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
        fault += middle - begin;
        touch += monotonic_now() - middle;
      }
      best_fault = std::min(best_fault, fault / kRounds);
      best_touch = std::min(best_touch, touch / kRounds);
    }
    printf("%ld ns per page fault, %ld ns to map, touch and make a syscall\n", best_fault, best_touch);
  });
}

}  // namespace
}  // namespace rf::kvm
