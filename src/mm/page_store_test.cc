#include "mm/page_store.h"

#include <fcntl.h>

#include "mm/mm_fixture.h"
#include "mm/test_objects.h"

namespace rf::mm {
namespace {

class PageStoreTest : public MmTest {
 protected:
  void SetUp() override {
    object_ = make_ref<StoreObject>(*frames_);
    base_ = frames_->used();
  }
  PageStore& store() { return object_->pages; }
  size_t write(u64 offset, std::string_view s) {
    return *store().write(offset, std::as_bytes(std::span(s.data(), s.size())));
  }
  std::string read(u64 offset, size_t len) {
    std::string s(len, '?');
    s.resize(*store().read(offset, std::as_writable_bytes(std::span(s.data(), s.size()))));
    return s;
  }
  UserAddr map_store(u64 pages, int prot, int flags, u64 offset = 0) {
    auto r = mm_->mmap({.len = pages * kPageSize, .prot = prot, .flags = flags, .object = object_, .offset = offset});
    EXPECT_EQ(error_of(r), 0);
    return r.value_or(0);
  }
  Ref<StoreObject> object_;
  u64 base_ = 0;
};

TEST_F(PageStoreTest, HolesReadAsZerosAndTakeNoMemory) {
  write(1 << 20, "end");
  EXPECT_EQ(store().size(), (1u << 20) + 3);
  EXPECT_EQ(read(100, 4), std::string(4, '\0'));
  EXPECT_EQ(read((1 << 20) - 1, 10), std::string("\0end", 4));
  EXPECT_EQ(store().allocated_bytes(), kPageSize);
  EXPECT_EQ(frames_->used() - base_, kPageSize);
}

TEST_F(PageStoreTest, WritesJoinAndOverwrite) {
  std::string big(300'000, 'a');
  EXPECT_EQ(write(5000, big), big.size());
  EXPECT_EQ(write(4999, "xyz"), 3u);
  EXPECT_EQ(read(4998, 5), std::string("\0xyza", 5));
  EXPECT_EQ(read(304'999, 10), "a");
  EXPECT_EQ(read(305'000, 10), "");
}

TEST_F(PageStoreTest, ShrinkingFreesAndClearsTheTail) {
  write(0, std::string(5 * kPageSize, 'b'));
  store().resize(kPageSize + 10);
  EXPECT_EQ(store().allocated_bytes(), 2 * kPageSize);
  store().resize(3 * kPageSize);
  EXPECT_EQ(read(kPageSize + 8, 4), std::string("bb\0\0", 4));
  EXPECT_EQ(read(2 * kPageSize, 1), std::string(1, '\0'));
}

TEST_F(PageStoreTest, PunchKeepsSizeAndNeighbours) {
  write(0, std::string(4 * kPageSize, 'c'));
  store().punch(kPageSize - 1, kPageSize + 2);
  EXPECT_EQ(store().size(), 4 * kPageSize);
  EXPECT_EQ(store().allocated_bytes(), 3 * kPageSize);
  EXPECT_EQ(read(kPageSize - 2, 2), std::string("c\0", 2));
  EXPECT_EQ(read(2 * kPageSize, 2), std::string("\0c", 2));
  store().punch(10, 5);
  EXPECT_EQ(read(9, 7), std::string("c\0\0\0\0\0c", 7));
}

TEST_F(PageStoreTest, SeekFindsDataAndHoles) {
  write(2 * kPageSize, "d");
  write(6 * kPageSize, "d");
  EXPECT_EQ(*store().seek_data(0), 2 * kPageSize);
  EXPECT_EQ(*store().seek_data(2 * kPageSize + 5 - 5), 2 * kPageSize);
  EXPECT_EQ(*store().seek_hole(2 * kPageSize), 3 * kPageSize);
  EXPECT_EQ(*store().seek_data(3 * kPageSize), 6 * kPageSize);
  EXPECT_EQ(*store().seek_hole(6 * kPageSize), 6 * kPageSize + 1) << "the end of the file is a hole";
  EXPECT_EQ(error_of(store().seek_data(6 * kPageSize + 1)), ENXIO);
}

TEST_F(PageStoreTest, AllocateReservesBeyondTheEnd) {
  EXPECT_TRUE(store().allocate(0, 10 * kPageSize));
  EXPECT_EQ(store().allocated_bytes(), 10 * kPageSize);
  EXPECT_EQ(read(0, 1), "") << "the size is the caller's to set";
  EXPECT_TRUE(store().allocate(5 * kPageSize, 10 * kPageSize));
  EXPECT_EQ(store().allocated_bytes(), 15 * kPageSize);
}

TEST_F(PageStoreTest, WriteAtTheMemoryLimitIsShortThenEnospc) {
  std::string big(kLimit, 'e');
  size_t n = write(0, big);
  EXPECT_LT(n, big.size());
  EXPECT_EQ(error_of(store().write(n, std::as_bytes(std::span("x", 1)))), ENOSPC);
  EXPECT_EQ(store().size(), n);
}

TEST_F(PageStoreTest, MappingsAndFileAreOne) {
  write(0, "hello");
  store().resize(3 * kPageSize);
  UserAddr a = map_store(3, kRw, MAP_SHARED), b = map_store(3, PROT_READ, MAP_SHARED);
  put(a + kPageSize, 77);
  EXPECT_EQ(peek(b + kPageSize), 77u);
  EXPECT_EQ(read(kPageSize, 1), "M");
  write(kPageSize, "N");
  EXPECT_EQ(peek(a + kPageSize), 78u);
}

TEST_F(PageStoreTest, PrivateMappingCopiesOnWrite) {
  write(0, std::string(2 * kPageSize, 'f'));
  UserAddr a = map_store(2, kRw, MAP_PRIVATE);
  put(a, 1);
  EXPECT_EQ(read(0, 1), "f");
  EXPECT_EQ(peek(a), 1u);
}

TEST_F(PageStoreTest, BeyondTheEndIsSigbus) {
  write(0, "g");
  UserAddr a = map_store(3, kRw, MAP_SHARED);
  EXPECT_EQ(peek(a), u64{'g'});
  EXPECT_EQ(fault_kind(a + kPageSize, Access::kRead), FaultFailure::Kind::kBusAdrErr);
  store().resize(2 * kPageSize);
  EXPECT_EQ(peek(a + kPageSize), 0u);
}

TEST_F(PageStoreTest, TruncationTakesMappingsAway) {
  write(0, std::string(4 * kPageSize, 'h'));
  UserAddr shared = map_store(4, kRw, MAP_SHARED), copied = map_store(4, kRw, MAP_PRIVATE);
  put(shared + 3 * kPageSize, 5);
  put(copied + 3 * kPageSize, 6);
  store().resize(kPageSize);
  EXPECT_EQ(fault_kind(shared + 3 * kPageSize, Access::kRead), FaultFailure::Kind::kBusAdrErr);
  EXPECT_EQ(fault_kind(copied + 3 * kPageSize, Access::kRead), FaultFailure::Kind::kBusAdrErr);
  store().resize(4 * kPageSize);
  EXPECT_EQ(peek(shared + 3 * kPageSize), 0u);
}

TEST_F(PageStoreTest, PunchKeepsPrivateCopies) {
  write(0, std::string(40 * kPageSize, 'i'));
  UserAddr a = map_store(40, kRw, MAP_PRIVATE);
  EXPECT_EQ(peek(a) & 0xff, u64{'i'});
  put(a + 30 * kPageSize, 6);
  store().punch(0, 40 * kPageSize);
  EXPECT_EQ(peek(a + 30 * kPageSize), 6u);
  EXPECT_EQ(peek(a + 8 * kPageSize), 0u) << "what was not copied follows the file";
}

TEST_F(PageStoreTest, MadviseRemovePunches) {
  write(0, std::string(4 * kPageSize, 'j'));
  UserAddr a = map_store(4, kRw, MAP_SHARED);
  EXPECT_TRUE(mm_->madvise(a + kPageSize, kPageSize, MADV_REMOVE));
  EXPECT_EQ(read(kPageSize, 1), std::string(1, '\0'));
  EXPECT_EQ(peek(a + kPageSize), 0u);
  EXPECT_EQ(peek(a + 2 * kPageSize) & 0xff, u64{'j'});
}

TEST_F(PageStoreTest, SharedAnonymousMemorySurvivesFork) {
  UserAddr a = map(4, kRw, kSharedAnon);
  put(a, 1);
  auto child = *mm_->fork();
  put(*child, a, 2);
  put(*child, a + 2 * kPageSize, 3);
  EXPECT_EQ(peek(a), 2u);
  EXPECT_EQ(peek(a + 2 * kPageSize), 3u);
  mm_->for_each_vma(false, [&](const VmaInfo& v) { EXPECT_EQ(v.object->identity().path, "/dev/zero (deleted)"); });
}

TEST_F(PageStoreTest, FutexKeysOfSharedMappingsAgree) {
  store().resize(2 * kPageSize);
  UserAddr a = map_store(2, kRw, MAP_SHARED), b = map_store(1, kRw, MAP_SHARED, kPageSize);
  auto child = *mm_->fork();
  EXPECT_TRUE(*mm_->futex_key(a + kPageSize + 8, true) == *child->futex_key(b + 8, true));
  EXPECT_FALSE(*mm_->futex_key(a, true) == *mm_->futex_key(b, true));
  EXPECT_FALSE(*mm_->futex_key(a, false) == *child->futex_key(a, false));
  EXPECT_EQ(error_of(mm_->futex_key(a + 2, true)), EINVAL);
  EXPECT_EQ(error_of(mm_->futex_key(0x10000, true)), EFAULT);
}

}  // namespace
}  // namespace rf::mm
