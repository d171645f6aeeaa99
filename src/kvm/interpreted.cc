#include "kvm/interpreted.h"

namespace rf::kvm {
namespace {

bool is_legacy_prefix(u8 b) {
  switch (b) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0xf2:
    case 0xf3:
      return true;
    default:
      return false;
  }
}

// Whether opcode 0F `opcode` is one of SSE and SSE2 or, behind a VEX prefix, of AVX. They fault on bad addresses, and
// most of them on misaligned ones.
bool is_vector(u8 opcode) {
  return (opcode >= 0x10 && opcode <= 0x17) || (opcode >= 0x28 && opcode <= 0x2f) ||
         (opcode >= 0x50 && opcode <= 0x76) || opcode == 0x7e || opcode == 0x7f || opcode == 0xc2 || opcode == 0xc6 ||
         (opcode >= 0xd0 && opcode <= 0xfe);
}

// 0F AE with an operand in memory: FXRSTOR, LDMXCSR, XRSTOR. They fault on values that may not be loaded.
bool loads_vector_state(u8 opcode, u8 modrm) {
  const u8 which = (modrm >> 3) & 7;
  return opcode == 0xae && (modrm >> 6) != 3 && (which == 1 || which == 2 || which == 5);
}

}  // namespace

std::optional<u32> hidden_general_protection(std::span<const u8> code) {
  size_t at = 0;
  auto left = [&](size_t n) { return code.size() - at >= n; };
  while (left(1) && is_legacy_prefix(code[at])) at++;
  if (left(1) && (code[at] & 0xf0) == 0x40) at++;                 // REX
  if (left(2) && code[at] == 0xcd) return code[at + 1] * 8u + 2;  // INT n: the vector, in the IDT
  if (left(4) && code[at] == 0xc5)
    at += 2;
  else if (left(5) && code[at] == 0xc4 && (code[at + 1] & 0x1f) == 1)
    at += 3;
  else if (left(3) && code[at] == 0x0f)
    at += 1;
  else
    return {};
  if (is_vector(code[at]) || loads_vector_state(code[at], code[at + 1])) return 0;
  return {};
}

}  // namespace rf::kvm
