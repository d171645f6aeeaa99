// Ring-0 mode: a worker thread whose sentry code lives in ring 0 of its vCPU.
//
// The thread has two sides. The *sentry's* runs in the guest: scheduler, fibers, system call handlers, and ring 3 as a
// function call (Vcpu::run_resident()). The *host's* is the loop here around KVM_RUN, on the thread's own stack: it
// makes the system calls that sentry code executes, maps sentry memory in, injects interrupts, and reports faults.
//
// Both share the thread's TLS block. The host side interrupts the sentry's at any instruction, like a signal handler,
// so it allocates nothing, takes no lock that sentry code takes, and leaves errno alone.
#pragma once

#include <ucontext.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>

#include "core/result.h"
#include "kvm/kvm_api.h"
#include "kvm/sentry_map.h"
#include "ring0/cpu.h"

namespace rf::kvm {

class Vcpu;

// Control bits that are set on top of what guest code has in exit mode.
struct Ring0Protection {
  u64 cr4 = 0, efer = 0;
  bool ibrs = false;  // IA32_SPEC_CTRL.IBRS
};

class Resident {
 public:
  static Setup<std::unique_ptr<Resident>> create(Vcpu& vcpu, SentryMap& map, const Ring0Protection& protection,
                                                 u64 xcr0);
  ~Resident();

  // Runs `body` in ring 0 of the vCPU and returns when it does. On the vCPU's own thread.
  void run(const std::function<void()>& body);

  ring0::Cpu& cpu() { return *cpu_; }
  // In a signal handler of the thread.
  void kick() noexcept { std::atomic_ref(cpu_->stop).store(1, std::memory_order_relaxed); }

  static constexpr u64 kCallLimit = 512;
  struct Counters {
    std::array<std::atomic<u64>, kCallLimit> host_calls{};
    std::atomic<u64> faults{0}, interrupts{0}, windows{0}, lost_pages{0};
    std::atomic<u64> host_cycles{0};  // on the host side, waits for something to do included
  };
  Counters counters;

 private:
  Resident(Vcpu& vcpu, SentryMap& map) : vcpu_(vcpu), map_(map) {}
  void set_registers(u64 function, u64 argument);
  bool step();  // one KVM_RUN; false at the end
  void interrupted();
  void inject(u32 vector);
  void make_host_call();
  void ring0_fault();
  void page_unavailable();
  [[noreturn]] void broken();
  void report(int sig, int code, u64 address, ucontext_t& context);

  Vcpu& vcpu_;
  SentryMap& map_;
  ring0::Cpu* cpu_ = nullptr;
  std::byte* stack_ = nullptr;
  Ring0Protection protection_;
};

}  // namespace rf::kvm
