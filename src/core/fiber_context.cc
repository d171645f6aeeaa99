#include "core/fiber_context.h"

#include "core/check.h"

namespace rf {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

void ExecutionContext::adopt_thread() {
#if RF_TSAN
  tsan_fiber_ = __tsan_get_current_fiber();
#endif
  // ASan's bounds of this stack become known when the first fiber is entered from it.
}

void ExecutionContext::prepare(Stack stack, void (*entry)(void*), void* argument) {
  entry_ = entry;
  argument_ = argument;
  resume_at_ = make_fcontext(stack.high(), stack.size, &ExecutionContext::start);
#if RF_ASAN
  stack_bottom_ = stack.low;
  stack_size_ = stack.size;
  fake_stack_ = nullptr;
#endif
#if RF_TSAN
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
}

void ExecutionContext::retire() {
#if RF_TSAN
  if (tsan_fiber_) __tsan_destroy_fiber(tsan_fiber_);
  tsan_fiber_ = nullptr;
#endif
  resume_at_ = nullptr;
}

// Both sanitizers want to hear of a switch just before it, ASan just after it as well. A last switch drops the fake
// stack (ASan's heap copy of frames, for use-after-return).
void ExecutionContext::announce_switch([[maybe_unused]] ExecutionContext& to, [[maybe_unused]] bool last) {
  switching_to_ = &to;
#if RF_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, to.stack_bottom_, to.stack_size_);
#endif
#if RF_TSAN
  __tsan_switch_to_fiber(to.tsan_fiber_, 0);
#endif
}

ExecutionContext& ExecutionContext::arrive(transfer_t t, [[maybe_unused]] ExecutionContext& self) {
  auto& from = *static_cast<ExecutionContext*>(t.data);
  from.resume_at_ = t.fctx;
#if RF_ASAN
  __sanitizer_finish_switch_fiber(self.fake_stack_, &from.stack_bottom_, &from.stack_size_);
#endif
  return from;
}

void ExecutionContext::switch_to(ExecutionContext& from, ExecutionContext& to) {
  from.announce_switch(to, false);
  transfer_t t = jump_fcontext(to.resume_at_, &from);
  arrive(t, from);
}

void ExecutionContext::leave(ExecutionContext& from, ExecutionContext& to) {
  from.announce_switch(to, true);
  jump_fcontext(to.resume_at_, &from);
  RF_CHECK(false, "a finished context was resumed");
  __builtin_unreachable();
}

void ExecutionContext::start(transfer_t t) {
  ExecutionContext& self = *static_cast<ExecutionContext*>(t.data)->switching_to_;
  arrive(t, self);
  self.entry_(self.argument_);
  RF_CHECK(false, "a fiber's entry returned");
}

}  // namespace rf
