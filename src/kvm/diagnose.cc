// The kvm platform's part of `ringfence doctor`.
#include <fmt/format.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>

#include "core/time.h"
#include "kvm/factory.h"
#include "kvm/mode.h"
#include "kvm/platform.h"

namespace rf::kvm {

namespace {

using platform::Check;
using State = Check::State;

constexpr u64 kCode = 0x40'0000;
constexpr u8 kSyscallLoop[] = {0x0f, 0x05, 0xeb, 0xfc};  // syscall ; jmp back

// The cost of a guest system call, there and back; 0 when it cannot be told.
double syscall_ns(Platform& p, GuestMemory& memory) {
  auto space = AddressSpace::create(p.vm(), p.vcpus(), p.supervisor().entry());
  if (!space || !memory.extend(kPageSize) || !(*space)->map(kCode, 0, kPageSize, {true, false, true})) return 0;
  std::memcpy(memory.host_ptr(0), kSyscallLoop, sizeof kSyscallLoop);
  Vcpu& vcpu = p.vcpus().at(0);
  Registers regs{};
  regs.rip = kCode;
  regs.eflags = 0x202;
  Nanos best = kNever;
  for (int batch = 0; batch < 10; ++batch) {
    constexpr int kCalls = 20;
    Nanos begin = monotonic_now();
    for (int i = 0; i < kCalls; ++i) {
      Trap trap;
      do {  // the host may want the CPU in between
        vcpu.arm();
        trap = vcpu.run(**space, regs);
      } while (trap.vector == kTrapInterrupted);
      if (trap.vector != kTrapSyscall) return 0;
    }
    best = std::min(best, (monotonic_now() - begin) / kCalls);
  }
  return static_cast<double>(best);
}

std::string features(const platform::Capabilities& c) {
  std::string s = fmt::format("vector state of {} bytes: x87, SSE", c.fp_size);
  if (c.xcr0 & 4) s += ", AVX";
  if (c.xcr0 & 0xe0) s += ", AVX-512";
  s += c.fsgsbase ? "; FSGSBASE" : "; no FSGSBASE";
  s += c.host_tsc ? "; guests read the host's TSC" : "; the TSC is not fit for guests' clocks";
  return s;
}

}  // namespace

std::vector<Check> diagnose() {
  auto kvm = open_kvm();
  if (!kvm) return {{"kvm", State::kBad, kvm.error().message}};
  std::vector<Check> checks;
  checks.push_back(
      {"kvm", State::kGood,
       fmt::format("/dev/kvm can be used (API version {}, {} memory slots)", ioctl(kvm->get(), KVM_GET_API_VERSION, 0),
                   ioctl(kvm->get(), KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS))});
  auto memory = GuestMemory::create();
  if (!memory) {
    checks.push_back({"guest memory", State::kBad, memory.error().message});
    return checks;
  }
  auto p = Platform::create({.kind = platform::Kind::kKvm, .vcpus = 1}, **memory);
  if (!p) {
    checks.push_back({"virtual machine", State::kBad, p.error().message});
    return checks;
  }
  const auto& kind = (*p)->vm().kind();
  checks.push_back(
      {"kind of kvm", kind.interpreted_ring0 ? State::kWarning : State::kGood,
       fmt::format("{} ({:.0f} ns per ring-0 instruction){}", (*p)->capabilities().description, kind.ring0_ns,
                   kind.interpreted_ring0 ? "; it works, but a hardware KVM is many times faster" : "")});
  const auto obstacle = ring0_obstacle((*p)->vm(), (*p)->vcpus().at(0));
  checks.push_back(
      {"ring-0 mode", obstacle ? State::kWarning : State::kGood,
       obstacle ? "not here, exit mode serves: " + *obstacle
                : fmt::format("the sentry can live in the guest's ring 0: {:.0f} ns from ring 3 there and back, {:.0f} "
                              "ns for an exit",
                              kind.call_ns, kind.exit_ns)});
  checks.push_back({"cpu features", State::kGood, features((*p)->capabilities())});
  double ns = syscall_ns(**p, **memory);
  checks.push_back({"call in exit mode", ns > 0 ? State::kGood : State::kBad,
                    ns > 0 ? fmt::format("{:.1f} us there and back", ns / 1000)
                           : std::string("guest code did not run as it should")});
  return checks;
}

}  // namespace rf::kvm
