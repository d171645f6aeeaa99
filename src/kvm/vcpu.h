// One virtual CPU. It belongs to one worker thread, which alone runs guest code on it.
//
// Lock order: Vcpu::fp_lock is a leaf and never held across KVM_RUN.
#pragma once

#include "kvm/kvm_api.h"

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/scheduler.h"
#include "kvm/address_space.h"
#include "kvm/resident.h"
#include "kvm/supervisor.h"
#include "kvm/vm.h"
#include "ring0/image.h"

namespace rf::kvm {

using platform::Registers;
class Context;

// Why ring 3 stopped: an exception's number (0 to 31), or one of these.
enum : u32 {
  kTrapSyscall = 256,
  kTrapInterrupted,  // kicked, or the host wanted the thread for something
  kTrapLostPage,     // the host cannot give a page that is mapped: a file was truncated. `address` if known
  kTrapBroken,       // KVM gave up on what the guest did
};
struct Trap {
  u32 vector = kTrapInterrupted;
  u64 error = 0;         // the CPU's error code
  u64 address = 0;       // page faults: CR2
  bool stepped = false;  // #DB: single step
};

// A bare vCPU and what every way of entering ring 3 needs of it.
class Vcpu final : public GuestKicker {
 public:
  static Setup<std::unique_ptr<Vcpu>> create(Vm& vm, Supervisor& supervisor, u32 index);
  ~Vcpu();

  // Clears what an earlier kick has left. To be called before Worker::enter_guest(), never after.
  void arm() {
    if (resident_)
      std::atomic_ref(resident_->cpu().stop).store(0, std::memory_order_relaxed);
    else
      immediate_exit().store(0, std::memory_order_relaxed);
  }
  // In ring 0 each host call stops the vCPU: Resident::step().
  void forget_host_calls() noexcept override {
    if (resident_) arm();
  }
  void on_kick_signal() noexcept override {
    immediate_exit().store(1, std::memory_order_relaxed);
    if (resident_) resident_->kick();
  }

  // Runs guest code in `as` until it stops; `regs` go in and come out. Registers must be sane (Context sees to it).
  Trap run(AddressSpace& as, Registers& regs);

  // Ring-0 mode. Before the vCPU's thread starts.
  Setup<void> make_resident(SentryMap& map, const Ring0Protection& protection);
  Resident* resident() { return resident_.get(); }
  // Runs `body` in ring 0 of this vCPU, which is the calling worker's.
  void enter_ring0(const std::function<void()>& body);
  // In ring 0, on the vCPU's own thread: run() for ring-0 mode. `math` is the guest's vector state where the registers
  // do not hold it. What ended it: ring0::kSyscallVector, or what resident_trap() makes a Trap of.
  u32 run_resident(AddressSpace& as, Registers& regs, std::byte* math);
  Trap resident_trap(u32 vector) const;
  // In ring 0, on the vCPU's own thread: the step from this generation of `as` to the next took these ranges away. Few
  // pages are invalidated one by one; otherwise, the next entry reloads CR3. Gives the number of pages invalidated.
  u64 invalidate_pages(const AddressSpace& as, u64 generation, std::span<const platform::Invalidation::Range> ranges);

  // Runs ring-0 code of the stub page at `rip` until it halts, and returns RAX; for probing, before guest code runs.
  // Null when it did something else.
  std::optional<u64> run_ring0(Phys root, u64 rip, u64 rcx);
  // Runs a SYSCALL at `rip` in ring 3, for probing: does it arrive at LSTAR in ring 0, as on a CPU, or as a page fault
  // there? Null when neither.
  std::optional<bool> syscall_enters_ring0(Phys root, u64 rip);
  // How long ring 3 takes for `calls` system calls to a ring 0 that returns at once, entry and exit of the vCPU
  // included; for probing, with the halting stub. `rip`: a loop of SYSCALLs that counts RBX down and then does what
  // ring 3 must not. Null when something else came of it.
  std::optional<Nanos> time_bare_calls(Phys root, u64 rip, u64 calls);
  // To be called when vm.kind() has changed.
  Setup<void> kind_is_known() { return configure(); }
  int fd() const { return fd_.get(); }
  int stats_fd() const { return stats_.get(); }
  std::optional<u64> get_msr(u32 index) const;  // null: KVM has none such
  bool has_fsgsbase() const { return fsgsbase_; }
  // Was KVM willing to leave the TSC alone?
  bool has_host_tsc() const { return host_tsc_; }

  // Vector state: fp_size() bytes. Callers hold fp_lock.
  void get_xsave(std::byte* out, size_t size);
  void set_xsave(const std::byte* in, size_t size);
  SpinLock fp_lock;
  std::atomic<Context*> fp_owner{nullptr};  // whose state the vCPU holds; changed with fp_lock held

  struct Counters {
    std::atomic<u64> exits{0}, broken{0}, fp_loads{0}, fp_saves{0};
  };
  Counters counters;
  u32 index() const { return index_; }

 private:
  friend class VcpuSet;
  friend class Resident;
  enum class Stop { kHalt, kInterrupted, kLostPage, kBroken };

  Vcpu(Vm& vm, Supervisor& supervisor, u32 index) : vm_(vm), supervisor_(supervisor), index_(index) {}
  std::atomic_ref<u8> immediate_exit() { return std::atomic_ref<u8>(run_->immediate_exit); }
  // Sets everything but general registers, from any state.
  Setup<void> configure();
  Setup<void> set_system_registers();
  Stop enter();
  Trap lost_page();
  bool set_msr(u32 index, u64 value);
  // After KVM gave up: says so, and makes the vCPU usable again.
  Trap recover();
  // The vCPU's state is in run_->s.regs: into `regs`.
  void take_registers(Registers& regs) const;
  // Stopped between the CPU's meeting an exception and the stub's halt?
  bool exception_pending() const;

  // Interpreted ring 0 (direct_entry.cc): registers go in and out through the shared kvm_run page, straight to
  // ring 3; what little ring 0 has to do is one halt.
  Trap run_direct(AddressSpace& as, Registers& regs);
  void put_registers(Phys root, const Registers& regs);
  std::optional<Trap> take_give_up(Registers& regs);
  bool called(const Registers& regs) const;
  bool take_halt(Registers& regs, Trap& trap);

  // Native ring 0 (stub_entry.cc): registers go in and out through the save area, by the stub.
  Trap run_saving(AddressSpace& as, Registers& regs);
  Trap run_saving_until_trap(AddressSpace& as, Registers& regs, u64 generation);
  void fill_save_area(const Registers& regs);
  bool take_save_area(Registers& regs, Trap& trap);
  void put_at_resume(Phys root);
  void fetch_state();
  void translations_are_of(AddressSpace& as, u64 generation);

  Vm& vm_;
  Supervisor& supervisor_;
  const u32 index_;
  hostio::HostFd fd_, stats_;
  kvm_run* run_ = nullptr;
  size_t run_size_ = 0;
  size_t xsave_buffer_size_ = 4096;
  kvm_sregs ring3_{};  // system registers as they are in guest code, but for CR3 and the bases
  bool fsgsbase_ = false;
  bool host_tsc_ = false;
  std::byte* stack_page_ = nullptr;

  std::unique_ptr<Resident> resident_;

  ring0::SaveArea* save_ = nullptr;
  ring0::ResumeCode resume_{};
  bool at_resume_ = false;  // halted in the stub: KVM_RUN goes on to ring 3
  u64 cr3_space_ = 0;       // id and generation of the address space as CR3 and the TLB have it
  u64 cr3_generation_ = 0;
  std::atomic<Phys> loaded_root_{0};  // in CR3, or may be
  std::atomic<u64> live_space_{0};    // id of the space whose guest code runs or is about to
  std::atomic<u32> runs_{0};          // stays in the guest that have ended; a futex
  std::atomic<u32> run_watchers_{0};  // who waits for it to change
  std::atomic<Worker*> worker_{nullptr};
};

// The vCPUs of a VM by worker index.
class VcpuSet {
 public:
  explicit VcpuSet(Vm& vm) : vm_(vm) {}
  Setup<void> add(Supervisor& supervisor, u32 count);
  Vcpu& at(u32 i) { return *vcpus_[i]; }
  u32 size() const { return static_cast<u32>(vcpus_.size()); }

  // Returns when no vCPU uses translations of `as` from before the call.
  void flush(AddressSpace& as);
  // Of the calling worker's vCPU, if it lives in ring 0: Vcpu::invalidate_pages().
  u64 invalidate_pages_here(const AddressSpace& as, u64 generation,
                            std::span<const platform::Invalidation::Range> ranges);
  // Frees the top-level table of a dead address space, once no vCPU has it in CR3.
  void retire_root(Phys root);

 private:
  Vm& vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  SpinLock retired_lock_;
  std::vector<Phys> retired_roots_;  // still in the CR3 of some vCPU
};

}  // namespace rf::kvm
