// System calls that are made often from one place: a sandbox may have changed the code there. Nothing must be
// different.
#include "check.h"

#include <asm/prctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

enum { kOften = 200, kPage = 4096 };

// On pages of their own, so that what one test does to its code leaves the others alone.
asm(".pushsection .text.calls, \"ax\", @progbits\n"
    ".balign 4096\n"
    "code_begin:\n"
    "call_getppid: mov $110, %eax\n"
    "getppid_syscall: syscall\n"
    "getppid_after: ret\n"
    ".balign 64\n"
    "call_read: xor %eax, %eax\n"
    "read_syscall: syscall\n"
    "read_after: cmp $-4095, %rax\n"
    "ret\n"
    ".balign 64\n"
    // All registers but rax, rcx and r11 as they were; long out[3]: rcx, r11, and whether they were.
    "call_checked: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdi\n"
    "mov $0x101, %ebx; mov $0x102, %ebp; mov $0x103, %r12d; mov $0x104, %r13d; mov $0x105, %r14d; mov $0x106, %r15d\n"
    "mov $0x107, %edi; mov $0x108, %esi; mov $0x109, %edx; mov $0x10a, %r8d; mov $0x10b, %r9d; mov $0x10c, %r10d\n"
    "movq %rbx, %xmm7\n"
    "std; stc\n"
    "mov $110, %eax\n"
    "checked_syscall: syscall\n"
    "checked_after: pushf; pop %rax; cld\n"
    "pushq $0\n"
    "cmp $0x101, %rbx; jne 1f; cmp $0x102, %rbp; jne 1f; cmp $0x103, %r12; jne 1f; cmp $0x104, %r13; jne 1f\n"
    "cmp $0x105, %r14; jne 1f; cmp $0x106, %r15; jne 1f; cmp $0x107, %rdi; jne 1f; cmp $0x108, %rsi; jne 1f\n"
    "cmp $0x109, %rdx; jne 1f; cmp $0x10a, %r8; jne 1f; cmp $0x10b, %r9; jne 1f; cmp $0x10c, %r10; jne 1f\n"
    "cmp %rax, %r11; jne 1f; and $0x401, %eax; cmp $0x401, %eax; jne 1f\n"
    "movq %xmm7, %rax; cmp $0x101, %rax; jne 1f\n"
    "movq $1, (%rsp)\n"
    "1: pop %rax; pop %rdi\n"
    "mov %rcx, (%rdi); mov %r11, 8(%rdi); mov %rax, 16(%rdi)\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
    ".balign 4096\n"
    "code_end:\n"
    ".popsection\n");
extern char code_begin[], code_end[], getppid_syscall[], getppid_after[], read_syscall[], read_after[], checked_after[];
extern long call_getppid(void), call_read(int fd, void*to, size_t len);
extern void call_checked(long out[3]);

static void make_often(void) {
  const long parent = getppid();
  for (int i = 0; i < kOften; i++) CHECK_EQ(call_getppid(), parent);
  int fd = CHECK_OK(open("/dev/zero", O_RDONLY));
  char c[8];
  for (int i = 0; i < kOften; i++) CHECK_EQ(call_read(fd, c, sizeof c), 8);
  close(fd);
}

TEST(registers_are_kept) {
  make_often();
  for (int i = 0; i < kOften; i++) {
    long out[3];
    call_checked(out);
    CHECK_EQ(out[2], 1);
    CHECK_EQ(out[0], (long)checked_after);
  }
}

// A selector takes the base with it that GS had. Both a patched call and one that is not must bear that.
TEST(calls_bear_any_selector_in_gs) {
  make_often();
  const long parent = getppid();
  static const uint16_t selectors[] = {0x2b, 0, 3};
  for (int i = 0; i < kOften; i++) {
    long out[3];
    asm volatile("mov %0, %%gs" : : "r"((uint32_t)selectors[i % 3]));
    if (i % 4 == 1) {
      call_checked(out);
      CHECK_EQ(out[2], 1);
    }
    if (i % 4 == 2) {
      uint32_t eax = SYS_getppid;
      asm volatile("syscall" : "+a"(eax) : : "rcx", "r11", "memory");
      CHECK_EQ(eax, (uint32_t)parent);
    }
    CHECK_EQ(call_getppid(), parent);
  }
}

TEST(system_calls_that_read_the_code_see_what_is_in_the_file) {
  make_often();
  unsigned char code[16];
  int fds[2];
  CHECK_EQ(pipe(fds), 0);
  CHECK_EQ(write(fds[1], (char*)call_getppid, sizeof code), (ssize_t)sizeof code);
  CHECK_EQ(read(fds[0], code, sizeof code), (ssize_t)sizeof code);
  static const unsigned char kExpected[] = {0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0xc3};
  CHECK_EQ(memcmp(code, kExpected, sizeof kExpected), 0);
}

static volatile uintptr_t seen_rip, seen_rax, alarms, strange;
static int feed = -1;

static void on_alarm(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)info;
  const greg_t* g = ((ucontext_t*)context)->uc_mcontext.gregs;
  seen_rip = (uintptr_t)g[REG_RIP];
  seen_rax = (uintptr_t)g[REG_RAX];
  if (++alarms >= 2 && feed >= 0 && write(feed, "x", 1) != 1) _exit(TEST_FAILED);
}

static void set_alarm(int flags, long microseconds) {
  struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | flags};
  CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
  struct itimerval t = {{0, microseconds}, {0, microseconds}};
  CHECK_EQ(setitimer(ITIMER_REAL, &t, NULL), 0);
}

TEST(an_interrupted_call_is_made_again) {
  make_often();
  int fds[2];
  CHECK_EQ(pipe(fds), 0);
  feed = fds[1];
  set_alarm(SA_RESTART, 20000);
  char c = 0;
  CHECK_EQ(call_read(fds[0], &c, 1), 1);
  CHECK_EQ(c, 'x');
  CHECK(alarms >= 2);
  // The last one may have come after the call.
  if (alarms == 2) {
    CHECK_EQ(seen_rip, (uintptr_t)read_syscall);
    CHECK_EQ(seen_rax, 0);
  }
}

TEST(an_interrupted_call_ends) {
  make_often();
  int fds[2];
  CHECK_EQ(pipe(fds), 0);
  set_alarm(0, 50000);
  char c;
  CHECK_EQ(call_read(fds[0], &c, 1), -EINTR);
  CHECK(alarms >= 1);
}

static void on_tick(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)info;
  const uintptr_t rip = (uintptr_t)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
  extern char __executable_start[], etext[];
  alarms++;
  if (rip < (uintptr_t)__executable_start || rip >= (uintptr_t)etext) strange = rip;
}

TEST(signals_find_the_thread_in_its_own_code) {
  make_often();
  struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
  CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
  struct itimerval t = {{0, 500}, {0, 500}};
  CHECK_EQ(setitimer(ITIMER_REAL, &t, NULL), 0);
  const long parent = call_getppid();
  int fd = CHECK_OK(open("/dev/zero", O_RDONLY));
  char c;
  while (alarms < 200) {
    for (int i = 0; i < 100; i++) CHECK_EQ(call_getppid(), parent);
    CHECK_EQ(call_read(fd, &c, 1), 1);
  }
  CHECK_EQ(strange, 0);
}

static int traps;
static void on_trap(int sig, siginfo_t* info, void* context) {
  on_tick(sig, info, context);
  greg_t* g = ((ucontext_t*)context)->uc_mcontext.gregs;
  if (++traps == 50) g[REG_EFL] &= ~0x100;
}

TEST(single_steps_stay_in_the_code) {
  make_often();
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
  CHECK_EQ(sigaction(SIGTRAP, &action, NULL), 0);
  const long parent = getppid();
  asm volatile("pushf; orl $0x100, (%%rsp); popf" ::: "memory", "cc");
  for (int i = 0; i < 20; i++)
    if (call_getppid() != parent) strange = 1;
  asm volatile("pushf; andl $~0x100, (%%rsp); popf" ::: "memory", "cc");
  CHECK_EQ(traps, 50);
  CHECK_EQ(strange, 0);
}

TEST(code_that_is_written_to_is_new_code) {
  make_often();
  const long parent = getppid();
  const size_t len = (size_t)(code_end - code_begin);
  int fd = CHECK_OK(open("/proc/self/exe", O_RDONLY));
  // Where the code is in the file: its page is found by its content.
  char page[kPage];
  off_t at = 0;
  for (;; at += kPage) {
    CHECK_EQ(pread(fd, page, kPage, at), kPage);
    if (memcmp(page, (char[]){(char)0xb8, 110, 0, 0, 0, 0x0f, 0x05, (char)0xc3}, 8) == 0) break;
  }
  char* code = mmap(NULL, len, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, at);
  CHECK(code != MAP_FAILED);
  long (*volatile call)(void) = (long (*)(void))(uintptr_t)code;
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < kOften; i++) CHECK_EQ(call(), round ? getpid() : parent);
    CHECK_EQ(mprotect(code, len, PROT_READ | PROT_WRITE), 0);
    CHECK_EQ((unsigned char)code[0], 0xb8);
    CHECK_EQ(code[1], round ? 39 : 110);
    code[1] = 39;  // getpid
    CHECK_EQ(mprotect(code, len, PROT_READ | PROT_EXEC), 0);
  }
  CHECK_EQ(call_getppid(), parent);
  CHECK_EQ(munmap(code, len), 0);
  CHECK_EQ(mmap(code, len, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, at) == code, 1);
  for (int i = 0; i < kOften; i++) CHECK_EQ(call(), parent);
}

TEST(all_addresses_are_the_programs) {
  make_often();
  // Far above the code; nothing of the program is there.
  const uintptr_t near = (uintptr_t)code_begin + 0x48000000;
  int mapped = 0;
  for (uintptr_t at = near; at < near + 16 * kPage; at += kPage) {
    unsigned char* p =
        mmap((void*)at, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == MAP_FAILED) continue;  // the heap
    mapped++;
    for (int i = 0; i < kPage; i++)
      if (p[i] != 0) CHECK_EQ(p[i], 0);
    memset(p, 0xcc, kPage);
  }
  CHECK(mapped > 0);
  make_often();
}

TEST(a_base_of_gs_is_left_alone) {
  make_often();
  static long block[64];
  for (int i = 0; i < 64; i++) block[i] = 0x1234 + i;
  CHECK_EQ(syscall(SYS_arch_prctl, ARCH_SET_GS, block), 0);
  make_often();
  long first;
  asm volatile("mov %%gs:0, %0" : "=r"(first));
  CHECK_EQ(first, 0x1234);
  for (int i = 0; i < 64; i++) CHECK_EQ(block[i], 0x1234 + i);
}

TEST(children_go_on_with_the_same_code) {
  make_often();
  for (int i = 0; i < 5; i++) {
    pid_t parent = getpid(), child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      for (int j = 0; j < kOften; j++) CHECK_EQ(call_getppid(), parent);
      make_often();
      _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    make_often();
  }
}
