#include <signal.h>

#include "core/test_scheduler.h"
#include "mm/io_buffer.h"
#include "mm/mm_fixture.h"
#include "mm/user_access.h"

namespace rf::mm {
namespace {

using Kind = FaultFailure::Kind;
constexpr u64 P = kPageSize;

using FaultTest = MmTest;

TEST_F(FaultTest, AnonymousFaultsMapAround) {
  UserAddr a = map(1024);
  UserAddr middle = (a + 512 * P) & ~(u64{64} * P - 1);
  ASSERT_TRUE(mm_->handle_fault(middle + 3 * P, Access::kWrite));
  EXPECT_EQ(tables(*mm_).present(), 8u);
  EXPECT_TRUE(mm_->address_space().lookup(middle).present());
  EXPECT_TRUE(mm_->address_space().lookup(middle).prot.write);
}

TEST_F(FaultTest, SequentialFaultsMapMoreAndMore) {
  UserAddr a = (map(8192) + kHugePageSize) & ~(kHugePageSize - 1);
  int faults = 0;
  for (u64 i = 0; i < 4096; i++) {
    if (mm_->address_space().lookup(a + i * P).present()) continue;
    ASSERT_TRUE(mm_->handle_fault(a + i * P, Access::kWrite));
    faults++;
  }
  EXPECT_LE(faults, 16);
}

TEST_F(FaultTest, ScatteredFaultsMapMoreAndMoreWhereThatCostsLittle) {
  constexpr u64 kWindow = 64, kFaults = 6;
  for (const bool lazily : {false, true}) {
    if (lazily) map_lazily();
    const UserAddr a = (map((kFaults + 1) * kWindow) + kWindow * P - 1) & ~(kWindow * P - 1);
    std::vector<u64> mapped;
    for (u64 i = 0, before = 0; i < kFaults; before = tables(*mm_).present(), ++i) {
      ASSERT_TRUE(mm_->handle_fault(a + (kFaults - 1 - i) * kWindow * P + 5 * P, Access::kWrite));
      mapped.push_back(tables(*mm_).present() - before);
    }
    EXPECT_EQ(mapped, lazily ? std::vector<u64>({8, 16, 32, 64, 64, 64}) : std::vector<u64>(kFaults, 8));
  }
}

TEST_F(FaultTest, RandomAdviceMapsSinglePages) {
  UserAddr a = map(64);
  ASSERT_TRUE(mm_->madvise(a, 64 * P, MADV_RANDOM));
  ASSERT_TRUE(mm_->handle_fault(a + 9 * P, Access::kWrite));
  EXPECT_EQ(tables(*mm_).present(), 1u);
}

TEST_F(FaultTest, NothingBeyondTheMappingIsMapped) {
  UserAddr a = map(3);
  ASSERT_TRUE(mm_->handle_fault(a + P, Access::kRead));
  EXPECT_LE(tables(*mm_).present(), 3u);
  EXPECT_EQ(fault_kind(a - P, Access::kRead), Kind::kMapErr);
  EXPECT_EQ(fault_kind(a + 3 * P, Access::kRead), Kind::kMapErr);
  EXPECT_EQ(fault_kind(platform::kGuestAddressLimit, Access::kRead), Kind::kMapErr);
  EXPECT_EQ(fault_kind(~u64{0}, Access::kWrite), Kind::kMapErr);
}

TEST_F(FaultTest, StackGrowsToItsLimitAndNoFurther) {
  constexpr UserAddr kTop = 0x6000'0000'0000;
  map(4, kRw, kPrivateAnon | MAP_FIXED | MAP_GROWSDOWN, kTop - 4 * P);
  mm_->set_limits({.stack = 100 * P});
  put(kTop - 50 * P, 1);
  EXPECT_EQ(maps(kTop - 50 * P), "0-50 rw-p\n");
  put(kTop - 100 * P, 1);
  EXPECT_EQ(fault_kind(kTop - 101 * P, Access::kWrite), Kind::kMapErr);
}

TEST_F(FaultTest, StackKeepsItsGuardGap) {
  constexpr UserAddr kTop = 0x6000'0000'0000;
  map(4, kRw, kPrivateAnon | MAP_FIXED | MAP_GROWSDOWN, kTop - 4 * P);
  mm_->set_limits({.stack = ~u64{0}});
  UserAddr below = kTop - 1000 * P;
  map(1, kRw, kPrivateAnon | MAP_FIXED, below);
  put(below + (1 + 256) * P, 1);
  EXPECT_EQ(fault_kind(below + 256 * P, Access::kWrite), Kind::kMapErr);
  ASSERT_TRUE(mm_->mprotect(below, P, PROT_NONE));
  put(below + P, 1);
}

TEST_F(FaultTest, MappingsKeepAwayFromStacks) {
  constexpr UserAddr kTop = 0x6000'0000'0000;
  map(4, kRw, kPrivateAnon | MAP_FIXED | MAP_GROWSDOWN, kTop - 4 * P);
  EXPECT_NE(map(1, kRw, kPrivateAnon, kTop - 100 * P), kTop - 100 * P);
  EXPECT_EQ(map(1, kRw, kPrivateAnon, kTop - 261 * P), kTop - 261 * P);
}

TEST_F(FaultTest, SoleOwnerWidensInsteadOfCopying) {
  UserAddr a = map(32);
  for (u64 i = 0; i < 32; i++) put(a + i * P, i);
  { auto child = *mm_->fork(); }
  u64 used = frames_->used();
  put(a, 5);
  EXPECT_EQ(frames_->used(), used);
  EXPECT_TRUE(mm_->address_space().lookup(a + P).prot.write) << "the neighbours too";
}

TEST_F(FaultTest, GrandchildrenSeeTheirOwnTime) {
  UserAddr a = map(40);
  for (u64 i = 0; i < 40; i++) put(a + i * P, i);
  auto child = *mm_->fork();
  put(*child, a + 7 * P, 100);
  auto grandchild = *child->fork();
  put(*child, a + 7 * P, 101);
  put(a + 8 * P, 102);
  for (u64 i = 0; i < 40; i++) {
    EXPECT_EQ(peek(a + i * P), i == 8 ? 102 : i);
    EXPECT_EQ(peek(*child, a + i * P), i == 7 ? 101 : i);
    EXPECT_EQ(peek(*grandchild, a + i * P), i == 7 ? 100 : i);
  }
}

TEST_F(FaultTest, ForkMakesOneCommit) {
  UserAddr a = map(500), b = map(100, PROT_READ), c = map(100);
  for (u64 i = 0; i < 500; i += 3) put(a + i * P, i);
  peek(b);
  put(c, 1);
  size_t before = tables(*mm_).commits();
  auto child = *mm_->fork();
  EXPECT_EQ(tables(*mm_).commits(), before + 1);
}

TEST_F(FaultTest, DontforkAndWipeonfork) {
  UserAddr a = map(2, kRw, kPrivateAnon, 0x20000000), b = map(2, kRw, kPrivateAnon, 0x30000000);
  put(a, 1);
  put(b, 2);
  ASSERT_TRUE(mm_->madvise(a, 2 * P, MADV_DONTFORK));
  ASSERT_TRUE(mm_->madvise(b, 2 * P, MADV_WIPEONFORK));
  auto child = *mm_->fork();
  EXPECT_EQ(peek(*child, b), 0u);
  EXPECT_FALSE(child->handle_fault(a, Access::kRead));
}

TEST_F(FaultTest, PinnedPagesStayWithTheParent) {
  UserAddr a = map(4);
  put(a, 1);
  IoBuffer buffer(*mm_, a, P);
  auto pinned = *buffer.pin(P, Access::kWrite);
  auto child = *mm_->fork();
  put(a + 8, 2);                                      // must not move the page away from the I/O
  *static_cast<u64*>(pinned.iov()[0].iov_base) = 77;  // the host's data arrives
  EXPECT_EQ(peek(a), 77u);
  EXPECT_EQ(peek(*child, a), 1u);
}

TEST_F(FaultTest, RunningOutOfTablesIsOutOfMemory) {
  UserAddr a = map(64);
  tables(*mm_).fail_after(4);
  EXPECT_EQ(fault_kind(a, Access::kWrite), Kind::kOutOfMemory);
  tables(*mm_).stop_failing();
  put(a, 1);
}

class SmallMemoryTest : public MmTest {
 protected:
  SmallMemoryTest() : MmTest(u64{4} << 20) {}
};

TEST_F(SmallMemoryTest, TheLimitEndsInOutOfMemory) {
  UserAddr a = map(2048);
  u64 i = 0;
  std::expected<void, FaultFailure> r;
  for (; i < 2048; i++)
    if (r = mm_->handle_fault(a + i * P, Access::kWrite); !r) break;
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().kind, Kind::kOutOfMemory);
  EXPECT_EQ(frames_->used(), frames_->limit()) << "used to the last page";
  mm_->release_all();
  EXPECT_EQ(mm_->usage().rss_anon, 0u);
  UserAddr b = map(10);
  put(b, 1);
}

TEST_F(SmallMemoryTest, ForkedPagesCountOnce) {
  UserAddr a = map(600);
  for (u64 i = 0; i < 600; i++) put(a + i * P, i);
  auto one = *mm_->fork(), two = *mm_->fork();
  EXPECT_LE(frames_->used(), frames_->limit());
  u64 i = 0;
  while (i < 600 && one->handle_fault(a + i * P, Access::kWrite)) i++;
  EXPECT_LT(i, 600u);
  for (u64 k = 0; k < 600; k++) EXPECT_EQ(peek(*two, a + k * P), k);
}

using CopyTest = MmTest;

TEST_F(CopyTest, CopiesStopAtTheFirstBadPage) {
  UserAddr a = map(4);
  ASSERT_TRUE(mm_->munmap(a + 2 * P, 2 * P));
  std::vector<char> b(4 * P, 'x');
  EXPECT_EQ(mm_->copy_out(a + 10, b.data(), 3 * P), 2 * P - 10);
  EXPECT_EQ(mm_->copy_in(b.data(), a + 2 * P - 1, 2), 1u);
  EXPECT_EQ(b[0], 'x');
  EXPECT_EQ(mm_->zero_out(a + P, 2 * P), P);
  EXPECT_EQ(mm_->copy_in(b.data(), platform::kGuestAddressLimit - 1, 5), 0u);
  EXPECT_EQ(mm_->copy_in(b.data(), ~u64{0} - 2, 5), 0u);
  EXPECT_EQ(mm_->copy_in(b.data(), 0, 5), 0u);
  EXPECT_EQ(mm_->copy_in(b.data(), a, 0), 0u);
}

TEST_F(CopyTest, EverySizeArrivesWhole) {
  UserAddr a = map(4);
  std::string in(600, '\0');
  for (size_t i = 0; i < in.size(); i++) in[i] = static_cast<char>(i * 7 + 1);
  for (size_t n = 0; n < in.size(); n++) {
    UserAddr at = a + 2 * P - n / 2;
    ASSERT_EQ(mm_->copy_out(at, in.data(), n), n);
    std::string out(n + 1, '#');
    ASSERT_EQ(mm_->copy_in(out.data(), at, n), n);
    ASSERT_EQ(out, in.substr(0, n) + "#");
  }
}

TEST_F(CopyTest, ReadOnlyMemoryIsNotWritten) {
  UserAddr a = map(1, PROT_READ);
  EXPECT_EQ(mm_->copy_out(a, "x", 1), 0u);
  EXPECT_EQ(mm_->poke(a, "x", 1), 1u);
  EXPECT_EQ(peek(a), u64{'x'});
  EXPECT_EQ(fault_kind(a, Access::kWrite), Kind::kAccErr);
  EXPECT_FALSE(mm_->address_space().lookup(a).prot.write);
  UserAddr s = map(1, PROT_READ, kSharedAnon);
  EXPECT_EQ(mm_->poke(s, "x", 1), 0u) << "shared pages are not broken into";
}

TEST_F(CopyTest, PokeBreaksSharing) {
  UserAddr a = map(1);
  put(a, 1);
  ASSERT_TRUE(mm_->mprotect(a, P, PROT_READ | PROT_EXEC));
  auto child = *mm_->fork();
  u64 v = 0xcc;
  EXPECT_EQ(child->poke(a, &v, 8), 8u);
  EXPECT_EQ(peek(a), 1u);
  EXPECT_EQ(peek(*child, a), 0xccu);
}

TEST_F(CopyTest, Strings) {
  UserAddr a = map(2);
  ASSERT_TRUE(mm_->munmap(a + P, P));
  mm_->copy_out(a + P - 6, "hello", 6);
  char b[200];
  EXPECT_EQ(*mm_->copy_in_string(b, a + P - 6, sizeof b), 5u);
  EXPECT_STREQ(b, "hello");
  EXPECT_EQ(error_of(mm_->copy_in_string(b, a + P - 6, 5)), ENAMETOOLONG);
  mm_->copy_out(a + P - 5, "world", 5);
  EXPECT_EQ(error_of(mm_->copy_in_string(b, a + P - 5, sizeof b)), EFAULT);
  EXPECT_EQ(error_of(read_path(*mm_, a + P - 5)), EFAULT);
  std::string longest(4095, 'p');
  UserAddr c = map(2);
  mm_->copy_out(c, longest.c_str(), 4096);
  EXPECT_EQ(*read_path(*mm_, c), longest);
  mm_->copy_out(c + 4095, "p", 1);
  EXPECT_EQ(error_of(read_path(*mm_, c)), ENAMETOOLONG);
}

TEST_F(CopyTest, Words) {
  UserAddr a = map(1);
  EXPECT_EQ(*mm_->load_u32(a), 0u);
  u32 expected = 0;
  EXPECT_TRUE(*mm_->compare_exchange_u32(a, expected, 7));
  EXPECT_FALSE(*mm_->compare_exchange_u32(a, expected, 8));
  EXPECT_EQ(expected, 7u);
  EXPECT_EQ(error_of(mm_->load_u32(a + 2)), EINVAL);
  EXPECT_EQ(error_of(mm_->load_u32(a + P)), EFAULT);
}

TEST_F(CopyTest, IoBufferWalksVectors) {
  UserAddr a = map(3), v = map(1);
  ASSERT_TRUE(mm_->munmap(a + 2 * P, P));
  iovec iov[4] = {{reinterpret_cast<void*>(a), 3},
                  {nullptr, 0},
                  {reinterpret_cast<void*>(a + P - 2), 4},
                  {reinterpret_cast<void*>(a + 2 * P - 2), 5}};
  mm_->copy_out(v, iov, sizeof iov);
  IoBuffer b = *IoBuffer::from_iovec(*mm_, v, 4);
  EXPECT_EQ(b.remaining(), 12u);
  auto data = std::as_bytes(std::span("0123456789ab", 12));
  IoBuffer copy = b;
  EXPECT_EQ(*b.put(data), 9u) << "up to the bad page";
  EXPECT_EQ(error_of(b.put(data)), EFAULT);
  char text[12] = {};
  EXPECT_EQ(*copy.get(std::as_writable_bytes(std::span(text, 5))), 5u);
  EXPECT_STREQ(text, "01234");
  auto pinned = *copy.pin(100, Access::kRead);
  EXPECT_EQ(pinned.bytes(), 4u);
  EXPECT_EQ(copy.remaining(), 7u) << "pin() does not advance";
  copy.advance(4);
  EXPECT_EQ(error_of(copy.pin(100, Access::kRead)), EFAULT);
  EXPECT_EQ(error_of(IoBuffer::from_iovec(*mm_, v, 2000)), EINVAL);
  iov[1].iov_len = ~size_t{0};
  mm_->copy_out(v, iov, sizeof iov);
  EXPECT_EQ(error_of(IoBuffer::from_iovec(*mm_, v, 4)), EINVAL);
}

TEST_F(CopyTest, IoBufferOverOwnMemory) {
  char text[8] = "abcdefg";
  IoBuffer b = IoBuffer::from_const(std::as_bytes(std::span(text)));
  char out[4];
  EXPECT_EQ(*b.get(std::as_writable_bytes(std::span(out))), 4u);
  EXPECT_EQ(b.remaining(), 4u);
  auto pinned = *b.pin(2, Access::kRead);
  EXPECT_EQ(pinned.iov()[0].iov_base, text + 4);
  EXPECT_EQ(pinned.bytes(), 2u);
  IoBuffer all((std::as_writable_bytes(std::span(text))));
  EXPECT_EQ(*all.put_zeros(3), 3u);
  EXPECT_EQ(std::string(text, 4), std::string("\0\0\0d", 4));
}

// Several fibers act as threads of one process and of its children; the data must stay what the owner wrote.
TEST_F(FaultTest, ConcurrentFaultsForksAndUnmaps) {
  run_fibers(2, [&] {
    UserAddr shared = map(64, kRw, kSharedAnon);
    std::atomic<int> running{4};
    for (int t = 0; t < 4; t++) {
      spawn("mm" + std::to_string(t), [&, t] {
        for (int round = 0; round < 60; round++) {
          UserAddr a = *mm_->mmap({.len = 40 * P, .prot = kRw, .flags = kPrivateAnon});
          for (u64 i = 0; i < 40; i++) put(*mm_, a + i * P, static_cast<u64>(t) * 1000 + i);
          put(*mm_, shared + static_cast<u64>(t) * 16 * P, static_cast<u64>(round));
          auto child = *mm_->fork();
          yield();
          for (u64 i = 0; i < 40; i += 5) put(*mm_, a + i * P, 5);
          for (u64 i = 0; i < 40; i++) {
            EXPECT_EQ(peek(*child, a + i * P), static_cast<u64>(t) * 1000 + i);
            EXPECT_EQ(peek(*mm_, a + i * P), i % 5 == 0 ? 5 : static_cast<u64>(t) * 1000 + i);
          }
          EXPECT_EQ(peek(*child, shared + static_cast<u64>(t) * 16 * P), static_cast<u64>(round));
          EXPECT_TRUE(mm_->mprotect(a + 8 * P, 8 * P, PROT_READ));
          EXPECT_TRUE(mm_->munmap(a, 40 * P));
        }
        running--;
      });
    }
    while (running != 0) yield();
    mm_->release_all();
  });
}

}  // namespace
}  // namespace rf::mm
