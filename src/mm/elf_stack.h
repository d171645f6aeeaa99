// The initial stack of a program: argc, argv, envp, auxv and the strings they point to.
#pragma once

#include "mm/elf.h"

namespace rf::mm {

struct StackPlan {
  UserAddr top = 0;  // end of the stack's VMA
  UserAddr program_headers = 0;
  u64 header_count = 0;
  UserAddr interpreter_base = 0;
  UserAddr entry = 0;  // of the program
};

// E2BIG when the strings exceed Linux's limits.
Result<void> check_strings(const LoadRequest& request);
// Bytes that build_stack() needs at most.
u64 stack_bytes(const LoadRequest& request);
// Writes the stack and fills the layout's fields about it; returns the initial rsp.
Result<UserAddr> build_stack(MemoryManager& mm, const LoadRequest& request, const StackPlan& plan);

}  // namespace rf::mm
