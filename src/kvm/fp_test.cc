#include "kvm/kvm_fixture.h"

namespace rf::kvm {
namespace {

// Fills x87, MXCSR and vector registers from r13 (and r14: MXCSR), then compares them for ever: r12 rounds between two
// system calls. Ends with UD2 when something has changed.
#define FP_FILL                                                                                \
  "vmovq %r13,%xmm0\n vpbroadcastq %xmm0,%ymm0\n vmovdqa %ymm0,%ymm7\n vmovdqa %ymm0,%ymm15\n" \
  "push %r13\n fildq (%rsp)\n push %r14\n ldmxcsr (%rsp)\n"
#define FP_CHECK                                                                                               \
  "vmovq %r13,%xmm1\n vpbroadcastq %xmm1,%ymm1\n vpxor %ymm0,%ymm1,%ymm2\n vpxor %ymm7,%ymm1,%ymm3\n"          \
  "vpxor %ymm15,%ymm1,%ymm4\n vpor %ymm2,%ymm3,%ymm2\n vpor %ymm2,%ymm4,%ymm2\n vptest %ymm2,%ymm2\n jnz 9f\n" \
  "fld %st(0)\n fistpq (%rsp)\n cmp %r13,(%rsp)\n jne 9f\n stmxcsr (%rsp)\n cmp %r14d,(%rsp)\n jne 9f\n"
RF_GUEST(fp_avx, FP_FILL "1: mov %r12,%rbp\n2:" FP_CHECK "dec %rbp\n jnz 2b\n syscall\n jmp 1b\n9: ud2")
RF_GUEST(fp_avx512, FP_FILL
         "vpbroadcastq %r13,%zmm16\n vpbroadcastq %r13,%zmm31\n vpbroadcastq %r13,%zmm5\n kmovq %r13,%k1\n"
         "kmovq %r13,%k7\n"
         "1: mov %r12,%rbp\n2:" FP_CHECK
         "vpbroadcastq %r13,%zmm17\n vpcmpneqq %zmm16,%zmm17,%k2\n vpcmpneqq %zmm31,%zmm17,%k3\n"
         "vpcmpneqq %zmm5,%zmm17,%k4\n korq %k2,%k3,%k2\n korq %k2,%k4,%k2\n kortestq %k2,%k2\n jnz 9f\n"
         "kmovq %k1,%rax\n cmp %r13,%rax\n jne 9f\n kmovq %k7,%rax\n cmp %r13,%rax\n jne 9f\n"
         "dec %rbp\n jnz 2b\n syscall\n jmp 1b\n9: ud2")
RF_GUEST(fp_initial,
         "sub $16,%rsp\n stmxcsr (%rsp)\n fnstcw 8(%rsp)\n mov (%rsp),%edi\n movzwl 8(%rsp),%esi\n"
         " vmovq %xmm3,%rdx\n syscall")
RF_GUEST(fp_get, "vmovq %xmm0,%rdi\n syscall")

class FpTest : public KvmTest {
 protected:
  std::string_view program() const {
    bool avx512 = (platform_->capabilities().xcr0 & 0xe0) == 0xe0;
    return avx512 ? fp_avx512 : fp_avx;
  }
  static Registers numbered(u64 n, u64 rounds) {
    Registers r = start_registers();
    r.r13 = 0x0123'4567'0000'0001 * (n + 1);
    r.r14 = 0x1f80 | (n % 4) << 13;  // rounding mode
    r.r12 = rounds;
    return r;
  }
};

TEST_F(FpTest, StartsInInitialState) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(fp_initial);
    Registers r = start_registers();
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rdi, 0x1f80u);
    EXPECT_EQ(r.rsi, 0x37fu);
    EXPECT_EQ(r.rdx, 0u);
  });
}

TEST_F(FpTest, StateIsKeptWhenContextsShareVcpu) {
  run_fibers(1, [&] {
    auto as = make_space(program());
    std::vector<std::unique_ptr<platform::Context>> contexts;
    std::vector<Registers> regs;
    for (u64 i = 0; i < 5; ++i) {
      contexts.push_back(make_context());
      regs.push_back(numbered(i, 1));
      regs.back().rsp -= i * 64;
    }
    for (u32 round = 0; round < 10 * kStress; ++round)
      for (size_t i = 0; i < contexts.size(); ++i)
        ASSERT_EQ(run(*contexts[i], *as, regs[i]).kind, Exit::Kind::kSyscall) << "context " << i << " round " << round;
  });
}

TEST_F(FpTest, NoSwitchForOneContext) {
  run_fibers(1, [&] {
    auto as = make_space(program());
    auto c = make_context();
    Registers r = numbered(1, 1);
    for (int i = 0; i < 50; ++i) ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(platform_->vcpus().at(0).counters.fp_loads, 1u);
    EXPECT_EQ(platform_->vcpus().at(0).counters.fp_saves, 0u);
  });
}

// Threads that compute for longer than a time slice, more of them than vCPUs: they are preempted and stolen.
TEST_F(FpTest, StateIsKeptAcrossPreemptionAndMigration) {
  SchedulerOptions options = test_options(2);
  options.time_slice = 1 * kMillisecond;
  std::atomic<u32> moves{0};
  run_fibers(options, [&] {
    auto as = make_space(program());
    constexpr u32 kThreads = 5;
    const Nanos give_up = monotonic_now() + 20'000 * kMillisecond;
    Countdown done(kThreads);
    for (u32 t = 0; t < kThreads; ++t) {
      spawn("fp", [&, t] {
        auto c = make_context();
        Registers r = numbered(t, 20'000);
        r.rsp -= t * 64;
        u32 worker = Worker::current()->index();
        for (u32 round = 0; round < 4 * kStress || (moves == 0 && monotonic_now() < give_up); ++round) {
          Exit e = run(*c, *as, r);
          ASSERT_EQ(e.kind, Exit::Kind::kSyscall);
          yield();
          if (Worker::current()->index() != worker) ++moves;
          worker = Worker::current()->index();
        }
        done.done();
      });
    }
    done.wait();
  });
  EXPECT_GT(moves, 0u);
}

TEST_F(FpTest, SaveLoadCopyAndReset) {
  run_fibers(1, [&] {
    auto as = make_space(program()), get = make_space(fp_get);
    auto a = make_context(), b = make_context();
    const size_t size = platform_->capabilities().fp_size;
    Registers r = numbered(7, 1);
    ASSERT_EQ(run(*a, *as, r).kind, Exit::Kind::kSyscall);
    std::vector<std::byte> state(size);
    a->save_fp(state);
    u32 mxcsr;
    std::memcpy(&mxcsr, state.data() + 24, 4);
    EXPECT_EQ(mxcsr, r.r14);
    u64 xmm0;
    std::memcpy(&xmm0, state.data() + 160, 8);
    EXPECT_EQ(xmm0, r.r13);
    // A copy runs on with what the original has, and so does the original.
    b->copy_fp_from(*a);
    Registers rb = r;
    ASSERT_EQ(run(*b, *as, rb).kind, Exit::Kind::kSyscall);
    ASSERT_EQ(run(*a, *as, r).kind, Exit::Kind::kSyscall);
    a->reset_fp();
    Registers rg = start_registers();
    ASSERT_EQ(run(*a, *get, rg).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(rg.rdi, 0u);
    ASSERT_TRUE(a->load_fp(state));
    ASSERT_EQ(run(*a, *as, r).kind, Exit::Kind::kSyscall);
  });
}

TEST_F(FpTest, LoadRefusesWhatTheCpuWould) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(fp_initial);
    std::vector<std::byte> good(platform_->capabilities().fp_size);
    c->save_fp(good);
    auto with = [&](size_t at, u32 value) {
      auto bad = good;
      std::memcpy(bad.data() + at, &value, 4);
      auto loaded = c->load_fp(bad);
      return loaded ? 0 : errno_value(loaded.error());
    };
    EXPECT_EQ(with(24, 0xffff'ffff), EINVAL);   // MXCSR
    EXPECT_EQ(with(512, 0xffff'ffff), EINVAL);  // XSTATE_BV
    EXPECT_EQ(with(524, 0x8000'0000), EINVAL);  // XCOMP_BV
    EXPECT_EQ(with(540, 1), EINVAL);            // reserved
    EXPECT_FALSE(c->load_fp(std::span(good).first(512)));
    // All that may be set, set: the vCPU takes it.
    auto all = good;
    for (size_t i = 0; i < all.size(); ++i)
      if ((i < 24 || i >= 32) && (i < 512 || i >= 576)) all[i] = std::byte{0xff};
    u64 xcr0 = platform_->capabilities().xcr0;
    std::memcpy(all.data() + 512, &xcr0, 8);
    ASSERT_TRUE(c->load_fp(all));
    Registers r = start_registers();
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rdx, ~0ull);
  });
}

TEST_F(FpTest, SwitchCost) {
  run_fibers(1, [&] {
    auto as = make_space(program());
    auto a = make_context(), b = make_context();
    Registers ra = numbered(1, 1), rb = numbered(2, 1);
    rb.rsp -= 64;
    auto time = [&](auto&& f) {
      Nanos best = kNever;
      for (int batch = 0; batch < 50; ++batch) {
        constexpr int kRounds = 20;
        Nanos begin = monotonic_now();
        for (int i = 0; i < kRounds; ++i) f();
        best = std::min(best, (monotonic_now() - begin) / kRounds);
      }
      return best;
    };
    run(*a, *as, ra);
    run(*b, *as, rb);
    Nanos alone = time([&] {
      run(*a, *as, ra);
      run(*a, *as, ra);
    });
    Nanos both = time([&] {
      run(*a, *as, ra);
      run(*b, *as, rb);
    });
    printf("%ld ns per vector state switch\n", (both - alone) / 2);
  });
}

}  // namespace
}  // namespace rf::kvm
