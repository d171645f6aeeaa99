# For gdb: `source tools/fibers.gdb`, then `fibers` shows every fiber of a running sentry, with the frames of those that
# are parked. What a worker runs right now (state 0 to 2) is in that thread's own `bt`. See docs/debugging.md.
#
# A suspended context (Boost.Context on x86-64) begins with 8 bytes of x87 and SSE control, a guard word, r12 to r15, rbx,
# rbp, rip; the sentry is built with frame pointers.
set print asm-demangle on

define fiberbt
  set $save = (unsigned long *) $arg0
  set $end = (unsigned long *) $arg1
  output/a $save[8]
  echo \n
  set $link = (unsigned long *) $save[7]
  while $link > $save && $link + 2 < $end
    output/a $link[1]
    echo \n
    set $link = (unsigned long *) $link[0]
  end
end

define fibers
  frame function rf::Scheduler::run
  set $head = &(*(rf::Scheduler::Impl **) &this->impl_)->fibers.head_
  set $node = $head->next_
  while $node != $head
    set $fiber = (rf::Fiber::Impl *) $node
    printf "--- %s, state %d\n", $fiber->fiber.name_._M_dataplus._M_p, $fiber->fiber.state_._M_i
    if $fiber->fiber.state_._M_i == 3
      fiberbt $fiber->context.resume_at_ $fiber->stack.low+$fiber->stack.size
    end
    set $node = $node->next_
  end
end
