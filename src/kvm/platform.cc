#include "kvm/platform.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <string>

#include "core/check.h"
#include "core/log.h"
#include "kvm/cpuid.h"
#include "kvm/kind.h"
#include "kvm/kvm_stats.h"
#include "kvm/mode.h"
#include "platform/host_tsc.h"
#include "platform/xstate.h"

extern "C" const char __executable_start[];  // the linker's: where the image begins

namespace rf::kvm {

namespace {

// Running vCPUs, their vector state, memory slots, and Vcpu::recover().
const std::vector<u64> kRunTimeIoctls = {KVM_RUN,
                                         KVM_SET_USER_MEMORY_REGION,
                                         KVM_GET_XSAVE,
                                         KVM_GET_XSAVE2,
                                         KVM_SET_XSAVE,
                                         KVM_SET_VCPU_EVENTS,
                                         KVM_SET_MP_STATE,
                                         KVM_GET_SREGS,
                                         KVM_SET_SREGS,
                                         KVM_SET_XCRS,
                                         KVM_SET_DEVICE_ATTR,
                                         KVM_SET_MSRS,
                                         KVM_INTERRUPT};

}  // namespace

Setup<std::unique_ptr<Platform>> Platform::create(const platform::Options& options, GuestMemory& memory) {
  if (options.vcpus == 0 || options.vcpus > ring0::kMaxVcpus)
    return setup_error(
        fmt::format("{} vCPUs were asked for; the kvm platform can have 1 to {}", options.vcpus, ring0::kMaxVcpus));
  std::unique_ptr<Platform> p(new Platform(options.vcpus));
  p->vm_ = TRY(Vm::create(memory));
  auto supervisor = Supervisor::create(*p->vm_);
  if (!supervisor) return setup_error("no memory for the pages of the guest's ring 0");
  p->supervisor_ = *std::move(supervisor);
  p->vcpus_ = std::make_unique<VcpuSet>(*p->vm_);
  TRY(p->vcpus_->add(*p->supervisor_, 1));
  TRY(find_kind(*p->vm_, *p->supervisor_, p->vcpus_->at(0)));
  TRY(p->vcpus_->add(*p->supervisor_, options.vcpus));
  TRY(p->choose_mode(options.kvm_mode));
  auto& c = p->capabilities_;
  c.name = "kvm";
  c.description =
      fmt::format("{} KVM ({}, {}), {} mode", p->vm_->kind().interpreted_ring0 ? "software" : "hardware",
                  p->vm_->kind().interpreted_ring0 ? "ring 0 interpreted" : "ring 0 native",
                  p->vm_->kind().shadow_paging ? "shadow paging" : "nested paging", p->in_ring0() ? "ring-0" : "exit");
  c.xcr0 = guest_xcr0(p->vm_->cpuid());
  c.host_tsc =
      p->vm_->kind().interpreted_ring0 || (p->vcpus_->at(0).has_host_tsc() && platform::host_clock_reads_tsc());
  c.fsgsbase = p->vcpus_->at(0).has_fsgsbase();
  c.host_ioctls = kRunTimeIoctls;
  c.small_rings = p->in_ring0() && needs_small_rings();
  c.fp_size = platform::xstate::size_of(c.xcr0);
  // Each vCPU's TSC_AUX is its number; RDTSCP needs the CPUID bit, RDPID comes with it.
  for (const auto& e : p->vm_->cpuid())
    if (e.function == 0x80000001) c.cpu_in_tsc_aux = (e.edx & (1u << 27)) != 0;
  return p;
}

Setup<void> Platform::choose_mode(platform::KvmMode mode) {
  if (mode == platform::KvmMode::kExit) return {};
  if (auto obstacle = ring0_obstacle(*vm_, vcpus_->at(0))) {
    if (mode == platform::KvmMode::kAuto) return {};
    return setup_error(fmt::format("ring-0 mode cannot be had: {}; use --kvm-mode=exit", *obstacle));
  }
  if (mode == platform::KvmMode::kAuto && !ring0_is_faster(vm_->kind())) return {};
  if (!vm_->require_all()) return setup_error(fmt::format("KVM refuses a memory slot: {}", errno_text(errno)));
  sentry_map_ = TRY(SentryMap::create(*vm_, has_gib_pages(*vm_)));
  const Ring0Protection protection = ring0_protection(*vm_, vcpus_->at(0));
  for (u32 i = 0; i < vcpus_->size(); ++i) TRY(vcpus_->at(i).make_resident(*sentry_map_, protection));
  return {};
}

void Platform::run_loop(u32 worker, const std::function<void()>& loop) {
  if (!in_ring0()) return loop();
  vcpus_->at(worker).enter_ring0(loop);
}

Result<std::unique_ptr<platform::AddressSpace>> Platform::create_address_space() {
  return TRY(AddressSpace::create(*vm_, *vcpus_, supervisor_->entry(), sentry_map_.get()));
}

Result<std::unique_ptr<platform::Context>> Platform::create_context() { return std::make_unique<Context>(*this); }

void Platform::add_ring0_stats(platform::PlatformStats& s) const {
  std::array<u64, Resident::kCallLimit> calls{};
  u64 faults = 0, interrupts = 0, windows = 0, lost_pages = 0, loads = 0, traps = 0;
  for (u32 i = 0; i < vcpus_->size(); ++i) {
    Resident& r = *vcpus_->at(i).resident();
    for (u64 n = 0; n < calls.size(); ++n) calls[n] += r.counters.host_calls[n];
    faults += r.counters.faults, interrupts += r.counters.interrupts;
    windows += r.counters.windows, lost_pages += r.counters.lost_pages;
    loads += r.cpu().math_loads, traps += r.cpu().math_traps;
    s.host_cycles += r.counters.host_cycles;
  }
  s.counts_host_calls = true;
  for (u64 n = 0; n < calls.size(); ++n)
    if (calls[n] != 0) s.host_calls.emplace_back(n, calls[n]);
  s.details.emplace_back("ring-0 faults", faults);
  s.details.emplace_back("sentry mappings made", sentry_map_->map_ins);
  s.details.emplace_back("interrupts injected", interrupts);
  s.details.emplace_back("interrupt windows", windows);
  s.details.emplace_back("lost pages", lost_pages);
  s.details.emplace_back("fp loads", loads);
  s.details.emplace_back("fp traps in the sentry", traps);
  for (u32 i = 0; i < vcpus_->size(); ++i)
    if (const u64 rip = vcpus_->at(i).resident()->cpu().math_trap_rip)
      RF_DEBUG("the last fp trap of vCPU {}: at {:#x}", i, rip - reinterpret_cast<u64>(__executable_start));
}

platform::PlatformStats Platform::stats() const {
  platform::PlatformStats s;
  s.syscalls = counts.total(kSyscall);
  s.page_faults = counts.total(kPageFault);
  s.exceptions = counts.total(kException);
  s.interrupts = counts.total(kInterrupt);
  u64 exits = 0, broken = 0, loads = 0, saves = 0;
  std::map<std::string, u64> kvm;
  for (u32 i = 0; i < vcpus_->size(); ++i) {
    Vcpu& vcpu = vcpus_->at(i);
    auto& c = vcpu.counters;
    exits += c.exits, broken += c.broken, loads += c.fp_loads, saves += c.fp_saves;
    if (vcpu.stats_fd() >= 0) add_stats(vcpu.stats_fd(), kvm);
  }
  s.exits.assign(kvm.begin(), kvm.end());
  auto& v = vm_->counters;
  s.details = {{"exits to the sentry's process", exits},
               {"broken exits", broken},
               {"invalidations", v.invalidations},
               {"invalidated ranges", v.invalidated_ranges},
               {"pages invalidated one by one", v.single_pages},
               {"shadow drops", v.shadow_drops},
               {"page tables allocated", v.tables_allocated}};
  if (in_ring0()) {
    add_ring0_stats(s);
  } else {
    s.details.emplace_back("fp loads", loads);
    s.details.emplace_back("fp saves", saves);
  }
  return s;
}

}  // namespace rf::kvm
