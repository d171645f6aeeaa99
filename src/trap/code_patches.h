// Patched code: copies of pages of guest code in which system calls that were seen trapping jump into the stub instead,
// so that they cost no signal.
//
//   the code            mov $N, %eax        the patched copy    jmp slot
//                       syscall                                 syscall
//
//   a slot              mov $N, %eax        as it was
//                       lea after(%rip), %rcx
//                       jmp *entry          rf_trap_call, in the stub's text
//
// Another instruction of the size of a jump may stand in the place of the mov. `xor %eax, %eax; syscall`, is shorter
// than a jump; but a jump whose last byte is the one after the SYSCALL leaves that as it is. Its SYSCALL instruction is
// lost, so its slot has another one, for those who are to execute just that (a system call that is made again after a
// signal).
//
// The slots of a page are kTrampolineDistance above it, which makes the last byte of all jumps 0x48: what follows most
// system calls (a REX prefix). Both pages say nothing of where they are, so all address spaces share them.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/result.h"
#include "core/spinlock.h"
#include "hostio/fd.h"
#include "platform/guest_memory.h"

namespace rf::trap {

inline constexpr u64 kTrampolineDistance = 0x4800'1000;

// Immutable. All offsets are within a page.
class PatchedPage {
 public:
  // Where the two pages are in CodePatches::fd().
  u64 code_offset() const { return offset_; }
  u64 trampolines_offset() const { return offset_ + kPageSize; }

  // For a thread that was stopped in the trampolines: where it would be without them. None: not at an instruction
  // there.
  std::optional<u32> original_of(u32 trampoline) const;
  // For a thread that is to go on at a SYSCALL that is not there any more: where another is in the trampolines.
  std::optional<u32> moved(u32 code) const;

 private:
  friend class CodePatches;
  struct Site {
    u32 at;
    bool is_short;  // the xor form
  };
  u64 offset_ = 0;
  std::vector<Site> sites_;  // slot i+1 is for site i
  std::array<std::byte, kPageSize> original_;
};

// Those of a sandbox. Thread-safe.
class CodePatches {
 public:
  static Setup<std::unique_ptr<CodePatches>> create();
  ~CodePatches();
  CodePatches(const CodePatches&) = delete;
  CodePatches& operator=(const CodePatches&) = delete;

  int fd() const { return fd_.get(); }
  bool any() const { return count_.load(std::memory_order_relaxed) != 0; }

  // False: find() finds nothing.
  bool may_know(platform::Phys phys) const {
    return known_[phys / kPageSize / 64 % known_.size()].load(std::memory_order_relaxed) >> (phys / kPageSize % 64) & 1;
  }
  // The newest patched copy of the page at `phys`, or null. Null too if the page's file has changed since.
  std::shared_ptr<const PatchedPage> find(platform::Phys phys, const platform::Backing& backing);

  // The same with the SYSCALL at `offset`, which was made with `number`, patched too. Null: its surroundings do not
  // allow it, or there are enough patched pages. The short form only if `alone`: no other thread can be between its two
  // instructions when the page is exchanged.
  std::shared_ptr<const PatchedPage> patch(platform::Phys phys, const platform::Backing& backing, u32 offset,
                                           u64 number, bool alone);

 private:
  using Page = std::array<std::byte, kPageSize>;
  CodePatches() = default;
  static bool read_page(const platform::Backing& backing, Page& page);
  void write(PatchedPage& page) const;

  static constexpr u32 kMaxPages = 4096;  // copies; a page has a new one for each of its sites
  hostio::HostFd fd_;
  std::byte* base_ = nullptr;
  SpinLock lock_;
  std::unordered_map<platform::Phys, std::shared_ptr<const PatchedPage>> newest_;
  std::atomic<u32> count_{0};                 // copies made
  std::array<std::atomic<u64>, 64> known_{};  // a bit for each of newest_, by the low bits of its page's number
};

}  // namespace rf::trap
