#include "trap/code_patches.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>
#include <span>

#include "hostio/calls.h"
#include "trap/stub_code.h"

namespace rf::trap {
namespace {

constexpr u32 kSlotSize = 32, kMostSites = kPageSize / kSlotSize - 1;
// In the first slot: the address that all others jump to.
constexpr u32 kEntryAt = 0;
// In a slot: its own SYSCALL, for the short form.
constexpr u32 kCallAt = 16, kAfterCall = kCallAt + 2;

constexpr u32 kMovSize = 5, kXorSize = 2, kSyscallSize = 2, kJumpSize = 5;
constexpr u8 kMovEax = 0xb8, kJump = 0xe9, kRex = 0x48;

u32 slot_of(size_t site) { return static_cast<u32>(site + 1) * kSlotSize; }

// Where the slot's instructions begin, after the first.
u32 first_size(bool is_short) { return is_short ? kXorSize : kMovSize; }

u8 byte(std::span<const std::byte> page, size_t at) { return static_cast<u8>(page[at]); }

s32 relative(std::span<const std::byte> page, size_t at) {
  s32 v;
  std::memcpy(&v, &page[at], sizeof v);
  return v;
}

// Whether something that could be a jump leads into (start, end). It looks at every byte as if an instruction began
// there. So it finds many that are none (near three of ten system calls), but misses none of this page, and functions
// seldom jump into each other's middle. It is asked about the short form, whose SYSCALL code may jump to. The other
// replaces a single instruction, and code does not jump into the middle of one.
bool jumped_into(std::span<const std::byte> page, u32 start, u32 end) {
  const auto inside = [&](s64 target) { return target > start && target < end; };
  for (u32 i = 0; i + 2 <= kPageSize; ++i) {
    const u8 op = byte(page, i);
    const bool jump8 = (op & 0xf0) == 0x70 || op == 0xeb || (op & 0xfc) == 0xe0;
    if (jump8 && inside(s64{i} + 2 + static_cast<s8>(byte(page, i + 1)))) return true;
    const bool jump32 = op == kJump || op == 0xe8 || (op == 0x0f && (byte(page, i + 1) & 0xf0) == 0x80);
    const u32 size = op == 0x0f ? 6 : 5;
    if (jump32 && i + size <= kPageSize && inside(s64{i} + size + relative(page, i + size - 4))) return true;
  }
  return false;
}

class Assembler {
 public:
  Assembler(std::byte* page, u32 at) : page_(page), at_(at) {}
  u32 at() const { return at_; }
  void bytes(std::initializer_list<u8> list) {
    for (u8 b : list) page_[at_++] = static_cast<std::byte>(b);
  }
  void copy(const std::byte* from, u32 n) {
    std::memcpy(page_ + at_, from, n);
    at_ += n;
  }
  // An operand that is relative to its own end; `target` counts from the page's start.
  void to(s64 target) {
    const auto v = static_cast<s32>(target - (at_ + 4));
    copy(reinterpret_cast<const std::byte*>(&v), sizeof v);
  }

 private:
  std::byte* page_;
  u32 at_;
};

}  // namespace

std::optional<u32> PatchedPage::original_of(u32 trampoline) const {
  const u32 slot = trampoline / kSlotSize, in_slot = trampoline % kSlotSize;
  if (slot == 0 || slot > sites_.size()) return {};
  const Site& s = sites_[slot - 1];
  const u32 first = first_size(s.is_short);
  if (in_slot < first) return s.at;
  if (s.is_short && in_slot >= kAfterCall) return s.at + first + kSyscallSize;
  return s.at + first;
}

std::optional<u32> PatchedPage::moved(u32 code) const {
  for (size_t i = 0; i < sites_.size(); ++i)
    if (sites_[i].is_short && sites_[i].at + kXorSize == code) return slot_of(i) + kCallAt;
  return {};
}

Setup<std::unique_ptr<CodePatches>> CodePatches::create() {
  std::unique_ptr<CodePatches> c(new CodePatches);
  constexpr u64 kSize = u64{kMaxPages} * 2 * kPageSize;
  c->fd_ = hostio::HostFd(::memfd_create("ringfence-code", MFD_CLOEXEC));
  void* p = MAP_FAILED;
  if (c->fd_.valid() && ::ftruncate(c->fd_.get(), kSize) == 0)
    p = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, c->fd_.get(), 0);
  if (p == MAP_FAILED) return setup_error(fmt::format("memfd_create for patched code: {}", errno_text(errno)));
  c->base_ = static_cast<std::byte*>(p);
  return c;
}

CodePatches::~CodePatches() {
  if (base_) ::munmap(base_, u64{kMaxPages} * 2 * kPageSize);
}

// By a call and not from the window: the file may have become shorter.
bool CodePatches::read_page(const platform::Backing& backing, Page& page) {
  const iovec v{page.data(), page.size()};
  const auto n = hostio::host_call(SYS_preadv2, backing.fd, &v, 1, backing.offset, 0, 0);
  return n && *n == page.size();
}

std::shared_ptr<const PatchedPage> CodePatches::find(platform::Phys phys, const platform::Backing& backing) {
  std::shared_ptr<const PatchedPage> p;
  {
    SpinGuard guard(lock_);
    auto it = newest_.find(phys);
    if (it == newest_.end()) return nullptr;
    p = it->second;
  }
  Page now;
  if (!read_page(backing, now) || now != p->original_) return nullptr;
  return p;
}

std::shared_ptr<const PatchedPage> CodePatches::patch(platform::Phys phys, const platform::Backing& backing, u32 offset,
                                                      u64 number, bool alone) {
  auto page = std::make_shared<PatchedPage>();
  if (!read_page(backing, page->original_)) return nullptr;
  const auto& code = page->original_;
  if (offset + kSyscallSize + 1 > kPageSize || byte(code, offset) != 0x0f || byte(code, offset + 1) != 0x05)
    return nullptr;
  // syscall(3) ends so: mov 8(%rsp), %r9; syscall; cmp $-4095, %rax.
  static constexpr u8 kGeneric[] = {0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff};
  PatchedPage::Site site;
  if (offset >= kMovSize && offset - kMovSize + sizeof kGeneric <= kPageSize &&
      std::memcmp(&code[offset - kMovSize], kGeneric, sizeof kGeneric) == 0) {
    site = {offset - kMovSize, false};
  } else if (offset >= kMovSize && byte(code, offset - kMovSize) == kMovEax &&
             static_cast<u64>(static_cast<u32>(relative(code, offset - 4))) == number) {
    site = {offset - kMovSize, false};
  } else if (alone && number == 0 && offset >= kXorSize && (byte(code, offset - 2) & ~2) == 0x31 &&
             byte(code, offset - 1) == 0xc0 && byte(code, offset + kSyscallSize) == kRex) {
    site = {offset - kXorSize, true};
  } else {
    return nullptr;
  }
  if (site.is_short && jumped_into(code, site.at, site.at + kJumpSize)) return nullptr;

  SpinGuard guard(lock_);
  if (auto it = newest_.find(phys); it != newest_.end() && it->second->original_ == code) {
    page->sites_ = it->second->sites_;
    for (const auto& s : page->sites_)
      if (s.at == site.at) return it->second;
  }
  const u32 count = count_.load(std::memory_order_relaxed);
  if (count == kMaxPages || page->sites_.size() == kMostSites) return nullptr;
  page->sites_.push_back(site);
  page->offset_ = u64{count} * 2 * kPageSize;
  write(*page);
  newest_[phys] = page;
  known_[phys / kPageSize / 64 % known_.size()].fetch_or(u64{1} << (phys / kPageSize % 64), std::memory_order_relaxed);
  count_.store(count + 1, std::memory_order_relaxed);
  return page;
}

void CodePatches::write(PatchedPage& page) const {
  std::byte* const code = base_ + page.code_offset();
  std::byte* const slots = base_ + page.trampolines_offset();
  std::memcpy(code, page.original_.data(), kPageSize);
  const u64 entry = in_stub(rf_trap_call);
  std::memcpy(slots + kEntryAt, &entry, sizeof entry);
  constexpr s64 kDistance = kTrampolineDistance;
  for (size_t i = 0; i < page.sites_.size(); ++i) {
    const auto& [at, is_short] = page.sites_[i];
    const u32 first = first_size(is_short), after = at + first + kSyscallSize, slot = slot_of(i);
    Assembler jump(code, at);
    jump.bytes({kJump});
    jump.to(kDistance + slot);  // for the short form its last byte is what was there

    Assembler a(slots, slot);
    a.copy(page.original_.data() + at, first);
    a.bytes({0x48, 0x8d, 0x0d});  // lea after(%rip), %rcx
    a.to(after - kDistance);
    a.bytes({0xff, 0x25});  // jmp *entry(%rip)
    a.to(kEntryAt);
    if (!is_short) continue;
    Assembler again(slots, slot + kCallAt);
    again.bytes({0x0f, 0x05, kJump});
    again.to(after - kDistance);
  }
}

}  // namespace rf::trap
