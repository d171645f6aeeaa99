#include "task/signal_frame.h"

#include <signal.h>

#include <asm/ucontext.h>

#include <cstddef>
#include <cstring>
#include <vector>

#include "mm/user_access.h"
#include "task/kernel.h"
#include "task/task.h"

namespace rf::task {
namespace {

constexpr u64 kRestorerFlag = 0x0400'0000;  // SA_RESTORER
constexpr u64 kRedZone = 128;
constexpr u64 kFxsaveSize = 512;
constexpr u64 kXsaveHeaderSize = 64;
constexpr u64 kSwBytesOffset = 464;  // of struct _fpx_sw_bytes in the FXSAVE image
constexpr u64 kXstateBvOffset = 512;
constexpr u64 kX87Bit = 1, kSseBit = 2;

struct KernelStack {
  u64 sp;
  int flags;
  int padding;
  u64 size;
};

struct KernelUcontext {
  u64 flags;
  u64 link;
  KernelStack stack;
  sigcontext context;
  SignalSet mask;
};

struct RtSigframe {
  u64 return_address;
  KernelUcontext uc;
  siginfo_t info;
};
static_assert(sizeof(KernelUcontext) == 304 && sizeof(RtSigframe) == 440);

// What the guest may have in eflags from a frame (FIX_EFLAGS of Linux): AC, OF, DF, TF, SF, ZF, AF, PF, CF, RF.
constexpr u64 kFixEflags = 0x40000 | 0x800 | 0x400 | 0x100 | 0x80 | 0x40 | 0x10 | 0x4 | 0x1 | 0x10000;
constexpr u64 kEflagsDirection = 0x400, kEflagsTrap = 0x100, kEflagsResume = 0x10000;

sigcontext save_context(const Task& task, SignalSet mask, u64 fpstate) {
  const platform::Registers& r = task.regs;
  sigcontext c{};
  c.r8 = r.r8, c.r9 = r.r9, c.r10 = r.r10, c.r11 = r.r11;
  c.r12 = r.r12, c.r13 = r.r13, c.r14 = r.r14, c.r15 = r.r15;
  c.rdi = r.rdi, c.rsi = r.rsi, c.rbp = r.rbp, c.rbx = r.rbx, c.rdx = r.rdx, c.rax = r.rax, c.rcx = r.rcx;
  c.rsp = r.rsp, c.rip = r.rip, c.eflags = r.eflags;
  c.cs = 0x33;
  c.__pad0 = 0x2b;  // ss
  c.err = task.fault_error;
  c.trapno = task.fault_vector;
  c.cr2 = task.fault_address;
  c.oldmask = mask;
  c.__fpstate_word = fpstate;
  return c;
}

void load_context(Task& task, const sigcontext& c) {
  platform::Registers& r = task.regs;
  r.r8 = c.r8, r.r9 = c.r9, r.r10 = c.r10, r.r11 = c.r11;
  r.r12 = c.r12, r.r13 = c.r13, r.r14 = c.r14, r.r15 = c.r15;
  r.rdi = c.rdi, r.rsi = c.rsi, r.rbp = c.rbp, r.rbx = c.rbx, r.rdx = c.rdx, r.rax = c.rax, r.rcx = c.rcx;
  r.rsp = c.rsp, r.rip = c.rip;
  r.eflags = (r.eflags & ~kFixEflags) | (c.eflags & kFixEflags);
  r.orig_rax = ~u64{0};
}

// Linux's frames always hold the x87 and SSE parts: gives them their initial values where the image says no more than
// that they are unused.
void fill_initial_state(std::byte* fp) {
  u64 xstate_bv;
  std::memcpy(&xstate_bv, fp + kXstateBvOffset, sizeof xstate_bv);
  constexpr size_t kMxcsr = 24, kMxcsrEnd = 32, kXmm = 160, kXmmEnd = 416;
  if ((xstate_bv & kX87Bit) == 0) {
    const u16 fcw = 0x37f;
    std::memset(fp, 0, kMxcsr);
    std::memset(fp + kMxcsrEnd, 0, kXmm - kMxcsrEnd);
    std::memcpy(fp, &fcw, sizeof fcw);
  }
  if ((xstate_bv & kSseBit) == 0) {
    u32 mxcsr;
    std::memcpy(&mxcsr, fp + kMxcsr, sizeof mxcsr);
    if (mxcsr == 0) mxcsr = 0x1f80;
    std::memcpy(fp + kMxcsr, &mxcsr, sizeof mxcsr);
    std::memset(fp + kXmm, 0, kXmmEnd - kXmm);
  }
  xstate_bv |= kX87Bit | kSseBit;
  std::memcpy(fp + kXstateBvOffset, &xstate_bv, sizeof xstate_bv);
}

// The XSAVE image with the marks that tell user space (and sigreturn) that it is one.
std::vector<std::byte> save_fp(Task& task) {
  const platform::Capabilities& caps = task.kernel.platform.capabilities();
  const u32 size = static_cast<u32>(caps.fp_size);
  std::vector<std::byte> fp(size + FP_XSTATE_MAGIC2_SIZE);
  task.context->save_fp({fp.data(), size});
  fill_initial_state(fp.data());
  _fpx_sw_bytes sw{};
  sw.magic1 = FP_XSTATE_MAGIC1;
  sw.extended_size = size + FP_XSTATE_MAGIC2_SIZE;
  sw.xstate_bv = caps.xcr0;
  sw.xstate_size = size;
  std::memcpy(fp.data() + kSwBytesOffset, &sw, sizeof sw);
  const u32 magic2 = FP_XSTATE_MAGIC2;
  std::memcpy(fp.data() + size, &magic2, sizeof magic2);
  return fp;
}

// The state at `addr`: a full XSAVE image if its marks say so, else (as Linux does) the x87 and SSE part alone.
Result<void> restore_fp(Task& task, u64 addr) {
  if (addr == 0) {
    task.context->reset_fp();
    return {};
  }
  const platform::Capabilities& caps = task.kernel.platform.capabilities();
  const u32 size = static_cast<u32>(caps.fp_size);
  std::vector<std::byte> fp(size);
  if (task.mm->copy_in(fp.data(), addr, kFxsaveSize) != kFxsaveSize) return err(EFAULT);
  _fpx_sw_bytes sw;
  std::memcpy(&sw, fp.data() + kSwBytesOffset, sizeof sw);
  bool full = sw.magic1 == FP_XSTATE_MAGIC1 && sw.xstate_size >= kFxsaveSize + kXsaveHeaderSize &&
              sw.xstate_size <= size && sw.xstate_size <= sw.extended_size;
  if (full) {
    u32 magic2 = 0;
    if (task.mm->copy_in(&magic2, addr + sw.xstate_size, sizeof magic2) != sizeof magic2) return err(EFAULT);
    full = magic2 == FP_XSTATE_MAGIC2;
  }
  std::memset(fp.data() + kSwBytesOffset, 0, sizeof sw);
  u64 xstate_bv = kX87Bit | kSseBit;
  if (full) {
    const size_t rest = sw.xstate_size - kFxsaveSize;
    if (task.mm->copy_in(fp.data() + kFxsaveSize, addr + kFxsaveSize, rest) != rest) return err(EFAULT);
    std::memcpy(&xstate_bv, fp.data() + kXstateBvOffset, sizeof xstate_bv);
    xstate_bv &= sw.xstate_bv & caps.xcr0;
  }
  // The header but for its first word is reserved.
  std::memset(fp.data() + kXstateBvOffset, 0, kXsaveHeaderSize);
  std::memcpy(fp.data() + kXstateBvOffset, &xstate_bv, sizeof xstate_bv);
  return task.context->load_fp(fp);
}

struct FramePlace {
  u64 frame, fpstate;
};

// Where the frame goes: below the red zone, or on the alternate stack. EFAULT if it would leave the alternate stack
// that the task is on already.
Result<FramePlace> place_frame(const Task& task, const KernelSigaction& action, u64 fp_size) {
  u64 sp = task.regs.rsp - kRedZone;
  const bool nested = on_altstack(task, task.regs.rsp);
  bool entering = false;
  if ((action.flags & SA_ONSTACK) != 0 && altstack_state(task, task.regs.rsp) == 0) {
    sp = task.altstack.sp + task.altstack.size;
    entering = true;
  }
  FramePlace place;
  place.fpstate = (sp - fp_size) & ~u64{63};
  place.frame = ((place.fpstate - sizeof(RtSigframe)) & ~u64{15}) - 8;
  if ((nested || entering) && !(place.frame > task.altstack.sp && place.frame - task.altstack.sp <= task.altstack.size))
    return err(EFAULT);
  if (place.frame >= platform::kGuestAddressLimit || place.fpstate > platform::kGuestAddressLimit) return err(EFAULT);
  return place;
}

}  // namespace

bool on_altstack(const Task& task, u64 sp) {
  if ((task.altstack.flags & kAutodisarm) != 0) return false;
  return sp > task.altstack.sp && sp - task.altstack.sp <= task.altstack.size;
}

int altstack_state(const Task& task, u64 sp) {
  if (task.altstack.size == 0) return SS_DISABLE;
  return on_altstack(task, sp) ? SS_ONSTACK : 0;
}

Result<void> set_altstack(Task& task, u64 sp, int flags, u64 size) {
  constexpr u64 kMinSize = 2048;  // the kernel's MINSIGSTKSZ
  if (on_altstack(task, task.regs.rsp)) return err(EPERM);
  const int mode = flags & ~kAutodisarm;
  if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0) return err(EINVAL);
  if (mode == SS_DISABLE) {
    task.altstack = {.sp = 0, .flags = flags, .size = 0};
    return {};
  }
  if (size < kMinSize) return err(ENOMEM);
  task.altstack = {.sp = sp, .flags = flags, .size = size};
  return {};
}

Result<void> push_signal_frame(Task& task, const KernelSigaction& action, const siginfo_t& info, SignalSet mask) {
  if ((action.flags & kRestorerFlag) == 0) return err(EFAULT);  // as Linux: x86-64 has no other way back
  const std::vector<std::byte> fp = save_fp(task);
  const FramePlace place = TRY(place_frame(task, action, fp.size()));

  RtSigframe frame{};
  frame.return_address = action.restorer;
  frame.uc.flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
  frame.uc.stack = {.sp = task.altstack.sp, .flags = task.altstack.flags, .padding = 0, .size = task.altstack.size};
  frame.uc.context = save_context(task, mask, place.fpstate);
  frame.uc.mask = mask;
  frame.info = info;
  if (task.mm->copy_out(place.fpstate, fp.data(), fp.size()) != fp.size()) return err(EFAULT);
  if (task.mm->copy_out(place.frame, &frame, sizeof frame) != sizeof frame) return err(EFAULT);
  if ((task.altstack.flags & kAutodisarm) != 0) task.altstack = {};

  platform::Registers& r = task.regs;
  r.rdi = static_cast<u64>(info.si_signo);
  r.rsi = place.frame + offsetof(RtSigframe, info);
  r.rdx = place.frame + offsetof(RtSigframe, uc);
  r.rax = 0;
  r.rip = action.handler;
  r.rsp = place.frame;
  r.eflags &= ~(kEflagsDirection | kEflagsTrap | kEflagsResume);
  r.orig_rax = ~u64{0};
  task.context->reset_fp();
  return {};
}

Result<void> pop_signal_frame(Task& task) {
  const u64 addr = task.regs.rsp - 8;  // the handler's return took the return address
  KernelUcontext uc;
  if (task.mm->copy_in(&uc, addr + offsetof(RtSigframe, uc), sizeof uc) != sizeof uc) return err(EFAULT);
  task.set_mask(uc.mask);
  load_context(task, uc.context);
  TRY(restore_fp(task, uc.context.__fpstate_word));
  (void)set_altstack(task, uc.stack.sp, uc.stack.flags, uc.stack.size);  // Linux ignores what is wrong with it
  return {};
}

}  // namespace rf::task
