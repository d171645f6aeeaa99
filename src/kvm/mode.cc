#include "kvm/mode.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <cstdio>
#include <fstream>

#include "core/sanitizer.h"
#include "kvm/cpuid.h"
#include "platform/platform.h"

extern "C" const char __executable_start[];  // the linker's: where the image begins

namespace rf::kvm {

namespace {

constexpr u32 kPhysicalBits = 40;  // GuestMemory below 2^39, the sentry above
constexpr u64 kVectorFeatures = 0xe7;

u32 cpuid_bits(const Vm& vm, u32 function, u32 index, u32 kvm_cpuid_entry2::*reg) {
  for (const auto& e : vm.cpuid())
    if (e.function == function && e.index == index) return e.*reg;
  return 0;
}

// The host's word on a weakness of its CPUs: the first line of a file in sysfs; empty when it has none.
std::string vulnerability(const char* name) {
  std::ifstream f(fmt::format("/sys/devices/system/cpu/vulnerabilities/{}", name));
  std::string line;
  std::getline(f, line);
  return line;
}

// Ring 3 and the sentry share page tables and a core. A CPU on which that alone lets ring 3 read what it may not needs
// separate tables (Meltdown) or its buffers cleared at each way out (the MDS family): exit mode has the first, and
// leaves the second to KVM.
std::optional<std::string> leaky_cpu() {
  for (const char* name : {"meltdown", "mds", "tsx_async_abort", "mmio_stale_data", "reg_file_data_sampling"}) {
    const std::string word = vulnerability(name);
    if (!word.empty() && word != "Not affected")
      return fmt::format("the CPU leaks across rings when they share page tables ({}: {})", name, word);
  }
  return {};
}

u64 host_xcr0() {
  u32 lo, hi;
  asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return u64{hi} << 32 | lo;
}

}  // namespace

std::optional<std::string> ring0_obstacle(const Vm& vm, const Vcpu& vcpu) {
  if (RF_ASAN || RF_TSAN) return "sanitizers want the sentry in the host";
  if (reinterpret_cast<u64>(__executable_start) < platform::kGuestAddressLimit)
    return "this build does not load above the guest's addresses (it must be a static PIE)";
  if (vm.kind().interpreted_ring0) return "this KVM is a software one, which interprets ring 0";
  if (vm.kind().shadow_paging) return "this KVM shadows page tables";
  if (!vcpu.has_fsgsbase()) return "the CPU lacks FSGSBASE";
  if (!vcpu.has_host_tsc()) return "this KVM does not give guests the host's TSC (Linux 5.16 or later does)";
  const u32 bits = cpuid_bits(vm, 0x80000008, 0, &kvm_cpuid_entry2::eax) & 0xff;
  if (bits < kPhysicalBits)
    return fmt::format("the CPU has {} bits of guest-physical address; {} are needed", bits, kPhysicalBits);
  if (host_xcr0() & kVectorFeatures & ~guest_xcr0(vm.cpuid()))
    return "this KVM withholds vector registers that the sentry's libc uses";
  return leaky_cpu();
}

Ring0Protection ring0_protection(const Vm& vm, const Vcpu& vcpu) {
  constexpr u32 kArchCapabilities = 0x10a;
  constexpr u64 kIbrsAll = 2;
  constexpr u64 kAutomaticIbrs = 1 << 21;  // of EFER

  const u32 ebx = cpuid_bits(vm, 7, 0, &kvm_cpuid_entry2::ebx), ecx = cpuid_bits(vm, 7, 0, &kvm_cpuid_entry2::ecx);
  const u32 edx = cpuid_bits(vm, 7, 0, &kvm_cpuid_entry2::edx);
  Ring0Protection p;
  u64& cr4 = p.cr4;
  if (ebx & (1u << 7)) cr4 |= u64{1} << 20;   // SMEP
  if (ebx & (1u << 20)) cr4 |= u64{1} << 21;  // SMAP
  if (ecx & (1u << 2)) cr4 |= u64{1} << 11;   // UMIP
  if (cpuid_bits(vm, 0x80000021, 0, &kvm_cpuid_entry2::eax) & (1u << 8)) p.efer |= kAutomaticIbrs;
  // Intel's, which is turned on once and for all. The older kind would have to be written at each entry.
  if ((edx & (1u << 26)) && (edx & (1u << 29))) p.ibrs = (vcpu.get_msr(kArchCapabilities).value_or(0) & kIbrsAll) != 0;
  return p;
}

bool needs_small_rings() {
  utsname u{};
  int major = 0, minor = 0;
  if (uname(&u) != 0 || std::sscanf(u.release, "%d.%d", &major, &minor) != 2) return true;
  return major < 6 || (major == 6 && minor < 13);
}

bool has_gib_pages(const Vm& vm) { return cpuid_bits(vm, 0x80000001, 0, &kvm_cpuid_entry2::edx) & (1u << 26); }

}  // namespace rf::kvm
