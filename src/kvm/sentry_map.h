// Ring-0 mode: the sentry's own memory in the guest's page tables, as supervisor pages at its host addresses.
//
// All guest address spaces share the tables for what is above the guest's limit, so one entry made here is in all of
// them. Entries are made when ring 0 first touches a page and finds none (map_in()), from what /proc/self/maps says.
//
// Memory slots cover address ranges, not mappings: one slot for GuestMemory, at guest-physical 0; and one for each GiB
// of other addresses that is ever touched, wherever in it mappings come and go. Behind a slot the host's own page
// tables decide (KVM's MMU notifier takes back what the host unmaps or protects), so an entry that is left over from
// a mapping that is gone leads to what the host has there now, or to an EFAULT of KVM_RUN, never to a stale page.
//
// Host side only: the sentry in ring 0 may hold any of its locks when this runs, so nothing here takes one of theirs,
// allocates, logs or touches errno.
#pragma once

#include <array>
#include <atomic>
#include <memory>

#include "core/result.h"
#include "core/spinlock.h"
#include "kvm/vm.h"
#include "platform/platform.h"

namespace rf::kvm {

class SentryMap {
 public:
  // `large`: the CPU has 1 GiB pages.
  static Setup<std::unique_ptr<SentryMap>> create(Vm& vm, bool large);
  ~SentryMap();

  // Puts the sentry's entries into a top-level table.
  void add_to(u64* top_level) const;
  // A top-level table with nothing else, for a vCPU that runs no guest.
  Phys root() const { return root_; }

  enum class Access : u8 { kRead, kWrite, kExec };
  // Maps the page at `va`, and what else of its mapping lies in the same 2 MiB. False: the sentry may not do that.
  bool map_in(u64 va, Access access);
  // The same for all of [va, va+len) at once.
  bool map_range(u64 va, u64 len);

  // The host address of what is at a guest-physical address; 0 when it is none of the sentry's.
  u64 host_address(Phys p) const;

  std::atomic<u64> map_ins{0};

 private:
  SentryMap(Vm& vm, bool large) : vm_(vm), large_(large) {}
  struct Mapping {
    u64 start = 0, end = 0;
    bool read = false, write = false, exec = false;
  };
  bool find_mapping(u64 va, Mapping& m);
  bool scan(const char* line, u64 va, Mapping& m) const;
  bool map_guest_memory(u64 va);
  bool require_chunk(u64 va, Phys& p);
  u64* table(Phys p) const;
  Phys new_table();
  u64* table_below(u64& entry);
  void fill(u64& directory, u64 va, Phys p, const Mapping& m);

  static constexpr u64 kTopFirst = platform::kGuestAddressLimit >> 39, kTopCount = 256 - kTopFirst;
  static constexpr u64 kChunkShift = 30;
  static constexpr u64 kChunks = 512;  // the first is the tables' own
  static constexpr u64 kTablesSize = u64{32} << 20;
  static constexpr size_t kLine = 512;

  Vm& vm_;
  const bool large_;
  hostio::HostFd maps_;
  Phys root_ = 0;
  std::array<Phys, kTopCount> uppers_{};

  SpinLock lock_;  // host side only; guards what follows
  std::byte* tables_ = nullptr;
  u64 tables_used_ = 0;
  std::array<u64, kChunks> chunks_{};  // the host address of each chunk; 0: free
  u64 chunks_used_ = 1;
  std::array<char, 16384> text_{};
};

}  // namespace rf::kvm
