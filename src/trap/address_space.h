// Guest address spaces of the trap platform.
//
// map() only notes what is to be seen where. The stub process gets a mapping when guest code touches a page of it
// (install(), around a fault), so what is mapped and never touched costs no host call, and fork costs none for each
// page. What unmap() and protect() narrow is taken from the stub process by commit(), range by range.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/spinlock.h"
#include "platform/platform.h"
#include "trap/code_patches.h"
#include "trap/page_map.h"
#include "trap/stub_process.h"

namespace rf::trap {

using platform::GuestMemory;
using platform::Phys;

class AddressSpace final : public platform::AddressSpace {
 public:
  AddressSpace(GuestMemory& memory, CodePatches& patches, Family* family)
      : memory_(memory), patches_(patches), family_(family) {}

  Result<void> map(u64 va, Phys phys, u64 len, platform::Prot prot) override;
  void unmap(u64 va, u64 len, platform::Invalidation& inval) override;
  void protect(u64 va, u64 len, platform::Prot prot, platform::Invalidation& inval) override;
  void commit(platform::Invalidation& inval) override;
  bool maps_lazily() const override { return true; }
  void retire() override;
  Result<void> reserve() override;
  void set_vacancy_test(std::function<bool(u64 va, u64 len)> vacant) override { vacant_ = std::move(vacant); }
  void occupy(u64 va, u64 len) override;
  Mapping lookup(u64 va) const override;
  void for_each(u64 va, u64 len, const std::function<void(u64, Phys, u64, platform::Prot)>& f) const override;

  enum class Install {
    kDone,     // the stub process maps the page now, and what is around it
    kNothing,  // there is nothing to map, or not with these rights: a fault of the guest
    kRefused,  // the host does not map it: no memory, or a file that may not be executed
  };
  // Gives the stub process what map() noted for the page of va.
  Install install(u64 va, platform::Access access);
  // The same for pages that guest code is going to touch first, where there is something to map.
  void install_early(std::initializer_list<u64> vas);

  // The SYSCALL before `after`, made with `number`, has trapped often: patches it if that can be done.
  void patch(u64 after, u64 number);
  // Takes all patches back, for good: guest code comes that would not bear them.
  void stop_patching();
  bool patched() const { return patched_once_.load(std::memory_order_relaxed); }
  // If patched(): for a thread that was stopped at rip: where it would be in code without patches; and where it has to
  // go on for what is at rip there.
  u64 original_place(u64 rip);
  u64 patched_place(u64 rip);

  // Null before reserve() or adopt().
  const std::shared_ptr<Process>& process() const { return process_; }
  // Takes over the process of a retired address space.
  void adopt(std::shared_ptr<Process> process) { process_ = std::move(process); }

 private:
  struct Range {
    u64 start, end;
    u64 rights;  // kWrite, kExec: to be left; or kUnmapped
  };
  static constexpr u64 kUnmapped = ~u64{0};
  void narrow(u64 va, u64 rights);
  void add_removal(const Range& range, std::vector<Command>& commands);
  void add_mapping(u64 va, u64 entry, std::vector<Command>& commands);
  bool add_patched(u64 va, const std::shared_ptr<const PatchedPage>& page, std::vector<Command>& commands);
  Command map_patches(u64 va, u64 offset) const;
  void forget_patches(u64 va, u64 entry) {
    if (entry & PageMap::kPatched) [[unlikely]]
      patched_pages_.erase(va);
  }
  void drop_all();
  void take_away(std::span<const Command> commands);
  void empty_process();

  GuestMemory& memory_;
  CodePatches& patches_;
  Family* const family_;
  std::shared_ptr<Process> process_;
  // Guards the entries' notes of what is installed, and the order of the stub process's mappings: held over host calls.
  mutable SpinLock lock_;
  PageMap pages_;
  std::vector<Range> pending_;  // to be narrowed by commit()
  bool retired_ = false;

  // Patched pages by the address of their code, and of their trampolines. The latter stay when the code's page goes, as
  // threads may be in them, until the guest wants the place.
  std::function<bool(u64, u64)> vacant_;
  using PatchedPages = std::map<u64, std::shared_ptr<const PatchedPage>>;
  PatchedPages patched_pages_, trampolines_;
  std::atomic<bool> patched_once_{false}, no_patches_{false};
};

}  // namespace rf::trap
