// The stub's code, first part: the manager thread, the start of a stub thread, and the way back into guest code. It is
// copied to kText of every stub process, so it refers to itself only relatively. docs/trap.md.
#include "trap/layout.h"

#include <asm/unistd_64.h>

#define PR_SET_PDEATHSIG 1
#define SIGKILL 9
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define SIG_SETMASK 2
#define ARCH_SET_GS 0x1001
#define ARCH_SET_FS 0x1002
#define SECCOMP_SET_MODE_FILTER 1
#define CLONE_VM 0x100
#define EVERYBODY 0x7fffffff
#define RSEQ_SIZE 32
#define RSEQ_SIGNATURE 0x53053053

        .section trap_stub, "ax", @progbits

// The zygote's start: in a fresh copy of the sentry, all of which goes away now.
        .globl rf_trap_zygote
rf_trap_zygote:
        movl    $__NR_arch_prctl, %eax
        movl    $ARCH_SET_FS, %edi
        xorl    %esi, %esi
        syscall
        movl    $__NR_munmap, %eax
        xorl    %edi, %edi
        movabsq $RF_STUB_TEXT, %rsi
        syscall
        movl    $__NR_munmap, %eax
        movabsq $RF_STUB_END, %rdi
        movabsq $(0x7ffffffff000 - RF_STUB_END), %rsi
        syscall

// The manager: makes the host calls that the sentry puts into the command page. It shares the address space with
// guest code, so it trusts no memory that guest code could write: it has no stack, and what it knows is in registers
// and in read-only pages. rbx: the command page, r12: the last generation done.
        .globl rf_trap_manager
rf_trap_manager:
        movl    $__NR_prctl, %eax
        movl    $PR_SET_PDEATHSIG, %edi
        movl    $SIGKILL, %esi
        xorl    %edx, %edx
        xorl    %r10d, %r10d
        xorl    %r8d, %r8d
        syscall
        // The sentry may have died before that took effect.
        movl    $__NR_getppid, %eax
        syscall
        movabsq $RF_STUB_CONST, %rcx
        cmpl    RF_CONST_PARENT(%rcx), %eax
        jne     .Lend
        movabsq $RF_STUB_COMMAND, %rbx
        xorl    %r12d, %r12d

.Lnext: movl    RF_COMMAND_GENERATION(%rbx), %eax
        cmpl    %eax, %r12d
        jne     .Lwork
        movl    $__NR_futex, %eax
        movq    %rbx, %rdi
        movl    $FUTEX_WAIT, %esi
        movl    %r12d, %edx
        xorl    %r10d, %r10d
        syscall
        jmp     .Lnext

.Lwork: movl    %eax, %r12d
        movl    RF_COMMAND_AFFINITY_SIZE(%rbx), %esi
        testl   %esi, %esi
        jz      1f
        movl    $__NR_sched_setaffinity, %eax
        xorl    %edi, %edi
        leaq    RF_COMMAND_AFFINITY(%rbx), %rdx
        syscall
1:
        movl    RF_COMMAND_COUNT(%rbx), %r13d
        leaq    RF_COMMAND_LIST(%rbx), %r14
        movabsq $(RF_STUB_CONST + RF_CONST_DONE), %r15
.Lcommand:
        testl   %r13d, %r13d
        jz      .Ldone
        movq    (%r14), %rax
        movq    %rax, %rbp
        movq    8(%r14), %rdi
        movq    16(%r14), %rsi
        movq    24(%r14), %rdx
        movq    32(%r14), %r10
        movq    40(%r14), %r8
        movq    48(%r14), %r9
        syscall
        testq   %rax, %rax
        jnz     .Lresult
        // A new thread may be late: by now the page can hold the commands of another round.
        cmpq    $__NR_clone, %rbp
        je      .Lchild
.Lresult:
        cmpq    $-4095, %rax
        jb      .Lgood
        movabsq $(RF_STUB_CONST + RF_CONST_FAILED), %r15
.Lgood: addq    $RF_COMMAND_SIZE, %r14
        decl    %r13d
        jmp     .Lcommand

.Ldone: movl    RF_COMMAND_DONE_FD(%rbx), %edi
        testl   %edi, %edi
        js      .Lnext
        movl    $__NR_write, %eax
        movq    %r15, %rsi
        movl    $8, %edx
        // Afterwards the page may hold the next round.
        movq    RF_COMMAND_LENDER(%rbx), %rbp
        syscall
        testq   %rbp, %rbp
        jz      .Lnext
        movl    $__NR_futex, %eax
        movq    %rbp, %rdi
        movl    $FUTEX_WAKE, %esi
        movl    $EVERYBODY, %edx
        syscall
        jmp     .Lnext

.Lend:  movl    $__NR_exit_group, %eax
        movl    $1, %edi
        syscall
        hlt

// In the child of a clone: a thread that will run guest code, or the manager of a new process. The latter sets its
// memory up by the second list of the command page, the last of whose commands replaces that page, and says so on the
// eventfd as its parent does: until then the page must stay as it is.
.Lchild:
        testl   $CLONE_VM, %edi
        jnz     rf_trap_thread
        movl    RF_COMMAND_DONE_FD(%rbx), %ebp
        movl    RF_COMMAND_CHILD_COUNT(%rbx), %r13d
        leaq    RF_COMMAND_CHILD_LIST(%rbx), %r14
        movabsq $(RF_STUB_CONST + RF_CONST_DONE), %r15
1:      testl   %r13d, %r13d
        jz      2f
        movq    (%r14), %rax
        movq    8(%r14), %rdi
        movq    16(%r14), %rsi
        movq    24(%r14), %rdx
        movq    32(%r14), %r10
        movq    40(%r14), %r8
        movq    48(%r14), %r9
        syscall
        addq    $RF_COMMAND_SIZE, %r14
        decl    %r13d
        cmpq    $-4095, %rax
        jb      1b
        movabsq $(RF_STUB_CONST + RF_CONST_FAILED), %r15
2:      movl    %ebp, %edi
        movl    $__NR_write, %eax
        movq    %r15, %rsi
        movl    $8, %edx
        syscall
        movabsq $(RF_STUB_CONST + RF_CONST_DONE), %rax
        cmpq    %rax, %r15
        jne     .Lend
        jmp     rf_trap_manager

// A stub thread starts, on its own stack; all signals are blocked. Guest code of the same process may run and write to
// the area, but from the seccomp call on nothing that this thread can be made to do matters, and before it nothing
// depends on the area but this thread's own well-being.
rf_trap_thread:
        leaq    -1(%rsp), %rbx
        andq    $-RF_AREA_SIZE, %rbx
        movl    $__NR_arch_prctl, %eax
        movl    $ARCH_SET_GS, %edi
        movq    %rbx, %rsi
        syscall
        movl    $__NR_sigaltstack, %eax
        leaq    RF_AREA_ALT_STACK(%rbx), %rdi
        xorl    %esi, %esi
        syscall
        movl    $__NR_rt_sigprocmask, %eax
        movl    $SIG_SETMASK, %edi
        leaq    RF_AREA_SIGNAL_MASK(%rbx), %rsi
        xorl    %edx, %edx
        movl    $8, %r10d
        syscall
        movl    $__NR_seccomp, %eax
        movl    $SECCOMP_SET_MODE_FILTER, %edi
        xorl    %esi, %esi
        movabsq $(RF_STUB_CONST + RF_CONST_FILTER), %rdx
        syscall
        testl   %eax, %eax
        jnz     .Lend
        // Only now: guest code can have the kernel lead a thread astray by what it writes there.
        movl    $__NR_rseq, %eax
        leaq    RF_AREA_RSEQ(%rbx), %rdi
        movl    $RSEQ_SIZE, %esi
        xorl    %edx, %edx
        movl    $RSEQ_SIGNATURE, %r10d
        syscall
        movq    %rbx, %rdi
        call    rf_trap_wait
        hlt

// Where patched system calls lead (code_patches.h), with the guest's registers and rcx as SYSCALL would leave it. GS base
// is the Area. On the signal stack, which is not in use: a kick continues there.
        .globl rf_trap_call
rf_trap_call:
        movq    %rsp, %gs:RF_AREA_REGS + RF_REG_RSP
        movq    %gs:RF_AREA_STACK_TOP, %rsp
        pushfq
        popq    %r11
        movq    %r11, %gs:RF_AREA_REGS + RF_REG_R11
        movq    %r11, %gs:RF_AREA_REGS + RF_REG_EFLAGS
        movq    %r15, %gs:RF_AREA_REGS + RF_REG_R15
        movq    %r14, %gs:RF_AREA_REGS + RF_REG_R14
        movq    %r13, %gs:RF_AREA_REGS + RF_REG_R13
        movq    %r12, %gs:RF_AREA_REGS + RF_REG_R12
        movq    %rbp, %gs:RF_AREA_REGS + RF_REG_RBP
        movq    %rbx, %gs:RF_AREA_REGS + RF_REG_RBX
        movq    %r10, %gs:RF_AREA_REGS + RF_REG_R10
        movq    %r9, %gs:RF_AREA_REGS + RF_REG_R9
        movq    %r8, %gs:RF_AREA_REGS + RF_REG_R8
        movq    %rax, %gs:RF_AREA_REGS + RF_REG_RAX
        movq    %rcx, %gs:RF_AREA_REGS + RF_REG_RCX
        movq    %rcx, %gs:RF_AREA_REGS + RF_REG_RIP
        movq    %rdx, %gs:RF_AREA_REGS + RF_REG_RDX
        movq    %rsi, %gs:RF_AREA_REGS + RF_REG_RSI
        movq    %rdi, %gs:RF_AREA_REGS + RF_REG_RDI
        movq    %gs:RF_AREA_SELF, %rdi
        // C code does not bear DF and AC, IRET not NT.
        pushq   $0x202
        popfq
        call    rf_trap_called
        hlt

        .macro load_but_rbx_rsp
        movq    RF_AREA_REGS + RF_REG_R15(%rbx), %r15
        movq    RF_AREA_REGS + RF_REG_R14(%rbx), %r14
        movq    RF_AREA_REGS + RF_REG_R13(%rbx), %r13
        movq    RF_AREA_REGS + RF_REG_R12(%rbx), %r12
        movq    RF_AREA_REGS + RF_REG_RBP(%rbx), %rbp
        movq    RF_AREA_REGS + RF_REG_R11(%rbx), %r11
        movq    RF_AREA_REGS + RF_REG_R10(%rbx), %r10
        movq    RF_AREA_REGS + RF_REG_R9(%rbx), %r9
        movq    RF_AREA_REGS + RF_REG_R8(%rbx), %r8
        movq    RF_AREA_REGS + RF_REG_RAX(%rbx), %rax
        movq    RF_AREA_REGS + RF_REG_RCX(%rbx), %rcx
        movq    RF_AREA_REGS + RF_REG_RDX(%rbx), %rdx
        movq    RF_AREA_REGS + RF_REG_RSI(%rbx), %rsi
        movq    RF_AREA_REGS + RF_REG_RDI(%rbx), %rdi
        .endm

// rf_trap_exit(area): into guest code, with the registers of area->regs and the vector state of area->fp_load if there
// is one. A kick that comes in here finds the guest's registers untouched in the area; whether the vector registers
// are the guest's already depends on where it came: see rf_trap_signal.
        .globl rf_trap_exit, rf_trap_exit_loaded, rf_trap_exit_end
        .hidden rf_trap_exit, rf_trap_exit_loaded, rf_trap_exit_end
rf_trap_exit:
        cmpl    $0, RF_AREA_KICK_PENDING(%rdi)
        jne     rf_trap_not_started
        movq    RF_AREA_FP_LOAD(%rdi), %rsi
        testq   %rsi, %rsi
        jz      rf_trap_exit_loaded
        movl    $-1, %eax
        movl    $-1, %edx
        xrstor64 (%rsi)
rf_trap_exit_loaded:
        movq    %rdi, %rbx
        movq    RF_AREA_REGS + RF_REG_RIP(%rbx), %rax
        movq    %rax, RF_AREA_IRET(%rbx)
        testl   $RF_ACTION_JUMP, RF_AREA_ACTION(%rbx)
        jz      1f
        // A fifth of what IRET costs.
        movq    RF_AREA_REGS + RF_REG_EFLAGS(%rbx), %rax
        movq    %rax, RF_AREA_IRET + 16(%rbx)
        leaq    RF_AREA_IRET + 16(%rbx), %rsp
        load_but_rbx_rsp
        popfq
        movq    RF_AREA_REGS + RF_REG_RSP(%rbx), %rsp
        movq    RF_AREA_REGS + RF_REG_RBX(%rbx), %rbx
        jmpq    *%gs:RF_AREA_IRET
1:
        // On the signal stack. IRET does not bear NT, which a signal's handler has from guest code.
        pushq   $0x202
        popfq
        movl    %cs, %eax
        movq    %rax, RF_AREA_IRET + 8(%rbx)
        movq    RF_AREA_REGS + RF_REG_EFLAGS(%rbx), %rax
        movq    %rax, RF_AREA_IRET + 16(%rbx)
        movq    RF_AREA_REGS + RF_REG_RSP(%rbx), %rax
        movq    %rax, RF_AREA_IRET + 24(%rbx)
        movl    %ss, %eax
        movq    %rax, RF_AREA_IRET + 32(%rbx)
        leaq    RF_AREA_IRET(%rbx), %rsp
        load_but_rbx_rsp
        movq    RF_AREA_REGS + RF_REG_RBX(%rbx), %rbx
        iretq
rf_trap_exit_end:

// rf_trap_return(regs, fp): back to the stub's own code that a kick interrupted. `regs` are the kernel's gregs (r8 to
// r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags), `fp` the XSAVE image. Stays on the signal stack to the end, below all
// that is in use there: another kick may come.
        .globl rf_trap_return
        .hidden rf_trap_return
rf_trap_return:
        movq    %rdi, %rbx
        pushq   $0x202
        popfq
        subq    $40, %rsp
        movl    $-1, %eax
        movl    $-1, %edx
        xrstor64 (%rsi)
        movq    128(%rbx), %rax
        movq    %rax, (%rsp)
        movl    %cs, %eax
        movq    %rax, 8(%rsp)
        movq    136(%rbx), %rax
        movq    %rax, 16(%rsp)
        movq    120(%rbx), %rax
        movq    %rax, 24(%rsp)
        movl    %ss, %eax
        movq    %rax, 32(%rsp)
        movq    0(%rbx), %r8
        movq    8(%rbx), %r9
        movq    16(%rbx), %r10
        movq    24(%rbx), %r11
        movq    32(%rbx), %r12
        movq    40(%rbx), %r13
        movq    48(%rbx), %r14
        movq    56(%rbx), %r15
        movq    64(%rbx), %rdi
        movq    72(%rbx), %rsi
        movq    80(%rbx), %rbp
        movq    96(%rbx), %rdx
        movq    104(%rbx), %rax
        movq    112(%rbx), %rcx
        movq    88(%rbx), %rbx
        iretq

        .section .note.GNU-stack, "", @progbits
