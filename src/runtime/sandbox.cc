#include "runtime/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "core/fault.h"
#include "core/scheduler.h"
#include "fs/host_news.h"
#include "fs/special_files.h"
#include "fs/tty.h"
#include "hostio/calls.h"
#include "hostio/lockdown.h"
#include "hostio/ring.h"
#include "mm/vdso.h"
#include "runtime/file_tree.h"
#include "runtime/limits.h"
#include "runtime/stats.h"
#include "task/kernel.h"
#include "task/strace.h"

namespace rf::runtime {
namespace {

constexpr const char* kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

void complain(const std::string& message) { std::fprintf(stderr, "ringfence: %s\n", message.c_str()); }

constexpr u64 kLeastMemory = u64{4} << 20;

u32 usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<u32>(std::max(CPU_COUNT(&set), 1));
}

// Half of the host's memory: enough for most programs, and the host lives when the guest takes it all.
u64 default_memory() {
  struct sysinfo info {};
  ::sysinfo(&info);
  return std::max<u64>(info.totalram * info.mem_unit / 2, u64{256} << 20);
}

// What the guest sees of the caller's environment: no more than a program needs to work, since the rest may hold
// secrets. --env adds to it.
std::vector<std::string> guest_environment(const RunOptions& options) {
  std::vector<std::string> env;
  auto set = [&](std::string_view name, std::string_view value) {
    std::erase_if(env, [&](const std::string& e) { return e.starts_with(name) && e.substr(name.size(), 1) == "="; });
    env.push_back(fmt::format("{}={}", name, value));
  };
  for (const char* name : {"PATH", "HOME", "USER", "LOGNAME", "TERM", "LANG", "LC_ALL", "LC_CTYPE", "TZ"})
    if (const char* value = std::getenv(name)) set(name, value);
  if (std::getenv("PATH") == nullptr) set("PATH", kDefaultPath);
  for (const std::string& e : options.env) {
    const size_t eq = e.find('=');
    if (eq != std::string::npos)
      set(e.substr(0, eq), e.substr(eq + 1));
    else if (const char* value = std::getenv(e.c_str()))
      set(e, value);
  }
  return env;
}

std::string_view find_variable(const std::vector<std::string>& env, std::string_view name) {
  for (const std::string& e : env)
    if (e.starts_with(name) && e.size() > name.size() && e[name.size()] == '=')
      return std::string_view(e).substr(name.size() + 1);
  return "";
}

// Signals that a user or a supervisor sends to the launcher and means for the command.
constexpr int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGTSTP, SIGCONT};

// What an error of exec says to somebody who does not know where to look.
std::string explain(const task::StartError& failure) {
  const int error = errno_value(failure.error);
  const char* hint = "";
  if (error == ENOENT) hint = "; if it is there, the interpreter that it names (ELF or #!) is not";
  if (error == EACCES) hint = "; it must be a file, executable by the user, in directories that the user may search";
  if (error == ENOEXEC) hint = "; it is no 64-bit x86 ELF program, nor a script that begins with #!";
  if (error == EFAULT || error == ENOMEM) hint = "; its segments cannot be mapped: it is broken, or --memory too small";
  return errno_text(error) + hint;
}

class Sandbox {
 public:
  explicit Sandbox(const RunOptions& options) : options_(options) {}

  Setup<int> run();

 private:
  Setup<void> create();
  Setup<void> boot();  // on a fiber
  Setup<task::InitialProcess> initial_process();
  Setup<void> lock_down();
  Setup<void> start_submission_threads();
  // Whether the platform's sentry runs where the guest does; it has something done when a fiber is left.
  bool lives_in_the_guest() const { return platform_->leave_fiber() != nullptr; }
  void start(task::InitialProcess process);
  void forward_signals();
  void forward_signal(int sig, bool from_terminal);
  void stop_with_init();
  void watch_timeout();
  void finish(int status);
  void log_summary();

  const RunOptions& options_;
  u32 cpus_ = 1;  // that this process may use
  std::unique_ptr<platform::GuestMemory> memory_;
  std::unique_ptr<platform::Platform> platform_;
  std::unique_ptr<mm::Frames> frames_;
  std::unique_ptr<mm::VdsoClock> clock_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<task::StraceSink> strace_;
  std::unique_ptr<task::Kernel> kernel_;
  hostio::HostFd signals_;
  Setup<int> outcome_ = kExitFailure;
  bool timed_out_ = false;
  std::atomic<bool> asked_to_stop_ = false;  // by SIGTSTP, which the guest has
};

Setup<void> Sandbox::create() {
  TRY(raise_limits());
  (void)hostio::register_memory_barrier();  // without it the guest's membarrier(2) is ENOSYS
  // A dead reader of our stdout is the guest's business, by its own SIGPIPE.
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // EFBIG says it
  sigset_t set;
  sigemptyset(&set);
  for (int sig : kForwarded) sigaddset(&set, sig);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = hostio::HostFd(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!signals_.valid()) return setup_error("cannot make a signalfd: " + errno_text(errno));

  cpus_ = usable_cpus();
  const u32 vcpus = options_.vcpus ? options_.vcpus : cpus_;
  const u64 limit = options_.memory ? options_.memory : default_memory();
  if (limit < kLeastMemory) return setup_error("--memory is too small: give 4M at least");
  memory_ = TRY(platform::GuestMemory::create());
  // Who names a mode of the kvm platform means that one.
  const bool kvm = options_.platform == platform::Kind::kAuto && options_.kvm_mode != platform::KvmMode::kAuto;
  platform_ = TRY(platform::create(
      {.kind = kvm ? platform::Kind::kKvm : options_.platform, .vcpus = vcpus, .kvm_mode = options_.kvm_mode},
      *memory_));
  frames_ = mm::Frames::create(*memory_, limit);
  Result<std::unique_ptr<mm::VdsoClock>> clock = mm::VdsoClock::create(*frames_);
  if (!clock) return setup_error("cannot set up the guest's clock: " + errno_text(errno_value(clock.error())));
  clock_ = *std::move(clock);
  auto run_loop = [this](u32 worker, const std::function<void()>& loop) { platform_->run_loop(worker, loop); };
  // There an interrupted thread looks around before it enters guest code again.
  const hostio::RingOptions ring{.one_page = platform_->capabilities().small_rings,
                                 .interruptions_stop_guests = lives_in_the_guest()};
  scheduler_ = TRY(Scheduler::create({.workers = vcpus,
                                      .make_reactor = hostio::ring_reactor_maker(ring),
                                      .run_loop = run_loop,
                                      .leave_fiber = platform_->leave_fiber()}));
  if (options_.strace)
    strace_ = TRY(task::StraceSink::create({.file = options_.strace_file, .durations = options_.strace_durations}));
  kernel_ = std::make_unique<task::Kernel>(
      task::KernelOptions{.hostname = options_.hostname, .cpus = vcpus, .memory_limit = limit}, *scheduler_, *platform_,
      *frames_, *clock_);
  kernel_->strace = strace_.get();
  kernel_->on_init_stopped = [this] { stop_with_init(); };
  return {};
}

Setup<task::InitialProcess> Sandbox::initial_process() {
  task::InitialProcess p;
  p.argv = options_.command;
  p.envp = guest_environment(options_);
  auto creds = make_ref<fs::Credentials>();
  const auto [uid, gid] = options_.user ? *options_.user : std::pair<u32, u32>(::geteuid(), ::getegid());
  creds->uid = creds->euid = creds->suid = creds->fsuid = uid;
  creds->gid = creds->egid = creds->sgid = creds->fsgid = gid;
  if (uid != 0) creds->permitted = creds->effective = 0;
  p.creds = creds;
  fs::Context ctx{.creds = *creds, .root = kernel_->vfs->root(), .cwd = kernel_->vfs->root()};
  const fs::Path console = kernel_->vfs->walk(ctx, nullptr, "/dev/console", {}).value_or(fs::Path{});
  for (int fd = 0; fd < 3; ++fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0) continue;  // closed: closed in the sandbox too
    p.stdio[static_cast<size_t>(fd)] = TRY(fs::make_host_stream(fd, flags, nullptr, console));
  }
  p.cwd = options_.cwd;
  if (!p.cwd.empty()) {
    Result<fs::Path> place = kernel_->vfs->walk(ctx, nullptr, p.cwd, {});
    if (place && !place->dentry->inode()->is_dir()) place = err(ENOTDIR);
    if (!place)
      return setup_error(fmt::format("cannot enter {} in the sandbox: {}; give --cwd a directory that is there", p.cwd,
                                     errno_text(errno_value(place.error()))));
  } else {
    p.cwd = "/";
    char* here = ::getcwd(nullptr, 0);
    if (options_.root == "/" && here != nullptr)
      if (Result<fs::Path> place = kernel_->vfs->walk(ctx, nullptr, here, {});
          place && place->dentry->inode()->is_dir())
        p.cwd = here;
    std::free(here);
  }
  return p;
}

// Tries the places where execvp(3) would look.
void Sandbox::start(task::InitialProcess process) {
  const std::string& command = process.argv[0];
  std::vector<std::string> candidates;
  if (command.find('/') != std::string::npos) {
    candidates.push_back(command);
  } else {
    std::string_view path = find_variable(process.envp, "PATH");
    while (!command.empty() && !path.empty()) {
      const size_t colon = path.find(':');
      const std::string_view dir = path.substr(0, colon);
      candidates.push_back(dir.empty() ? command : fmt::format("{}/{}", dir, command));
      path = colon == std::string_view::npos ? "" : path.substr(colon + 1);
    }
  }
  task::StartError failure{Errno{ENOENT}, command};
  for (std::string& candidate : candidates) {
    process.path = std::move(candidate);
    auto started = kernel_->start(process, [this](int status) { finish(status); });
    if (started) return;
    const bool missing = started.error().error == Errno{ENOENT} || started.error().error == Errno{ENOTDIR};
    if (missing && failure.error != Errno{ENOENT}) continue;
    failure = started.error();
    if (!missing && failure.error != Errno{EACCES}) break;
  }
  const bool missing = failure.error == Errno{ENOENT} || failure.error == Errno{ENOTDIR};
  if (missing && candidates.size() != 1)
    complain(fmt::format("{}: command not found in the sandbox's PATH", command));
  else
    complain(fmt::format("cannot run {}: {}", failure.path.empty() ? command : failure.path, explain(failure)));
  outcome_ = missing ? kExitNotFound : kExitCannotRun;
  scheduler_->stop();
}

Setup<void> Sandbox::boot() {
  kernel_->vfs = TRY(make_file_tree(options_, *kernel_));
  task::InitialProcess process = TRY(initial_process());
  auto spawn = [&](const char* name, std::function<void()> body) -> Setup<void> {
    if (!scheduler_->spawn(name, std::move(body))) return setup_error("out of memory while starting");
    return {};
  };
  TRY(spawn("signals", [this] { forward_signals(); }));
  if (options_.timeout != kNever) TRY(spawn("timeout", [this] { watch_timeout(); }));
  TRY(lock_down());
  start(std::move(process));
  return {};
}

// They save host calls, which are dear where the sentry lives in the guest. Awake, the thread takes a CPU.
Setup<void> Sandbox::start_submission_threads() {
  const bool sensible = lives_in_the_guest() && cpus_ > scheduler_->worker_count();
  switch (options_.submission_thread) {
    case SubmissionThread::kOff:
      return {};
    case SubmissionThread::kOn:
      return hostio::start_submission_threads();
    case SubmissionThread::kAuto:
      if (sensible)
        if (Setup<void> started = hostio::start_submission_threads(); !started) RF_INFO("{}", started.error().message);
      return {};
  }
  std::unreachable();
}

// From here on nothing is opened on the host but beneath the trees that the guest sees.
Setup<void> Sandbox::lock_down() {
  hostio::LockdownOptions lockdown;
  lockdown.trees.push_back({.path = options_.root});
  for (const Volume& v : options_.volumes) lockdown.trees.push_back({.path = v.host, .writable = !v.read_only});
  lockdown.signals_children = platform_->capabilities().child_processes;
  lockdown.before_filter = [this] { return start_submission_threads(); };
  lockdown.platform_ioctls = platform_->capabilities().host_ioctls;
  lockdown.terminal = fs::host_terminal() != nullptr;
  for (int fd = 0; fd < 3; ++fd) {
    struct stat st {};
    if (::fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode)) lockdown.sockets = true;
  }
  return hostio::lock_down(lockdown);
}

void Sandbox::forward_signals() {
  for (;;) {
    if (!hostio::poll(signals_.get(), POLLIN, Interruptible::kNo)) return;
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == sizeof info)
      forward_signal(static_cast<int>(info.ssi_signo), info.ssi_code == SI_KERNEL);
  }
}

void Sandbox::forward_signal(int sig, bool from_terminal) {
  fs::HostNews::arrived();
  asked_to_stop_ = sig == SIGTSTP;
  // What the host's terminal sends is for who is in the foreground there; what a process sends, for the command.
  Ref<fs::Tty> terminal = from_terminal ? fs::host_terminal() : nullptr;
  if (terminal && terminal->session() != 0)
    terminal->signal_foreground(sig);
  else if (sig == SIGCONT)
    kernel_->continue_init();
  else
    kernel_->signal_init(sig);
}

// To the shell that started us we are the command: when ^Z stops the one, the other is to stop too.
void Sandbox::stop_with_init() {
  if (asked_to_stop_.exchange(false)) ::raise(SIGSTOP);
}

void Sandbox::watch_timeout() {
  sleep_until(monotonic_now() + options_.timeout, Interruptible::kNo);
  timed_out_ = true;
  kernel_->kill_all();
}

// The first process is gone, with this wait status.
void Sandbox::finish(int status) {
  if (timed_out_) {
    complain(fmt::format("timed out after {:g} s", static_cast<double>(options_.timeout) / 1e9));
    outcome_ = kExitTimeout;
  } else {
    outcome_ = WIFSIGNALED(status) ? kExitSignalBase + WTERMSIG(status) : WEXITSTATUS(status);
  }
  scheduler_->stop();
}

void Sandbox::log_summary() {
  if (!log::enabled(log::Level::kDebug)) return;
  for (const auto& [name, count] : kernel_->unimplemented_calls())
    RF_DEBUG("not implemented: {} was called {} times", name, count);
  const platform::PlatformStats stats = platform_->stats();
  RF_DEBUG("{} system calls, {} page faults, {} exceptions, {} interrupts", stats.syscalls, stats.page_faults,
           stats.exceptions, stats.interrupts);
  for (const auto& [name, count] : stats.details) RF_DEBUG("{}: {}", name, count);
}

Setup<int> Sandbox::run() {
  TRY(create());
  Result<Ref<Fiber>> fiber = scheduler_->spawn("boot", [this] {
    if (Setup<void> r = boot(); !r) {
      outcome_ = setup_error(r.error().message);
      scheduler_->stop();
    }
  });
  if (!fiber) return setup_error("cannot make the first fiber: " + errno_text(errno_value(fiber.error())));
  add_crash_report([](int) noexcept { fs::restore_host_terminal(); });
  const Nanos begin = monotonic_now();
  TRY(scheduler_->run());
  fs::restore_host_terminal();
  if (options_.stats) print_stats(*kernel_, *platform_, *scheduler_, monotonic_now() - begin);
  log_summary();
  return outcome_;
}

}  // namespace

int run_sandbox(const RunOptions& options) {
  if (Setup<void> r = log::init(options.log_level, options.log_file); !r) {
    complain(r.error().message);
    return kExitFailure;
  }
  // Never destroyed: fibers of a stopped scheduler may still refer to it, and the process is about to end.
  auto* sandbox = new Sandbox(options);
  Setup<int> status = sandbox->run();  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): see above
  if (!status) {
    complain(status.error().message);
    return kExitFailure;
  }
  return *status;
}

}  // namespace rf::runtime
