// Guest ring 0 on a KVM that runs it natively: one page, position-independent, whose only data is the vCPU's save
// area (ring0::SaveArea), reached through GS. Every entry saves ring 3's registers there and halts: the one exit of a
// system call or exception. The host changes the save area and runs on after the halt, which restores and returns.
//
// Nothing here can fault, and no interrupt is ever injected, so there is no way in from ring 0 but the resume point.
// Assembled twice: with and without the FSGSBASE instructions.

// SaveArea; checked in image.cc.
#define S_RAX 0
#define S_RBX 8
#define S_RCX 16
#define S_RDX 24
#define S_RSI 32
#define S_RDI 40
#define S_RBP 48
#define S_R8 56
#define S_R9 64
#define S_R10 72
#define S_R11 80
#define S_R12 88
#define S_R13 96
#define S_R14 104
#define S_R15 112
#define S_FS_BASE 120
#define S_GS_BASE 128
#define S_CR2 136
#define S_NEW_CR3 144
#define S_SYSRET 152
#define S_FRAME_ADDRESS 160
#define S_VECTOR 200
#define S_RIP 216
#define S_RFLAGS 232
#define S_RSP 240

#define VECTOR_SYSCALL 256
#define MSR_FS_BASE 0xc0000100
#define MSR_KERNEL_GS_BASE 0xc0000102

.macro stub name, fsgsbase
.section .rodata
.balign 64
.globl \name, \name\()_resume, \name\()_left, \name\()_end
\name:
  // LSTAR: RCX has ring 3's RIP, R11 its RFLAGS.
  swapgs
  mov %rsp, %gs:S_RSP
  mov %rcx, %gs:S_RIP
  mov %r11, %gs:S_RFLAGS
  movq $VECTOR_SYSCALL, %gs:S_VECTOR
  jmp 1f

  // A loop to time, and a read through fresh translations: see layout.h.
  .org \name + 0x100
  dec %rcx
  jnz . - 3
  hlt
  .org \name + 0x110
  mov %cr3, %rax
  mov %rax, %cr3
  mov (%rcx), %rax
  hlt

  // One entry per exception. RSP0 is the end of the save area's frame, so what the CPU pushes is in place.
  .org \name + 0x200
  .set vector, 0
  .rept 32
  .org \name + 0x200 + vector * 16
  .if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
  push $0
  .endif
  push $vector
  jmp 2f
  .set vector, vector + 1
  .endr

  .org \name + 0x400
2:
  swapgs
1:
  mov %rcx, %gs:S_RCX
  mov %r11, %gs:S_R11
  mov %rax, %gs:S_RAX
  mov %rbx, %gs:S_RBX
  mov %rdx, %gs:S_RDX
  mov %rsi, %gs:S_RSI
  mov %rdi, %gs:S_RDI
  mov %rbp, %gs:S_RBP
  mov %r8, %gs:S_R8
  mov %r9, %gs:S_R9
  mov %r10, %gs:S_R10
  mov %r12, %gs:S_R12
  mov %r13, %gs:S_R13
  mov %r14, %gs:S_R14
  mov %r15, %gs:S_R15
  mov %cr2, %rax
  mov %rax, %gs:S_CR2
.if \fsgsbase
  rdfsbase %rax
  swapgs
  rdgsbase %rcx
  swapgs
  mov %rax, %gs:S_FS_BASE
  mov %rcx, %gs:S_GS_BASE
.else
  mov $MSR_FS_BASE, %ecx
  rdmsr
  mov %eax, %gs:S_FS_BASE
  mov %edx, %gs:S_FS_BASE + 4
  mov $MSR_KERNEL_GS_BASE, %ecx
  rdmsr
  mov %eax, %gs:S_GS_BASE
  mov %edx, %gs:S_GS_BASE + 4
.endif
  hlt

\name\()_resume:
  mov %gs:S_NEW_CR3, %rax
  test %rax, %rax
  jz 3f
  mov %rax, %cr3
3:
.if \fsgsbase
  mov %gs:S_FS_BASE, %rax
  wrfsbase %rax
.else
  mov $MSR_FS_BASE, %ecx
  mov %gs:S_FS_BASE, %eax
  mov %gs:S_FS_BASE + 4, %edx
  wrmsr
  mov $MSR_KERNEL_GS_BASE, %ecx
  mov %gs:S_GS_BASE, %eax
  mov %gs:S_GS_BASE + 4, %edx
  wrmsr
.endif
  mov %gs:S_RBX, %rbx
  mov %gs:S_RCX, %rcx
  mov %gs:S_RDX, %rdx
  mov %gs:S_RSI, %rsi
  mov %gs:S_RDI, %rdi
  mov %gs:S_RBP, %rbp
  mov %gs:S_R8, %r8
  mov %gs:S_R9, %r9
  mov %gs:S_R10, %r10
  mov %gs:S_R11, %r11
  mov %gs:S_R12, %r12
  mov %gs:S_R13, %r13
  mov %gs:S_R14, %r14
  mov %gs:S_R15, %r15
  mov %gs:S_FRAME_ADDRESS, %rsp
  cmpb $0, %gs:S_SYSRET
.if \fsgsbase
  mov %gs:S_GS_BASE, %rax
.endif
  // From here on GS is ring 3's, and the save area is reached through RSP, which points at its frame.
  swapgs
.if \fsgsbase
  wrgsbase %rax
.endif
  mov S_RAX - S_RIP(%rsp), %rax
  jne 4f
  iretq
4:
  mov S_RSP - S_RIP(%rsp), %rsp
  sysretq
\name\()_left:
\name\()_end:
.endm

stub rf_stub_fsgsbase, 1
stub rf_stub_msr, 0
.section .note.GNU-stack,"",@progbits
