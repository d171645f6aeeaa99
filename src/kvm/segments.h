// Segment registers and sets of synchronised state, as KVM wants them.
#pragma once

#include "core/types.h"
#include "kvm/kvm_api.h"

namespace rf::kvm {

inline constexpr u64 kAllState = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

// A flat segment: code (64-bit) or data.
inline kvm_segment segment(u16 selector, u8 type, u8 dpl, bool code) {
  kvm_segment s{};
  s.limit = 0xffffffff;
  s.selector = selector;
  s.type = type;
  s.present = 1;
  s.dpl = dpl;
  s.s = 1;
  s.g = 1;
  s.l = code;
  s.db = !code;
  return s;
}

}  // namespace rf::kvm
