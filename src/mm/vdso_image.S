// The vDSO's bytes.
        .section .rodata
        .globl  rf_vdso_start, rf_vdso_end
        .p2align 12
rf_vdso_start:
        .incbin RF_VDSO_PATH
rf_vdso_end:
        .section .note.GNU-stack,"",@progbits
