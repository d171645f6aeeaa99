// Guest address spaces of the trap platform.
//
// map() only notes what is to be seen where. The stub process gets a mapping when guest code touches a page of it
// (install(), around a fault), so what is mapped and never touched costs no host call, and fork costs none for each
// page. What unmap() and protect() narrow is taken from the stub process by commit(), range by range.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "core/spinlock.h"
#include "platform/platform.h"
#include "trap/page_map.h"
#include "trap/stub_process.h"

namespace rf::trap {

using platform::GuestMemory;
using platform::Phys;

class AddressSpace final : public platform::AddressSpace {
 public:
  AddressSpace(GuestMemory& memory, std::shared_ptr<Process> process) : memory_(memory), process_(std::move(process)) {}

  Result<void> map(u64 va, Phys phys, u64 len, platform::Prot prot) override;
  void unmap(u64 va, u64 len, platform::Invalidation& inval) override;
  void protect(u64 va, u64 len, platform::Prot prot, platform::Invalidation& inval) override;
  void commit(platform::Invalidation& inval) override;
  void retire() override;
  Mapping lookup(u64 va) const override;
  void for_each(u64 va, u64 len, const std::function<void(u64, Phys, u64, platform::Prot)>& f) const override;

  enum class Install {
    kDone,     // the stub process maps the page now, and what is around it
    kNothing,  // there is nothing to map, or not with these rights: a fault of the guest
    kRefused,  // the host does not map it: no memory, or a file that may not be executed
  };
  // Gives the stub process what map() noted for the page of va.
  Install install(u64 va, platform::Access access);

  const std::shared_ptr<Process>& process() const { return process_; }

 private:
  struct Range {
    u64 start, end;
    u64 rights;  // kWrite, kExec: to be left; or kUnmapped
  };
  static constexpr u64 kUnmapped = ~u64{0};
  void narrow(u64 va, u64 rights);
  Command mapping_of(u64 va, u64 entry);
  void drop_all();

  GuestMemory& memory_;
  std::shared_ptr<Process> process_;
  // Guards the entries' notes of what is installed, and the order of the stub process's mappings: held over host calls.
  mutable SpinLock lock_;
  PageMap pages_;
  std::vector<Range> pending_;  // to be narrowed by commit()
  bool retired_ = false;
};

}  // namespace rf::trap
