// Every exception a program can raise from ring 3, and the signal and siginfo it becomes.
#include "memory.h"

#include <sys/ucontext.h>

static sigjmp_buf g_jump;
static volatile siginfo_t g_info;
static volatile uint64_t g_rip, g_trapno, g_error, g_cr2, g_flags;

static void caught(int signo, siginfo_t* info, void* context) {
  (void)signo;
  ucontext_t* u = context;
  g_info = *info;
  g_rip = (uint64_t)u->uc_mcontext.gregs[REG_RIP];
  g_trapno = (uint64_t)u->uc_mcontext.gregs[REG_TRAPNO];
  g_error = (uint64_t)u->uc_mcontext.gregs[REG_ERR];
  g_cr2 = (uint64_t)u->uc_mcontext.gregs[REG_CR2];
  g_flags = (uint64_t)u->uc_mcontext.gregs[REG_EFL];
  siglongjmp(g_jump, 1);
}

static void catch_all(void) {
  const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct sigaction act = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    CHECK_EQ(sigaction(signals[i], &act, NULL), 0);
  }
}

// Runs the statement, which must raise a signal.
#define RAISES(...)                                                     \
  do {                                                                  \
    catch_all();                                                        \
    if (sigsetjmp(g_jump, 1) == 0) {                                    \
      __VA_ARGS__;                                                      \
      test_fail_(__FILE__, __LINE__, "no exception: %s", #__VA_ARGS__); \
    }                                                                   \
  } while (0)

// The address of the instruction under test is kept here.
#define HERE(asm_text) "lea 1f(%%rip), %0\n mov %0, %1\n 1: " asm_text
static volatile uint64_t g_here;

TEST(divide_error) {
  uint64_t tmp;
  RAISES(__asm__ volatile(HERE("xor %%ecx, %%ecx\n xor %%edx, %%edx\n mov $1, %%eax\n 2: div %%ecx\n")
                          : "=&r"(tmp), "=m"(g_here)::"eax", "ecx", "edx", "memory"));
  CHECK_EQ(g_info.si_signo, SIGFPE);
  CHECK_EQ(g_info.si_code, FPE_INTDIV);
  CHECK_EQ((uintptr_t)g_info.si_addr, g_rip);
  CHECK_EQ(g_trapno, 0);
}

TEST(divide_overflow) {
  RAISES(__asm__ volatile("mov $0x80000000, %%eax\n cltd\n mov $-1, %%ecx\n idiv %%ecx\n" ::: "eax", "ecx", "edx"));
  CHECK_EQ(g_info.si_code, FPE_INTDIV);
}

TEST(breakpoint) {
  uint64_t tmp;
  RAISES(__asm__ volatile(HERE("int3\n") : "=&r"(tmp), "=m"(g_here)::"memory"));
  CHECK_EQ(g_info.si_signo, SIGTRAP);
  CHECK_EQ(g_info.si_code, SI_KERNEL);
  CHECK_EQ(g_rip, g_here + 1);  // a trap: past the instruction
  CHECK_EQ(g_trapno, 3);
}

TEST(int3_in_two_bytes) {
  uint64_t tmp;
  RAISES(__asm__ volatile(HERE(".byte 0xcd, 3\n") : "=&r"(tmp), "=m"(g_here)::"memory"));
  CHECK_EQ(g_info.si_signo, SIGTRAP);
  CHECK_EQ(g_rip, g_here + 2);
}

TEST(single_step) {
  RAISES(__asm__ volatile("pushfq\n orq $0x100, (%%rsp)\n popfq\n nop\n nop\n" ::: "memory", "cc"));
  CHECK_EQ(g_info.si_signo, SIGTRAP);
  CHECK_EQ(g_info.si_code, TRAP_TRACE);
  CHECK_EQ((uintptr_t)g_info.si_addr, g_rip);
  CHECK_EQ(g_trapno, 1);
}

TEST(single_step_over_a_system_call) {
  // The trap comes after the call, with its result in place.
  RAISES(__asm__ volatile("mov $39, %%eax\n pushfq\n orq $0x100, (%%rsp)\n popfq\n syscall\n nop\n" ::
                              : "rax", "rcx", "r11", "memory", "cc"));
  CHECK_EQ(g_info.si_signo, SIGTRAP);
  // Handlers run with the trap flag clear, and so do we now.
  __asm__ volatile("nop\n nop\n");
}

TEST(invalid_opcode) {
  uint64_t tmp;
  RAISES(__asm__ volatile(HERE("ud2\n") : "=&r"(tmp), "=m"(g_here)::"memory"));
  CHECK_EQ(g_info.si_signo, SIGILL);
  CHECK_EQ(g_info.si_code, ILL_ILLOPN);
  CHECK_EQ((uintptr_t)g_info.si_addr, g_here);
  CHECK_EQ(g_rip, g_here);
  CHECK_EQ(g_trapno, 6);
}

TEST(privileged_instructions) {
  RAISES(__asm__ volatile("hlt"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  CHECK_EQ(g_info.si_code, SI_KERNEL);
  CHECK_EQ((uintptr_t)g_info.si_addr, 0);
  CHECK_EQ(g_trapno, 13);
  RAISES(__asm__ volatile("cli"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("mov %%cr3, %%rax" ::: "rax"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("mov %%rax, %%cr0" ::: "rax"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("xor %%ecx, %%ecx\n rdmsr" ::: "rax", "rcx", "rdx"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("xor %%ecx, %%ecx\n wrmsr" ::: "rax", "rcx", "rdx"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("in $0x80, %%al" ::: "rax"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("out %%al, $0x80" ::: "rax"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("lgdt (%%rsp)" ::: "memory"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("lidt (%%rsp)" ::: "memory"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("swapgs" ::: "memory"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("invlpg (%%rsp)" ::: "memory"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
}

TEST(software_interrupts_to_closed_vectors) {
  // 0x20 to 0xff: a general protection fault, but 0x80, the old system call.
  RAISES(__asm__ volatile("int $0x20"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  CHECK_EQ(g_info.si_code, SI_KERNEL);
  CHECK_EQ(g_error, 0x20 * 8 + 2);
  RAISES(__asm__ volatile("int $0xff"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  RAISES(__asm__ volatile("int $0xe"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  CHECK_EQ(g_trapno, 13);
}

TEST(page_faults_with_error_codes) {
  unsigned char* p = map_anonymous(2);
  CHECK_EQ(munmap(p + kPage, kPage), 0);
  WRITE(p, 1);
  CHECK_EQ(mprotect(p, kPage, PROT_READ), 0);
  RAISES(WRITE(p + 5, 1));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  CHECK_EQ(g_info.si_code, SEGV_ACCERR);
  CHECK_EQ((uintptr_t)g_info.si_addr, (uintptr_t)(p + 5));
  CHECK_EQ(g_cr2, (uintptr_t)(p + 5));
  CHECK_EQ(g_trapno, 14);
  CHECK_EQ(g_error & 7, 7);  // present, write, user
  RAISES(READ(p + kPage));
  CHECK_EQ(g_info.si_code, SEGV_MAPERR);
  CHECK_EQ(g_error & 7, 4);
  RAISES(((void (*)(void))(p + kPage))());
  CHECK_EQ(g_info.si_code, SEGV_MAPERR);
  CHECK_EQ(g_rip, (uintptr_t)(p + kPage));
  CHECK_EQ((uintptr_t)g_info.si_addr, (uintptr_t)(p + kPage));
}

TEST(access_across_a_page_border_names_the_second_page) {
  unsigned char* p = map_anonymous(2);
  CHECK_EQ(munmap(p + kPage, kPage), 0);
  RAISES(*(volatile uint64_t*)(p + kPage - 4) = 1);
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  CHECK_EQ((uintptr_t)g_info.si_addr, (uintptr_t)(p + kPage));
}

TEST(non_canonical_addresses) {
  RAISES(READ((unsigned char*)0x1234000000000000ul));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  CHECK_EQ(g_info.si_code, SI_KERNEL);
  CHECK_EQ(g_trapno, 13);
  CHECK_EQ((uintptr_t)g_info.si_addr, 0);
  // Through the stack pointer it is a stack fault.
  RAISES(
      __asm__ volatile("mov %%rsp, %%rbx\n mov $0x1234000000000000, %%rax\n mov %%rax, %%rbp\n mov (%%rbp), %%rax\n" ::
                           : "rax", "rbx", "memory"));
  CHECK(g_info.si_signo == SIGBUS || g_info.si_signo == SIGSEGV);
}

TEST(alignment_check) {
  uint64_t word[2] = {0, 0};
  RAISES(
      __asm__ volatile("pushfq\n orq $0x40000, (%%rsp)\n popfq\n mov 1(%0), %%rax\n pushfq\n andq $~0x40000, (%%rsp)\n "
                       "popfq\n" ::"r"(word)
                       : "rax", "memory", "cc"));
  // The handler was entered with the flag still set on return: clear it.
  __asm__ volatile("pushfq\n andq $~0x40000, (%%rsp)\n popfq\n" ::: "memory", "cc");
  CHECK_EQ(g_info.si_signo, SIGBUS);
  CHECK_EQ(g_info.si_code, BUS_ADRALN);
  CHECK_EQ(g_trapno, 17);
}

TEST(misaligned_vector_access) {
  unsigned char buffer[64] __attribute__((aligned(32)));
  RAISES(__asm__ volatile("movaps (%0), %%xmm0" ::"r"(buffer + 1) : "xmm0", "memory"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  CHECK_EQ(g_info.si_code, SI_KERNEL);
}

TEST(x87_exceptions) {
  uint16_t control = 0x37b;  // divide by zero unmasked
  RAISES(__asm__ volatile("fninit\n fldcw %0\n fld1\n fldz\n fdivrp\n fwait\n" ::"m"(control) : "st"));
  __asm__ volatile("fninit");
  CHECK_EQ(g_info.si_signo, SIGFPE);
  CHECK_EQ(g_info.si_code, FPE_FLTDIV);
  CHECK_EQ(g_trapno, 16);
  control = 0x37e;  // invalid operation unmasked
  RAISES(__asm__ volatile("fninit\n fldcw %0\n fldz\n fldz\n fdivrp\n fwait\n" ::"m"(control) : "st"));
  __asm__ volatile("fninit");
  CHECK_EQ(g_info.si_code, FPE_FLTINV);
}

TEST(sse_exceptions) {
  const struct {
    uint32_t mxcsr;
    int code;
    double a, b;
  } cases[] = {{0x1d80, FPE_FLTDIV, 1.0, 0.0},
               {0x1f00, FPE_FLTINV, 0.0, 0.0},
               {0x1b80, FPE_FLTOVF, 1e308, 1e-308},
               {0x0f80, FPE_FLTRES, 1.0, 3.0},
               {0x1780, FPE_FLTUND, 1e-308, 1e308}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    double a = cases[i].a;
    RAISES(__asm__ volatile("ldmxcsr %1\n divsd %2, %0\n" : "+x"(a) : "m"(cases[i].mxcsr), "m"(cases[i].b)));
    uint32_t normal = 0x1f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(normal));
    CHECK_EQ(g_info.si_signo, SIGFPE);
    CHECK_EQ(g_info.si_code, cases[i].code);
    CHECK_EQ(g_trapno, 19);
  }
}

TEST(bad_mxcsr_is_a_fault) {
  uint32_t bad = 0xffff0000;
  RAISES(__asm__ volatile("ldmxcsr %0" ::"m"(bad)));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
}

TEST(jump_to_non_canonical) {
  RAISES(__asm__ volatile("mov $0x1234000000000000, %%rax\n jmp *%%rax\n" ::: "rax"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
}

TEST(bad_segment_loads) {
  RAISES(__asm__ volatile("mov $0xfff3, %%eax\n mov %%eax, %%ds\n" ::: "rax"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
  CHECK_EQ(g_error, 0xfff0);
  RAISES(__asm__ volatile("pushq $0x1234\n pushq $0\n lretq\n" ::: "memory"));
  CHECK_EQ(g_info.si_signo, SIGSEGV);
}

TEST(unhandled_exceptions_kill_with_their_signal) {
  static const int expected[] = {SIGSEGV, SIGFPE, SIGILL, SIGTRAP};
  for (int i = 0; i < 4; i++) {
    pid_t pid = CHECK_OK(fork());
    if (pid == 0) {
      if (i == 0) READ((unsigned char*)8);
      if (i == 1) __asm__ volatile("xor %%ecx, %%ecx\n mov $1, %%eax\n cltd\n idiv %%ecx\n" ::: "eax", "ecx", "edx");
      if (i == 2) __asm__ volatile("ud2");
      if (i == 3) __asm__ volatile("int3");
      _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), expected[i]);
  }
}

TEST(blocked_or_ignored_fault_still_kills) {
  for (int i = 0; i < 2; i++) {
    pid_t pid = CHECK_OK(fork());
    if (pid == 0) {
      sigset_t set;
      sigemptyset(&set);
      sigaddset(&set, SIGSEGV);
      if (i == 0) sigprocmask(SIG_BLOCK, &set, NULL);
      if (i == 1) signal(SIGSEGV, SIG_IGN);
      READ((unsigned char*)8);
      _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), SIGSEGV);
  }
}

TEST(ten_thousand_faults) {
  for (int i = 0; i < 10000; i++) RAISES(__asm__ volatile("ud2"));
}
