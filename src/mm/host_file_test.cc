#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "mm/mapped_reads.h"
#include "mm/mm_fixture.h"
#include "mm/test_objects.h"
#include "mm/window_cache.h"

namespace rf::mm {
namespace {

using Kind = FaultFailure::Kind;

class HostFileTest : public MmTest {
 protected:
  static constexpr u64 kPages = 700;  // more than a chunk
  void SetUp() override {
    path_ = testing::TempDir() + "/rf_mm_host_file.XXXXXX";
    hostio::HostFd fd(mkstemp(path_.data()));
    std::vector<u64> words(kPages * kPageSize / sizeof(u64));
    for (u64 i = 0; i < kPages; i++) words[i * 512] = i + 1000;
    ASSERT_EQ(pwrite(fd.get(), words.data(), words.size() * 8, 0), static_cast<ssize_t>(kPages * kPageSize));
    object_ = HostFileObject::open(*frames_, path_, true);
    ASSERT_TRUE(object_);
  }
  void TearDown() override {
    mm_.reset();
    object_.reset();
    unlink(path_.c_str());
    EXPECT_EQ(frames_->window_cache().size(), 0u);
  }
  UserAddr map_file(u64 pages, int prot, int flags, u64 offset = 0) {
    auto r = mm_->mmap({.len = pages * kPageSize, .prot = prot, .flags = flags, .object = object_, .offset = offset});
    EXPECT_EQ(error_of(r), 0);
    return r.value_or(0);
  }
  u64 in_file(u64 page) {
    u64 v = 0;
    EXPECT_EQ(pread(object_->fd(), &v, sizeof v, static_cast<off_t>(page * kPageSize)), 8);
    return v;
  }
  std::string path_;
  Ref<HostFileObject> object_;
};

TEST_F(HostFileTest, ReadsComeFromTheFileAcrossChunks) {
  UserAddr a = map_file(kPages - 3, PROT_READ, MAP_PRIVATE, 3 * kPageSize);
  for (u64 i = 0; i < kPages - 3; i += 13) EXPECT_EQ(peek(a + i * kPageSize), i + 1003);
  EXPECT_LE(tables(*mm_).commits(), 0u);
}

TEST_F(HostFileTest, OneFaultMapsManyPages) {
  UserAddr a = map_file(kPages, PROT_READ, MAP_PRIVATE);
  EXPECT_TRUE(mm_->handle_fault(a + 20 * kPageSize, Access::kRead));
  EXPECT_GE(tables(*mm_).present(), 100u);
  EXPECT_EQ(frames_->used(), clock_->image_size()) << "nothing is copied";
}

TEST_F(HostFileTest, PrivateWritesStayPrivate) {
  UserAddr a = map_file(kPages, kRw, MAP_PRIVATE);
  EXPECT_EQ(peek(a + 5 * kPageSize), 1005u);
  put(a + 5 * kPageSize, 1);
  put(a + 600 * kPageSize, 2);
  EXPECT_EQ(in_file(5), 1005u);
  EXPECT_EQ(peek(a + 5 * kPageSize), 1u);
  EXPECT_EQ(peek(a + 6 * kPageSize), 1006u);
  EXPECT_EQ(peek(a + 601 * kPageSize), 1601u);
  auto child = *mm_->fork();
  put(*child, a + 5 * kPageSize, 3);
  EXPECT_EQ(peek(a + 5 * kPageSize), 1u);
  EXPECT_EQ(peek(*child, a + 600 * kPageSize), 2u);
}

// Pages are written one window of 64 after another, in the first of them; how many have been copied each time?
TEST_F(HostFileTest, WritesCopyMoreAndMoreWhereThatCostsLittle) {
  constexpr u64 kWindow = 64, kFirst = 64, kCopied[] = {16, 32, 64, 64};
  for (const bool read_before : {false, true}) {
    map_lazily();
    const UserAddr a = map_file(kPages, kRw, MAP_PRIVATE);
    const auto at = [&](u64 page) { return a + page * kPageSize; };
    const u64 skew = (kWindow - a / kPageSize % kWindow) % kWindow;  // windows are aligned in the address space
    if (read_before) peek(at(kFirst));
    for (u64 i = 0; i < std::size(kCopied); ++i) {
      const u64 page = kFirst + skew + i * kWindow, before = frames_->used();
      ASSERT_TRUE(mm_->handle_fault(at(page), Access::kWrite));
      const u64 copied = (frames_->used() - before) / kPageSize;
      EXPECT_EQ(copied, kCopied[i]) << "write " << i << (read_before ? ", read before" : "");
      EXPECT_EQ(peek(at(page + copied - 1)), 1000 + page + copied - 1);
      put(at(page), 1);
      EXPECT_EQ(in_file(page), 1000 + page);
    }
  }
}

TEST_F(HostFileTest, SharedWritesReachTheFile) {
  UserAddr a = map_file(kPages, kRw, MAP_SHARED);
  put(a + 7 * kPageSize, 9);
  EXPECT_EQ(in_file(7), 9u);
}

TEST_F(HostFileTest, PagesPastTheEndAreSigbus) {
  UserAddr a = map_file(kPages + 10, PROT_READ, MAP_SHARED);
  EXPECT_EQ(peek(a + (kPages - 1) * kPageSize), kPages + 999);
  EXPECT_EQ(fault_kind(a + kPages * kPageSize, Access::kRead), Kind::kBusAdrErr);
}

TEST_F(HostFileTest, CopiesSurviveAFileCutShort) {
  UserAddr a = map_file(8, kRw, MAP_SHARED);
  for (u64 i = 0; i < 8; i++) peek(a + i * kPageSize);
  ASSERT_EQ(ftruncate(object_->fd(), 2 * kPageSize), 0);
  std::vector<std::byte> buffer(8 * kPageSize);
  EXPECT_EQ(mm_->copy_in(buffer.data(), a, buffer.size()), 2 * kPageSize);
  EXPECT_EQ(mm_->copy_in(buffer.data(), a + 4 * kPageSize + 100, 16), 0u);
  EXPECT_EQ(mm_->copy_out(a + 4 * kPageSize, buffer.data(), 4000), 0u);
  EXPECT_EQ(mm_->zero_out(a + 4 * kPageSize, 4000), 0u);
  EXPECT_EQ(error_of(mm_->load_u32(a + 5 * kPageSize)), EFAULT);
  u32 expected = 0;
  EXPECT_EQ(error_of(mm_->compare_exchange_u32(a + 5 * kPageSize, expected, 1)), EFAULT);
  char text[100];
  EXPECT_EQ(error_of(mm_->copy_in_string(text, a + 6 * kPageSize, sizeof text)), EFAULT);
}

TEST_F(HostFileTest, CopyOnWriteOfALostPageIsSigbus) {
  UserAddr a = map_file(kPages, kRw, MAP_PRIVATE);
  for (u64 i = 0; i < 8; i++) peek(a + i * kPageSize);
  ASSERT_EQ(ftruncate(object_->fd(), 2 * kPageSize), 0);
  EXPECT_EQ(fault_kind(a + 4 * kPageSize, Access::kWrite), Kind::kBusAdrErr);
  put(a + kPageSize, 1);
}

TEST_F(HostFileTest, UnmapMappingsTakesSharedPagesAndPrivateCopies) {
  UserAddr shared = map_file(8, PROT_READ, MAP_SHARED), copy = map_file(kPages, kRw, MAP_PRIVATE);
  for (u64 i = 0; i < 8; i++) peek(shared + i * kPageSize);
  put(copy, 1);
  peek(copy + kPageSize * 6);
  ASSERT_EQ(ftruncate(object_->fd(), kPageSize), 0);
  object_->mappable().unmap_mappings(kPageSize, ~u64{0}, true);
  EXPECT_EQ(peek(shared), 1000u);
  EXPECT_EQ(fault_kind(shared + kPageSize, Access::kRead), Kind::kBusAdrErr);
  EXPECT_EQ(peek(copy), 1u);
  EXPECT_EQ(fault_kind(copy + 6 * kPageSize, Access::kRead), Kind::kBusAdrErr);
}

TEST_F(HostFileTest, IdleChunksAreGivenUpForOthers) {
  // Many files, one chunk each, none mapped any more: the cache stays bounded.
  std::vector<Ref<HostFileObject>> files;
  for (int i = 0; i < 900; i++) {
    auto f = HostFileObject::open(*frames_, path_);
    if (!f) break;
    auto a = mm_->mmap({.len = kPageSize, .prot = PROT_READ, .flags = MAP_PRIVATE, .object = f});
    EXPECT_EQ(peek(*a), 1000u);
    EXPECT_TRUE(mm_->munmap(*a, kPageSize));
    files.push_back(std::move(f));
  }
  EXPECT_LE(frames_->window_cache().size(), 800u);
}

TEST_F(HostFileTest, MapsTellTheOffset) {
  UserAddr a = map_file(4, PROT_READ, MAP_PRIVATE, 2 * kPageSize);
  EXPECT_TRUE(mm_->mprotect(a + kPageSize, kPageSize, PROT_NONE));
  std::vector<u64> offsets;
  mm_->for_each_vma(false, [&](const VmaInfo& v) { offsets.push_back(v.offset / kPageSize); });
  EXPECT_EQ(offsets, (std::vector<u64>{2, 3, 4}));
  EXPECT_TRUE(mm_->mprotect(a + kPageSize, kPageSize, PROT_READ));
  EXPECT_EQ(maps(a), "0-4 r--p\n");
}

TEST_F(HostFileTest, RightsOfTheFileAreKept) {
  EXPECT_EQ(
      error_of(mm_->mmap({.len = kPageSize, .prot = kRw, .flags = MAP_SHARED, .object = object_, .may_write = false})),
      EACCES);
  EXPECT_EQ(error_of(mm_->mmap(
                {.len = kPageSize, .prot = PROT_EXEC, .flags = MAP_PRIVATE, .object = object_, .may_exec = false})),
            EPERM);
  auto a = mm_->mmap({.len = kPageSize,
                      .prot = PROT_READ,
                      .flags = MAP_SHARED,
                      .object = object_,
                      .may_write = false,
                      .may_exec = false});
  EXPECT_EQ(error_of(mm_->mprotect(*a, kPageSize, kRw)), EACCES);
  EXPECT_EQ(error_of(mm_->mprotect(*a, kPageSize, PROT_READ | PROT_EXEC)), EACCES);
}

class MappedReadsTest : public HostFileTest {
 protected:
  void SetUp() override {
    HostFileTest::SetUp();
    fd_ = hostio::HostFd(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    reads_ = std::make_unique<MappedReads>(*frames_);
  }
  void TearDown() override {
    reads_.reset();
    HostFileTest::TearDown();
  }
  size_t read(u64 offset, size_t len) {
    out_.assign(len, std::byte{0x5a});
    const iovec parts[] = {{out_.data(), len / 3}, {out_.data() + len / 3, len - len / 3}};
    return reads_->read(fd_.get(), parts, offset);
  }
  u64 word(size_t at) const {
    u64 w;
    std::memcpy(&w, &out_[at], sizeof w);
    return w;
  }
  void note_often(u64 offset, u64 len) {
    for (int i = 0; i < 4; ++i) reads_->note(fd_.get(), offset, len);
  }
  hostio::HostFd fd_;
  std::unique_ptr<MappedReads> reads_;
  std::vector<std::byte> out_;
};

TEST_F(MappedReadsTest, OnlyWhatIsReadAgainAndAgainIsMapped) {
  for (int times = 0; times < 3; ++times)
    for (u64 at = 0; at < kPages * kPageSize; at += 16 * kPageSize) {
      EXPECT_EQ(read(at, 16 * kPageSize), 0u);
      reads_->note(fd_.get(), at, 16 * kPageSize);
    }
  EXPECT_EQ(read(0, kPageSize), 0u);
  EXPECT_EQ(frames_->window_cache().size(), 0u);
  reads_->note(fd_.get(), 0, 32 * kPageSize);
  EXPECT_EQ(read(3 * kPageSize, 20 * kPageSize), 20 * kPageSize);
  EXPECT_EQ(word(0), 1003u);
  EXPECT_EQ(word(19 * kPageSize), 1022u);
  EXPECT_EQ(read(3 * kPageSize - 1, 20), 20u);
  EXPECT_EQ(word(1), 1003u);
  EXPECT_EQ(read(32 * kPageSize, kPageSize), 0u);
}

TEST_F(MappedReadsTest, ReadsEndWhereTheMappedChunkDoes) {
  constexpr u64 kEnd = GuestMemory::kWindowChunk;
  note_often(kEnd - 16 * kPageSize, 16 * kPageSize);
  EXPECT_EQ(read(kEnd - 2 * kPageSize, 8 * kPageSize), 2 * kPageSize);
  note_often(kEnd, 16 * kPageSize);
  EXPECT_EQ(read(kEnd - 2 * kPageSize, 8 * kPageSize), 8 * kPageSize);
  EXPECT_EQ(word(7 * kPageSize), 1000 + kEnd / kPageSize + 5);
}

TEST_F(MappedReadsTest, ChangesOfTheHostShowAtOnce) {
  note_often(0, 16 * kPageSize);
  const u64 changed = 77;
  ASSERT_EQ(pwrite(fd_.get(), &changed, sizeof changed, 5 * kPageSize), 8);
  ASSERT_EQ(read(5 * kPageSize, 64), 64u);
  EXPECT_EQ(word(0), 77u);
}

TEST_F(MappedReadsTest, TheHostIsAskedAboutTheEnd) {
  note_often(0, 16 * kPageSize);
  EXPECT_EQ(read(kPages * kPageSize - 8, 9), 0u);
  EXPECT_EQ(read(kPages * kPageSize, 1), 0u);
  EXPECT_EQ(read(~u64{0} - 8, 100), 0u);
}

TEST_F(MappedReadsTest, AFileCutShortIsForgotten) {
  note_often(0, 16 * kPageSize);
  ASSERT_EQ(read(0, 16 * kPageSize), 16 * kPageSize);
  ASSERT_EQ(ftruncate(fd_.get(), 4 * kPageSize), 0);
  EXPECT_EQ(read(0, 16 * kPageSize), 4 * kPageSize);
  EXPECT_EQ(read(0, kPageSize), 0u);
}

}  // namespace
}  // namespace rf::mm
