// Machine contexts that the scheduler switches between: a thread's own stack, or a fiber's (Boost.Context), with
// what the sanitizers must be told at each switch.
#pragma once

#include <boost/context/detail/fcontext.hpp>

#include "core/sanitizer.h"
#include "core/stack_pool.h"

namespace rf {

class ExecutionContext {
 public:
  ExecutionContext() = default;
  ExecutionContext(const ExecutionContext&) = delete;
  ExecutionContext& operator=(const ExecutionContext&) = delete;
  ~ExecutionContext() = default;

  // Makes this the calling thread's own context.
  void adopt_thread();
  // Makes a context that starts in entry(argument) when first switched to. entry must not return.
  void prepare(Stack stack, void (*entry)(void*), void* argument);

  // Suspends `from`, which is running, and resumes `to`. Returns when somebody switches to `from`, perhaps on another
  // thread. Whoever resumes `from` must be ordered after this switch has left it: the worker's loop sees to that.
  static void switch_to(ExecutionContext& from, ExecutionContext& to);
  // The same for a context that will never be resumed.
  [[noreturn]] static void leave(ExecutionContext& from, ExecutionContext& to);

  // Ends a prepared context that is not running. Not needed for adopted ones.
  void retire();

 private:
  static void start(boost::context::detail::transfer_t t);
  void announce_switch(ExecutionContext& to, bool last);
  // Runs first thing in the resumed context; stores where the context it came from goes on.
  static ExecutionContext& arrive(boost::context::detail::transfer_t t, ExecutionContext& self);

  boost::context::detail::fcontext_t resume_at_ = nullptr;
  ExecutionContext* switching_to_ = nullptr;
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
#if RF_ASAN
  const void* stack_bottom_ = nullptr;
  size_t stack_size_ = 0;
  void* fake_stack_ = nullptr;
#endif
#if RF_TSAN
  void* tsan_fiber_ = nullptr;
#endif
};

}  // namespace rf
