#include "trap/code_patches.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace rf::trap {
namespace {

constexpr platform::Phys kPhys = platform::GuestMemory::kWindowBase;

class CodePatchesTest : public testing::Test {
 protected:
  void SetUp() override {
    auto patches = CodePatches::create();
    ASSERT_TRUE(patches);
    patches_ = *std::move(patches);
    ASSERT_EQ(::ftruncate(file_.get(), kPageSize), 0);
  }

  void put(u32 at, std::initializer_list<u8> bytes) {
    ASSERT_EQ(::pwrite(file_.get(), std::data(bytes), bytes.size(), at), static_cast<ssize_t>(bytes.size()));
  }
  std::shared_ptr<const PatchedPage> patch(u32 offset, u64 number, bool alone = true) {
    return patches_->patch(kPhys, backing(), offset, number, alone);
  }
  std::shared_ptr<const PatchedPage> find() { return patches_->find(kPhys, backing()); }
  platform::Backing backing() const { return {file_.get(), 0, kPageSize, false}; }
  std::vector<u8> code(const PatchedPage& page) const {
    std::vector<u8> bytes(2 * kPageSize);
    EXPECT_EQ(::pread(patches_->fd(), bytes.data(), bytes.size(), static_cast<off_t>(page.code_offset())),
              static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

  std::unique_ptr<CodePatches> patches_;
  hostio::HostFd file_{::memfd_create("code", MFD_CLOEXEC)};
};

TEST_F(CodePatchesTest, AMovBecomesAJumpToASlotThatHasIt) {
  put(0x100, {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d});
  const auto page = patch(0x105, 39);
  ASSERT_TRUE(page);
  EXPECT_EQ(find(), page);
  const auto bytes = code(*page);
  ASSERT_EQ(bytes[0x100], 0xe9);
  s32 rel;
  std::memcpy(&rel, &bytes[0x101], sizeof rel);
  const u64 slot = static_cast<u64>(0x105 + s64{rel}) - kTrampolineDistance;
  ASSERT_LT(slot, kPageSize);
  EXPECT_EQ(bytes[kPageSize + slot], 0xb8);
  EXPECT_EQ(bytes[kPageSize + slot + 1], 39);
  EXPECT_EQ(bytes[0x105], 0x0f) << "the SYSCALL is gone";
  const auto at = static_cast<u32>(slot);
  EXPECT_EQ(page->original_of(at), 0x100u);
  EXPECT_EQ(page->original_of(at + 5), 0x105u);
  EXPECT_EQ(page->original_of(at + 12), 0x105u);
  EXPECT_EQ(page->original_of(0), std::nullopt);
  EXPECT_EQ(page->original_of(at + 32), std::nullopt);
  EXPECT_EQ(page->moved(0x105), std::nullopt);
}

TEST_F(CodePatchesTest, AXorKeepsTheByteAfterTheCall) {
  put(0x100, {0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d});
  EXPECT_FALSE(patch(0x102, 0, false)) << "another thread may be between the two";
  const auto page = patch(0x102, 0);
  ASSERT_TRUE(page);
  const auto bytes = code(*page);
  EXPECT_EQ(bytes[0x100], 0xe9);
  EXPECT_EQ(bytes[0x104], 0x48);
  const auto again = page->moved(0x102);
  ASSERT_TRUE(again);
  EXPECT_EQ(bytes[kPageSize + *again], 0x0f);
  EXPECT_EQ(bytes[kPageSize + *again + 1], 0x05);
  EXPECT_EQ(page->original_of(*again), 0x102u);
  EXPECT_EQ(page->original_of(*again + 2), 0x104u);
}

TEST_F(CodePatchesTest, WhatIsNotCertainStays) {
  put(0x100, {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48});
  EXPECT_FALSE(patch(0x105, 40)) << "rax was loaded by something else";
  EXPECT_FALSE(patch(0x104, 39)) << "no SYSCALL";
  put(0x200, {0x31, 0xc0, 0x0f, 0x05, 0xc3});
  EXPECT_FALSE(patch(0x202, 0)) << "the jump would change what follows";
  put(2, {0x0f, 0x05, 0x48});
  EXPECT_FALSE(patch(2, 39)) << "the page before it would have to be changed";
  put(kPageSize - 7, {0xb8, 39, 0, 0, 0, 0x0f, 0x05});
  EXPECT_FALSE(patch(kPageSize - 2, 39)) << "it goes on in the next page";
  EXPECT_FALSE(find());
}

TEST_F(CodePatchesTest, AJumpToTheCallForbidsTheShortForm) {
  put(0x100, {0x31, 0xc0, 0x0f, 0x05, 0x48});
  put(0x120, {0xeb, 0xe0});  // to 0x102
  EXPECT_FALSE(patch(0x102, 0));
  put(0x120, {0xeb, 0xde});  // to 0x100, where the patch begins
  EXPECT_TRUE(patch(0x102, 0));
  put(0x200, {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48});
  put(0x220, {0xeb, 0xe3});  // to 0x205, the SYSCALL: it stays where it is
  EXPECT_TRUE(patch(0x205, 39));
}

// mov 12(%rsp), %esi has a byte that looks like a jump to 0x102.
TEST_F(CodePatchesTest, WhatOnlyLooksLikeAJumpForbidsNothing) {
  put(0x0db, {0x8b, 0x74, 0x24, 0x0c});
  put(0x100, {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48});
  EXPECT_TRUE(patch(0x105, 39));
}

TEST_F(CodePatchesTest, SeveralSitesShareAPageAndOldCopiesStay) {
  put(0x100, {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48});
  put(0x200, {0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0x48});
  const auto first = patch(0x105, 39);
  const auto second = patch(0x205, 110);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(code(*first)[0x200], 0xb8);
  EXPECT_EQ(code(*second)[0x100], 0xe9);
  EXPECT_EQ(code(*second)[0x200], 0xe9);
  EXPECT_EQ(patch(0x105, 39), second);
}

TEST_F(CodePatchesTest, AChangedFileIsNotPatchedCodeAnyMore) {
  put(0x100, {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48});
  ASSERT_TRUE(patch(0x105, 39));
  put(0x800, {0x90});
  EXPECT_FALSE(find());
  ASSERT_EQ(::ftruncate(file_.get(), 100), 0);
  EXPECT_FALSE(find());
  EXPECT_FALSE(patch(0x105, 39));
}

}  // namespace
}  // namespace rf::trap
