#include <optional>
#include <random>
#include <thread>
#include <unordered_map>

#include "kvm/kvm_fixture.h"

namespace rf::kvm {
namespace {

using platform::Invalidation;

RF_GUEST(reader, "1: mov (%rbx),%rax\n syscall\n jmp 1b")
RF_GUEST(writer_loop, "1: mov %rax,(%rbx)\n syscall\n jmp 1b")
RF_GUEST(caller, "1: call *%rbx\n syscall\n jmp 1b")
RF_GUEST(return_only, "ret")
// Until it faults: r12 counts the rounds.
RF_GUEST(write_spin, "1: inc %r12\n mov %r12,(%rbx)\n jmp 1b")
// The sum of the first words of r13 pages from rbx on.
RF_GUEST(sum_pages,
         "1: xor %eax,%eax\n mov %rbx,%rsi\n mov %r13,%rdi\n2: add (%rsi),%rax\n add $4096,%rsi\n"
         " dec %rdi\n jnz 2b\n syscall\n jmp 1b")

class AddressSpaceTest : public KvmTest {};

TEST_F(AddressSpaceTest, LookupAndForEachTellWhatWasMapped) {
  auto as = make_space(reader);
  Phys p = take_pages(600);
  ASSERT_TRUE(as->map(kData, p, 600 * kPageSize, kRw));
  EXPECT_EQ(as->lookup(kData + 5 * kPageSize + 7).phys, p + 5 * kPageSize + 7);
  EXPECT_EQ(as->lookup(kData).prot, kRw);
  EXPECT_FALSE(as->lookup(kData + 600 * kPageSize).present());
  EXPECT_FALSE(as->lookup(~0ull).present());
  EXPECT_FALSE(as->lookup(ring0::kStub).present());
  Invalidation inval;
  as->unmap(kData + kPageSize, kPageSize, inval);
  as->protect(kData + 2 * kPageSize, kPageSize, kRo, inval);
  ASSERT_EQ(inval.ranges.size(), 1u);
  EXPECT_EQ(inval.ranges[0].len, 2 * kPageSize);
  as->commit(inval);
  EXPECT_TRUE(inval.empty());
  EXPECT_FALSE(as->lookup(kData + kPageSize).present());
  EXPECT_EQ(as->lookup(kData + 2 * kPageSize).prot, kRo);
  u64 pages = 0;
  as->for_each(kData, 600 * kPageSize, [&](u64 va, Phys phys, u64 len, Prot prot) {
    EXPECT_EQ(va - kData, phys - p);
    EXPECT_EQ(prot, va == kData + 2 * kPageSize ? kRo : kRw);
    pages += len / kPageSize;
  });
  EXPECT_EQ(pages, 599u);
}

TEST_F(AddressSpaceTest, NarrowingTakesEffectAfterTouch) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(writer_loop);
    Phys p = take_pages(1);
    ASSERT_TRUE(as->map(kData, p, kPageSize, kRw));
    Registers r = start_registers();
    r.rbx = kData;
    for (u64 i = 1; i < 20; ++i) {
      r.rax = i;
      ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
      ASSERT_EQ(word(p), i);
      Invalidation inval;
      as->protect(kData, kPageSize, kRo, inval);
      as->commit(inval);
      ASSERT_EQ(word(p), i) << "contents survive the invalidation";
      r.rax = 99;
      Exit e = run(*c, *as, r);
      ASSERT_EQ(e.kind, Exit::Kind::kPageFault);
      ASSERT_EQ(e.access, Access::kWrite);
      ASSERT_TRUE(e.present);
      if (i % 2) {
        as->unmap(kData, kPageSize, inval);
        as->commit(inval);
        e = run(*c, *as, r);
        ASSERT_EQ(e.kind, Exit::Kind::kPageFault);
        ASSERT_FALSE(e.present);
        ASSERT_TRUE(as->map(kData, p, kPageSize, kRw));
      } else {
        as->protect(kData, kPageSize, kRw, inval);
        ASSERT_TRUE(inval.empty());
      }
      ASSERT_EQ(word(p), i);
      ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    }
  });
}

TEST_F(AddressSpaceTest, NoExecTakesEffectAfterCall) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(caller);
    Phys p = take_pages(1);
    std::memcpy(at(p), return_only.data(), return_only.size());
    ASSERT_TRUE(as->map(kData, p, kPageSize, kRx));
    Registers r = start_registers();
    r.rbx = kData;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    Invalidation inval;
    as->protect(kData, kPageSize, kRo, inval);
    as->commit(inval);
    Exit e = run(*c, *as, r);
    ASSERT_EQ(e.kind, Exit::Kind::kPageFault);
    EXPECT_EQ(e.access, Access::kExec);
  });
}

TEST_F(AddressSpaceTest, CopyOnWriteRemapShowsTheCopy) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(reader);
    Phys a = take_pages(1), b = take_pages(1);
    word(a) = 1, word(b) = 2;
    Registers r = start_registers();
    r.rbx = kData;
    for (int i = 0; i < 50; ++i) {
      Phys p = i % 2 ? b : a;
      ASSERT_TRUE(as->map(kData, p, kPageSize, kRo));
      ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
      ASSERT_EQ(r.rax, word(p));
      Invalidation inval;
      as->unmap(kData, kPageSize, inval);
      as->commit(inval);
    }
  });
}

TEST_F(AddressSpaceTest, ManyScatteredRangesAreInvalidated) {
  run_fibers(1, [&] {
    constexpr u64 kPages = 3000;
    auto c = make_context();
    auto as = make_space(sum_pages);
    Phys p = take_pages(kPages);
    for (u64 i = 0; i < kPages; ++i) {
      word(p + i * kPageSize) = i;
      // Neighbours in the guest are none in the memory file.
      ASSERT_TRUE(as->map(kData + i * kPageSize, p + (i * 7 % kPages) * kPageSize, kPageSize, kRw));
    }
    Registers r = start_registers();
    r.rbx = kData, r.r13 = kPages;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rax, kPages * (kPages - 1) / 2);
    Invalidation inval;
    as->unmap(kData, kPages * kPageSize, inval);
    as->commit(inval);
    Exit e = run(*c, *as, r);
    EXPECT_EQ(e.kind, Exit::Kind::kPageFault);
    EXPECT_EQ(e.address, kData);
    for (u64 i = 0; i < kPages; ++i) ASSERT_TRUE(as->map(kData + i * kPageSize, p, kPageSize, kRo));
    word(p) = 3;
    r.rip = kCode;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rax, 3 * kPages);
  });
}

// Mapped with large entries where the platform can, taken apart by what touches a part of them.
TEST_F(AddressSpaceTest, LargeMappingsAreSplit) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(reader);
    constexpr u64 kLen = 4 * kHugePageSize;
    Phys p = (take_pages((kLen + kHugePageSize) / kPageSize) + kHugePageSize - 1) & ~(kHugePageSize - 1);
    for (u64 i = 0; i < kLen; i += kPageSize) word(p + i) = i;
    ASSERT_TRUE(as->map(kData, p, kLen, kRw));
    u64 entries = 0;
    as->for_each(kData, kLen, [&](u64, Phys, u64, Prot) { ++entries; });
    EXPECT_EQ(entries, platform_->vm().kind().shadow_paging ? kLen / kPageSize : 4);
    auto read = [&](u64 at) -> std::optional<u64> {
      Registers r = start_registers();
      r.rbx = kData + at;
      Exit e = run(*c, *as, r);
      if (e.kind == Exit::Kind::kSyscall) return r.rax;
      EXPECT_EQ(e.kind, Exit::Kind::kPageFault);
      return {};
    };
    for (u64 i = 0; i < kLen; i += 64 * kPageSize) EXPECT_EQ(read(i), i);
    Invalidation inval;
    as->unmap(kData + 5 * kPageSize, kPageSize, inval);
    as->protect(kData + kHugePageSize + 7 * kPageSize, kPageSize, kRo, inval);
    as->unmap(kData + 2 * kHugePageSize, kHugePageSize, inval);
    as->commit(inval);
    EXPECT_EQ(read(4 * kPageSize), 4 * kPageSize);
    EXPECT_FALSE(read(5 * kPageSize));
    EXPECT_EQ(read(6 * kPageSize), 6 * kPageSize);
    EXPECT_EQ(read(kHugePageSize + 7 * kPageSize), kHugePageSize + 7 * kPageSize);
    EXPECT_FALSE(read(2 * kHugePageSize));
    EXPECT_EQ(read(3 * kHugePageSize), 3 * kHugePageSize);
    EXPECT_EQ(as->lookup(kData + kHugePageSize + 7 * kPageSize).prot, kRo);
    EXPECT_EQ(as->lookup(kData + kHugePageSize + 8 * kPageSize).prot, kRw);
  });
}

// Page-table pages are used again by other address spaces, at other levels and other addresses: no stale
// translation may show.
TEST_F(AddressSpaceTest, ReusedTablePagesShowNothingOld) {
  run_fibers(1, [&] {
    std::mt19937_64 random(1);
    auto c = make_context();
    constexpr u64 kPages = 256;
    Phys p = take_pages(kPages);
    for (u64 i = 0; i < kPages; ++i) word(p + i * kPageSize) = 1000 + i;
    std::vector<std::unique_ptr<platform::AddressSpace>> spaces(8);
    std::vector<std::unordered_map<u64, Phys>> mapped(8);
    Registers r = start_registers();
    for (u32 round = 0; round < 300 * kStress; ++round) {
      size_t s = random() % spaces.size();
      if (!spaces[s] || random() % 8 == 0) {
        mapped[s].clear();
        spaces[s].reset();
        next_ = p + kPages * kPageSize + s * 16 * kPageSize;
        spaces[s] = make_space(reader);
      }
      for (int i = 0; i < 8; ++i) {
        // A few addresses only, far apart, so that tables come and go at every level.
        u64 va = kData + ((random() % 3) << 39) + ((random() % 3) << 30) + ((random() % 3) << 21) +
                 (random() % 4) * kPageSize;
        r = start_registers();
        r.rbx = va;
        Exit e = run(*c, *spaces[s], r);
        auto have = mapped[s].find(va);
        if (have == mapped[s].end()) {
          ASSERT_EQ(e.kind, Exit::Kind::kPageFault) << "round " << round;
          ASSERT_EQ(e.address, va);
          Phys phys = p + random() % kPages * kPageSize;
          ASSERT_TRUE(spaces[s]->map(va, phys, kPageSize, kRo));
          mapped[s][va] = phys;
        } else {
          ASSERT_EQ(e.kind, Exit::Kind::kSyscall) << "round " << round;
          ASSERT_EQ(r.rax, word(have->second));
          if (random() % 2) {
            // Covers whole leaf tables, so these go as well.
            Invalidation inval;
            u64 start = va & ~(kHugePageSize - 1);
            spaces[s]->unmap(start, kHugePageSize, inval);
            spaces[s]->commit(inval);
            std::erase_if(mapped[s], [&](auto& m) { return (m.first & ~(kHugePageSize - 1)) == start; });
          }
        }
      }
    }
  });
}

TEST_F(AddressSpaceTest, EndlessCreationReusesTables) {
  run_fibers(1, [&] {
    auto c = make_context();
    Phys p = take_pages(1);
    word(p) = 42;
    Phys rewind = next_;
    for (u32 i = 0; i < 200 * kStress; ++i) {
      next_ = rewind;
      auto as = make_space(reader);
      Registers r = start_registers();
      r.rbx = kData;
      ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kPageFault);
      ASSERT_TRUE(as->map(kData, p, kPageSize, kRo));
      ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
      ASSERT_EQ(r.rax, 42u);
    }
    u64 drops = 0;
    for (auto& [name, value] : platform_->stats().details)
      if (name == "shadow drops") drops = value;
    if (platform_->vm().kind().shadow_paging && kStress == 10) {
      EXPECT_GT(drops, 0u);
    }
  });
}

// A vCPU writes to the page all the while: after commit() it must have stopped.
TEST_F(AddressSpaceTest, CommitStopsOtherVcpus) {
  auto as = make_space(write_spin);
  Phys p = take_pages(1);
  ASSERT_TRUE(as->map(kData, p, kPageSize, kRw));
  std::atomic<bool> stop{false}, narrow{false};
  std::atomic<u64> faults{0};
  auto pause = [](long us) { std::this_thread::sleep_for(std::chrono::microseconds(us)); };
  std::thread narrower([&] {
    const Nanos give_up = monotonic_now() + 20'000 * kMillisecond;
    for (u32 i = 0; i < 20 * kStress || (faults <= 10 && monotonic_now() < give_up); ++i) {
      pause(1000);
      Invalidation inval;
      narrow = true;
      as->protect(kData, kPageSize, kRo, inval);
      as->commit(inval);
      u64 before = std::atomic_ref(word(p)).load();
      pause(200);
      EXPECT_EQ(std::atomic_ref(word(p)).load(), before);
      as->protect(kData, kPageSize, kRw, inval);
      narrow = false;
    }
    Invalidation inval;
    stop = true;
    as->unmap(kData, kPageSize, inval);
    as->commit(inval);
  });
  run_fibers(1, [&] {
    auto c = make_context();
    Registers r = start_registers();
    r.rbx = kData;
    while (!stop) {
      Exit e = run(*c, *as, r);
      EXPECT_EQ(e.kind, Exit::Kind::kPageFault);
      ++faults;
      while (narrow) pause(20);
    }
  });
  narrower.join();
  EXPECT_GT(faults, 10u);
}

}  // namespace
}  // namespace rf::kvm
