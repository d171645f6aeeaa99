// Signals: sets, queues, actions. Layouts are the kernel's (asm/signal.h), not libc's.
#pragma once

#include <signal.h>

#include <array>
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
const char* signal_name(int sig);  // "SIGINT", "SIGRT_3"

// One pending signal.
struct PendingSignal : public ListNode<> {
  siginfo_t info{};
  void* timer = nullptr;  // POSIX timer that sent it (for overruns), else null
};

// Pending signals of a task or of a thread group: standard signals queue once, real-time ones up to the limit.
// Guarded by the thread group's signal lock.
class SignalQueue {
 public:
  ~SignalQueue();
  SignalSet pending() const { return pending_; }
  // False when a standard signal was pending already, or a queue limit dropped it (EAGAIN for sigqueue).
  bool enqueue(const siginfo_t& info, u64 limit, void* timer = nullptr);
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
  Ref<SignalHandlers> fork() const;
  KernelSigaction get(int sig) const;
  KernelSigaction set(int sig, const KernelSigaction& action);  // the old one
  void reset_for_exec();                                        // handled ones to default
  SignalSet ignored() const;                                    // explicitly, or by default

 private:
  mutable SpinLock lock_;
  std::array<KernelSigaction, kSignalMax> actions_{};
};

}  // namespace rf::task
