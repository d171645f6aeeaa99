#include "kvm/cpuid.h"

#include <fmt/format.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "platform/xstate.h"

namespace rf::kvm {

namespace {

constexpr u32 kMaxEntries = 256;

// Its three parts come together and with AVX, or not at all.
constexpr u64 kAvx512 = 0xe0;

const kvm_cpuid_entry2* find(const std::vector<kvm_cpuid_entry2>& cpuid, u32 function, u32 index) {
  for (const auto& e : cpuid)
    if (e.function == function && e.index == index) return &e;
  return nullptr;
}

void filter(kvm_cpuid_entry2& e) {
  switch (e.function) {
    case 1:
      e.ecx &= ~((1u << 5) | (1u << 3) | (1u << 24));  // VMX, MONITOR, TSC deadline timer
      if (e.ecx & (1u << 26)) e.ecx |= 1u << 27;       // XSAVE: OSXSAVE
      break;
    case 7:
      if (e.index == 0) {
        e.ecx &= ~((1u << 3) | (1u << 4));                 // PKU, OSPKE: no state is kept for them
        e.edx &= ~((1u << 22) | (1u << 24) | (1u << 25));  // AMX
      }
      break;
    case 0x80000001:
      e.ecx &= ~(1u << 2);  // SVM
      break;
    default:
      break;
  }
}

bool hidden(const kvm_cpuid_entry2& e) {
  // Paravirtual interfaces, which only a kernel could use; and the details of SVM.
  return (e.function >= 0x40000000 && e.function < 0x40010000) || e.function == 0x8000000a;
}

}  // namespace

Setup<std::vector<kvm_cpuid_entry2>> guest_cpuid(int kvm_fd) {
  std::vector<std::byte> raw(sizeof(kvm_cpuid2) + kMaxEntries * sizeof(kvm_cpuid_entry2));
  auto* list = reinterpret_cast<kvm_cpuid2*>(raw.data());
  list->nent = kMaxEntries;
  if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, list) != 0)
    return setup_error(fmt::format("KVM does not say which CPU features it supports: {}", errno_text(errno)));
  std::vector<kvm_cpuid_entry2> cpuid(list->entries, list->entries + list->nent);
  std::erase_if(cpuid, hidden);
  std::ranges::for_each(cpuid, filter);
  return cpuid;
}

u64 guest_xcr0(const std::vector<kvm_cpuid_entry2>& cpuid) {
  const auto* e = find(cpuid, 0xd, 0);
  if (!e) return 3;
  // The host's own XCR0 bounds it too: the sentry shares the registers' hardware with the guest.
  u64 xcr0 = e->eax & platform::xstate::host_features();
  if ((xcr0 & kAvx512) != kAvx512 || !(xcr0 & 4)) xcr0 &= ~kAvx512;
  return xcr0 | 3;
}

}  // namespace rf::kvm
