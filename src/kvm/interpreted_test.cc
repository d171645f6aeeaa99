#include "kvm/interpreted.h"

#include <gtest/gtest.h>

#include <vector>

namespace rf::kvm {
namespace {

std::optional<u32> ask(std::vector<u8> code) { return hidden_general_protection(code); }

TEST(InterpretedTest, SoftwareInterruptsNameTheirVector) {
  EXPECT_EQ(ask({0xcd, 0x20}), 0x20 * 8 + 2);
  EXPECT_EQ(ask({0xcd, 0xff, 0x90}), 0xff * 8 + 2);
}

TEST(InterpretedTest, VectorInstructionsExist) {
  EXPECT_EQ(ask({0x0f, 0x58, 0x00}), 0u) << "addps (%rax),%xmm0";
  EXPECT_EQ(ask({0x66, 0x41, 0x0f, 0x6f, 0x00}), 0u) << "movdqa (%r8),%xmm0";
  EXPECT_EQ(ask({0xc5, 0xfc, 0x28, 0x44, 0x24, 0x01}), 0u) << "vmovaps 1(%rsp),%ymm0";
  EXPECT_EQ(ask({0xc4, 0xc1, 0x7c, 0x28, 0x00}), 0u) << "vmovaps (%r8),%ymm0";
  EXPECT_EQ(ask({0x0f, 0xae, 0x54, 0x24, 0xf8}), 0u) << "ldmxcsr -8(%rsp)";
  EXPECT_EQ(ask({0x48, 0x0f, 0xae, 0x0c, 0x24}), 0u) << "fxrstor64 (%rsp)";
}

TEST(InterpretedTest, OthersStayUndefined) {
  EXPECT_EQ(ask({0x0f, 0x0b, 0x90}), std::nullopt) << "ud2";
  EXPECT_EQ(ask({0x0f, 0xff, 0xc0}), std::nullopt) << "ud0";
  EXPECT_EQ(ask({0x06}), std::nullopt) << "push %es";
  EXPECT_EQ(ask({0xf0, 0x0f, 0x58, 0x00}), std::nullopt) << "a LOCK that may not be";
  EXPECT_EQ(ask({0x0f, 0xae, 0xe8}), std::nullopt) << "lfence";
  EXPECT_EQ(ask({0xc4, 0xe2, 0x7d, 0x18, 0x00}), std::nullopt) << "map 2";
}

TEST(InterpretedTest, CutOffCodeIsNothing) {
  for (const std::vector<u8>& code : {std::vector<u8>{}, {0xcd}, {0x0f}, {0x66, 0x0f}, {0xc5, 0xfc, 0x28}, {0x48}})
    EXPECT_EQ(ask(code), std::nullopt);
}

}  // namespace
}  // namespace rf::kvm
