// See safe_copy.h. A fault between a routine's _begin and _end continues at its _fault, where the registers still tell
// how much was left: rcx within the string instructions, rdx in the word loops.
        .text

// size_t rf_mm_safe_copy(void* dst, const void* src, size_t len)
        .globl  rf_mm_safe_copy
        .type   rf_mm_safe_copy, @function
        .p2align 4
rf_mm_safe_copy:
        endbr64
        cmpq    $128, %rdx
        ja      2f
        .globl  rf_mm_copy_words_begin
rf_mm_copy_words_begin:
        cmpq    $8, %rdx
        jb      1f
0:      movq    (%rsi), %rax
        movq    %rax, (%rdi)
        addq    $8, %rsi
        addq    $8, %rdi
        subq    $8, %rdx
        cmpq    $8, %rdx
        jae     0b
1:      testq   %rdx, %rdx
        jz      3f
        movb    (%rsi), %al
        movb    %al, (%rdi)
        incq    %rsi
        incq    %rdi
        decq    %rdx
        jmp     1b
        .globl  rf_mm_copy_words_end
rf_mm_copy_words_end:
2:      movq    %rdx, %rcx
        .globl  rf_mm_copy_string_begin
rf_mm_copy_string_begin:
        rep movsb
        .globl  rf_mm_copy_string_end
rf_mm_copy_string_end:
        movq    %rcx, %rdx
        .globl  rf_mm_copy_words_fault
rf_mm_copy_words_fault:
3:      movq    %rdx, %rax
        ret
        .size   rf_mm_safe_copy, . - rf_mm_safe_copy

// size_t rf_mm_safe_zero(void* dst, size_t len)
        .globl  rf_mm_safe_zero
        .type   rf_mm_safe_zero, @function
        .p2align 4
rf_mm_safe_zero:
        endbr64
        movq    %rsi, %rcx
        xorl    %eax, %eax
        .globl  rf_mm_zero_begin
rf_mm_zero_begin:
        rep stosb
        .globl  rf_mm_zero_end
rf_mm_zero_end:
        movq    %rcx, %rax
        ret
        .size   rf_mm_safe_zero, . - rf_mm_safe_zero

// int rf_mm_safe_load_u32(const void* src, u32* out)
        .globl  rf_mm_safe_load_u32
        .type   rf_mm_safe_load_u32, @function
        .p2align 4
rf_mm_safe_load_u32:
        endbr64
        .globl  rf_mm_word_begin
rf_mm_word_begin:
        movl    (%rdi), %eax
        movl    %eax, (%rsi)
        xorl    %eax, %eax
        ret
        .size   rf_mm_safe_load_u32, . - rf_mm_safe_load_u32

// int rf_mm_safe_compare_exchange_u32(void* dst, u32* expected, u32 desired, u32* swapped)
        .globl  rf_mm_safe_compare_exchange_u32
        .type   rf_mm_safe_compare_exchange_u32, @function
        .p2align 4
rf_mm_safe_compare_exchange_u32:
        endbr64
        movl    (%rsi), %eax
        lock cmpxchgl %edx, (%rdi)
        movl    %eax, (%rsi)
        sete    %al
        movzbl  %al, %eax
        movl    %eax, (%rcx)
        xorl    %eax, %eax
        ret
        .globl  rf_mm_word_end
rf_mm_word_end:
        .globl  rf_mm_word_fault
rf_mm_word_fault:
        movl    $1, %eax
        ret
        .size   rf_mm_safe_compare_exchange_u32, . - rf_mm_safe_compare_exchange_u32

        .section .note.GNU-stack,"",@progbits
