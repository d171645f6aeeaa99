// What a program tries that wants out: every address that is not its own, and system calls, flags, segments and
// return paths in the states that kernels have got wrong.
#include "catch_signals.h"

#include <asm/prctl.h>
#include <sched.h>
#include <sys/auxv.h>

// Where a sandbox's kernel may keep itself: from the guest's limit to the end of the lower half.
#define LIMIT 0x700000000000ul
#define HALF 0x800000000000ul

static volatile uint64_t g_rip, g_rax, g_flags;

static void caught(int signo, siginfo_t* info, void* context) {
  (void)info;
  ucontext_t* u = context;
  g_signal = signo;
  g_rip = (uint64_t)u->uc_mcontext.gregs[REG_RIP];
  g_rax = (uint64_t)u->uc_mcontext.gregs[REG_RAX];
  g_flags = (uint64_t)u->uc_mcontext.gregs[REG_EFL];
  siglongjmp(g_jump, 1);
}

static int mine(uint64_t address) {
  map_line m;
  return find_map((void*)address, &m);
}

// The trap platform has pages of its own in each process, as docs/trap.md tells: nothing in them is secret.
typedef struct {
  uint64_t start, end;
  int code, data;
} stub_range;
static const stub_range kStub[] = {
    {LIMIT + 0x1000, LIMIT + 0x5000, 1, 0},         {LIMIT + 0x100000, LIMIT + 0x101000, 0, 0},
    {LIMIT + 0x200000, LIMIT + 0x220000, 0, 0},     {LIMIT + 0x300000, LIMIT + 0x301000, 0, 0},
    {LIMIT + 0x10000000, LIMIT + 0x90000000, 0, 1},
};

static int on_trap(void) {
  const char* platform = getenv("RF_TEST_PLATFORM");
  return platform && strcmp(platform, "trap") == 0;
}

static int of_the_stub(uint64_t address) {
  for (size_t i = 0; on_trap() && i < sizeof kStub / sizeof *kStub; i++)
    if (address >= kStub[i].start && address < kStub[i].end) return 1;
  return 0;
}

static void check_out_of_reach(uint64_t address) {
  const int read = SIGNAL_OF(READ(address));
  if (read == 0 && (mine(address) || of_the_stub(address))) return;
  CHECK_EQ(read, SIGSEGV);
  CHECK_EQ(SIGNAL_OF(WRITE(address, 1)), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("lock incq (%0)" ::"r"(address) : "memory")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(((void (*)(void))address)()), SIGSEGV);
}

TEST(nothing_above_the_limit) {
  catch_all();
  // A page in each 2 GiB, never at the same place in it.
  for (uint64_t at = LIMIT, i = 0; at < HALF; at += 2ul << 30, i++)
    check_out_of_reach(at + i * 0x9e3779b1000ul % (2ul << 30) / kPage * kPage);
}

TEST(nothing_next_to_what_is_known) {
  catch_all();
  for (uint64_t at = LIMIT; at < LIMIT + 64 * kPage; at += kPage) check_out_of_reach(at);
  for (uint64_t at = HALF - 64 * kPage; at < HALF; at += kPage) check_out_of_reach(at);
}

TEST(pages_of_the_trap_platform) {
  if (!on_trap()) SKIP("this is not the trap platform");
  catch_all();
  for (size_t i = 0; i < sizeof kStub / sizeof *kStub; i++) {
    const stub_range* s = &kStub[i];
    check_out_of_reach(s->start - kPage);
    if (!s->data) check_out_of_reach(s->end);
    int readable = 0;
    // Of the threads' areas, those of this process's threads are there.
    const uint64_t end = s->data ? s->start + 256 * kPage : s->end;
    for (uint64_t at = s->start; at < end; at += kPage) {
      const int read = SIGNAL_OF(READ(at));
      readable += read == 0;
      if (!s->data) {
        CHECK_EQ(read, 0);
        CHECK_EQ(SIGNAL_OF(WRITE(at, 0)), SIGSEGV);
        CHECK_EQ(SIGNAL_OF(__asm__ volatile("lock incq (%0)" ::"r"(at) : "memory")), SIGSEGV);
      }
      if (!s->code) CHECK_EQ(SIGNAL_OF(((void (*)(void))at)()), SIGSEGV);
      CHECK_ERRNO(mprotect((void*)at, kPage, PROT_READ | PROT_WRITE | PROT_EXEC), ENOMEM);
      CHECK_ERRNO(munmap((void*)at, kPage), EINVAL);
      CHECK_ERRNO(mmap((void*)at, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), ENOMEM);
    }
    CHECK(readable != 0);
  }
}

TEST(nothing_in_the_upper_half) {
  catch_all();
  static const uint64_t places[] = {HALF,
                                    HALF + 8,
                                    1ul << 63,
                                    0xffff7ffffffffff8,
                                    0xffff800000000000,
                                    0xffff880000000000,
                                    0xffffff0000000000,
                                    0xffffff0000001000,
                                    0xffffff0000002000,
                                    0xffffff0000003000,
                                    0xffffff0000010000,
                                    0xffffff0000012000,
                                    0xffffff0000013000,
                                    0xffffffff80000000,
                                    0xffffffffff5ff000,
                                    ~0ul - 4095,
                                    ~0ul - 7};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) check_out_of_reach(places[i]);
}

// SGDT and SIDT tell where the tables are, unless UMIP forbids them; the tables are nobody's to touch.
TEST(descriptor_tables) {
  catch_all();
  struct __attribute__((packed)) {
    uint16_t limit;
    uint64_t base;
  } table = {0, 0};
  for (int i = 0; i < 2; i++) {
    const int refused = SIGNAL_OF(if (i) __asm__ volatile("sidt %0"
                                                          : "=m"(table));
                                  else __asm__ volatile("sgdt %0"
                                                        : "=m"(table)));
    if (refused) {
      CHECK_EQ(refused, SIGSEGV);
      continue;
    }
    CHECK(table.base >= LIMIT);
    for (uint64_t at = table.base & ~0xffful; at < table.base + 16 * kPage; at += kPage) check_out_of_reach(at);
  }
}

static long call_with(uint64_t stack, uint64_t flags, uint64_t* rcx, uint64_t* r11, uint64_t* here) {
  long result;
  register uint64_t old __asm__("r12");
  register uint64_t s __asm__("r13") = stack;
  register uint64_t f __asm__("r14") = flags;
  uint64_t cx, r;
  __asm__ volatile(
      "mov %%rsp, %[old]\n"
      "sub $256, %%rsp\n push %[f]\n popfq\n"
      "mov %[s], %%rsp\n"
      "mov %[nr], %%eax\n syscall\n 1:\n"
      "mov %[old], %%rsp\n"
      "mov %%r11, %%rdx\n lea 1b(%%rip), %%rsi\n"
      "sub $256, %%rsp\n pushq $0x202\n popfq\n mov %[old], %%rsp\n"
      : "=&a"(result), [old] "=&r"(old), "=&c"(cx), "=&d"(r), "=S"(*here)
      : [s] "r"(s), [f] "r"(f), [nr] "i"(SYS_getpid)
      : "r11", "memory", "cc");
  *rcx = cx;
  *r11 = r;
  return result;
}

TEST(system_calls_with_odd_stacks_and_flags) {
  static const uint64_t stacks[] = {0, 8, LIMIT, LIMIT + 0x1000, HALF - 8, 0xffffff0000013000, ~0ul, 7};
  // Carry, parity, direction, overflow, alignment check, nested task, ID.
  static const uint64_t flags[] = {0x202, 0x203, 0x602, 0xa02, 0x40202, 0x4202, 0x200202, 0x244ed7};
  for (size_t i = 0; i < sizeof stacks / sizeof *stacks; i++)
    for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) {
      uint64_t rcx, r11, here;
      CHECK_EQ(call_with(stacks[i], flags[k], &rcx, &r11, &here), getpid());
      CHECK_EQ(rcx, here);
      CHECK_EQ(r11 & 0x244cd5, flags[k] & 0x244cd5);
    }
}

// With a stack pointer that is not canonical: the call returns, or what follows it is a fault of the program's.
TEST(system_calls_with_impossible_stacks) {
  catch_all();
  static const uint64_t stacks[] = {HALF, 1ul << 63, 0xffff7ffffffffff8};
  for (size_t i = 0; i < sizeof stacks / sizeof *stacks; i++) {
    uint64_t rcx, r11, here;
    volatile long pid = 0;
    const int signo = SIGNAL_OF(pid = call_with(stacks[i], 0x202, &rcx, &r11, &here));
    if (signo)
      CHECK_EQ(signo, SIGSEGV);
    else
      CHECK_EQ(pid, getpid());
  }
}

// The last two bytes below the limit: SYSCALL leaves the limit itself in RCX.
TEST(system_call_at_the_very_end) {
  catch_all();
  static const uint64_t ends[] = {LIMIT, HALF - kPage};
  int tried = 0;
  for (size_t i = 0; i < 2; i++) {
    unsigned char* page = (unsigned char*)ends[i] - kPage;
    if (mmap(page, kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
             0) != page)
      continue;
    if (mine(ends[i])) continue;
    page[kPage - 2] = 0x0f;
    page[kPage - 1] = 0x05;
    tried++;
    CHECK_EQ(SIGNAL_OF(__asm__ volatile("jmp *%1" ::"a"((long)SYS_getpid), "r"(ends[i] - 2) : "rcx", "r11")), SIGSEGV);
    CHECK_EQ(g_rip, ends[i]);
    CHECK_EQ((long)g_rax, getpid());
    munmap(page, kPage);
  }
  CHECK(tried != 0);
}

TEST(system_calls_in_the_shadow_of_a_stack_load) {
  long pid;
  for (int i = 0; i < 100; i++) {
    __asm__ volatile("mov %%ss, %%ecx\n mov %%ecx, %%ss\n syscall\n"
                     : "=a"(pid)
                     : "a"((long)SYS_getpid)
                     : "rcx", "r11");
    CHECK_EQ(pid, getpid());
  }
}

TEST(system_calls_with_odd_segments) {
  static const uint16_t selectors[] = {0, 1, 2, 3, 0x2b};
  uint16_t ds, es, fs;
  __asm__("mov %%ds, %0\n mov %%es, %1\n mov %%fs, %2" : "=r"(ds), "=r"(es), "=r"(fs));
  for (size_t i = 0; i < sizeof selectors / sizeof *selectors; i++) {
    long pid;
    __asm__ volatile("mov %1, %%ds\n mov %1, %%es\n mov %1, %%gs\n syscall\n"
                     : "=a"(pid)
                     : "r"((uint32_t)selectors[i]), "a"((long)SYS_getpid)
                     : "rcx", "r11", "memory");
    CHECK_EQ(pid, getpid());
  }
  __asm__ volatile("mov %0, %%ds\n mov %1, %%es" ::"r"(ds), "r"(es));
}

TEST(bases_survive_and_stay_in_their_half) {
  unsigned long base;
  for (unsigned long want = 0x1000; want < HALF; want = want << 4 | 0x1000) {
    CHECK_EQ(syscall(SYS_arch_prctl, ARCH_SET_GS, want), 0);
    for (int i = 0; i < 3; i++) sched_yield();
    CHECK_EQ(syscall(SYS_arch_prctl, ARCH_GET_GS, &base), 0);
    CHECK_EQ(base, want);
  }
  CHECK_EQ(syscall(SYS_arch_prctl, ARCH_SET_GS, 0xffffff0000000000ul), -1);
  CHECK_EQ(syscall(SYS_arch_prctl, ARCH_SET_FS, 1ul << 63), -1);
  if (!(getauxval(AT_HWCAP2) & 2)) return;
  catch_all();
  // By instruction any canonical value goes, and none gives a right to what is there.
  static const uint64_t values[] = {LIMIT, HALF - 8, 0xffff800000000000, 0xffffff0000000000, ~0ul};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    uint64_t now;
    __asm__ volatile("wrgsbase %1\n mov %2, %%eax\n syscall\n rdgsbase %0"
                     : "=&r"(now)
                     : "r"(values[i]), "i"(SYS_getpid)
                     : "rax", "rcx", "r11", "memory");
    CHECK_EQ(now, values[i]);
    if (!mine(values[i])) CHECK_EQ(SIGNAL_OF(__asm__ volatile("mov %%gs:0, %%rax" ::: "rax")), SIGSEGV);
  }
  __asm__ volatile("wrgsbase %0" ::"r"(0ul));
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("wrgsbase %0" ::"r"(1ul << 63))), SIGSEGV);
}

TEST(privileged_doors_are_shut) {
  catch_all();
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("swapgs")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("sysretq" ::"c"(0), "r"(0))), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("mov %%rax, %%db0" ::"a"(0))), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("mov %%db7, %%rax" ::: "rax")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("mov %%cr0, %%rax" ::: "rax")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("clts")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("invlpg (%0)" ::"r"(0))), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("hlt")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("ltr %%ax" ::"a"(0x40))), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("lidt (%0)" ::"r"(&g_jump))), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("wrmsr" ::"a"(0), "c"(0xc0000082), "d"(0))), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("rdmsr" ::"c"(0xc0000082) : "eax", "edx")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("outb %%al, $0x80" ::"a"(0))), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("xsetbv" ::"a"(1), "c"(0), "d"(0))), SIGSEGV);
  // The vectors by which a hypervisor or an APIC would come in.
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("int $0x20")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("int $0x21")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("int $2")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("int $8")), SIGSEGV);
  CHECK_EQ(SIGNAL_OF(__asm__ volatile("int $14")), SIGSEGV);
}

// --- Returns from signals with registers that no program has ---

static void (*g_change)(greg_t*);

static void changer(int signo, siginfo_t* info, void* context) {
  (void)signo, (void)info;
  g_change(((ucontext_t*)context)->uc_mcontext.gregs);
}

static int signal_after(void (*change)(greg_t*)) {
  struct sigaction act = {.sa_sigaction = changer, .sa_flags = SA_SIGINFO};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  g_change = change;
  return SIGNAL_OF(raise(SIGUSR1));
}

static void rip_not_canonical(greg_t* r) { r[REG_RIP] = (greg_t)(1ul << 63); }
static void rip_at_half(greg_t* r) { r[REG_RIP] = (greg_t)HALF; }
static void rip_in_upper_half(greg_t* r) { r[REG_RIP] = (greg_t)0xffffff0000000000ul; }
static void rip_above_limit(greg_t* r) { r[REG_RIP] = (greg_t)(LIMIT + 0x123000); }
static void rip_is_rcx_above_limit(greg_t* r) {
  r[REG_RIP] = r[REG_RCX] = (greg_t)(HALF - 4096);
  r[REG_R11] = r[REG_EFL];
}
static void rip_is_rcx_not_canonical(greg_t* r) {
  r[REG_RIP] = r[REG_RCX] = (greg_t)HALF;
  r[REG_R11] = r[REG_EFL];
}

TEST(signal_returns_to_odd_places) {
  catch_all();
  CHECK_EQ(signal_after(rip_not_canonical), SIGSEGV);
  CHECK_EQ(signal_after(rip_at_half), SIGSEGV);
  CHECK_EQ(signal_after(rip_in_upper_half), SIGSEGV);
  CHECK_EQ(signal_after(rip_above_limit), SIGSEGV);
  CHECK_EQ(signal_after(rip_is_rcx_above_limit), SIGSEGV);
  CHECK_EQ(signal_after(rip_is_rcx_not_canonical), SIGSEGV);
}

static void rip_bad_and_stack_bad(greg_t* r) {
  r[REG_RIP] = (greg_t)HALF;
  r[REG_RSP] = (greg_t)(1ul << 63);
}
static void all_flags(greg_t* r) { r[REG_EFL] = (greg_t)(0x3f7fd7 & ~0x40100); }
static void no_flags(greg_t* r) { r[REG_EFL] = 0; }

TEST(signal_returns_with_odd_stacks_and_flags) {
  catch_all();
  CHECK_EQ(signal_after(rip_bad_and_stack_bad), SIGSEGV);
  // I/O privilege, virtual interrupts and the interrupt flag are not a program's to set.
  void (*const changes[])(greg_t*) = {all_flags, no_flags};
  for (int i = 0; i < 2; i++) {
    uint64_t flags;
    CHECK_EQ(signal_after(changes[i]), 0);
    __asm__ volatile("cld\n pushfq\n pop %0" : "=r"(flags));
    CHECK_EQ(flags & 0x1a3200, 0x200);
    CHECK_EQ(SIGNAL_OF(__asm__ volatile("cli")), SIGSEGV);
  }
}

static volatile int g_steps;
static void on_step(int signo, siginfo_t* info, void* context) {
  (void)signo, (void)info, (void)context;
  g_steps++;
}

// The trap flag must be off in the kernel, and on again behind each call.
TEST(single_steps_across_system_calls) {
  struct sigaction act = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
  CHECK_EQ(sigaction(SIGTRAP, &act, NULL), 0);
  long pid = 0;
  for (int i = 0; i < 200; i++) {
    g_steps = 0;
    __asm__ volatile(
        "sub $256, %%rsp\n pushfq\n orl $0x100, (%%rsp)\n popfq\n"
        "mov %1, %%eax\n syscall\n nop\n"
        "pushfq\n andl $~0x100, (%%rsp)\n popfq\n add $256, %%rsp\n"
        : "=&a"(pid)
        : "i"(SYS_getpid)
        : "rcx", "r11", "memory", "cc");
    CHECK_EQ(pid, getpid());
    CHECK_EQ(g_steps, 5);  // the one after SYSCALL comes behind the next instruction
  }
}

// Faults while the kernel reads arguments, and a stack pointer that no handler can be pushed to.
TEST(system_calls_on_memory_of_others) {
  static const uint64_t places[] = {LIMIT, LIMIT + 0x200000, 0xffffff0000000000, 1ul << 63, ~0ul - 16};
  int p[2];
  CHECK_EQ(pipe(p), 0);
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    if (mine(places[i])) continue;
    CHECK_ERRNO(write(p[1], (void*)places[i], 8), EFAULT);
    CHECK_EQ(write(p[1], "x", 1), 1);
    CHECK_ERRNO(read(p[0], (void*)places[i], 8), EFAULT);
    char c;
    CHECK_EQ(read(p[0], &c, 1), 1);
    CHECK_ERRNO(syscall(SYS_futex, (int*)(places[i] & ~3ul), 0, 0, NULL, NULL, 0), EFAULT);
  }
}

TEST(no_handler_without_a_stack) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    stack_t none = {.ss_flags = SS_DISABLE};
    sigaltstack(&none, NULL);
    struct sigaction act = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &act, NULL);
    __asm__ volatile("mov %0, %%rsp\n push %%rax" ::"r"(LIMIT + 0x1000));
    _exit(0);
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(WTERMSIG(status), SIGSEGV);
}
