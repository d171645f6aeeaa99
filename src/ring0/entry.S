// Ring-0 mode's doors between ring 3 and the sentry; see cpu.h and docs/ring0.md.
//
// Ring 3 is left by SYSCALL (LSTAR) or by an exception or injected interrupt (IDT). Either way the guest's registers
// are stored in the Registers that enter_ring3() was given, and enter_ring3() returns to its caller, on its stack.
//
// Ring 0 itself has two reasons to halt, which is what hands the vCPU to the host side (kvm/resident_host.cc): a host
// call, which is any SYSCALL that sentry code executes, and an exception.

// Cpu; checked in cpu.cc.
#define C_REGS 0
#define C_KERNEL_RSP 8
#define C_SCRATCH 16
#define C_SENTRY_FS 24
#define C_CR0_NO_MATH 32
#define C_VECTOR 40
#define C_ERROR 48
#define C_CR2 56
#define C_MATH 64
#define C_MATH_FEATURES 72
#define C_IRET_FRAME 80
#define C_STOP 120
#define C_MATH_TRAPS 128
#define C_MATH_LOADS 136
#define C_MATH_TRAP_RIP 144

// user_regs_struct.
#define R_R15 0
#define R_R14 8
#define R_R13 16
#define R_R12 24
#define R_RBP 32
#define R_RBX 40
#define R_R11 48
#define R_R10 56
#define R_R9 64
#define R_R8 72
#define R_RAX 80
#define R_RCX 88
#define R_RDX 96
#define R_RSI 104
#define R_RDI 112
#define R_ORIG_RAX 120
#define R_RIP 128
#define R_CS 136
#define R_EFLAGS 144
#define R_RSP 152
#define R_SS 160
#define R_FS_BASE 168
#define R_GS_BASE 176

#define VECTOR_INTERRUPT 0x20
#define VECTOR_SYSCALL 256
#define ENTRY_COUNT 0x22
#define USER_CS 0x33
#define USER_SS 0x2b

// Those that both ways out of ring 3 store first. \regs: the register that points at the Registers.
.macro  save_registers regs
        mov     %r15, R_R15(\regs)
        mov     %r14, R_R14(\regs)
        mov     %r13, R_R13(\regs)
        mov     %r12, R_R12(\regs)
        mov     %rbp, R_RBP(\regs)
        mov     %rbx, R_RBX(\regs)
        mov     %r11, R_R11(\regs)
        mov     %r10, R_R10(\regs)
        mov     %r9, R_R9(\regs)
        mov     %r8, R_R8(\regs)
.endm
// The end of rf_ring0_enter_ring3(), with the stack that it was called on.
.macro  return_from_ring3
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
.endm

        .section .rodata
        .balign 8
// No SYSCALL of ring 3 leaves a higher RIP in RCX: its code ends at the guest's address limit. The sentry's is above.
guest_limit:
        .quad 0x700000000000
initial_mxcsr:
        .long 0x1f80

        .text

// --- To ring 3 -------------------------------------------------------------------------------------

// In: rdi cpu, rsi regs, rdx sysret, rcx math.
        .globl  rf_ring0_enter_ring3
        .type   rf_ring0_enter_ring3, @function
        .balign 64
rf_ring0_enter_ring3:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, C_KERNEL_RSP(%rdi)
        mov     %rsi, C_REGS(%rdi)
        clts
        cmp     C_MATH(%rdi), %rcx
        je      2f
        mov     %rdx, %r8
        mov     %rcx, %r9
        mov     C_MATH_FEATURES(%rdi), %eax
        mov     C_MATH_FEATURES + 4(%rdi), %edx
        mov     C_MATH(%rdi), %rcx
        test    %rcx, %rcx
        jz      1f
        xsave64 (%rcx)
1:      xrstor64 (%r9)
        mov     %r9, C_MATH(%rdi)
        incq    C_MATH_LOADS(%rdi)
        mov     %r8, %rdx
2:
        .globl  rf_ring0_window_begin
rf_ring0_window_begin:
        cmpl    $0, C_STOP(%rdi)
        jne     refused
        mov     R_FS_BASE(%rsi), %rax
        wrfsbase %rax
        mov     R_GS_BASE(%rsi), %rax
        swapgs
        wrgsbase %rax
        mov     R_R15(%rsi), %r15
        mov     R_R14(%rsi), %r14
        mov     R_R13(%rsi), %r13
        mov     R_R12(%rsi), %r12
        mov     R_RBP(%rsi), %rbp
        mov     R_RBX(%rsi), %rbx
        mov     R_R10(%rsi), %r10
        mov     R_R9(%rsi), %r9
        mov     R_R8(%rsi), %r8
        test    %edx, %edx
        jz      3f

        mov     R_EFLAGS(%rsi), %r11
        mov     R_RAX(%rsi), %rax
        mov     R_RIP(%rsi), %rcx
        mov     R_RDX(%rsi), %rdx
        mov     R_RDI(%rsi), %rdi
        mov     R_RSP(%rsi), %rsp
        mov     R_RSI(%rsi), %rsi
        sysretq

3:      mov     R_RIP(%rsi), %rax
        mov     %rax, C_IRET_FRAME(%rdi)
        movq    $USER_CS, C_IRET_FRAME + 8(%rdi)
        mov     R_EFLAGS(%rsi), %rax
        mov     %rax, C_IRET_FRAME + 16(%rdi)
        mov     R_RSP(%rsi), %rax
        mov     %rax, C_IRET_FRAME + 24(%rdi)
        movq    $USER_SS, C_IRET_FRAME + 32(%rdi)
        lea     C_IRET_FRAME(%rdi), %rsp
        mov     R_R11(%rsi), %r11
        mov     R_RAX(%rsi), %rax
        mov     R_RCX(%rsi), %rcx
        mov     R_RDX(%rsi), %rdx
        mov     R_RDI(%rsi), %rdi
        mov     R_RSI(%rsi), %rsi
        iretq
        .globl  rf_ring0_window_end
rf_ring0_window_end:

refused:
        mov     C_CR0_NO_MATH(%rdi), %rax
        mov     %rax, %cr0
        mov     $VECTOR_INTERRUPT, %eax
        return_from_ring3
        .size   rf_ring0_enter_ring3, . - rf_ring0_enter_ring3

// --- From ring 3, or a host call ---------------------------------------------------------------------

        .globl  rf_ring0_system_call
        .balign 64
rf_ring0_system_call:
        cmp     guest_limit(%rip), %rcx
        ja      host_call
        swapgs
        mov     %rsp, %gs:C_SCRATCH
        mov     %gs:C_REGS, %rsp
        save_registers %rsp
        mov     %rax, R_RAX(%rsp)
        mov     %rax, R_ORIG_RAX(%rsp)
        mov     %rcx, R_RCX(%rsp)
        mov     %rdx, R_RDX(%rsp)
        mov     %rsi, R_RSI(%rsp)
        mov     %rdi, R_RDI(%rsp)
        mov     %rcx, R_RIP(%rsp)
        mov     %r11, R_EFLAGS(%rsp)
        mov     %gs:C_SCRATCH, %rax
        mov     %rax, R_RSP(%rsp)
        mov     $VECTOR_SYSCALL, %eax

// rsp: the guest's Registers, all but bases stored; eax: the vector. GS is the sentry's.
to_sentry:
        movq    $USER_CS, R_CS(%rsp)
        movq    $USER_SS, R_SS(%rsp)
        rdfsbase %rcx
        mov     %rcx, R_FS_BASE(%rsp)
        swapgs
        rdgsbase %rcx
        swapgs
        mov     %rcx, R_GS_BASE(%rsp)
        mov     %gs:C_SENTRY_FS, %rcx
        wrfsbase %rcx
        mov     %gs:C_CR0_NO_MATH, %rcx
        mov     %rcx, %cr0
        mov     %gs:C_KERNEL_RSP, %rsp
        // Nothing of the guest's stays in a register that speculation could use.
        xor     %ecx, %ecx
        xor     %edx, %edx
        xor     %esi, %esi
        xor     %edi, %edi
        xor     %r8d, %r8d
        xor     %r9d, %r9d
        xor     %r10d, %r10d
        xor     %r11d, %r11d
        return_from_ring3

// A SYSCALL of the sentry's: the host side makes it, puts the result in RAX and goes on at RCX with R11's flags.
host_call:
        hlt
        .globl  rf_ring0_host_call_halted
rf_ring0_host_call_halted:
        ud2

// --- Exceptions --------------------------------------------------------------------------------------

        .globl  rf_ring0_exceptions
        .balign 64
rf_ring0_exceptions:
        .set    vector, 0
        .rept   ENTRY_COUNT
        .org    rf_ring0_exceptions + vector * 16
        .if     vector == 7
        jmp     no_math
        .else
        .if     !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
        push    $0
        .endif
        push    $vector
        jmp     exception
        .endif
        .set    vector, vector + 1
        .endr
        .org    rf_ring0_exceptions + ENTRY_COUNT * 16

// rsp: vector, error, rip, cs, rflags, rsp, ss.
exception:
        testb   $3, 24(%rsp)
        jz      ring0_exception
        swapgs
        lfence  // a mispredicted branch above must not run on with the guest's GS
        push    %rax
        mov     %gs:C_REGS, %rax
        save_registers %rax
        mov     %rcx, R_RCX(%rax)
        mov     %rdx, R_RDX(%rax)
        mov     %rsi, R_RSI(%rax)
        mov     %rdi, R_RDI(%rax)
        movq    $-1, R_ORIG_RAX(%rax)
        pop     %rcx
        mov     %rcx, R_RAX(%rax)
        pop     %rcx
        mov     %rcx, %gs:C_VECTOR
        mov     %ecx, %edx
        pop     %rcx
        mov     %rcx, %gs:C_ERROR
        pop     %rcx
        mov     %rcx, R_RIP(%rax)
        pop     %rcx
        pop     %rcx
        mov     %rcx, R_EFLAGS(%rax)
        pop     %rcx
        mov     %rcx, R_RSP(%rax)
        mov     %cr2, %rcx
        mov     %rcx, %gs:C_CR2
        pushq   $2  // gates leave DF, AC and NT as they were
        popfq
        mov     %rax, %rsp
        mov     %edx, %eax
        jmp     to_sentry

// Sentry code, or this file. GS may be anybody's. The host side mends what is wrong, perhaps by changing the frame.
ring0_exception:
        push    %rax
        push    %rbx
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %rbp
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %cr2, %rax
        push    %rax
        cld
        hlt
        .globl  rf_ring0_fault_halted
rf_ring0_fault_halted:
        add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rbp
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbx
        pop     %rax
        add     $16, %rsp
        iretq

// Sentry code uses a vector register while they hold a guest's state: that goes to memory first. rsp: rip, cs...
no_math:
        testb   $3, 8(%rsp)
        jnz     1f  // never: TS is clear in ring 3
        push    %rax
        push    %rcx
        push    %rdx
        clts
        mov     24(%rsp), %rax
        mov     %rax, %gs:C_MATH_TRAP_RIP
        mov     %gs:C_MATH, %rcx
        call    store_math
        incq    %gs:C_MATH_TRAPS
        movq    $0, %gs:C_MATH
        pop     %rdx
        pop     %rcx
        pop     %rax
        iretq
1:      push    $0
        push    $7
        jmp     exception

// rcx: where to, or null; clobbers rax and rdx. Leaves the registers as the ABI wants them at a function's entry.
store_math:
        mov     %gs:C_MATH_FEATURES, %eax
        mov     %gs:C_MATH_FEATURES + 4, %edx
        test    %rcx, %rcx
        jz      1f
        xsave64 (%rcx)
1:      fninit
        ldmxcsr initial_mxcsr(%rip)
        test    $4, %al
        jz      2f
        vzeroupper
2:      ret

        .globl  rf_ring0_save_math
        .type   rf_ring0_save_math, @function
rf_ring0_save_math:
        mov     %gs:C_MATH, %rcx
        test    %rcx, %rcx
        jz      1f
        clts
        call    store_math
        movq    $0, %gs:C_MATH
1:      ret
        .size   rf_ring0_save_math, . - rf_ring0_save_math

// --- Start -------------------------------------------------------------------------------------------

// In: rdi function, rsi its argument; on a stack of the sentry's.
        .globl  rf_ring0_start
rf_ring0_start:
        xor     %ebp, %ebp
        mov     %rdi, %rax
        mov     %rsi, %rdi
        call    *%rax
        hlt
        .globl  rf_ring0_ended
rf_ring0_ended:
        ud2

        .section .note.GNU-stack,"",@progbits
