// One KVM virtual machine: its file descriptors, its memory slots, and the private pages behind the guest page
// tables and the supervisor part.
//
// Guest-physical addresses are Phys values: GuestMemory's range at 0, and from GuestMemory::kWindowEnd on the
// private pages, which no guest page-table entry for ring 3 ever points to.
#pragma once

#include "kvm/kvm_api.h"

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "core/result.h"
#include "core/spinlock.h"
#include "core/types.h"
#include "hostio/fd.h"
#include "platform/guest_memory.h"

namespace rf::kvm {

using platform::GuestMemory;
using platform::kNoPhys;
using platform::Phys;

// What this KVM turned out to be, by trying. See docs/kvm.md.
struct Kind {
  bool interpreted_ring0 = true;    // ring 0 costs about a microsecond an instruction; SYSCALL arrives as a page fault
  bool shadow_paging = true;        // page-table writes made by the host are not noticed
  double ring0_ns = 0;              // measured, per instruction
  double exit_ns = 0;               // measured: into ring 0 and out by a HLT, the least that a call in exit mode takes
  double call_ns = 0;               // measured where ring 0 is native: from ring 3 to ring 0 and back, by SYSCALL
  bool syscall_to_nothing = false;  // SYSCALL in ring 3 enters at ring0::kNothing, and KVM_RUN ends there
};

// The /dev/kvm of this host, checked for what we need. The error says what to do.
Setup<hostio::HostFd> open_kvm();

class Vm {
 public:
  static Setup<std::unique_ptr<Vm>> create(GuestMemory& memory);
  ~Vm();

  int kvm_fd() const { return kvm_.get(); }
  int fd() const { return vm_.get(); }
  GuestMemory& memory() { return memory_; }
  const std::vector<kvm_cpuid_entry2>& cpuid() const { return cpuid_; }
  const Kind& kind() const { return kind_; }
  void set_kind(const Kind& kind) { kind_ = kind; }

  // In no memory slot, ever.
  static constexpr Phys kUnbackedPage = GuestMemory::kSize - 2 * kPageSize;

  // Makes [p, p+len) of GuestMemory guest-physical memory. Any thread. ENOMEM when KVM refuses.
  Result<void> require(Phys p, u64 len) {
    u64 first = p >> kSlotShift, last = (p + len - 1) >> kSlotShift;
    for (u64 i = first; i <= last; ++i)
      if (!slot_ready_[i].load(std::memory_order_acquire)) [[unlikely]]
        TRY(add_memory_slot(i));
    return {};
  }

  // A zeroed private page; host_page() is where the sentry sees it. ENOMEM.
  Result<Phys> allocate_page();
  void* host_page(Phys p) const { return private_base_ + (p - kPrivateBase); }
  // Gives pages back that the guest's MMU may still know. With shadow paging they wait in quarantine
  // until drop_all_shadows() has run; otherwise the caller has flushed the TLBs that matter.
  void free_pages(const std::vector<Phys>& pages);
  // Makes KVM forget every shadow page of this VM.
  void drop_all_shadows();
  // Makes all of GuestMemory guest-physical memory, in one slot; instead of what require() does piece by piece. Before
  // anything of it is. Cheap with nested paging alone.
  Result<void> require_all();
  // For memory beyond GuestMemory::kSize: makes [host, host+len) guest-physical memory at `p`. `slot` from
  // kFirstExtraSlot on. Takes no lock.
  Result<void> add_slot(u32 slot, Phys p, u64 len, void* host) { return set_slot(slot, p, len, host); }

  // Sum over all address spaces, for deciding what an invalidation would cost one way or the other.
  std::atomic<u64> present_pages{0};
  struct Counters {
    std::atomic<u64> shadow_drops{0}, invalidations{0}, invalidated_ranges{0}, tables_allocated{0};
    std::atomic<u64> single_pages{0};  // invalidated by INVLPG
  };
  Counters counters;

 private:
  explicit Vm(GuestMemory& memory) : memory_(memory) {}
  Result<void> add_memory_slot(u64 index);
  Result<void> set_slot(u32 slot, Phys p, u64 len, void* host);
  Result<void> add_private_chunk();

  static constexpr Phys kPrivateBase = GuestMemory::kWindowEnd;
  static constexpr u64 kPrivateSize = GuestMemory::kSize - kPrivateBase;
  static constexpr u64 kPrivateChunk = u64{1} << 20;
  // With shadow paging a slot costs the host 10 bytes per page in it, used or not.
  static constexpr u64 kSlotShift = 26;
  static constexpr u64 kSlots = GuestMemory::kSize >> kSlotShift;
  static constexpr u32 kPrivateSlot0 = kSlots;
  static constexpr u32 kTinySlot = kPrivateSlot0 + kPrivateSize / kPrivateChunk;

 public:
  static constexpr u32 kFirstExtraSlot = kTinySlot + 1;

 private:
  GuestMemory& memory_;
  hostio::HostFd kvm_, vm_;
  Kind kind_;
  std::vector<kvm_cpuid_entry2> cpuid_;
  std::array<std::atomic<bool>, kSlots> slot_ready_{};
  SpinLock slot_lock_;

  std::byte* private_base_ = nullptr;
  SpinLock page_lock_;  // guards what follows
  u64 private_chunks_ = 0;
  Phys next_page_ = kPrivateBase;  // never handed out from here to the end of the last chunk
  std::vector<Phys> free_pages_;   // zeroed when handed out again
  std::vector<Phys> quarantine_;
  u64 pages_in_use_ = 0;
};

}  // namespace rf::kvm
