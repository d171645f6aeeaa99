// Signals: sets, queues, actions. Layouts are the kernel's (asm/signal.h), not libc's.
#pragma once

#include <signal.h>

#include <array>
#include <atomic>
#include <memory>

#include "core/list.h"
#include "core/ref.h"
#include "core/spinlock.h"
#include "core/types.h"

namespace rf::task {

using SignalSet = u64;  // bit n-1 is signal n
inline constexpr int kSignalMax = 64;
constexpr SignalSet signal_bit(int sig) { return SignalSet{1} << (sig - 1); }
inline constexpr SignalSet kUnblockable = signal_bit(SIGKILL) | signal_bit(SIGSTOP);
inline constexpr SignalSet kSynchronous = signal_bit(SIGSEGV) | signal_bit(SIGBUS) | signal_bit(SIGILL) |
                                          signal_bit(SIGTRAP) | signal_bit(SIGFPE) | signal_bit(SIGSYS);

// struct sigaction of the system call.
struct KernelSigaction {
  u64 handler = 0;  // or SIG_DFL (0), SIG_IGN (1)
  u64 flags = 0;
  u64 restorer = 0;
  SignalSet mask = 0;
};

enum class DefaultAction : u8 { kTerminate, kCore, kStop, kContinue, kIgnore };
DefaultAction default_action(int sig);
inline constexpr SignalSet kStopSignals =
    signal_bit(SIGSTOP) | signal_bit(SIGTSTP) | signal_bit(SIGTTIN) | signal_bit(SIGTTOU);
const char* signal_name(int sig);  // "SIGINT", "SIGRT_3"

// What a POSIX timer shares with its pending signal: expirations while it is queued only count as overruns.
class TimerSignal final : public RefCounted {
 public:
  std::atomic<bool> queued{false};
  std::atomic<u32> overruns{0};       // of the signal that is queued
  std::atomic<u32> last_overruns{0};  // of the last one taken, for timer_getoverrun(2)
  // When the signal is taken: what its si_overrun is to be.
  int take_overruns() {
    const u32 n = overruns.exchange(0, std::memory_order_relaxed);
    const u32 capped = n > 0x7fff'ffff ? 0x7fff'ffff : n;
    last_overruns.store(capped, std::memory_order_relaxed);
    return static_cast<int>(capped);
  }
};

// One pending signal.
struct PendingSignal : public ListNode<> {
  PendingSignal() = default;
  ~PendingSignal() {
    if (timer) timer->queued.store(false, std::memory_order_release);
  }
  siginfo_t info{};
  Ref<TimerSignal> timer;  // of the POSIX timer that sent it, else null
};

enum class Queued : u8 {
  kYes,
  kAlready,  // a standard signal that was pending: merged with it
  kFull,     // the queue's limit: EAGAIN for sigqueue(3)
};

// Pending signals of a task or of a thread group: standard signals queue once, real-time ones up to the limit.
// Guarded by the thread group's signal lock.
class SignalQueue {
 public:
  ~SignalQueue();
  SignalSet pending() const { return pending_; }
  // `limit` bounds the real-time signals that carry data; one instance of each signal always fits.
  Queued enqueue(const siginfo_t& info, u64 limit, Ref<TimerSignal> timer = {});
  // Takes the next signal of `mask` (synchronous ones first, then the lowest number); null if none.
  std::unique_ptr<PendingSignal> dequeue(SignalSet mask);
  void discard(SignalSet which);

 private:
  SignalSet pending_ = 0;
  std::array<List<PendingSignal>, kSignalMax> queues_;
  u64 count_ = 0;
};

// Actions, shared by CLONE_SIGHAND. Guarded by `lock` (taken inside the group's signal lock).
class SignalHandlers final : public RefCounted {
 public:
  SignalHandlers();
  Ref<SignalHandlers> fork() const;
  KernelSigaction get(int sig) const;
  KernelSigaction set(int sig, const KernelSigaction& action);  // the old one
  void reset_for_exec();                                        // handled ones to default
  SignalSet ignored() const;                                    // explicitly, or by default
  bool ignores(int sig) const { return (ignored() & signal_bit(sig)) != 0; }

 private:
  void update_ignored(int sig);
  mutable SpinLock lock_;
  std::array<KernelSigaction, kSignalMax> actions_{};
  std::atomic<SignalSet> ignored_;
};

}  // namespace rf::task
