#include "trap/context.h"

#include <linux/audit.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "core/check.h"
#include "core/cycles.h"
#include "hostio/calls.h"
#include "platform/user_registers.h"
#include "platform/xstate.h"
#include "trap/platform.h"
#include "trap/stub_code.h"

namespace rf::trap {

using platform::Access;
using platform::Exit;
namespace xstate = platform::xstate;

namespace {

constexpr u64 kNoFault = ~u64{0};

// What POPF sets as IRET does: ID OF DF SF ZF AF PF CF, and kFixedFlags.
constexpr u64 kFlagsOfPopf = 0x200000 | 0xcd5 | platform::kFixedFlags;

// Those that come first in Registers: all but RIP, RFLAGS and RSP.
constexpr size_t kGeneralRegisters = offsetof(platform::Registers, orig_rax) / sizeof(u64);

constexpr u8 kGeneralProtection = 13, kPageFault = 14;
// Page-fault error code bits.
constexpr u64 kFaultPresent = 1, kFaultWrite = 2, kFaultFetch = 16;

// A thread that has not answered a kick for so long is called again, while other fibers have the worker; one that has
// not after kGiveUp never will.
constexpr Nanos kKickAgain = 50'000'000, kGiveUp = 5 * kNanosPerSecond;
// How long the worker looks at such a thread each time.
constexpr Nanos kLook = 1'000'000;

// A stub thread on the worker's own core cannot have answered sooner.
constexpr u64 kTwoSwitches = 4'000;  // cycles

// What guest code may change meanwhile is read once.
template <class T>
T once(const T& field) {
  return std::atomic_ref(const_cast<T&>(field)).load(std::memory_order_relaxed);
}

// Writes what is not there already.
template <class T>
void set(T& field, std::type_identity_t<T> value) {
  std::atomic_ref f(field);
  if (f.load(std::memory_order_relaxed) != value) f.store(value, std::memory_order_relaxed);
}

Exit exception(int signo, int code, u64 address, u64 vector, u64 error) {
  Exit e;
  e.kind = Exit::Kind::kException;
  e.signo = signo;
  e.code = code;
  e.address = address;
  e.vector = static_cast<u8>(vector);
  e.error = error;
  return e;
}

}  // namespace

Context::Context(Platform& platform)
    : platform_(platform), fault_(kNoFault), fp_(new std::byte[platform.capabilities().fp_size]) {
  reset_fp();
}

Context::~Context() { unbind(); }

Area& Context::area() const { return process_->control().area(thread_->index); }

// Sees to it that there is a stub thread in the process of `space`. False: the host has no more.
bool Context::bind(AddressSpace& space, const Registers& regs) {
  if (thread_ && process_ == space.process()) [[likely]]
    return true;
  sync_fp();
  // That of the program before, if that was all that used it.
  if (thread_ && keeps_process_ && !space.process() && process_.use_count() == 1 && process_->single_threaded() &&
      !process_->ending()) {
    space.adopt(process_);
  } else {
    unbind();
    if (!space.reserve()) return false;
    auto thread = space.process()->take_thread();
    if (!thread) return false;
    process_ = space.process();
    thread_ = *thread;
  }
  keeps_process_ = called_ = false;
  space.install_early({regs.rip, regs.rsp, regs.fs_base});
  return true;
}

void Context::unbind() {
  if (!thread_) return;
  process_->give_back_thread(thread_);
  thread_ = nullptr;
  process_.reset();
  fp_where_ = Fp::kHere;
}

Exit Context::run(platform::AddressSpace& as, Registers& regs) {
  auto& space = static_cast<AddressSpace&>(as);
  if (!platform::make_enterable(regs)) return exception(SIGSEGV, SI_KERNEL, 0, kGeneralProtection, 0);
  if (take_interrupt()) return Exit{};
  // Guest code that has a use for GS itself, or looks at each instruction, is not to meet patches.
  if (regs.gs_base != 0 || (regs.eflags & platform::kTrapFlag)) [[unlikely]]
    space.stop_patching();
  if (regs.rip != after_call_ && space.patched()) [[unlikely]]
    regs.rip = space.patched_place(regs.rip);
  if (!bind(space, regs)) return exception(SIGKILL, SI_KERNEL, 0, 0, 0);
  if (fault_ != kNoFault) {
    space.install(fault_, fault_access_);
    fault_ = kNoFault;
  }

  Worker* worker = Worker::current();
  Seat& seat = platform_.seat(worker->index());
  seat.arm();
  if (!worker->enter_guest(seat)) return Exit{};
  running_on_.store(worker, std::memory_order_seq_cst);
  Exit exit;
  bool late = false, left = false;
  // Who set it before it could see running_on_ did not kick.
  if (!interrupted_.load(std::memory_order_seq_cst)) {
    for (;;) {
      seat.resumes(area());
      put(regs);
      u32 state = await(seat, left);
      if (state == kRunning) [[unlikely]] {
        late = true;
        running_on_.store(nullptr, std::memory_order_seq_cst);
        worker->leave_guest();
        state = await_late(true);
      }
      exit = stopped(state, space, regs);
      if (exit.kind != Exit::Kind::kPageFault || late || left || seat.kicked()) break;
      // A page that mm has mapped and the process has not seen yet.
      const auto installed = space.install(exit.address, exit.access);
      if (installed == AddressSpace::Install::kNothing) break;
      if (installed == AddressSpace::Install::kRefused) {
        exit = exception(SIGBUS, BUS_ADRERR, exit.address, kPageFault, exit.error);
        break;
      }
      platform_.counts.add(*worker, Platform::kInstall);
    }
  }
  if (!late) {
    running_on_.store(nullptr, std::memory_order_release);  // who still sees the worker kicks it for nothing
    worker->leave_guest();
  }
  if (exit.kind == Exit::Kind::kInterrupted) interrupted_.store(false, std::memory_order_relaxed);
  if (exit.kind == Exit::Kind::kPageFault) {
    fault_ = exit.address;
    fault_access_ = exit.access;
  }
  return exit;
}

void Context::interrupt() {
  interrupted_.store(true, std::memory_order_seq_cst);
  if (Worker* w = running_on_.load(std::memory_order_seq_cst)) w->kick();
}

// Hands the guest's state to the stub thread and lets it go on.
void Context::put(const Registers& regs) {
  Area& a = area();
  put_registers(regs);
  u32 action = 0;
  // A guest that has a GS base of its own gets it, else the thread's points to its Area.
  const u64 gs_base = regs.gs_base ? regs.gs_base : a.self;
  if (regs.fs_base != thread_->fs_base || gs_base != thread_->gs_base) {
    a.fs_base = thread_->fs_base = regs.fs_base;
    a.gs_base = thread_->gs_base = gs_base;
    action = kSetBases;
  } else if (!called_ && gs_base == a.self) {
    // Guest code may have changed it, by loading a selector.
    action = platform_.fsgsbase() ? kOwnGs : kSetBases;
  }
  if (called_ && gs_base == a.self && (regs.eflags & ~kFlagsOfPopf) == 0) action |= kByJump;
  if (choose_place(*Worker::current())) [[unlikely]]
    action |= kMove;
  const u64 va = Control::area_address(thread_->index);
  switch (fp_where_) {
    case Fp::kLive:
      set(a.fp_load, 0);
      break;
    case Fp::kImage:
      set(a.fp_load, va + fp_image_);
      break;
    case Fp::kHere:
      std::memcpy(reinterpret_cast<std::byte*>(&a) + kFpOffset, fp_.get(), platform_.capabilities().fp_size);
      set(a.fp_load, va + kFpOffset);
      fp_where_ = Fp::kImage;
      fp_image_ = kFpOffset;
      break;
  }
  resume(action);
}

void Context::resume(u32 action) {
  Area& a = area();
  thread_->begin_to_run();
  set(a.action, action);
  resumed_at_ = cycles();
  const Seat& seat = platform_.seat(Worker::current()->index());
  sentry_patience_.waited(resumed_at_ - stopped_at_);
  set(a.step_aside, thread_->same_core != 0);
  set(a.spin_cycles, seat.stubs_crowded(resumed_at_) ? 0 : sentry_patience_.cycles());
  std::atomic_ref(a.state).store(kRunning, std::memory_order_relaxed);
  process_->wake(*thread_, 0);
}

// Waits until the stub thread stops; stops it if the worker is kicked. kRunning: it does not answer the kick.
u32 Context::await(Seat& seat, bool& left) {
  if (process_->dead()) return kDead;
  const Reactor& reactor = Worker::current()->reactor();
  u32 s = seat.wait(area(), guest_patience_, resumed_at_, thread_->same_core != 0, kNever, &reactor);
  while (s == kRunning && !process_->dead() && !interrupted_.load(std::memory_order_relaxed)) {
    Worker* worker = Worker::current();
    left = !worker->step_out();
    if (left) break;
    s = std::atomic_ref(area().state).load(std::memory_order_acquire);
    seat.arm();
    // Who set interrupted_ before it could see that the worker runs guest code did not kick.
    left = s != kRunning || !worker->enter_guest(seat);
    if (left || interrupted_.load(std::memory_order_seq_cst)) break;
    s = seat.wait(area(), guest_patience_, cycles(), false, kNever, &reactor);
  }
  stopped_at_ = seat.looked_at();
  if (s != kRunning) [[likely]] {
    process_->waits(*thread_);
    seat.stopped(area());
    if (stopped_at_ - resumed_at_ > kTwoSwitches && once(area().rseq.cpu) == static_cast<u32>(::sched_getcpu()))
        [[unlikely]]
      part();
    else
      thread_->same_core = 0;
    return s;
  }
  // A thread that computes needs a CPU more than it needs one that is not the worker's.
  thread_->same_core = 0;
  if (thread_->place == Thread::Place::kAway) thread_->wanted = Thread::Place::kAnywhere;
  process_->kick(*thread_);
  seat.arm();
  s = seat.wait(area(), guest_patience_, cycles(), true, monotonic_now() + kKickAgain);
  if (process_->dead()) return kDead;
  return s;
}

// Waits for a thread that does not answer: the host is busy, or guest code runs in the stub's own code and means no
// good. Other fibers have the worker meanwhile; who will never answer loses its process, at once if nobody needs it.
u32 Context::await_late(bool kick) {
  const Nanos give_up = monotonic_now() + kGiveUp;
  u32 s = kRunning;
  while (s == kRunning && !process_->dead()) {
    sleep_until(monotonic_now() + kKickAgain, Interruptible::kNo);
    const bool wanted = !discarded_.load(std::memory_order_relaxed) || !process_->single_threaded();
    if (!wanted || monotonic_now() > give_up)
      process_->kill();
    else if (kick)
      process_->kick(*thread_);
    Seat quiet;  // kicks are for who runs guest code
    s = quiet.wait(area(), guest_patience_, cycles(), true, monotonic_now() + kLook);
  }
  return process_->dead() ? u32{kDead} : s;
}

// The stub thread was seen on this worker's core. If that goes on, each system call costs two task switches, and the
// host's scheduler sees no reason to part them: has it keep off that core, and asks for it more rarely the less it
// helps.
void Context::part() {
  if (Worker::current()->crowded()) return;
  constexpr u32 kOften = 8;
  constexpr u64 kLeast = 3'000'000, kMost = 3'000'000'000;
  Thread& t = *thread_;
  if (++t.same_core < kOften || stopped_at_ < t.next_move) return;
  t.same_core = 0;
  // Long after the last move it has done its work.
  t.move_pause = stopped_at_ > t.next_move + kMost ? kLeast : std::min(2 * t.move_pause, kMost);
  t.next_move = stopped_at_ + t.move_pause;
  t.wanted = Thread::Place::kAway;
  t.place = Thread::Place::kAnywhere;  // perhaps away from another core than this
}

// Where the thread is to run from here on; whether it must be told.
//
// Usually on another core than the worker, who then has its answers without a task switch. Where all cores are wanted
// by threads that compute that is no use: those who are served beside such a thread run on the worker's core, and so
// does it, so that each core always has work and no core need be interrupted.
bool Context::choose_place(const Worker& worker) {
  Thread& t = *thread_;
  if (worker.crowded()) t.wanted = Thread::Place::kHome;
  if (t.wanted == t.place && (t.place != Thread::Place::kHome || t.home == worker.index())) [[likely]]
    return false;
  t.place = t.wanted;
  t.home = worker.index();
  return process_->cpus_of(t.place, area().cpus);
}

// As they seldom change all of them, calls are faster if what is the same is not written: the lines of the Area that
// hold it stay with the other core.
void Context::put_registers(const Registers& regs) {
  u64* const to = area().regs;
  std::array<u64, kGeneralRegisters> general;
  std::memcpy(general.data(), &regs, sizeof general);
  for (size_t i = 0; i < general.size(); ++i) set(to[i], general[i]);
  set(to[RF_REG_RIP / 8], regs.rip);
  set(to[RF_REG_EFLAGS / 8], regs.eflags);
  set(to[RF_REG_RSP / 8], regs.rsp);
}

// What of a trap's registers the guest can have changed.
void Context::take_registers(Registers& regs) {
  const u64* const from = area().regs;
  std::memcpy(&regs, from, kGeneralRegisters * sizeof(u64));
  regs.rip = once(from[RF_REG_RIP / 8]);
  regs.eflags = once(from[RF_REG_EFLAGS / 8]);
  regs.rsp = once(from[RF_REG_RSP / 8]);
}

// The vector state is where the stub thread says it is, if that is in its Area.
void Context::take_fp_image() {
  const u64 offset = once(area().fp_image) - Control::area_address(thread_->index);
  fp_where_ = Fp::kImage;
  fp_image_ = kFpOffset;
  if (offset % 64 == 0 && offset >= kFpOffset && offset <= kAreaSize - platform_.capabilities().fp_size)
    fp_image_ = offset;
}

Exit Context::stopped(u32 state, AddressSpace& space, Registers& regs) {
  const auto count = [&, &worker = *Worker::current()](Platform::Event e) { platform_.counts.add(worker, e); };
  called_ = state == kCalled;
  switch (state) {
    case kCalled:
      count(Platform::kSyscall);
      count(Platform::kPatchedCall);
      take_registers(regs);
      regs.orig_rax = regs.rax;
      fp_where_ = Fp::kLive;
      after_call_ = regs.rip;
      return Exit{.kind = Exit::Kind::kSyscall};
    case kTrapped: {
      take_registers(regs);
      take_fp_image();
      if (regs.rip == in_stub(rf_trap_call) && once(area().signo) == SIGSEGV) [[unlikely]] {
        // A patched call whose first instruction met a GS base that guest code has made useless.
        count(Platform::kSyscall);
        regs.rip = after_call_ = regs.rcx;
        regs.r11 = regs.eflags &= ~platform::kResumeFlag;  // which faults set
        regs.orig_rax = regs.rax;
        return Exit{.kind = Exit::Kind::kSyscall};
      }
      if (space.patched()) regs.rip = space.original_place(regs.rip);
      const auto trap = trapped(regs);
      if (!trap) break;
      const Exit e = *trap;
      after_call_ = 0;
      if (e.kind == Exit::Kind::kSyscall) {
        regs.orig_rax = regs.rax;
        note_trapped_call(space, regs);
      }
      count(e.kind == Exit::Kind::kSyscall       ? Platform::kSyscall
            : e.kind == Exit::Kind::kPageFault   ? Platform::kPageFault
            : e.kind == Exit::Kind::kInterrupted ? Platform::kInterrupt
                                                 : Platform::kException);
      return e;
    }
    case kNotStarted:
      count(Platform::kInterrupt);
      if (once(area().fp_image) == 0)
        fp_where_ = Fp::kLive;
      else
        take_fp_image();
      return Exit{};
    default:
      break;
  }
  // kDead, and what only a guest that wrote to its Area could say: the process is of no more use.
  fp_where_ = Fp::kHere;
  space.process()->kill();
  return exception(SIGKILL, SI_KERNEL, 0, 0, 0);
}

void Context::note_trapped_call(AddressSpace& space, const Registers& regs) {
  constexpr u32 kOften = 8;
  after_call_ = regs.rip;
  Trapping& t = trapping_[(regs.rip >> 2 ^ regs.rip >> 7) % trapping_.size()];
  if (t.rip != regs.rip) t = {regs.rip, 0};
  if (++t.times == kOften) space.patch(regs.rip, regs.rax);
}

// A signal stopped the thread. Nothing: not one that the stub's handler is for, so guest code wrote this.
std::optional<Exit> Context::trapped(Registers& regs) {
  const Area& a = area();
  const auto signo = static_cast<int>(once(a.signo));
  const s32 code = once(a.code);
  const u64 address = once(a.address), vector = once(a.vector), error = once(a.error), cr2 = once(a.cr2);
  if (signo == kKickSignal) return Exit{};
  if (signo == SIGSYS) {
    if (address == AUDIT_ARCH_X86_64) return Exit{.kind = Exit::Kind::kSyscall};
    // INT 0x80, which there is none of: as on a Linux without 32-bit calls.
    regs.rip -= 2;
    return exception(SIGSEGV, SI_KERNEL, 0, kGeneralProtection, 0x80 * 8 + 2);
  }
  if (vector == kPageFault) {
    if (signo == SIGBUS) return exception(SIGBUS, BUS_ADRERR, cr2, vector, error);
    Exit e;
    e.kind = Exit::Kind::kPageFault;
    e.vector = kPageFault;
    e.error = error;
    e.address = cr2;
    e.access = error & kFaultFetch ? Access::kExec : error & kFaultWrite ? Access::kWrite : Access::kRead;
    // What is mapped above the limit is no mapping of the guest's.
    e.present = (error & kFaultPresent) && cr2 < platform::kGuestAddressLimit;
    return e;
  }
  if (signo != SIGSEGV && signo != SIGBUS && signo != SIGFPE && signo != SIGILL && signo != SIGTRAP) return {};
  return exception(signo, code, code == SI_KERNEL ? 0 : address, vector, error);
}

// --- Vector state ---------------------------------------------------------------------------------

// Makes fp_ valid.
void Context::sync_fp() {
  const size_t size = platform_.capabilities().fp_size;
  if (fp_where_ == Fp::kHere) return;
  u64 image = fp_image_;
  if (fp_where_ == Fp::kLive) {
    image = kFpOffset;
    resume(kSaveFp);
    Seat quiet;  // kicks are for who runs guest code
    u32 s = quiet.wait(area(), guest_patience_, cycles(), true, monotonic_now() + kKickAgain);
    if (s == kRunning) s = await_late(false);
    process_->waits(*thread_);
    if (s != kFpSaved) {
      process_->kill();
      xstate::reset({fp_.get(), size});
      return;
    }
  }
  std::memcpy(fp_.get(), reinterpret_cast<const std::byte*>(&area()) + image, size);
  xstate::keep_features({fp_.get(), size}, platform_.capabilities().xcr0);
}

void Context::save_fp(std::span<std::byte> out) {
  sync_fp();
  std::memcpy(out.data(), fp_.get(), std::min(out.size(), platform_.capabilities().fp_size));
}

Result<void> Context::load_fp(std::span<const std::byte> in) {
  const auto& caps = platform_.capabilities();
  if (in.size() != caps.fp_size || !xstate::valid(in, caps.xcr0)) return err(EINVAL);
  std::memcpy(fp_.get(), in.data(), in.size());
  fp_where_ = Fp::kHere;
  return {};
}

void Context::reset_fp() {
  xstate::reset({fp_.get(), platform_.capabilities().fp_size});
  fp_where_ = Fp::kHere;
}

void Context::copy_fp_from(platform::Context& other) {
  auto& o = static_cast<Context&>(other);
  o.sync_fp();
  std::memcpy(fp_.get(), o.fp_.get(), platform_.capabilities().fp_size);
  fp_where_ = Fp::kHere;
}

}  // namespace rf::trap
