// The supervisor part of every guest address space (ring0/layout.h), in private pages of the VM.
#pragma once

#include <memory>

#include "core/result.h"
#include "kvm/vm.h"
#include "ring0/layout.h"

namespace rf::kvm {

class Supervisor {
 public:
  static Result<std::unique_ptr<Supervisor>> create(Vm& vm);

  // Replaces the halting stub, which is there at first, by the one that saves registers. Before any guest code runs.
  void use_saving_stub(bool fsgsbase);

  // Maps ring0::kNothing, for LSTAR to point to.
  void map_nothing();

  // Maps the pages of one vCPU. Call once for each, before it runs. ENOMEM.
  Result<void> add_vcpu(u32 index);

  // The entry for ring0::kTopIndex of a top-level table.
  u64 entry() const { return entry_; }
  // The sentry's view of a mapped supervisor page; null when there is none at `va`.
  std::byte* host_page(u64 va) const;

 private:
  explicit Supervisor(Vm& vm) : vm_(vm) {}
  void write_tss(u32 vcpu);
  Result<std::byte*> add_page(u64 va, bool writable, bool exec);

  Vm& vm_;
  u64 entry_ = 0;
  u64* leaf_ = nullptr;  // the one leaf table
  bool saving_stub_ = false;
};

}  // namespace rf::kvm
