// What runs one guest thread: a stub thread of the process of the address space that it runs in, and its vector state.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "core/scheduler.h"
#include "trap/address_space.h"
#include "trap/seat.h"

namespace rf::trap {

class Platform;

using platform::Registers;

class Context final : public platform::Context {
 public:
  explicit Context(Platform& platform);
  ~Context() override;

  platform::Exit run(platform::AddressSpace& as, Registers& regs) override;
  void interrupt() override;
  void become_program(bool same_rights) override { keeps_process_ = same_rights; }
  void discard() override { discarded_.store(true, std::memory_order_relaxed); }
  void save_fp(std::span<std::byte> out) override;
  Result<void> load_fp(std::span<const std::byte> in) override;
  void reset_fp() override;
  void copy_fp_from(platform::Context& other) override;

 private:
  // Where the vector state is.
  enum class Fp : u8 {
    kHere,   // in fp_
    kLive,   // in the stub thread's registers; perhaps in fp_ too
    kImage,  // in the stub thread's Area, at fp_image_
  };

  bool take_interrupt() {
    return interrupted_.load(std::memory_order_relaxed) && interrupted_.exchange(false, std::memory_order_acq_rel);
  }
  Area& area() const;
  bool bind(AddressSpace& space, const Registers& regs);
  void unbind();
  void put(const Registers& regs);
  void resume(u32 action);
  u32 await(Seat& seat, bool& left);
  void part();
  bool choose_place(const Worker& worker);
  void note_trapped_call(AddressSpace& space, const Registers& regs);
  u32 await_late(bool kick);
  platform::Exit stopped(u32 state, AddressSpace& space, Registers& regs);
  std::optional<platform::Exit> trapped(Registers& regs);
  void put_registers(const Registers& regs);
  void take_registers(Registers& regs);
  void take_fp_image();
  void sync_fp();

  Platform& platform_;
  std::atomic<bool> interrupted_{false}, discarded_{false};
  std::atomic<Worker*> running_on_{nullptr};
  std::shared_ptr<Process> process_;  // of thread_
  bool keeps_process_ = false;        // the next address space may have it
  // System calls that trapped, by a hash of their addresses.
  struct Trapping {
    u64 rip = 0;
    u32 times = 0;
  };
  std::array<Trapping, 16> trapping_;
  u64 after_call_ = 0;   // where the last run() ended, if by a system call
  bool called_ = false;  // it ended by a patched one
  Thread* thread_ = nullptr;
  Patience guest_patience_;              // of a worker that waits for guest code to stop
  Patience sentry_patience_;             // of the stub thread that waits for the sentry
  u64 resumed_at_ = 0, stopped_at_ = 0;  // cycles
  u64 fault_ = 0;  // the last page fault, to be mapped before guest code goes on: its address, or kNoFault
  platform::Access fault_access_ = platform::Access::kNone;
  Fp fp_where_ = Fp::kHere;
  u64 fp_image_ = 0;  // an offset in the Area
  std::unique_ptr<std::byte[]> fp_;
};

}  // namespace rf::trap
