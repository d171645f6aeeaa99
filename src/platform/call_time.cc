#include "platform/call_time.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/scheduler.h"
#include "core/time.h"
#include "hostio/fd.h"
#include "hostio/ring.h"

namespace rf::platform {
namespace {

using hostio::HostFd;

constexpr u64 kCode = 0x40'0000, kStackTop = 0x7f'0000'0000;
// A system call as libc makes it: mov $39, %eax; syscall; cmp $-4095, %rax; and from the start again.
constexpr u8 kCallLoop[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0xeb, 0xf1};

// Short batches, of which one at least is likely to go undisturbed on a busy host.
constexpr int kCallsInBatch = 4, kLeastBatches = 40, kBatches = 200;
constexpr Nanos kEnough = 3'000'000;  // after so long no further batch
constexpr int kPatience = 10'000;     // ms until the child is given up

// What the child tells.
struct Word {
  double ns = 0;  // 0: it did not work
  char obstacle[1000] = {};
};

// On a fiber of a worker.
Setup<double> time_calls(Platform& platform, GuestMemory& memory) {
  auto failed = [] { return setup_error("guest code does not run as it should"); };
  auto space = platform.create_address_space();
  auto context = platform.create_context();
  if (!space || !context || !memory.extend(2 * kPageSize)) return setup_error("no memory to try the platform with");
  std::memcpy(memory.host_ptr(0), kCallLoop, sizeof kCallLoop);
  if (!(*space)->map(kCode, 0, kPageSize, {true, false, true}) ||
      !(*space)->map(kStackTop - kPageSize, kPageSize, kPageSize, {true, true, false}))
    return setup_error("no memory to try the platform with");
  Registers regs{};
  regs.rip = kCode;
  regs.rsp = kStackTop;
  regs.eflags = 0x202;
  Nanos best = kNever;
  const Nanos first = monotonic_now();
  for (int batch = 0; batch < kBatches && (batch < kLeastBatches || monotonic_now() - first < kEnough); ++batch) {
    const Nanos begin = monotonic_now();
    for (int i = 0; i < kCallsInBatch; ++i) {
      Exit exit;
      while ((exit = (*context)->run(**space, regs)).kind == Exit::Kind::kInterrupted) yield();
      if (exit.kind != Exit::Kind::kSyscall) return failed();
      regs.rax = 0;
    }
    best = std::min(best, (monotonic_now() - begin) / kCallsInBatch);
  }
  if (best <= 0) return failed();
  return static_cast<double>(best);
}

// Uses up the process: platforms have threads and children, so nothing is taken down.
Setup<double> measure_here(Kind kind) {
  auto& memory = *TRY(GuestMemory::create()).release();
  auto& platform = *TRY(create({.kind = kind, .vcpus = 1, .kvm_mode = KvmMode::kAuto}, memory)).release();
  auto run_loop = [&](u32 worker, const std::function<void()>& loop) { platform.run_loop(worker, loop); };
  const hostio::RingOptions ring{.one_page = platform.capabilities().small_rings,
                                 .interruptions_stop_guests = platform.leave_fiber() != nullptr};
  auto& scheduler = *TRY(Scheduler::create({.workers = 1,
                                            .pin = false,
                                            .make_reactor = hostio::ring_reactor_maker(ring),
                                            .run_loop = run_loop,
                                            .leave_fiber = platform.leave_fiber()}))
                         .release();
  Setup<double> result = setup_error("guest code did not run");
  auto fiber = scheduler.spawn("measure", [&] {
    result = time_calls(platform, memory);
    scheduler.stop();
  });
  if (!fiber) return setup_error("no memory to try the platform with");
  TRY(scheduler.run());
  return result;
}

[[noreturn]] void be_child(Kind kind, int out) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // What goes wrong is for who asked, in our words.
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(nothing, STDIN_FILENO), ::dup2(nothing, STDOUT_FILENO), ::dup2(nothing, STDERR_FILENO);
  const Setup<double> result = measure_here(kind);
  Word word{.ns = result ? *result : 0};
  if (!result) std::strncpy(word.obstacle, result.error().message.c_str(), sizeof word.obstacle - 1);
  (void)!::write(out, &word, sizeof word);
  ::_exit(0);
}

}  // namespace

Setup<double> measure_call(Kind kind) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return setup_error("cannot make a pipe: " + errno_text(errno));
  HostFd in(ends[0]), out(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return setup_error("cannot make a process: " + errno_text(errno));
  if (child == 0) be_child(kind, out.get());
  out.reset();
  pollfd p{in.get(), POLLIN, 0};
  int ready;
  do ready = ::poll(&p, 1, kPatience);
  while (ready < 0 && errno == EINTR);
  Word word;
  const bool told = ready > 0 && ::read(in.get(), &word, sizeof word) == sizeof word;
  ::kill(child, SIGKILL);
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) continue;
  if (!told) return setup_error("a trial of the platform ended without a result");
  word.obstacle[sizeof word.obstacle - 1] = 0;
  if (!(word.ns > 0)) return setup_error(word.obstacle);
  return word.ns;
}

}  // namespace rf::platform
