# Compiler and linker flags, as interface libraries: rf_flags for every room, rf_executable_flags for the sentry.
# Guest programs (tests/guest) use neither: they are ordinary static C programs whatever the preset.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")
set(CMAKE_C_FLAGS_RELEASE "-O2 -g1")
set(CMAKE_CXX_FLAGS_DEBUG "-Og -g")
set(CMAKE_C_FLAGS_DEBUG "-Og -g")

add_library(rf_flags INTERFACE)
target_include_directories(rf_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_options(rf_flags INTERFACE -Wall -Wextra -Werror -fno-omit-frame-pointer
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>)
# One formatter for the sentry: fmt without its shared library.
target_compile_definitions(rf_flags INTERFACE _GNU_SOURCE FMT_HEADER_ONLY SPDLOG_FMT_EXTERNAL)

# In ring-0 mode the vector registers hold the guest's state until the sentry uses one. So that common paths do not,
# GCC is told to move and clear small things through general registers.
set(general_moves -fno-tree-vectorize -fno-tree-slp-vectorize
  -mtune-ctrl=^sse_unaligned_load_optimal,^sse_unaligned_store_optimal)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  target_compile_options(rf_flags INTERFACE ${general_moves})
  if(RF_LTO)
    target_link_options(rf_flags INTERFACE ${general_moves})
  endif()
endif()

# And where the common paths are, it may use no other. These files have no floating point.
set(general_registers_only core/fiber core/mutex core/wait_queue core/worker fs/fd_table fs/file fs/pipe
  hostio/ring_reactor kvm/address_space kvm/context mm/copy mm/fault mm/frames mm/io_buffer mm/madvise
  mm/memory_manager mm/mmap mm/page_edit mm/vdso mm/vma mm/vma_edit task/call_helpers task/futex task/run_state
  task/signal_deliver task/signal_frame task/signal_send task/syscalls/file task/syscalls/futex task/syscalls/mm
  task/syscalls/signal platform/xstate)
if(NOT RF_SANITIZE)
  list(TRANSFORM general_registers_only REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/src/\\1.cc")
  set_source_files_properties(${general_registers_only} PROPERTIES COMPILE_OPTIONS -mgeneral-regs-only)
endif()

add_library(rf_executable_flags INTERFACE)

if(RF_HARDEN)
  # No CET: the sentry runs its own entry code and switches stacks, and the guests' CPUs may not offer it.
  target_compile_options(rf_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong
    -fcf-protection=none)
  target_link_options(rf_flags INTERFACE -Wl,-z,relro,-z,now,-z,noexecstack)
endif()

if(RF_LTO)
  target_compile_options(rf_flags INTERFACE -flto=auto)
  target_link_options(rf_flags INTERFACE -flto=2)
  # Archives of slim LTO objects need the plugin-aware tools.
  set(CMAKE_AR ${CMAKE_CXX_COMPILER_AR})
  set(CMAKE_RANLIB ${CMAKE_CXX_COMPILER_RANLIB})
else()
  find_program(MOLD mold)
  if(MOLD)
    target_link_options(rf_flags INTERFACE -fuse-ld=mold)
  endif()
endif()

if(RF_SANITIZE)
  # Sanitizers need the dynamic loader, so those builds are not static.
  target_compile_options(rf_flags INTERFACE -fsanitize=${RF_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(rf_flags INTERFACE -fsanitize=${RF_SANITIZE})
else()
  # The sentry must load high and alone, at addresses no guest can have: a static position-independent executable.
  target_link_options(rf_executable_flags INTERFACE -static-pie)
  # Its heap too, in place of libc's program break. Replaces symbols of libc.a and runs before the stack protector is
  # set up, hence the flags.
  add_library(rf_high_heap OBJECT ${CMAKE_SOURCE_DIR}/src/core/high_heap.cc)
  target_compile_options(rf_high_heap PRIVATE -Wall -Wextra -Werror -fno-lto -fno-stack-protector
    -fno-omit-frame-pointer)
  # And its memcpy and the like, which leave the vector registers alone.
  add_library(rf_memory_functions OBJECT ${CMAKE_SOURCE_DIR}/src/core/memory_functions.S)
  target_link_libraries(rf_executable_flags INTERFACE $<TARGET_OBJECTS:rf_high_heap>
    $<TARGET_OBJECTS:rf_memory_functions>)
endif()
