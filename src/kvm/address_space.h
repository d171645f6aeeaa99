// Guest address spaces of the kvm platform: four-level page tables, written directly.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "kvm/vm.h"
#include "platform/platform.h"

namespace rf::kvm {

class SentryMap;
class VcpuSet;

class AddressSpace final : public platform::AddressSpace {
 public:
  // ENOMEM: no page for the top-level table.
  static Result<std::unique_ptr<AddressSpace>> create(Vm& vm, VcpuSet& vcpus, u64 supervisor_entry,
                                                      const SentryMap* sentry = nullptr);
  ~AddressSpace() override;

  Result<void> map(u64 va, Phys phys, u64 len, platform::Prot prot) override;
  void unmap(u64 va, u64 len, platform::Invalidation& inval) override;
  void protect(u64 va, u64 len, platform::Prot prot, platform::Invalidation& inval) override;
  void commit(platform::Invalidation& inval) override;
  void retire() override { retired_ = true; }
  Mapping lookup(u64 va) const override;
  void for_each(u64 va, u64 len, const std::function<void(u64, Phys, u64, platform::Prot)>& f) const override;

  // A guest address that is mapped to `phys`, by a search through all tables. For rare use.
  std::optional<u64> find(Phys phys) const;

  Phys root() const { return root_; }
  // Tells address spaces apart for ever; a root's page is used again.
  u64 id() const { return id_; }
  // Counts what narrowed the tables. A vCPU that last saw an older one must flush before it runs guest code.
  u64 generation() const { return generation_.load(std::memory_order_seq_cst); }
  Vm& vm() { return vm_; }

 private:
  AddressSpace(Vm& vm, VcpuSet& vcpus, Phys root);
  u64* table(Phys p) const { return static_cast<u64*>(vm_.host_page(p)); }
  Result<u64*> table_below(u64& entry);
  template <class F>
  void visit(u64 va, u64 end, F&& f) const;
  bool split(u64& entry);
  void clear(u64 va, u64& entry, u64 span, platform::Invalidation& inval);
  void unlink_covered_tables(u64 va, u64 end);
  void collect_tables(u64* table, int level, std::vector<Phys>& out) const;
  void drop_shadows(platform::Invalidation& inval);

  Vm& vm_;
  VcpuSet& vcpus_;
  const Phys root_;
  const u64 id_;
  std::atomic<u64> generation_{1};
  bool retired_ = false;
  u64 present_ = 0;                    // pages mapped, counted in vm_.present_pages too
  std::vector<Phys> unlinked_tables_;  // to be freed once an invalidation has taken effect
};

}  // namespace rf::kvm
