# The vDSO: a shared object for guests, built without any of the sentry's flags and embedded by vdso_image.S.
set(RF_VDSO_DIR ${CMAKE_SOURCE_DIR}/src/mm/vdso)
set(RF_VDSO ${CMAKE_BINARY_DIR}/vdso.so)
add_custom_command(
  OUTPUT ${RF_VDSO}
  COMMAND ${CMAKE_C_COMPILER} -std=gnu11 -O2 -g0 -Wall -Wextra -Werror -fPIC -ffreestanding -fno-stack-protector
          -fno-builtin -fasynchronous-unwind-tables -fcf-protection=none -mno-sse -mgeneral-regs-only -mrdpid
          -nostdlib -shared -Wl,-soname=linux-vdso.so.1 -Wl,--hash-style=both -Wl,--build-id=sha1 -Wl,--eh-frame-hdr
          -Wl,-Bsymbolic -Wl,-z,max-page-size=4096 -Wl,-z,norelro -Wl,--no-undefined -Wl,-T,${RF_VDSO_DIR}/vdso.lds
          ${RF_VDSO_DIR}/vdso.c -o ${RF_VDSO}
  DEPENDS ${RF_VDSO_DIR}/vdso.c ${RF_VDSO_DIR}/vdso.lds ${RF_VDSO_DIR}/clock_page.h
  VERBATIM)
add_custom_target(rf_vdso DEPENDS ${RF_VDSO})
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/mm/vdso_image.S PROPERTIES
  OBJECT_DEPENDS ${RF_VDSO}
  COMPILE_OPTIONS "-DRF_VDSO_PATH=\"${RF_VDSO}\"")
