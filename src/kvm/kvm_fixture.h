// For tests of the kvm platform: a VM with a little memory, and programs of a few instructions.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string_view>

#include "core/test_scheduler.h"
#include "kvm/factory.h"
#include "kvm/platform.h"

namespace rf::kvm {

using platform::Access;
using platform::Exit;
using platform::Prot;

inline constexpr Prot kRw{true, true, false}, kRx{true, false, true}, kRo{true, false, false};

// Guest addresses that the tests use.
inline constexpr u64 kCode = 0x40'0000, kStack = 0x7f'0000'0000, kData = 0x1'0000'0000;

class KvmTest : public testing::Test {
 protected:
  void SetUp() override { start(2); }

  void start(u32 vcpus) {
    auto kvm = open_kvm();
    if (!kvm) GTEST_SKIP() << "KVM cannot be used here: " << kvm.error().message;
    auto memory = GuestMemory::create();
    ASSERT_TRUE(memory) << memory.error().message;
    memory_ = *std::move(memory);
    ASSERT_TRUE(memory_->extend(256 << 20));
    auto platform = Platform::create({.vcpus = vcpus}, *memory_);
    ASSERT_TRUE(platform) << platform.error().message;
    platform_ = *std::move(platform);
  }

  Phys take_pages(u64 n) {
    Phys p = next_;
    next_ += n * kPageSize;
    RF_CHECK(next_ <= (256u << 20));
    return p;
  }
  void* at(Phys p) { return memory_->host_ptr(p); }
  u64& word(Phys p) { return *static_cast<u64*>(at(p)); }

  // A space with `code` at kCode and one page of stack below kStack.
  std::unique_ptr<platform::AddressSpace> make_space(std::string_view code) {
    auto as = platform_->create_address_space();
    RF_CHECK(as.has_value());
    Phys p = take_pages(1 + code.size() / kPageSize), stack = take_pages(1);
    std::memcpy(at(p), code.data(), code.size());
    RF_CHECK((*as)->map(kCode, p, page_up(code.size()), kRx).has_value());
    RF_CHECK((*as)->map(kStack - kPageSize, stack, kPageSize, kRw).has_value());
    return *std::move(as);
  }
  std::unique_ptr<platform::Context> make_context() { return *platform_->create_context(); }
  static Registers start_registers() {
    Registers r{};
    r.rip = kCode;
    r.rsp = kStack;
    r.eflags = 2;
    return r;
  }
  // Runs until something other than an interruption happens. On a fiber.
  static Exit run(platform::Context& c, platform::AddressSpace& as, Registers& regs) {
    for (;;) {
      Exit e = c.run(as, regs);
      if (e.kind != Exit::Kind::kInterrupted) return e;
      yield();
    }
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<Platform> platform_;
  Phys next_ = kPageSize;
};

// A program for make_space(): `RF_GUEST(name, "instructions")`.
#define RF_GUEST(name, text)                                                                                        \
  asm(".pushsection .rodata\n.globl guest_" #name ", guest_" #name "_end\nguest_" #name ":\n" text "\nguest_" #name \
      "_end:\n.popsection\n");                                                                                      \
  extern "C" const char guest_##name[], guest_##name##_end[];                                                       \
  [[maybe_unused]] static const std::string_view name(guest_##name,                                                 \
                                                      static_cast<size_t>(guest_##name##_end - guest_##name));

}  // namespace rf::kvm
