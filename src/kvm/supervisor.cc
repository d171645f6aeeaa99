#include "kvm/supervisor.h"

#include "core/check.h"
#include "ring0/image.h"

namespace rf::kvm {

namespace {
constexpr u64 kTable = 0x27;     // present, writable, user, accessed: the leaves decide
constexpr u64 kUserPage = 0x65;  // present, user, accessed, dirty
constexpr u64 kPage = 0x61;      // present, accessed, dirty; no user bit, so ring 3 cannot touch it
constexpr u64 kWritable = 2;
constexpr u64 kNoExec = u64{1} << 63;
constexpr u64 kAddress = 0x000f'ffff'ffff'f000;
static_assert(ring0::kEnd - ring0::kBase <= kHugePageSize, "one leaf table must do");
constexpr u64 index_of(u64 va) { return (va - ring0::kBase) >> kPageShift; }
}  // namespace

Result<std::unique_ptr<Supervisor>> Supervisor::create(Vm& vm) {
  std::unique_ptr<Supervisor> s(new Supervisor(vm));
  Phys upper = TRY(vm.allocate_page());
  Phys directory = TRY(vm.allocate_page());
  Phys leaf = TRY(vm.allocate_page());
  static_cast<u64*>(vm.host_page(upper))[(ring0::kBase >> 30) & 511] = directory | kTable;
  static_cast<u64*>(vm.host_page(directory))[(ring0::kBase >> 21) & 511] = leaf | kTable;
  s->leaf_ = static_cast<u64*>(vm.host_page(leaf));
  s->entry_ = upper | kTable;
  ring0::write_halting_stub(TRY(s->add_page(ring0::kStub, false, true)));
  ring0::write_gdt(TRY(s->add_page(ring0::kGdt, false, false)));
  ring0::write_idt(TRY(s->add_page(ring0::kIdt, false, false)));
  return s;
}

Result<std::byte*> Supervisor::add_page(u64 va, bool writable, bool exec) {
  Phys page = TRY(vm_.allocate_page());
  leaf_[index_of(va)] = page | kPage | (writable ? kWritable : 0) | (exec ? 0 : kNoExec);
  return static_cast<std::byte*>(vm_.host_page(page));
}

Result<void> Supervisor::add_vcpu(u32 index) {
  RF_CHECK(index < ring0::kMaxVcpus);
  TRY(add_page(ring0::tss_of(index), false, false));
  TRY(add_page(ring0::stack_of(index), true, false));
  TRY(add_page(ring0::save_area_of(index), true, false));
  write_tss(index);
  return {};
}

void Supervisor::write_tss(u32 vcpu) {
  // With the saving stub, exceptions push right into the save area.
  u64 top = saving_stub_ ? ring0::save_area_of(vcpu) + sizeof(ring0::SaveArea) : ring0::stack_of(vcpu) + kPageSize;
  ring0::write_tss(host_page(ring0::tss_of(vcpu)), top);
}

void Supervisor::use_saving_stub(bool fsgsbase) {
  saving_stub_ = true;
  ring0::write_saving_stub(host_page(ring0::kStub), fsgsbase);
  for (u32 i = 0; i < ring0::kMaxVcpus; ++i)
    if (host_page(ring0::tss_of(i))) write_tss(i);
}

void Supervisor::map_nothing() { leaf_[index_of(ring0::kNothing)] = Vm::kUnbackedPage | kUserPage; }

std::byte* Supervisor::host_page(u64 va) const {
  if (va < ring0::kBase || va >= ring0::kEnd) return nullptr;
  u64 entry = leaf_[index_of(va)];
  return (entry & 1) && !(entry & 4) ? static_cast<std::byte*>(vm_.host_page(entry & kAddress)) : nullptr;
}

}  // namespace rf::kvm
