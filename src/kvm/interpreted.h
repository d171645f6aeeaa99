// What a KVM that interprets guest ring 0 makes of faults in ring 3.
//
// It meets a general protection fault by emulating the instruction, and when its emulator does not know that one (INT
// n, most vector instructions), the guest gets an undefined-instruction fault (#UD) where a CPU raises #GP.
#pragma once

#include <optional>
#include <span>

#include "core/types.h"

namespace rf::kvm {

constexpr size_t kMaxInstruction = 15;  // bytes

// For the code at which such a KVM reported #UD: the error code of the #GP that a CPU would have raised instead, or
// nothing if the instruction is not known to be one that every CPU has.
std::optional<u32> hidden_general_protection(std::span<const u8> code);

}  // namespace rf::kvm
