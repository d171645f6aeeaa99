#include "core/fault.h"

#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <mutex>

#include "core/check.h"
#include "core/fiber_impl.h"
#include "core/types.h"

extern "C" const char __executable_start[];  // the linker's: where the image begins

namespace rf {
namespace {

template <class T>
struct HandlerTable {
  static constexpr size_t kMax = 8;
  std::atomic<size_t> count{0};
  T entries[kMax] = {};

  void add(T entry) {
    size_t n = count.load(std::memory_order_relaxed);
    RF_CHECK(n < kMax, "too many fault handlers");
    entries[n] = entry;
    count.store(n + 1, std::memory_order_release);
  }
};

HandlerTable<FaultFixup> g_fixups;
HandlerTable<CrashReport> g_reports;

constexpr int kFatalSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

void put(int fd, const char* text, int length) {
  if (length > 0) {
    [[maybe_unused]] ssize_t n = write(fd, text, static_cast<size_t>(length));
  }
}

[[gnu::format(printf, 2, 3)]] void print(int fd, const char* format, ...) {
  char line[256];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(line, sizeof line, format, args);
  va_end(args);
  put(fd, line, std::min<int>(n, sizeof line - 1));
}

// Follows the frame pointers from `fp`, which the sentry is built with. Reads only where a stack can be: the fiber's
// own, or the next megabyte of a thread's; a wild chain that faults nevertheless ends the report, not the exit.
[[gnu::no_sanitize("address", "thread", "undefined")]] void write_backtrace(int fd, u64 ip, u64 sp, u64 fp) noexcept {
  constexpr int kMaxFrames = 40;
  constexpr u64 kThreadStackSpan = 1 << 20;
  StackBounds stack = current_fiber_stack();
  u64 low = sp, high = sp + kThreadStackSpan;
  if (stack.contains(fp)) low = stack.low, high = stack.high;
  u64 image = reinterpret_cast<u64>(__executable_start);
  print(fd, "ringfence: backtrace (addr2line -Cfe ringfence ADDRESS...):");
  print(fd, " 0x%llx", static_cast<unsigned long long>(ip - image));
  for (int i = 0; i < kMaxFrames; i++) {
    if (fp < low || fp + 16 > high || (fp & 7) != 0) break;
    const u64* frame = reinterpret_cast<const u64*>(fp);
    if (frame[1] == 0) break;
    print(fd, " 0x%llx", static_cast<unsigned long long>(frame[1] - image));
    if (frame[0] <= fp) break;
    fp = frame[0];
  }
  put(fd, "\n", 1);
}

void write_registers(int fd, const greg_t* r) {
  static constexpr struct {
    const char* name;
    int index;
  } kRegisters[] = {{"rip", REG_RIP}, {"rsp", REG_RSP}, {"rbp", REG_RBP}, {"rax", REG_RAX}, {"rbx", REG_RBX},
                    {"rcx", REG_RCX}, {"rdx", REG_RDX}, {"rsi", REG_RSI}, {"rdi", REG_RDI}, {"r8", REG_R8},
                    {"r9", REG_R9},   {"r10", REG_R10}, {"r11", REG_R11}, {"r12", REG_R12}, {"r13", REG_R13},
                    {"r14", REG_R14}, {"r15", REG_R15}, {"efl", REG_EFL}, {"err", REG_ERR}, {"cr2", REG_CR2}};
  int column = 0;
  for (auto& reg : kRegisters) {
    const char* before = column % 4 == 0 ? "ringfence:   " : " ";
    const char* after = ++column % 4 == 0 ? "\n" : "";
    print(fd, "%s%s=%016llx%s", before, reg.name, static_cast<unsigned long long>(r[reg.index]), after);
  }
}

[[noreturn]] void die(int sig, siginfo_t* info, const ucontext_t* context) {
  static std::atomic<bool> dying{false};
  if (dying.exchange(true)) _exit(kInternalErrorStatus);  // a fault in this report, or another thread's
  constexpr int fd = STDERR_FILENO;
  Fiber* fiber = Fiber::current_or_null();
  const char* where = fiber ? "fiber " : "no fiber";
  const char* name = fiber ? fiber->name().c_str() : "";
  const greg_t* r = context->uc_mcontext.gregs;
  u64 address = reinterpret_cast<u64>(info->si_addr);
  bool has_address = sig == SIGSEGV || sig == SIGBUS;
  if (has_address && current_fiber_stack().in_guard(address)) {
    StackBounds s = current_fiber_stack();
    print(fd, "ringfence: internal error: stack overflow in %s%s: its %llu KiB are used up\n", where, name,
          static_cast<unsigned long long>((s.high - s.low) >> 10));
  } else {
    print(fd, "ringfence: internal error: SIG%s in %s%s", sigabbrev_np(sig), where, name);
    if (has_address) print(fd, " at address 0x%llx (code %d)", static_cast<unsigned long long>(address), info->si_code);
    put(fd, "\n", 1);
  }
  write_registers(fd, r);
  write_backtrace(fd, static_cast<u64>(r[REG_RIP]), static_cast<u64>(r[REG_RSP]), static_cast<u64>(r[REG_RBP]));
  run_crash_reports(fd);
  _exit(kInternalErrorStatus);
}

// Room for the kernel's signal frame (several KiB with AVX-512) and the handlers, more with sanitizers.
size_t fault_stack_size() {
  constexpr size_t kHandlers = 64 << 10;
  return page_up(getauxval(AT_MINSIGSTKSZ) + kHandlers);
}

}  // namespace

void deliver_fault(int sig, siginfo_t* info, void* context) {
  if (sig == SIGSEGV || sig == SIGBUS) {
    size_t n = g_fixups.count.load(std::memory_order_acquire);
    for (size_t i = 0; i < n; i++)
      if (g_fixups.entries[i](sig, info, context)) return;
  }
  die(sig, info, static_cast<const ucontext_t*>(context));
}

void add_fault_fixup(FaultFixup fixup) { g_fixups.add(fixup); }
void add_crash_report(CrashReport report) { g_reports.add(report); }

void run_crash_reports(int fd) noexcept {
  size_t n = g_reports.count.load(std::memory_order_acquire);
  for (size_t i = 0; i < n; i++) g_reports.entries[i](fd);
}

void write_backtrace_here(int fd) noexcept {
  u64 fp = reinterpret_cast<u64>(__builtin_frame_address(0));
  write_backtrace(fd, reinterpret_cast<u64>(__builtin_return_address(0)), fp, fp);
}

void install_fault_handlers() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = deliver_fault;
    // NODEFER: a fix-up may be needed by code that runs in another's handler, and a fault in the report must not
    // be a blocked signal.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    for (int sig : kFatalSignals) RF_CHECK(sigaction(sig, &action, nullptr) == 0, "sigaction");
  });
}

FaultStack::FaultStack() : size_(fault_stack_size()) {
  memory_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  RF_CHECK(memory_ != MAP_FAILED, "no memory for a signal stack");
  stack_t stack{};
  stack.ss_sp = memory_;
  stack.ss_size = size_;
  RF_CHECK(sigaltstack(&stack, &previous_) == 0, "sigaltstack");
}

FaultStack::~FaultStack() {
  sigaltstack(&previous_, nullptr);
  munmap(memory_, size_);
}

}  // namespace rf
