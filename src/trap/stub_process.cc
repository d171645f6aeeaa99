#include "trap/stub_process.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <tuple>

#include "core/check.h"
#include "core/cycles.h"
#include "core/fault.h"
#include "core/log.h"
#include "core/scheduler.h"
#include "hostio/calls.h"
#include "trap/filters.h"
#include "trap/stub_code.h"
#include "trap/zygote.h"

namespace rf::trap {
namespace {

// What the end of a process adds to an eventfd whose reader waits for that process.
constexpr u64 kGone = u64{1} << 48;

constexpr u64 kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID;
// The sentry stays the parent, and a descriptor of the sentry is one of the process.
constexpr u64 kProcessFlags = CLONE_FILES | CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD;

// Whether `fd` can be read within the time that a round of commands usually takes.
bool readable_soon(int fd) {
  constexpr u64 kPatience = 1'000'000;  // cycles
  for (const u64 begin = cycles(); cycles() - begin < kPatience;)
    if (hostio::poll_now(fd, POLLIN) != 0) return true;
  return false;
}

constexpr int kLongWait = 2;  // ms
bool readable_within(int fd, int ms) {
  pollfd entry{fd, POLLIN, 0};
  const auto n = hostio::host_call(SYS_poll, &entry, 1, ms);
  return n && *n != 0;
}

// Before what follows it is read, what was written is on its way to the other cores.
void full_fence() { asm volatile("lock orq $0, (%%rsp)" ::: "memory", "cc"); }

u64 word(int v) { return static_cast<u64>(static_cast<s64>(v)); }

Command map_control(int fd, u64 va, u64 len, u64 offset, int prot) {
  return {SYS_mmap, {va, len, word(prot), MAP_SHARED | MAP_FIXED, word(fd), offset}};
}

[[noreturn]] void die(const std::string& what) {
  const std::string text = "ringfence: internal error: " + what + "\n";
  (void)!::write(STDERR_FILENO, text.data(), text.size());
  run_crash_reports(STDERR_FILENO);
  ::_exit(kInternalErrorStatus);
}

}  // namespace

// --- Process --------------------------------------------------------------------------------------

Process::~Process() {
  kill();
  family_.forget(*this);
}

Control& Process::control() const { return *family_.control_; }

Result<void> Process::execute(std::span<const Command> commands, Commands kind) {
  SpinGuard guard(lock_);
  return execute_locked(commands, kind);
}

Result<void> Process::execute_locked(std::span<const Command> commands, Commands kind,
                                     std::span<const Command> child_commands) {
  // Its last command stays where it is until it has been read.
  if (ending_) return err(ESRCH);
  Result<void> result;
  while (!commands.empty()) {
    const size_t n = std::min<size_t>(commands.size(), kMaxCommands);
    if (auto r = round(commands.first(n), kind, child_commands); !r) result = r;
    if (result == Result<void>(err(ESRCH))) break;
    commands = commands.subspan(n);
  }
  return result;
}

bool Process::cpus_of(Thread::Place place, CpuSet& out) const {
  const auto own = static_cast<u32>(::sched_getcpu());
  out = family_.cpus_;
  switch (place) {
    case Thread::Place::kAnywhere:
      break;
    case Thread::Place::kAway:
      out.remove(own);
      break;
    case Thread::Place::kHome:
      if (!family_.worker_has_cpu_ || !out.has(own)) break;  // anywhere, then
      out = {};
      out.add(own);
      break;
  }
  return out != CpuSet{};
}

// A stub thread that waits for the sentry on another CPU than `own_cpu`, awake; and that CPU. Its state is kLends.
std::pair<Thread*, u32> Process::take_lender(u32 own_cpu) {
  Thread* t = lender_.load(std::memory_order_relaxed);
  if (!t) return {};
  auto waits = Thread::State::kWaits;
  if (!t->state.compare_exchange_strong(waits, Thread::State::kLends, std::memory_order_acquire)) return {};
  const Area& area = control().area(t->index);
  const u32 cpu = std::atomic_ref(const_cast<u32&>(area.rseq.cpu)).load(std::memory_order_relaxed);
  const bool asleep = std::atomic_ref(const_cast<u32&>(area.sleeping)).load(std::memory_order_relaxed) != 0;
  if (!asleep && cpu != own_cpu && family_.cpus_.has(cpu)) return {t, cpu};
  t->state.store(Thread::State::kWaits, std::memory_order_release);
  return {};
}

// Has the manager look at the command page. It is to run where other threads of its process do: to take mappings away
// interrupts each CPU that has run one of them of late, and waits for it. Best it gets the CPU of a thread that waits
// for the sentry, at once and without waking an idle one. True: it has.
bool Process::call_manager() {
  CommandPage& page = control().command_page(number_);
  Thread* lender = nullptr;
  page.affinity_size = 0;
  page.lender = 0;
  if (Worker::current()) {
    CpuSet cpus = family_.cpus_;
    u32 its_cpu;
    std::tie(lender, its_cpu) = take_lender(static_cast<u32>(::sched_getcpu()));
    if (lender) {
      page.lender = kWake + u64{lender->index} * sizeof(u32);
      cpus = {};
      cpus.add(its_cpu);
    }
    if (cpus != manager_cpus_) {
      page.affinity = manager_cpus_ = cpus;
      page.affinity_size = sizeof page.affinity;
    }
  }
  std::atomic_ref(page.generation).fetch_add(1, std::memory_order_seq_cst);
  if (!lender) {
    wake_manager();
    return false;
  }
  wake(*lender, kLend);
  lender->state.store(Thread::State::kWaits, std::memory_order_release);
  return true;
}

void Process::wake(Thread& thread, u32 lend) {
  thread.wakes = ((thread.wakes & ~kLend) + kNextWake) | lend;
  u32& word = control().wake_word(thread.index);
  // Not an exchange, as a sequentially consistent store is: that would reach the other core later.
  std::atomic_ref(word).store(thread.wakes, std::memory_order_release);
  full_fence();
  const Area& area = control().area(thread.index);
  if (std::atomic_ref(const_cast<u32&>(area.sleeping)).load(std::memory_order_seq_cst) != 0)
    (void)hostio::host_call(SYS_futex, &word, FUTEX_WAKE, kEverybody);
}

void Process::wake_manager() {
  (void)hostio::host_call(SYS_futex, &control().command_page(number_).generation, FUTEX_WAKE, kEverybody);
}

Result<void> Process::round(std::span<const Command> commands, Commands kind, std::span<const Command> child_commands) {
  CommandPage& page = control().command_page(number_);
  std::ranges::copy(commands, page.commands);
  std::ranges::copy(child_commands, page.child_commands);
  page.count = static_cast<u32>(commands.size());
  page.child_count = static_cast<u32>(child_commands.size());
  const int fd = family_.done_fd();
  page.done_fd = fd;
  waiting_fd_.store(fd, std::memory_order_seq_cst);
  u64 value = 0;
  bool look = false;
  if (dead_.load(std::memory_order_seq_cst)) {
    if (waiting_fd_.exchange(-1) != -1) return err(ESRCH);
  } else {
    look = call_manager();
  }
  // When the manager has another CPU, its answer is seen earlier by looking than by sleeping. But where the host itself
  // is a virtual machine, to take mappings away is several times as fast while the other CPUs sleep.
  if (look && !(kind == Commands::kTakeAway ? readable_within(fd, kLongWait) : readable_soon(fd)))
    wake_manager();  // a lender that guest code interferes with has not
  auto wait = [&] {
    u64 more = 0;
    while (!hostio::host_call(SYS_read, fd, &more, sizeof more)) continue;  // EINTR: a kick, which the caller looks at
    value += more;
  };
  // Where there is a child it says when it is done with the page, too.
  const u64 answers = child_commands.empty() ? 1 : 2;
  while (value < answers) wait();
  // If the process's end took the descriptor, its word on it is there or on its way.
  if (waiting_fd_.exchange(-1) == -1)
    while (value < kGone) wait();
  if (value >= kGone) return err(ESRCH);
  if (value >= kFailed) return err(ENOMEM);
  return {};
}

Result<Thread*> Process::take_thread() {
  SpinGuard guard(lock_);
  if (!idle_.empty()) {
    Thread* t = idle_.back();
    idle_.pop_back();
    return t;
  }
  const u32 n = TRY(control().take_thread());
  const u64 va = Control::area_address(n);
  Area& area = control().area(n);
  area.self = va;
  area.stack_top = va + kAreaSize;
  area.wake_base = kWake;
  area.wake_word = kWake + u64{n} * sizeof(u32);
  area.rseq.cpu = kNoCpu;
  area.last_wake = std::atomic_ref(control().wake_word(n)).load();
  area.alt_stack[0] = va + kStackOffset;
  area.alt_stack[2] = kAreaSize - kStackOffset;
  area.signal_mask = ~u64{0};
  for (int sig : {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, kKickSignal})
    area.signal_mask &= ~(u64{1} << (sig - 1));
  auto thread = std::make_unique<Thread>();
  thread->index = n;
  thread->wakes = area.last_wake;
  thread->gs_base = va;
  const Command commands[] = {
      map_control(control().fd(), va, kAreaSize, Control::offset_of(va), PROT_READ | PROT_WRITE),
      {SYS_clone, {kThreadFlags, area.stack_top, va + offsetof(Area, tid), 0, 0, 0}},
  };
  Thread* t = thread.get();
  threads_.push_back(std::move(thread));
  if (auto r = execute_locked(commands, Commands::kAdd); !r) {
    // The area may be mapped: it stays the process's until that ends.
    return err(EAGAIN);
  }
  return t;
}

void Process::give_back_thread(Thread* thread) {
  SpinGuard guard(lock_);
  idle_.push_back(thread);
}

bool Process::single_threaded() {
  SpinGuard guard(lock_);
  return threads_.size() - idle_.size() <= 1;
}

void Process::kick(const Thread& thread) {
  const u32 tid = std::atomic_ref(control().area(thread.index).tid).load(std::memory_order_relaxed);
  const Command command{SYS_tgkill, {word(pid_), tid, word(kKickSignal), 0, 0, 0}};
  (void)execute({&command, 1});
}

void Process::kill() {
  SpinGuard guard(lock_);
  if (dead() || ending_.exchange(true)) return;
  CommandPage& page = control().command_page(number_);
  page.commands[0] = {SYS_exit_group, {}};
  page.count = 1;
  page.done_fd = -1;
  page.affinity_size = 0;
  std::atomic_ref(page.generation).fetch_add(1, std::memory_order_seq_cst);
  wake_manager();
}

void Process::await_end() const {
  constexpr int kPause = 1;  // ms
  while (!dead()) (void)hostio::host_call(SYS_poll, nullptr, 0, kPause);
}

// The host process has ended. On the reaper's thread.
void Process::died() {
  dead_.store(true, std::memory_order_seq_cst);
  if (int fd = waiting_fd_.exchange(-1); fd >= 0) (void)hostio::host_call(SYS_write, fd, &kGone, sizeof kGone);
  SpinGuard guard(lock_);
  for (auto& t : threads_) {
    Area& area = control().area(t->index);
    std::atomic_ref(area.state).store(kDead, std::memory_order_seq_cst);
    std::atomic_ref(area.sentry_sleeps).store(0, std::memory_order_seq_cst);
    (void)hostio::host_call(SYS_futex, &area.sentry_sleeps, FUTEX_WAKE, kEverybody);
  }
}

// --- Family ---------------------------------------------------------------------------------------

Setup<std::unique_ptr<Family>> Family::create(u32 workers) {
  std::unique_ptr<Family> f(new Family);
  ::signal(SIGCHLD, SIG_DFL);  // ignored, it would take the processes' ends away from the reaper
  f->control_ = TRY(Control::create());
  if (::sched_getaffinity(0, sizeof f->cpus_, reinterpret_cast<cpu_set_t*>(&f->cpus_)) != 0) f->cpus_ = {};
  f->worker_has_cpu_ = f->cpus_.count() >= workers;
  for (u32 i = 0; i <= workers; ++i) {
    f->done_fds_.emplace_back(::eventfd(0, EFD_CLOEXEC));
    if (!f->done_fds_.back().valid()) return setup_error("cannot make an eventfd: " + errno_text(errno));
  }
  const size_t size = static_cast<size_t>(__stop_trap_stub - __start_trap_stub);
  RF_CHECK(size <= kTextSize, "the stub's code has outgrown its pages");
  std::memcpy(f->control_->text(), __start_trap_stub, size);
  // The threads before the zygote: what is written after that has to be copied.
  TRY(f->start_thread(&Family::reap, "waits for guest processes"));
  TRY(f->start_thread(&Family::raise, "makes guest processes"));
  TRY(f->start_zygote());
  f->begin();
  // libc makes calls at a thread's start (rseq) that the sentry's filter does not allow.
  for (u32 n; (n = f->started_.load()) < f->own_threads_.size();) f->started_.wait(n);
  return f;
}

Setup<void> Family::start_zygote() {
  ConstPage& constants = control_->constants();
  constants.parent = static_cast<u32>(::getpid());
  constants.done = kDone;
  constants.failed = kFailed;
  const FilterProgram guest = guest_filter();
  constexpr u64 kFilterAt = 256;
  RF_CHECK(kFilterAt + guest.size() * sizeof guest[0] <= kPageSize, "the filter has outgrown its page");
  std::memcpy(reinterpret_cast<std::byte*>(&constants) + kFilterAt, guest.data(), guest.size() * sizeof guest[0]);
  constants.program = {guest.size(), kConst + kFilterAt};
  const FilterProgram manager = TRY(manager_filter());
  const u32 number = *control_->take_stub(), thread = *control_->take_thread();
  const pid_t pid = TRY(spawn_zygote(*control_, number, thread, manager));
  zygote_.reset(new Process(*this, number, pid));
  alive_.emplace(pid, Record{zygote_.get(), number, {}});
  return {};
}

Setup<void> Family::start_thread(void (Family::*body)(), const char* what) {
  // Signals are for the other threads.
  sigset_t all, before;
  sigfillset(&all);
  for (int sig : {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&all, sig);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  struct Start {
    Family* family;
    void (Family::*body)();
  };
  auto start = std::make_unique<Start>(this, body);
  pthread_t thread;
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, 256 << 10);
  const int rc = ::pthread_create(
      &thread, &attributes,
      [](void* p) -> void* {
        const std::unique_ptr<Start> s(static_cast<Start*>(p));
        s->family->started_.fetch_add(1);
        s->family->started_.notify_all();
        s->family->begun_.wait(false);
        if (s->family->zygote_) (s->family->*s->body)();
        return nullptr;
      },
      start.get());
  ::pthread_attr_destroy(&attributes);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (rc != 0) return setup_error(fmt::format("cannot start the thread that {}: {}", what, errno_text(rc)));
  (void)start.release();
  own_threads_.push_back(thread);
  return {};
}

// Lets the threads go on, if there is a zygote, or end.
void Family::begin() {
  begun_.store(true);
  begun_.notify_all();
}

void Family::reap() {
  for (;;) {
    siginfo_t info{};
    if (::waitid(P_ALL, 0, &info, WEXITED) != 0) {
      if (errno == EINTR) continue;
      return;
    }
    ended(info.si_pid, info.si_code, info.si_status);
    if (!stopping_) continue;
    SpinGuard guard(lock_);
    if (alive_.empty()) return;
  }
}

void Family::ended(pid_t pid, int code, int status) {
  auto from_outside = [&] {
    die(fmt::format("a process that runs guest code ({}) was ended from outside: {} {}", pid,
                    code == CLD_EXITED ? "status" : "signal", status));
  };
  // Who holds the lock may wait for the zygote.
  const bool zygote = pid == zygote_->pid_;
  if (zygote && !stopping_) from_outside();
  SpinGuard guard(lock_);
  auto it = alive_.find(pid);
  if (it == alive_.end()) {
    // One that is just being made, or a child that the launcher's predecessor left to it.
    constexpr size_t kMost = 64;
    if (early_ends_.size() == kMost) early_ends_.erase(early_ends_.begin());
    early_ends_.push_back(pid);
    return;
  }
  Record& r = it->second;
  if (r.process && !zygote) {
    if (code != CLD_EXITED && status == SIGKILL) from_outside();
    if (!r.process->ending_)
      RF_WARN("stub process {} ended itself: {} {}", pid, code == CLD_EXITED ? "status" : "signal", status);
    r.process->died();
    return;
  }
  control_->give_back_threads(r.threads);
  control_->give_back_stub(r.number);
  alive_.erase(it);
}

// The sentry lets go of `p`. What was its own can be used again as soon as the host process is gone.
void Family::forget(Process& p) {
  SpinGuard guard(lock_);
  auto it = alive_.find(p.pid_);
  if (it == alive_.end()) return;
  std::vector<u32> threads;
  for (auto& t : p.threads_) threads.push_back(t->index);
  if (p.dead()) {
    control_->give_back_threads(threads);
    control_->give_back_stub(p.number_);
    alive_.erase(it);
    return;
  }
  it->second.threads = std::move(threads);
  it->second.process = nullptr;
}

// After all who use its processes. Its threads end with the last of them.
Family::~Family() {
  stopping_ = true;
  begin();
  wanted_.fetch_add(1, std::memory_order_release);
  wanted_.notify_one();
  if (own_threads_.size() > 1) ::pthread_join(own_threads_.back(), nullptr);
  ready_.clear();
  if (zygote_) zygote_->kill();
  if (!own_threads_.empty()) ::pthread_join(own_threads_.front(), nullptr);
}

int Family::done_fd() const {
  const Worker* w = Worker::current();
  return done_fds_[w ? w->index() : done_fds_.size() - 1].get();
}

Result<std::shared_ptr<Process>> Family::create_process() {
  first_made_.wait(false, std::memory_order_acquire);
  std::shared_ptr<Process> p;
  bool first;
  {
    SpinGuard guard(ready_lock_);
    if (!ready_.empty()) {
      p = std::move(ready_.back());
      ready_.pop_back();
    }
    first = std::exchange(created_one_, true) == false;
  }
  if (!first) {
    wanted_.fetch_add(1, std::memory_order_release);
    wanted_.notify_one();
  }
  if (p && !p->dead()) return p;
  return clone_process();
}

// The thread that makes processes ahead of use.
void Family::raise() {
  raise_to(1);
  first_made_.store(true, std::memory_order_release);
  first_made_.notify_all();
  for (u32 wanted = 0; !stopping_;) {
    wanted_.wait(wanted, std::memory_order_acquire);
    wanted = wanted_.load(std::memory_order_acquire);
    raise_to(kReady);
  }
}

// Sees to it that so many processes are ready.
void Family::raise_to(size_t count) {
  while (!stopping_) {
    {
      SpinGuard guard(ready_lock_);
      if (ready_.size() >= count) return;
    }
    auto p = clone_process();
    if (!p) return;
    auto thread = (*p)->take_thread();
    if (!thread) return;
    (*p)->give_back_thread(*thread);
    SpinGuard guard(ready_lock_);
    ready_.push_back(*std::move(p));
  }
}

Result<std::shared_ptr<Process>> Family::clone_process() {
  const u32 number = TRY(control_->take_stub());
  Process& zygote = *zygote_;
  const Area& result = control_->area(0);
  const Command clone{SYS_clone, {kProcessFlags, 0, Control::area_address(0) + offsetof(Area, tid), 0, 0, 0}};
  const Command setup[] = {
      {SYS_munmap, {Control::area_address(0), kAreaSize, 0, 0, 0, 0}},
      map_control(control_->fd(), kCommand, kPageSize, Control::command_offset(number), PROT_READ),
  };
  pid_t pid;
  {
    SpinGuard zygote_guard(zygote.lock_);
    if (auto r = zygote.execute_locked({&clone, 1}, Process::Commands::kAdd, setup); !r) {
      control_->give_back_stub(number);
      return err(EAGAIN);
    }
    pid = static_cast<pid_t>(result.tid);
  }
  std::shared_ptr<Process> p(new Process(*this, number, pid));
  SpinGuard guard(lock_);
  if (std::erase(early_ends_, pid) != 0)
    die(fmt::format("a process that was to run guest code ({}) was ended from outside", pid));
  alive_.emplace(pid, Record{p.get(), number, {}});
  return p;
}

}  // namespace rf::trap
