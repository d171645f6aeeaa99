// memcpy and its kin through general registers alone, in place of libc's. Only for static links.
//
// In ring-0 mode the vector registers hold the guest's state until the sentry uses one, and libc's functions do from 16
// bytes on: each such call in a system call would cost a trap, a save and a load. The strings of the CPU do the long
// ones, as they do in Linux.
        .text

#define STRING_FROM 512

// void* memmove(void* dst, const void* src, size_t len)
        .globl  memmove, memcpy, __libc_memmove
        .type   memmove, @function
        .set    memcpy, memmove
        .set    __libc_memmove, memmove
        .p2align 6
memmove:
        mov     %rdi, %rax
        cmp     $16, %rdx
        ja      2f
        cmp     $8, %rdx
        jb      1f
        mov     (%rsi), %rcx
        mov     -8(%rsi, %rdx), %r8
        mov     %rcx, (%rdi)
        mov     %r8, -8(%rdi, %rdx)
        ret
1:      cmp     $4, %edx
        jb      1f
        mov     (%rsi), %ecx
        mov     -4(%rsi, %rdx), %r8d
        mov     %ecx, (%rdi)
        mov     %r8d, -4(%rdi, %rdx)
        ret
1:      cmp     $2, %edx
        jb      1f
        movzwl  (%rsi), %ecx
        movzwl  -2(%rsi, %rdx), %r8d
        mov     %cx, (%rdi)
        mov     %r8w, -2(%rdi, %rdx)
        ret
1:      test    %edx, %edx
        jz      1f
        movzbl  (%rsi), %ecx
        mov     %cl, (%rdi)
1:      ret

// The ends are read before anything is written: dst and src may overlap.
2:      cmp     $32, %rdx
        ja      2f
        mov     (%rsi), %rcx
        mov     8(%rsi), %r8
        mov     -16(%rsi, %rdx), %r9
        mov     -8(%rsi, %rdx), %r10
        mov     %rcx, (%rdi)
        mov     %r8, 8(%rdi)
        mov     %r9, -16(%rdi, %rdx)
        mov     %r10, -8(%rdi, %rdx)
        ret
2:      mov     %rdi, %rcx
        sub     %rsi, %rcx
        cmp     %rdx, %rcx
        jb      backward
        cmp     $STRING_FROM, %rdx
        jae     string
        mov     -32(%rsi, %rdx), %r8
        mov     -24(%rsi, %rdx), %r9
        mov     -16(%rsi, %rdx), %r10
        mov     -8(%rsi, %rdx), %r11
        lea     (%rdi, %rdx), %rdx
        sub     $32, %rdx  // where the last 32 bytes go
1:      mov     (%rsi), %rcx
        mov     %rcx, (%rdi)
        mov     8(%rsi), %rcx
        mov     %rcx, 8(%rdi)
        mov     16(%rsi), %rcx
        mov     %rcx, 16(%rdi)
        mov     24(%rsi), %rcx
        mov     %rcx, 24(%rdi)
        add     $32, %rsi
        add     $32, %rdi
        cmp     %rdx, %rdi
        jb      1b
        mov     %r8, (%rdx)
        mov     %r9, 8(%rdx)
        mov     %r10, 16(%rdx)
        mov     %r11, 24(%rdx)
        ret
string:
        mov     -8(%rsi, %rdx), %r8
        lea     -8(%rdi, %rdx), %r9
        mov     %rdx, %rcx
        shr     $3, %rcx
        rep movsq
        mov     %r8, (%r9)
        ret
backward:
        mov     (%rsi), %r8
        mov     8(%rsi), %r9
        mov     16(%rsi), %r10
        mov     24(%rsi), %r11
1:      mov     -8(%rsi, %rdx), %rcx
        mov     %rcx, -8(%rdi, %rdx)
        mov     -16(%rsi, %rdx), %rcx
        mov     %rcx, -16(%rdi, %rdx)
        mov     -24(%rsi, %rdx), %rcx
        mov     %rcx, -24(%rdi, %rdx)
        mov     -32(%rsi, %rdx), %rcx
        mov     %rcx, -32(%rdi, %rdx)
        sub     $32, %rdx
        cmp     $32, %rdx
        ja      1b
        mov     %r8, (%rdi)
        mov     %r9, 8(%rdi)
        mov     %r10, 16(%rdi)
        mov     %r11, 24(%rdi)
        ret
        .size   memmove, . - memmove

// void* mempcpy(void* dst, const void* src, size_t len)
        .globl  mempcpy, __mempcpy
        .type   mempcpy, @function
        .set    __mempcpy, mempcpy
        .p2align 4
mempcpy:
        push    %rdx
        call    memmove
        pop     %rdx
        add     %rdx, %rax
        ret
        .size   mempcpy, . - mempcpy

// void* memset(void* dst, int byte, size_t len)
        .globl  memset
        .type   memset, @function
        .p2align 6
memset:
        mov     %rdi, %rax
        movzbl  %sil, %esi
        movabs  $0x0101010101010101, %rcx
        imul    %rcx, %rsi
        cmp     $16, %rdx
        ja      2f
        cmp     $8, %rdx
        jb      1f
        mov     %rsi, (%rdi)
        mov     %rsi, -8(%rdi, %rdx)
        ret
1:      cmp     $4, %edx
        jb      1f
        mov     %esi, (%rdi)
        mov     %esi, -4(%rdi, %rdx)
        ret
1:      cmp     $2, %edx
        jb      1f
        mov     %si, (%rdi)
        mov     %si, -2(%rdi, %rdx)
        ret
1:      test    %edx, %edx
        jz      1f
        mov     %sil, (%rdi)
1:      ret
2:      lea     (%rdi, %rdx), %r8
        cmp     $32, %rdx
        jbe     3f
        cmp     $STRING_FROM, %rdx
        jae     4f
        lea     -32(%r8), %rcx
1:      mov     %rsi, (%rdi)
        mov     %rsi, 8(%rdi)
        mov     %rsi, 16(%rdi)
        mov     %rsi, 24(%rdi)
        add     $32, %rdi
        cmp     %rcx, %rdi
        jb      1b
        mov     %rcx, %rdi
3:      mov     %rsi, (%rdi)
        mov     %rsi, 8(%rdi)
        mov     %rsi, -16(%r8)
        mov     %rsi, -8(%r8)
        ret
4:      mov     %rax, %r9
        mov     %rdx, %rcx
        shr     $3, %rcx
        mov     %rsi, %rax
        rep stosq
        mov     %rsi, -8(%r8)
        mov     %r9, %rax
        ret
        .size   memset, . - memset

// int memcmp(const void* a, const void* b, size_t len)
        .globl  memcmp, bcmp, __memcmpeq
        .type   memcmp, @function
        .set    bcmp, memcmp
        .set    __memcmpeq, memcmp
        .p2align 6
memcmp:
        cmp     $8, %rdx
        jb      2f
        lea     -8(%rdi, %rdx), %r8  // the last eight bytes
        lea     -8(%rsi, %rdx), %r9
1:      mov     (%rdi), %rax
        mov     (%rsi), %rcx
        cmp     %rcx, %rax
        jne     3f
        add     $8, %rdi
        add     $8, %rsi
        cmp     %r8, %rdi
        jb      1b
        mov     (%r8), %rax
        mov     (%r9), %rcx
        cmp     %rcx, %rax
        jne     3f
        xor     %eax, %eax
        ret
2:      xor     %eax, %eax
        test    %rdx, %rdx
        jz      2f
1:      movzbl  (%rdi), %eax
        movzbl  (%rsi), %ecx
        sub     %ecx, %eax
        jnz     2f
        inc     %rdi
        inc     %rsi
        dec     %rdx
        jnz     1b
2:      ret
3:      bswap   %rax
        bswap   %rcx
        cmp     %rcx, %rax
        sbb     %eax, %eax
        or      $1, %eax
        ret
        .size   memcmp, . - memcmp

        .section .note.GNU-stack, "", @progbits
