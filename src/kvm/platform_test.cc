#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/kvm_fixture.h"

namespace rf::kvm {
namespace {

RF_GUEST(pl_loop, "1: syscall\n jmp 1b")
RF_GUEST(pl_read, "1: mov (%rbx),%rax\n syscall\n jmp 1b")
RF_GUEST(pl_count, "1: lock incq (%rbx)\n dec %r12\n jnz 1b\n syscall")

class PlatformTest : public KvmTest {};

TEST_F(PlatformTest, DiagnoseFindsNothingBad) {
  auto checks = diagnose();
  EXPECT_GE(checks.size(), 4u);
  for (auto& c : checks) {
    EXPECT_NE(c.state, platform::Check::State::kBad) << c.name << ": " << c.detail;
    printf("%s: %s\n", c.name.c_str(), c.detail.c_str());
  }
}

TEST_F(PlatformTest, TooManyVcpusAreRefusedWithTheLimit) {
  auto p = Platform::create({.vcpus = 1000}, *memory_);
  ASSERT_FALSE(p);
  EXPECT_NE(p.error().message.find("64"), std::string::npos) << p.error().message;
}

TEST_F(PlatformTest, TwoVcpusRunAtOnce) {
  constexpr u64 kRounds = 1'000'000;
  auto as = make_space(pl_count);
  Phys p = take_pages(1);
  ASSERT_TRUE(as->map(kData, p, kPageSize, kRw));
  run_fibers(2, [&] {
    Countdown done(4);
    for (int i = 0; i < 4; ++i)
      spawn("counter", [&] {
        auto c = make_context();
        Registers r = start_registers();
        r.rbx = kData, r.r12 = kRounds;
        EXPECT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
        done.done();
      });
    done.wait();
  });
  EXPECT_EQ(word(p), 4 * kRounds);
}

TEST_F(PlatformTest, StatsCount) {
  run_fibers(1, [&] {
    auto as = make_space(pl_loop);
    auto c = make_context();
    Registers r = start_registers();
    for (int i = 0; i < 5; ++i) run(*c, *as, r);
    auto s = platform_->stats();
    EXPECT_EQ(s.syscalls, 5u);
    EXPECT_EQ(s.page_faults, 0u);
    r.rip = 0;
    run(*c, *as, r);
    EXPECT_EQ(platform_->stats().page_faults, 1u);
  });
}

// The memory file's end and the window lie in other slots than its start.
TEST_F(PlatformTest, AllOfTheRangeIsGuestMemory) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(pl_read);
    ASSERT_TRUE(memory_->extend(GuestMemory::kWindowBase));
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    auto window = memory_->map_window(fd, 0, 2 * kPageSize, false);
    ASSERT_TRUE(window);
    Phys last = GuestMemory::kWindowBase - kPageSize;
    word(last) = 123;
    u64 va = kData;
    for (Phys p : {last, *window, *window + kPageSize}) {
      ASSERT_TRUE(as->map(va, p, kPageSize, kRo));
      Registers r = start_registers();
      r.rbx = va;
      ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
      EXPECT_EQ(r.rax, word(p));
      va += kPageSize;
    }
    memory_->unmap_window(*window, 2 * kPageSize);
    // The same place with another file: nothing of the first may show.
    fd = memfd_create("other", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(fd, kPageSize), 0);
    auto again = memory_->map_window(fd, 0, kPageSize, true);
    ASSERT_TRUE(again);
    EXPECT_EQ(*again, *window);
    word(*again) = 456;
    Registers r = start_registers();
    r.rbx = kData + kPageSize;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rax, 456u);
  });
}

TEST_F(PlatformTest, RetiredSpaceIsTakenDownWithoutInvalidation) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(pl_read);
    Phys p = take_pages(64);
    ASSERT_TRUE(as->map(kData, p, 64 * kPageSize, kRw));
    Registers r = start_registers();
    r.rbx = kData;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    auto invalidations = [&] { return platform_->vm().counters.invalidations.load(); };
    u64 before = invalidations();
    as->retire();
    platform::Invalidation inval;
    as->unmap(kData, 64 * kPageSize, inval);
    as->commit(inval);
    as.reset();
    EXPECT_EQ(invalidations(), before);
  });
}

}  // namespace
}  // namespace rf::kvm
