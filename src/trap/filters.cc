#include "trap/filters.h"

#include <asm/prctl.h>
#include <asm/unistd_64.h>
#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <span>

#include "core/types.h"
#include "hostio/fd.h"
#include "trap/stub_code.h"

namespace rf::trap {
namespace {

struct FreeContext {
  void operator()(void* context) const { seccomp_release(context); }
};

// An allow-list of calls, compiled. What is not on it raises SIGSYS.
Setup<FilterProgram> compile(std::span<const int> calls) {
  const std::unique_ptr<void, FreeContext> filter(seccomp_init(SCMP_ACT_TRAP));
  int rc = filter ? seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_TRAP) : -ENOMEM;
  for (int call : calls)
    if (rc == 0) rc = seccomp_rule_add_exact(filter.get(), SCMP_ACT_ALLOW, call, 0);
  const hostio::HostFd file(::memfd_create("filter", MFD_CLOEXEC));
  if (rc == 0) rc = seccomp_export_bpf(filter.get(), file.get());
  struct stat st {};
  if (rc != 0 || ::fstat(file.get(), &st) != 0)
    return setup_error(fmt::format("cannot make the stub processes' seccomp filter: {}", errno_text(-rc)));
  FilterProgram program(static_cast<size_t>(st.st_size) / sizeof(sock_filter));
  const size_t bytes = program.size() * sizeof(sock_filter);
  if (::pread(file.get(), program.data(), bytes, 0) != static_cast<ssize_t>(bytes))
    return setup_error("cannot read the stub processes' seccomp filter back");
  return program;
}

}  // namespace

Setup<FilterProgram> manager_filter() {
  static constexpr int kCalls[] = {
      SCMP_SYS(futex),       SCMP_SYS(write),          SCMP_SYS(mmap),        SCMP_SYS(munmap),
      SCMP_SYS(mprotect),    SCMP_SYS(clone),          SCMP_SYS(prctl),       SCMP_SYS(getppid),
      SCMP_SYS(tgkill),      SCMP_SYS(rt_sigprocmask), SCMP_SYS(arch_prctl),  SCMP_SYS(exit_group),
      SCMP_SYS(sigaltstack), SCMP_SYS(seccomp),        SCMP_SYS(sched_yield), SCMP_SYS(sched_setaffinity),
      SCMP_SYS(rseq)};
  return compile(kCalls);
}

// By hand, since libseccomp has no way to ask where a call comes from. That only tells the stub's calls from those that
// guest code makes without malice; guest code can jump into the stub, so what is allowed must be harmless.
FilterProgram guest_filter() {
  constexpr auto word = [](u32 offset) { return sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); };
  constexpr auto upper = [](u32 offset) { return offset + 4; };
  constexpr u32 kIp = offsetof(seccomp_data, instruction_pointer);
  constexpr auto args = [](u32 n) { return u32{offsetof(seccomp_data, args)} + n * 8; };
  constexpr u32 kAllow = 20, kTrap = 21;  // instructions' places
  constexpr auto jump = [](u32 at, u16 test, u32 value, u32 if_true, u32 if_false) {
    return sock_filter{static_cast<u16>(BPF_JMP | BPF_K | test), static_cast<u8>(if_true - at - 1),
                       static_cast<u8>(if_false - at - 1), value};
  };
  return {
      word(offsetof(seccomp_data, arch)),
      jump(1, BPF_JEQ, AUDIT_ARCH_X86_64, 2, kTrap),
      word(upper(kIp)),
      jump(3, BPF_JEQ, kText >> 32, 4, kTrap),
      word(kIp),
      jump(5, BPF_JGE, static_cast<u32>(kText) + kTextSize, kTrap, 6),
      word(offsetof(seccomp_data, nr)),
      jump(7, BPF_JEQ, __NR_sched_yield, kAllow, 8),
      jump(8, BPF_JEQ, __NR_futex, 9, 12),
      word(args(1)),
      jump(10, BPF_JEQ, FUTEX_WAIT, kAllow, 11),
      jump(11, BPF_JEQ, FUTEX_WAKE, kAllow, kTrap),
      jump(12, BPF_JEQ, __NR_sched_setaffinity, 13, 15),
      word(args(0)),
      jump(14, BPF_JEQ, 0, kAllow, kTrap),  // of oneself
      jump(15, BPF_JEQ, __NR_rseq, kAllow, 16),
      jump(16, BPF_JEQ, __NR_arch_prctl, 17, kTrap),
      word(args(0)),
      jump(18, BPF_JEQ, ARCH_SET_FS, kAllow, 19),
      jump(19, BPF_JEQ, ARCH_SET_GS, kAllow, kTrap),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
  };
}

}  // namespace rf::trap
