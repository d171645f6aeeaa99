#include "kvm/exceptions.h"

#include <signal.h>

#include <cstring>

namespace rf::kvm {

using platform::Access;
using platform::Exit;

namespace {

enum : u32 {
  kDivide = 0,
  kDebug = 1,
  kBreakpoint = 3,
  kInvalidOpcode = 6,
  kSegmentNotPresent = 11,
  kStackSegment = 12,
  kPageFault = 14,
  kX87 = 16,
  kAlignment = 17,
  kSimd = 19,
};

// Page-fault error code bits.
constexpr u64 kFaultPresent = 1, kFaultWrite = 2, kFaultUser = 4, kFaultFetch = 16;

// fpu__exception_code() of Linux: the exceptions that are raised and not masked, by priority. Bits: 0 invalid,
// 1 denormal, 2 divide by zero, 3 overflow, 4 underflow, 5 precision.
int fp_code(u32 vector, const std::byte* fp) {
  u32 raised;
  if (vector == kX87) {
    u16 control, status;
    std::memcpy(&control, fp, 2);
    std::memcpy(&status, fp + 2, 2);
    raised = status & ~control;
  } else {
    u32 mxcsr;
    std::memcpy(&mxcsr, fp + 24, 4);
    raised = mxcsr & ~(mxcsr >> 7);
  }
  if (raised & 1) return FPE_FLTINV;
  if (raised & 4) return FPE_FLTDIV;
  if (raised & 8) return FPE_FLTOVF;
  if (raised & (2 | 16)) return FPE_FLTUND;
  if (raised & 32) return FPE_FLTRES;
  return 0;
}

Exit page_fault(const Trap& trap) {
  Exit e;
  e.vector = kPageFault;
  e.error = trap.error;
  e.address = trap.address;
  e.access = trap.error & kFaultFetch ? Access::kExec : trap.error & kFaultWrite ? Access::kWrite : Access::kRead;
  // What is mapped above the limit is no mapping of the guest's.
  e.present = (trap.error & kFaultPresent) && trap.address < platform::kGuestAddressLimit;
  // The CPU itself, as supervisor, was refused a user's page (QEMU reads the stack like that for ring 3's LRET, and
  // SMAP is on in ring-0 mode). To map it once more would help as little as the last time.
  if (e.present && !(trap.error & kFaultUser)) {
    e.kind = Exit::Kind::kException;
    e.signo = SIGSEGV;
    e.code = SEGV_ACCERR;
    return e;
  }
  e.kind = Exit::Kind::kPageFault;
  return e;
}

}  // namespace

bool needs_fp_state(u32 vector) { return vector == kX87 || vector == kSimd; }

Exit exception_exit(const Trap& trap, const Registers& regs, const std::byte* fp) {
  if (trap.vector == kPageFault) return page_fault(trap);
  Exit e;
  e.kind = Exit::Kind::kException;
  e.vector = static_cast<u8>(trap.vector);
  e.error = trap.error;
  auto set = [&](int signo, int code, u64 address) {
    e.signo = signo;
    e.code = code;
    e.address = address;
  };
  switch (trap.vector) {
    case kDivide:
      set(SIGFPE, FPE_INTDIV, regs.rip);
      break;
    case kDebug:
      set(SIGTRAP, trap.stepped ? TRAP_TRACE : TRAP_BRKPT, regs.rip);
      break;
    case kBreakpoint:
      set(SIGTRAP, SI_KERNEL, 0);
      break;
    case kInvalidOpcode:
      set(SIGILL, ILL_ILLOPN, regs.rip);
      break;
    case kSegmentNotPresent:
    case kStackSegment:
      set(SIGBUS, SI_KERNEL, 0);
      break;
    case kAlignment:
      set(SIGBUS, BUS_ADRALN, 0);
      break;
    case kX87:
    case kSimd:
      set(SIGFPE, fp_code(trap.vector, fp), regs.rip);
      break;
    // #GP, #OF, #BR, #TS, and what cannot happen.
    default:
      set(SIGSEGV, SI_KERNEL, 0);
      break;
  }
  return e;
}

}  // namespace rf::kvm
