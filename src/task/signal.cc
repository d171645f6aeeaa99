#include "task/signal.h"

#include <bit>

namespace rf::task {

DefaultAction default_action(int sig) {
  switch (sig) {
    case SIGCONT:
      return DefaultAction::kContinue;
    case SIGCHLD:
    case SIGURG:
    case SIGWINCH:
      return DefaultAction::kIgnore;
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
      return DefaultAction::kStop;
    case SIGQUIT:
    case SIGILL:
    case SIGTRAP:
    case SIGABRT:
    case SIGFPE:
    case SIGSEGV:
    case SIGBUS:
    case SIGSYS:
    case SIGXCPU:
    case SIGXFSZ:
      return DefaultAction::kCore;
    default:
      return DefaultAction::kTerminate;
  }
}

const char* signal_name(int sig) {
  static constexpr const char* kNames[] = {
      "0",        "SIGHUP",   "SIGINT",   "SIGQUIT",  "SIGILL",   "SIGTRAP",  "SIGABRT",  "SIGBUS",    "SIGFPE",
      "SIGKILL",  "SIGUSR1",  "SIGSEGV",  "SIGUSR2",  "SIGPIPE",  "SIGALRM",  "SIGTERM",  "SIGSTKFLT", "SIGCHLD",
      "SIGCONT",  "SIGSTOP",  "SIGTSTP",  "SIGTTIN",  "SIGTTOU",  "SIGURG",   "SIGXCPU",  "SIGXFSZ",   "SIGVTALRM",
      "SIGPROF",  "SIGWINCH", "SIGIO",    "SIGPWR",   "SIGSYS",   "SIGRTMIN", "SIGRT_1",  "SIGRT_2",   "SIGRT_3",
      "SIGRT_4",  "SIGRT_5",  "SIGRT_6",  "SIGRT_7",  "SIGRT_8",  "SIGRT_9",  "SIGRT_10", "SIGRT_11",  "SIGRT_12",
      "SIGRT_13", "SIGRT_14", "SIGRT_15", "SIGRT_16", "SIGRT_17", "SIGRT_18", "SIGRT_19", "SIGRT_20",  "SIGRT_21",
      "SIGRT_22", "SIGRT_23", "SIGRT_24", "SIGRT_25", "SIGRT_26", "SIGRT_27", "SIGRT_28", "SIGRT_29",  "SIGRT_30",
      "SIGRT_31", "SIGRT_32"};
  return sig >= 0 && sig <= kSignalMax ? kNames[sig] : "SIG_?";
}

// --- SignalQueue ----------------------------------------------------------------------------------

SignalQueue::~SignalQueue() { discard(~SignalSet{0}); }

Queued SignalQueue::enqueue(const siginfo_t& info, u64 limit, Ref<TimerSignal> timer) {
  const int sig = info.si_signo;
  List<PendingSignal>& queue = queues_[sig - 1];
  // Standard signals (those below the kernel's SIGRTMIN, 32) queue once; a timer's has its own entry always, of which
  // there is at most one.
  if (!timer && !queue.empty()) {
    if (sig < 32) return Queued::kAlready;
    if (count_ >= limit) return Queued::kFull;
  }
  auto* pending = new PendingSignal;
  pending->info = info;
  if (timer) timer->queued.store(true, std::memory_order_release);
  pending->timer = std::move(timer);
  queue.push_back(*pending);
  pending_ |= signal_bit(sig);
  count_++;
  return Queued::kYes;
}

std::unique_ptr<PendingSignal> SignalQueue::dequeue(SignalSet mask) {
  SignalSet candidates = pending_ & mask;
  if (candidates == 0) return nullptr;
  if ((candidates & kSynchronous) != 0) candidates &= kSynchronous;
  const int sig = std::countr_zero(candidates) + 1;
  List<PendingSignal>& queue = queues_[sig - 1];
  std::unique_ptr<PendingSignal> pending(queue.pop_front());
  if (queue.empty()) pending_ &= ~(candidates & (~candidates + 1));  // the lowest bit, which is sig's
  count_--;
  return pending;
}

void SignalQueue::discard(SignalSet which) {
  for (SignalSet rest = pending_ & which; rest != 0; rest &= rest - 1) {
    List<PendingSignal>& queue = queues_[std::countr_zero(rest)];
    while (PendingSignal* p = queue.pop_front()) {
      delete p;
      count_--;
    }
  }
  pending_ &= ~which;
}

// --- SignalHandlers -------------------------------------------------------------------------------

SignalHandlers::SignalHandlers() {
  SignalSet ignored = 0;
  for (int sig = 1; sig <= kSignalMax; sig++) {
    const DefaultAction a = default_action(sig);
    if (a == DefaultAction::kIgnore || a == DefaultAction::kContinue) ignored |= signal_bit(sig);
  }
  ignored_.store(ignored, std::memory_order_relaxed);
}

Ref<SignalHandlers> SignalHandlers::fork() const {
  Ref<SignalHandlers> copy = make_ref<SignalHandlers>();
  SpinGuard guard(lock_);
  copy->actions_ = actions_;
  copy->ignored_.store(ignored(), std::memory_order_relaxed);
  return copy;
}

KernelSigaction SignalHandlers::get(int sig) const {
  SpinGuard guard(lock_);
  return actions_[sig - 1];
}

KernelSigaction SignalHandlers::set(int sig, const KernelSigaction& action) {
  SpinGuard guard(lock_);
  KernelSigaction old = actions_[sig - 1];
  actions_[sig - 1] = action;
  update_ignored(sig);
  return old;
}

void SignalHandlers::reset_for_exec() {
  SpinGuard guard(lock_);
  for (int sig = 1; sig <= kSignalMax; sig++) {
    KernelSigaction& a = actions_[sig - 1];
    const u64 kept = a.handler == reinterpret_cast<u64>(SIG_IGN) ? a.handler : 0;
    a = KernelSigaction{.handler = kept};
    update_ignored(sig);
  }
}

SignalSet SignalHandlers::ignored() const { return ignored_.load(std::memory_order_acquire); }

void SignalHandlers::update_ignored(int sig) {
  const u64 handler = actions_[sig - 1].handler;
  const DefaultAction a = default_action(sig);
  const bool ignore = handler == reinterpret_cast<u64>(SIG_IGN) ||
                      (handler == 0 && (a == DefaultAction::kIgnore || a == DefaultAction::kContinue));
  SignalSet set = ignored_.load(std::memory_order_relaxed);
  set = ignore ? set | signal_bit(sig) : set & ~signal_bit(sig);
  ignored_.store(set, std::memory_order_release);
}

}  // namespace rf::task
