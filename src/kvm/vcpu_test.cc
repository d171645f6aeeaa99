// What guest code sees of its vCPU.
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "kvm/kvm_fixture.h"

namespace rf::kvm {
namespace {

RF_GUEST(vc_bases,
         "rdfsbase %rdi\n rdgsbase %rsi\n wrfsbase %r12\n wrgsbase %r13\n syscall\n"
         " rdfsbase %rdi\n rdgsbase %rsi\n mov (%rbx),%rax")
RF_GUEST(vc_segments,
         "mov %cs,%edi\n mov %ss,%esi\n xor %eax,%eax\n mov %eax,%fs\n mov %eax,%gs\n mov %eax,%ds\n"
         " mov %eax,%es\n mov $0x2b,%eax\n mov %eax,%fs\n mov %eax,%gs\n mov %eax,%ds\n mov %eax,%es\n"
         " syscall\n mov %fs:0,%rdx\n syscall")
RF_GUEST(vc_tsc, "rdtsc\n shl $32,%rdx\n or %rdx,%rax\n syscall")
RF_GUEST(vc_tscp, "rdtscp\n mov %ecx,%edi\n syscall")
RF_GUEST(vc_cpuid, "1: mov %edi,%eax\n mov %esi,%ecx\n cpuid\n mov %rcx,%r8\n syscall\n jmp 1b")
RF_GUEST(vc_xgetbv, "xor %ecx,%ecx\n xgetbv\n syscall")
RF_GUEST(vc_loop, "1: syscall\n jmp 1b")
RF_GUEST(vc_flags, "pushf\n pop %rdi\n syscall")
RF_GUEST(vc_read, "1: mov (%rbx),%rax\n syscall\n jmp 1b")
RF_GUEST(vc_jump_lstar, "lea 1f(%rip),%rcx\n jmp *%rax\n1: ud2")
RF_GUEST(vc_touch, "1: mov (%rbx),%rax\n movups %xmm0,(%rbx)\n incl 4094(%rbx)\n ud2")

class VcpuTest : public KvmTest {};

TEST_F(VcpuTest, BasesChangeByInstructionAndByRegister) {
  run_fibers(1, [&] {
    if (!platform_->capabilities().fsgsbase) GTEST_SKIP() << "no FSGSBASE here";
    auto c = make_context();
    auto as = make_space(vc_bases);
    Registers r = start_registers();
    r.fs_base = 0x1111'0000, r.gs_base = 0x2222'0000;
    r.r12 = 0x3333'0000, r.r13 = 0x4444'0000;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rdi, 0x1111'0000u);
    EXPECT_EQ(r.rsi, 0x2222'0000u);
    EXPECT_EQ(r.fs_base, 0x3333'0000u);
    EXPECT_EQ(r.gs_base, 0x4444'0000u);
    r.fs_base = 0x5555'0000;
    r.rbx = kData;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kPageFault);
    EXPECT_EQ(r.rdi, 0x5555'0000u);
    EXPECT_EQ(r.rsi, 0x4444'0000u);
    EXPECT_EQ(r.fs_base, 0x5555'0000u);
    EXPECT_EQ(r.gs_base, 0x4444'0000u);
  });
}

TEST_F(VcpuTest, LoadingSelectorsHarmsNobody) {
  run_fibers(1, [&] {
    auto c = make_context(), other = make_context();
    auto as = make_space(vc_segments), loop = make_space(vc_loop);
    Registers r = start_registers(), ro = start_registers();
    r.fs_base = kData, ro.fs_base = 0x7777'0000, ro.gs_base = 0x8888'0000;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rdi, ring0::kUserCs);
    EXPECT_EQ(r.rsi, ring0::kUserSs);
    EXPECT_EQ(r.fs_base, 0u);  // as loading a flat segment does
    ASSERT_EQ(run(*other, *loop, ro).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(ro.fs_base, 0x7777'0000u);
    EXPECT_EQ(ro.gs_base, 0x8888'0000u);
    Phys p = take_pages(1);
    word(p) = 5;
    ASSERT_TRUE(as->map(kData, p, kPageSize, kRo));
    r.fs_base = kData;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rdx, 5u);
  });
}

TEST_F(VcpuTest, TscIsTheHosts) {
  run_fibers(1, [&] {
    if (!platform_->capabilities().host_tsc) GTEST_SKIP() << "the host's TSC is not stable";
    auto c = make_context();
    auto as = make_space(vc_tsc);
    for (int i = 0; i < 10; ++i) {
      Registers r = start_registers();
      u64 before = __rdtsc();
      ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
      u64 after = __rdtsc();
      EXPECT_GE(r.rax, before);
      EXPECT_LE(r.rax, after);
    }
  });
}

TEST_F(VcpuTest, FlagsAreSanitised) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(vc_flags);
    Registers r = start_registers();
    r.eflags = 0xffff'ffff & ~0x40100u;  // all but AC and TF
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rdi & 0x3000, 0u) << "IOPL";
    EXPECT_EQ(r.rdi & 0x4000, 0u) << "NT";
    EXPECT_NE(r.rdi & 0x200, 0u) << "IF";
    EXPECT_EQ(r.rdi & 0xcd5, 0xcd5u) << "what a program may set";
  });
}

TEST_F(VcpuTest, Xcr0IsWhatStateIsKeptFor) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(vc_xgetbv);
    Registers r = start_registers();
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rax, platform_->capabilities().xcr0);
  });
}

// Where CPUID is not the host's own: no virtualization inside, OSXSAVE shown.
TEST_F(VcpuTest, CpuidIsFiltered) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(vc_cpuid);
    auto cpuid = [&](u32 leaf, u32 index) {
      Registers r = start_registers();
      r.rdi = leaf, r.rsi = index;
      EXPECT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
      return r;
    };
    Registers r = cpuid(1, 0);
    EXPECT_NE(r.r8 & (1u << 27), 0u);
    EXPECT_EQ(r.r8 & (1u << 5), 0u);
    r = cpuid(0x80000001, 0);
    EXPECT_EQ(r.r8 & (1u << 2), 0u);
  });
}

TEST_F(VcpuTest, RdtscpTellsTheVcpu) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(vc_tscp);
    Registers r = start_registers();
    Exit e = run(*c, *as, r);
    if (e.kind != Exit::Kind::kSyscall) GTEST_SKIP() << "no RDTSCP";
    printf("TSC_AUX of vCPU 0: %llu\n", r.rdi);
  });
}

// Jumping to a system call entry is no way into ring 0, and at worst a system call.
TEST_F(VcpuTest, JumpToSystemCallEntry) {
  run_fibers(1, [&] {
    for (u64 entry : {ring0::kLstar, ring0::kNothing, ring0::kNothing + 8}) {
      auto c = make_context();
      auto as = make_space(vc_jump_lstar);
      Registers r = start_registers();
      r.rax = entry;
      Exit e = run(*c, *as, r);
      if (e.kind == Exit::Kind::kPageFault) {
        EXPECT_EQ(e.address, entry);
        EXPECT_EQ(r.rip, entry);
      } else {
        EXPECT_TRUE(e.kind == Exit::Kind::kSyscall || (e.kind == Exit::Kind::kException && e.signo == SIGILL));
      }
    }
  });
}

// No access to the supervisor part succeeds, and none disturbs the vCPU.
TEST_F(VcpuTest, SupervisorPagesFault) {
  run_fibers(1, [&] {
    auto c = make_context(), other = make_context();
    auto as = make_space(vc_touch), loop = make_space(vc_loop);
    for (u64 va = ring0::kBase; va < ring0::tss_of(2); va += kPageSize)
      for (u64 skip : {0, 3, 6}) {
        Registers r = start_registers();
        r.rbx = va;
        r.rip += skip;
        r.rax = 0x1234;
        Exit e = run(*c, *as, r);
        if (e.kind == Exit::Kind::kPageFault) {
          EXPECT_EQ(e.address & ~kPageMask, skip == 6 ? e.address & ~kPageMask : va);
          EXPECT_FALSE(e.present);
        } else {
          EXPECT_EQ(e.kind, Exit::Kind::kException);
          EXPECT_EQ(e.signo, SIGILL);
        }
        EXPECT_EQ(r.rip, kCode + skip);
        EXPECT_EQ(r.rax, 0x1234u);
        Registers ro = start_registers();
        ro.rax = 0x5678;
        ASSERT_EQ(run(*other, *loop, ro).kind, Exit::Kind::kSyscall);
        EXPECT_EQ(ro.rax, 0x5678u);
      }
    EXPECT_EQ(platform_->vcpus().at(0).counters.broken, 0u);
  });
}

u64 kvm_exits(int vcpu_fd) {
  int fd = ioctl(vcpu_fd, KVM_GET_STATS_FD, nullptr);
  if (fd < 0) return 0;
  kvm_stats_header h{};
  u64 value = 0;
  if (pread(fd, &h, sizeof h, 0) == sizeof h) {
    std::vector<char> d(sizeof(kvm_stats_desc) + h.name_size);
    for (u32 i = 0; i < h.num_desc; ++i) {
      if (pread(fd, d.data(), d.size(), static_cast<off_t>(h.desc_offset + i * d.size())) < 0) break;
      auto* desc = reinterpret_cast<kvm_stats_desc*>(d.data());
      if (std::string_view(d.data() + sizeof(kvm_stats_desc)) != "exits") continue;
      if (pread(fd, &value, sizeof value, h.data_offset + desc->offset) < 0) value = 0;
    }
  }
  close(fd);
  return value;
}

TEST_F(VcpuTest, OneExitPerSystemCall) {
  run_fibers(1, [&] {
    auto c = make_context();
    auto as = make_space(vc_loop);
    Registers r = start_registers();
    run(*c, *as, r);
    constexpr u64 kCalls = 1000;
    auto& vcpu = platform_->vcpus().at(0);
    u64 runs = vcpu.counters.exits, exits = kvm_exits(vcpu.fd());
    for (u64 i = 0; i < kCalls; ++i) ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    runs = vcpu.counters.exits - runs;
    exits = kvm_exits(vcpu.fd()) - exits;
    printf("%.3f KVM_RUN and %.3f exits per system call\n", double(runs) / kCalls, double(exits) / kCalls);
    EXPECT_LT(runs, kCalls * 11 / 10);
    // KVM's own count, host interrupts and all.
    if (!platform_->vm().kind().interpreted_ring0) {
      EXPECT_LT(exits, kCalls * 3 / 2);
    }
  });
}

// A page whose file got shorter under the mapping.
TEST_F(VcpuTest, LostHostPageIsBusError) {
  run_fibers(1, [&] {
    int fd = memfd_create("file", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(fd, 4 * kPageSize), 0);
    auto window = memory_->map_window(fd, 0, 4 * kPageSize, true);
    ASSERT_TRUE(window);
    auto c = make_context();
    auto as = make_space(vc_read);
    ASSERT_TRUE(as->map(kData, *window, 4 * kPageSize, kRo));
    word(*window) = 11;
    Registers r = start_registers();
    r.rbx = kData;
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rax, 11u);
    ASSERT_EQ(ftruncate(fd, 0), 0);
    r.rip = kCode;
    Exit e = run(*c, *as, r);
    ASSERT_EQ(e.kind, Exit::Kind::kException);
    EXPECT_EQ(e.signo, SIGBUS);
    EXPECT_EQ(e.code, BUS_ADRERR);
    EXPECT_TRUE(e.address == kData || e.address == kCode) << e.address;
    EXPECT_EQ(r.rip, kCode);
    printf("address of the lost page is %sknown\n", e.address == kData ? "" : "not ");
    // The vCPU is as good as before.
    ASSERT_EQ(ftruncate(fd, kPageSize), 0);
    ASSERT_EQ(run(*c, *as, r).kind, Exit::Kind::kSyscall);
    EXPECT_EQ(r.rax, 0u);
    memory_->unmap_window(*window, 4 * kPageSize);
    close(fd);
  });
}

}  // namespace
}  // namespace rf::kvm
