// The trap platform keeps a few pages of its own in the address space of guest code (src/trap/layout.h, docs/trap.md).
// Guest code can jump to any instruction there and write to the Areas. Whatever it does, it makes no system call but
// those that its kernel knows of, and spoils nothing but its own process. Where there are no such pages (natively, on
// other platforms) they are merely out of reach, and most of this is skipped.
#include "catch_signals.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define TEXT 0x700000001000ul
#define TEXT_SIZE 0x4000ul
#define CONST 0x700000100000ul
#define WAKE 0x700000200000ul
#define COMMAND 0x700000300000ul
#define AREAS 0x700010000000ul
#define AREA_SIZE 0x10000ul
#define END 0x700090000000ul

// Offsets in an Area.
enum {
  kState = 0,
  kAction = 64,
  kStepAside = 68,
  kFpLoad = 72,
  kFsBase = 80,
  kGsBase = 88,
  kSpin = 96,
  kSelf = 128,
  kStackTop = 136,
  kWakeWord = 144,
  kLastWake = 160,
  kKickPending = 164,
  kTid = 168,
  kSleeping = 192,
  kSentrySleeps = 200,
  kRegs = 256,
  kSigno = 472,
  kCode = 476,
  kAddress = 480,
  kVector = 488,
  kError = 496,
  kCr2 = 504,
  kIret = 512,
  kFpImage = 552,
  kAltStack = 576,
  kFp = 0x1000,
  kSignalStack = 0x6000
};
enum { kTrapped = 1, kCalled = 2 };

static volatile uint64_t g_rax;
static volatile uint64_t g_step_at;  // a trap here is not the last one

static void caught(int signo, siginfo_t* info, void* context) {
  (void)info;
  ucontext_t* u = context;
  g_signal = signo;
  g_rax = (uint64_t)u->uc_mcontext.gregs[REG_RAX];
  if (signo == SIGTRAP && (uint64_t)u->uc_mcontext.gregs[REG_RIP] == g_step_at) return;
  // The stub's code may have taken them.
  u->uc_mcontext.gregs[REG_EFL] &= ~0x100;
  siglongjmp(g_jump, 1);
}

static int readable(uint64_t at) { return SIGNAL_OF(READ(at)) == 0; }

static void need_stub(void) {
  catch_all();
  if (readable(TEXT)) return;
  const char* platform = getenv("RF_TEST_PLATFORM");
  CHECK(!platform || strcmp(platform, "trap") != 0);
  SKIP("there are no stub's pages");
}

// Another thread's Area has its own address in it.
static int find_areas(uint64_t* areas, int most) {
  int n = 0;
  for (uint64_t at = AREAS; at < AREAS + 1024 * AREA_SIZE && n < most; at += AREA_SIZE)
    if (readable(at) && *(uint64_t*)(at + kSelf) == at) areas[n++] = at;
  return n;
}

static uint64_t own_area(void) {
  uint64_t at;
  if (SIGNAL_OF(__asm__ volatile("mov %%gs:128, %0" : "=r"(at))) != 0)
    test_fail_(__FILE__, __LINE__, "no Area at gs: signal %d", g_signal);
  CHECK(at >= AREAS && at < END && at % AREA_SIZE == 0);
  return at;
}

#define FIELD(area, offset) (*(volatile uint64_t*)((area) + (offset)))
#define FIELD32(area, offset) (*(volatile uint32_t*)((area) + (offset)))

// Still there after whatever was done: the kernel answers, and other processes run.
static void check_alive(void) {
  CHECK_EQ(syscall(SYS_getpid), getpid());
  IN_CHILD({ CHECK_EQ(syscall(SYS_getppid), getppid()); });
}

// Runs `body` in a child that may end in any way, but has to end: by itself or by SIGKILL.
static int in_wild_child(void (*body)(void*), void* argument, long patience_ms) {
  fflush(stdout);
  const pid_t child = CHECK_OK(fork());
  if (child == 0) {
    body(argument);
    _exit(0);
  }
  int status = 0;
  for (long waited = 0; waitpid(child, &status, WNOHANG) == 0; waited += 10) {
    if (waited >= patience_ms) CHECK_EQ(kill(child, SIGKILL), 0);
    CHECK(waited < patience_ms + 30000);
    sleep_ms(10);
  }
  return status;
}

TEST(mapping_calls_are_refused) {
  const uint64_t places[] = {TEXT, CONST, WAKE, COMMAND, AREAS, AREAS + AREA_SIZE, END - kPage, TEXT - kPage};
  char* mine = (char*)map_anonymous(4);
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    void* at = (void*)places[i];
    if (!find_map(at, &(map_line){0})) {
      // Beyond the task's addresses, or nothing there: in neither case is anything changed.
      const int in_reach = places[i] < TEXT;
      catch_all();
      const int before = readable(places[i]);
      void* p = mmap(at, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      if (p != MAP_FAILED) {  // natively these are addresses as good as others
        if (!in_reach) CHECK(!before);
        CHECK_EQ(munmap(p, 2 * kPage), 0);
        continue;
      }
      if (in_reach) continue;
      CHECK_ERRNO(mprotect(at, kPage, PROT_READ | PROT_WRITE | PROT_EXEC), ENOMEM);
      CHECK((long)mremap(mine, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, at) == -1);
      CHECK((long)mremap(at, kPage, 2 * kPage, MREMAP_MAYMOVE) == -1);
      CHECK(madvise(at, kPage, MADV_DONTNEED) == -1);
      munmap(at, kPage);
      CHECK_EQ(readable(places[i]), before);
    }
  }
  CHECK_EQ(munmap(mine, 4 * kPage), 0);
}

TEST(what_is_read_only_stays_so) {
  need_stub();
  const uint64_t places[] = {TEXT, TEXT + TEXT_SIZE - 8, CONST, WAKE, WAKE + 0x10000, COMMAND, COMMAND + 64};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    CHECK_EQ(SIGNAL_OF(READ(places[i])), 0);
    CHECK_EQ(SIGNAL_OF(WRITE(places[i], 1)), SIGSEGV);
    CHECK_EQ(SIGNAL_OF(__asm__ volatile("lock incq (%0)" ::"r"(places[i]) : "memory")), SIGSEGV);
    if (places[i] >= CONST) CHECK_EQ(SIGNAL_OF(((void (*)(void))places[i])()), SIGSEGV);
    // The kernel's copies do not reach them either.
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    CHECK_ERRNO(write(ends[1], (void*)places[i], 8), EFAULT);
    CHECK_EQ(write(ends[1], "12345678", 8), 8);
    CHECK_ERRNO(read(ends[0], (void*)places[i], 8), EFAULT);
    close(ends[0]), close(ends[1]);
  }
  const uint64_t area = own_area();
  CHECK_EQ(SIGNAL_OF(((void (*)(void))area)()), SIGSEGV);  // data
}

// Of the pages only this process's Areas, and nothing of other processes or the kernel, are mapped.
TEST(nothing_else_is_mapped) {
  need_stub();
  uint64_t areas[64];
  CHECK_EQ(find_areas(areas, 64), 1);
  for (uint64_t at = TEXT; at < AREAS; at += 16 * kPage) {
    const int known = at == TEXT || at == CONST || at == COMMAND || (at >= WAKE && at < WAKE + 0x20000);
    CHECK_EQ(readable(at), known);
  }
  for (uint64_t at = END; at < 0x800000000000ul; at += (1ul << 30) - kPage) CHECK(!readable(at));
}

// Makes the call by a `syscall` instruction of the stub's, and stops after it and, on the trap platform, the
// instruction behind it: the trap flag is set.
static long call_from_stub(uint64_t at, long number, uint64_t a, uint64_t b, uint64_t c) {
  g_rax = ~0ul;
  g_step_at = at;
  const int signo = SIGNAL_OF({
    register uint64_t r10 __asm__("r10") = 0;
    register uint64_t r8 __asm__("r8") = ~0ul;
    register uint64_t r9 __asm__("r9") = 0;
    __asm__ volatile("pushfq\n orq $0x100, (%%rsp)\n popfq\n jmp *%[at]\n"
                     :
                     : [at] "r"(at), "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
  });
  CHECK(signo != 0);
  return (long)g_rax;
}

// Those behind which the result is still there: what follows is a jump, TEST, ADD, or MOV to another register.
static int find_syscalls(uint64_t* places, int most) {
  int n = 0;
  for (uint64_t at = TEXT; at < TEXT + TEXT_SIZE - 3 && n < most; at++) {
    const unsigned char* code = (unsigned char*)at;
    if (code[0] == 0x0f && code[1] == 0x05 &&
        (memchr("\xe9\xeb\x85\xbf", code[2], 4) || memcmp(code + 2, "\x48\x85", 2) == 0))
      places[n++] = at;
  }
  return n;
}

static void exit_from_stub(void* at) { call_from_stub((uint64_t)at, SYS_exit_group, 77, 0, 0); }

// Each one, aligned or not, is a way to this kernel alone.
TEST(syscall_instructions) {
  need_stub();
  uint64_t places[64];
  const int n = find_syscalls(places, 64);
  CHECK(n > 3);
  char text[] = "ESCAPED";
  for (int i = 0; i < n; i++) {
    const uint64_t at = places[i];
    CHECK_EQ(call_from_stub(at, SYS_getpid, 0, 0, 0), getpid());
    CHECK_EQ(call_from_stub(at, SYS_getppid, 0, 0, 0), getppid());
    CHECK_EQ(call_from_stub(at, SYS_getuid, 0, 0, 0), getuid());
    // The host's descriptors are not ours: above ours there are none.
    for (int fd = 100; fd < 400; fd += i == 0 ? 1 : 37) {
      CHECK_EQ(call_from_stub(at, SYS_write, (uint64_t)fd, (uint64_t)text, 7), -EBADF);
      CHECK_EQ(call_from_stub(at, SYS_fcntl, (uint64_t)fd, F_GETFL, 0), -EBADF);
      CHECK_EQ(call_from_stub(at, SYS_close, (uint64_t)fd, 0, 0), -EBADF);
    }
    CHECK_EQ(call_from_stub(at, SYS_kill, 999999, 9, 0), -ESRCH);
    CHECK_EQ(call_from_stub(at, SYS_tgkill, *(uint32_t*)CONST, *(uint32_t*)CONST, 0), -ESRCH);  // the sentry's pid
    const pid_t child = (pid_t)call_from_stub(at, SYS_fork, 0, 0, 0);
    if (child == 0) _exit(3);  // it took the trap, too
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(call_from_stub(at, SYS_munmap, TEXT, TEXT_SIZE, 0), -EINVAL);
    CHECK_EQ(call_from_stub(at, SYS_mprotect, TEXT, TEXT_SIZE, PROT_READ | PROT_WRITE), -ENOMEM);
    CHECK_EQ(call_from_stub(at, SYS_mmap, TEXT - kPage, 2 * kPage, PROT_READ), -EBADF);  // r8: no descriptor
    CHECK_EQ(call_from_stub(at, SYS_prctl, PR_SET_NAME, (uint64_t)text, 0), 0);
    char name[16];
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_STR(name, text);
    CHECK_EQ(call_from_stub(at, SYS_rt_sigreturn + 100000, 0, 0, 0), -ENOSYS);
    CHECK_EQ(WEXITSTATUS(in_wild_child(exit_from_stub, (void*)at, 10000)), 77);
  }
  // The documented exceptions: to wait and to wake (a word that nobody waits on), to yield, to choose among the CPUs
  // for oneself (none of a set of no bytes), and the bases.
  CHECK_EQ(call_from_stub(places[0], SYS_sched_yield, 0, 0, 0), 0);
  CHECK_EQ(call_from_stub(places[0], SYS_sched_setaffinity, 0, 0, 0), -EINVAL);
  uint32_t word = 5;
  CHECK_EQ(call_from_stub(places[0], SYS_futex, (uint64_t)&word, 1 /* FUTEX_WAKE */, 1), 0);
  CHECK_EQ(call_from_stub(places[0], SYS_futex, (uint64_t)&word, 0 /* FUTEX_WAIT */, 6), -EAGAIN);
  CHECK_EQ(call_from_stub(places[0], SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, own_area(), 0), 0);
  check_alive();
}

// --- Jumps -------------------------------------------------------------------------------------------

typedef struct {
  volatile uint64_t next;    // the offset to jump to
  volatile uint64_t values;  // which registers
} progress;

static void jump_to(uint64_t at, uint64_t value, uint64_t stack) {
  __asm__ volatile(
      "mov %[stack], %%rsp\n mov %[at], %%rcx\n mov %[value], %%rax\n"
      "mov %%rax, %%rbx\n mov %%rax, %%rdx\n mov %%rax, %%rsi\n mov %%rax, %%rdi\n mov %%rax, %%rbp\n"
      "mov %%rax, %%r8\n mov %%rax, %%r9\n mov %%rax, %%r10\n mov %%rax, %%r11\n mov %%rax, %%r12\n"
      "mov %%rax, %%r13\n mov %%rax, %%r14\n mov %%rax, %%r15\n jmp *%%rcx\n"
      :
      : [at] "r"(at), [value] "r"(value), [stack] "r"(stack)
      : "memory");
  __builtin_unreachable();
}

static void jump_on(void* argument) {
  progress* p = argument;
  static uint64_t scratch[65536 / 8];
  // A jump may lead back into the program, which then has much to complain about.
  dup2(open("/dev/null", O_RDWR), STDOUT_FILENO);
  catch_all();
  // So that what spins in the stub's code ends by itself.
  struct rlimit limit = {2, 3};
  setrlimit(RLIMIT_CPU, &limit);
  const uint64_t area = own_area();
  while (p->next < TEXT_SIZE) {
    const uint64_t at = TEXT + p->next++;
    const uint64_t values[] = {0, area, (uint64_t)scratch, SYS_getpid, AREAS + AREA_SIZE * 2};
    const uint64_t value = values[p->values];
    uint64_t stack = value == area ? area + AREA_SIZE - 512 : (uint64_t)scratch + sizeof scratch - 4096;
    (void)SIGNAL_OF(jump_to(at, value, stack));
  }
}

static void jump_everywhere(uint64_t values) {
  need_stub();
  // The code ends somewhere in the pages; behind it are zeros, of which a few will do.
  uint64_t end = TEXT_SIZE;
  while (end > 16 && *(uint64_t*)(TEXT + end - 8) == 0) end -= 8;
  progress* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  p->values = values;
  enum { kMost = 4096 };
  static pid_t children[kMost];
  int n = 0;
  while (p->next < end + 64) {
    CHECK(n < kMost);
    const pid_t child = children[n] = CHECK_OK(fork());
    if (child == 0) {
      jump_on(p);
      _exit(0);
    }
    uint64_t seen = p->next;
    int still = 0;
    // It dies, or hangs: then another goes on behind it.
    while (waitpid(child, NULL, WNOHANG) == 0) {
      sleep_ms(1);
      still = p->next == seen ? still + 1 : 0;
      seen = p->next;
      if (still == 25 || seen >= end + 64) {
        CHECK_EQ(kill(child, SIGKILL), 0);
        n++;
        break;
      }
    }
  }
  for (int i = 0; i < n; i++) CHECK_EQ(waitpid(children[i], NULL, 0), children[i]);
  check_alive();
}

TEST(jumps_with_zeros) { jump_everywhere(0); }
TEST(jumps_with_the_area) { jump_everywhere(1); }
TEST(jumps_with_memory) { jump_everywhere(2); }
TEST(jumps_with_numbers_of_calls) { jump_everywhere(3); }
TEST(jumps_with_another_area) { jump_everywhere(4); }

// --- Areas --------------------------------------------------------------------------------------------

// A thread that makes system calls, faults and uses vector registers while another spoils its Area.
typedef struct {
  uint64_t offset, length;  // what is spoiled
  const uint64_t* values;   // by these, or by random ones
  int count, own;
} spoiler;

static void* busy(void* argument) {
  (void)argument;
  uint64_t sum = 0;
  for (int i = 0;; i++) {
    sum += (uint64_t)syscall(SYS_getppid) + (uint64_t)syscall(SYS_gettid);
    char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) *p = (char)sum, munmap(p, kPage);
    if (i % 8 == 0) sched_yield();
    if (i % 64 == 0) kill(getpid(), SIGURG);
    if (i % 256 == 0) {
      const pid_t child = fork();
      if (child == 0) _exit(0);
      if (child > 0) waitpid(child, NULL, 0);
    }
  }
  return NULL;
}

static void no_op(int signo) { (void)signo; }

static void spoil(void* argument) {
  const spoiler* s = argument;
  dup2(open("/dev/null", O_RDWR), STDOUT_FILENO);
  struct rlimit limit = {2, 3};
  setrlimit(RLIMIT_CPU, &limit);
  signal(SIGURG, no_op);
  catch_all();
  const uint64_t own = own_area();
  pthread_t threads[2];
  for (int i = 0; i < 2; i++)
    if (pthread_create(&threads[i], NULL, busy, NULL) != 0) _exit(1);
  uint64_t areas[16];
  int n = 0;
  for (int tries = 0; tries < 50 && n < 3; tries++) n = find_areas(areas, 16), sleep_ms(1);
  signal(SIGSEGV, SIG_DFL);
  uint64_t random = 88172645463325252ul + s->offset;
  const int64_t end = now_ns() + 300 * 1000000;
  for (int round = 0; now_ns() < end; round++) {
    for (int i = 0; i < n; i++) {
      if (areas[i] == own && !s->own) continue;
      for (uint64_t at = s->offset; at < s->offset + s->length; at += 4) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        const uint64_t v = s->count ? s->values[random % (unsigned)s->count] : random;
        if (s->length <= 4)
          FIELD32(areas[i], at) = (uint32_t)v;
        else if (at % 8 == 0)
          FIELD(areas[i], at) = v;
      }
    }
    if (s->own) syscall(SYS_getppid);
  }
  _exit(0);
}

static void check_spoiling(uint64_t offset, uint64_t length, int own, const uint64_t* values, int count) {
  need_stub();
  spoiler s = {offset, length, values, count, own};
  in_wild_child(spoil, &s, 1500);
  check_alive();
}

#define VALUES(...) (const uint64_t[]){__VA_ARGS__}, sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)
#define ANYTHING NULL, 0

TEST(spoil_state_with_states) { check_spoiling(kState, 4, 1, VALUES(0, 1, 2, 3, 4, 5, 0x80000000, 0x80000001)); }
TEST(spoil_state_with_anything) { check_spoiling(kState, 4, 1, ANYTHING); }
TEST(forge_called) { check_spoiling(kState, 4, 0, VALUES(kCalled)); }
TEST(forge_trapped) { check_spoiling(kState, 4, 0, VALUES(kTrapped)); }
TEST(spoil_sentry_sleeps) { check_spoiling(kSentrySleeps, 4, 1, VALUES(0, 1, ~0ul)); }
TEST(spoil_action) { check_spoiling(kAction, 4, 1, VALUES(0, 1, 2, 3, 4, ~0ul)); }
TEST(spoil_kick_pending) { check_spoiling(kKickPending, 4, 1, VALUES(0, 1)); }
TEST(spoil_step_aside) { check_spoiling(kStepAside, 4, 1, ANYTHING); }
TEST(spoil_fp_load) { check_spoiling(kFpLoad, 8, 1, ANYTHING); }
TEST(spoil_bases) { check_spoiling(kFsBase, 16, 1, ANYTHING); }
TEST(spoil_spin_cycles) { check_spoiling(kSpin, 8, 1, VALUES(0, ~0ul, 1ul << 63)); }
TEST(spoil_pointers) { check_spoiling(kSelf, 32, 1, ANYTHING); }
TEST(spoil_last_wake) { check_spoiling(kLastWake, 4, 1, ANYTHING); }
TEST(spoil_sleeping) { check_spoiling(kSleeping, 4, 1, VALUES(0, 1)); }
TEST(spoil_tid) { check_spoiling(kTid, 4, 1, ANYTHING); }
TEST(spoil_registers) { check_spoiling(kRegs, 216, 1, ANYTHING); }
TEST(spoil_signal) { check_spoiling(kSigno, 40, 1, ANYTHING); }
TEST(spoil_signal_number) {
  check_spoiling(kSigno, 4, 1, VALUES(0, 5, 8, 9, 11, 19, 31, 32, 64, 65, 1000, 0x7fffffff, 0xffffffff));
}
TEST(spoil_iret_frame) { check_spoiling(kIret, 40, 1, ANYTHING); }
TEST(spoil_fp_image_place) { check_spoiling(kFpImage, 8, 1, ANYTHING); }
TEST(spoil_alt_stack) { check_spoiling(kAltStack, 32, 1, ANYTHING); }
TEST(spoil_vector_state) { check_spoiling(kFp, 0x400, 1, ANYTHING); }
TEST(spoil_signal_stack) { check_spoiling(kSignalStack, AREA_SIZE - kSignalStack, 1, ANYTHING); }
TEST(spoil_everything) { check_spoiling(0, AREA_SIZE, 1, ANYTHING); }

// The trapped thread's story is forged in full by another one: faults, signals and calls that never were.
static void* forge(void* argument) {
  const uint64_t area = *(uint64_t*)argument;
  static const int signals[] = {0, 1, 5, 7, 8, 9, 10, 11, 19, 31, 33, 64, 65, 100, 1 << 20, 0x7fffffff, -1, -100000};
  static const uint64_t addresses[] = {
      0, 8, TEXT, COMMAND, TEXT - 1, ~0ul, 0x800000000000, 1ul << 63, 0xffffffff80000000};
  for (unsigned i = 0;; i++) {
    FIELD32(area, kSigno) = (uint32_t)signals[i % 18];
    FIELD32(area, kCode) = i % 5 * 0x40;
    FIELD(area, kAddress) = i % 7 == 0 ? 0xc000003e : addresses[i % 9];
    FIELD(area, kVector) = i % 3 ? 14 : i % 256;
    FIELD(area, kError) = i % 64;
    FIELD(area, kCr2) = addresses[(i + 4) % 9];
    FIELD(area, kFpImage) = area + (i % 2 ? 0x1040 : 0xf000 + i % 0x1000);
    FIELD(area, kRegs + 128) = addresses[i % 9];
    FIELD(area, kRegs + 80) = i % 500;
    __atomic_store_n((uint32_t*)area, kTrapped, __ATOMIC_SEQ_CST);
    if (__atomic_exchange_n((uint32_t*)(area + kSentrySleeps), 0, __ATOMIC_SEQ_CST) != 0) {
      // The kernel sleeps: wake it up, as the stub does.
      uint64_t places[1];
      if (find_syscalls(places, 1)) call_from_stub(places[0], SYS_futex, area + kSentrySleeps, 1, 1);
    }
  }
  return NULL;
}

static void forging(void* argument) {
  (void)argument;
  struct rlimit limit = {2, 3};
  setrlimit(RLIMIT_CPU, &limit);
  catch_all();
  uint64_t own = own_area();
  pthread_t thread;
  if (pthread_create(&thread, NULL, forge, &own) != 0) _exit(1);
  for (volatile int i = 0;; i++)
    if (i % 100000 == 0) syscall(SYS_getppid);
}

TEST(forge_whole_traps) {
  need_stub();
  for (int i = 0; i < 3; i++) in_wild_child(forging, NULL, 1000);
  check_alive();
}

// A thread that says of itself that it has called exit_group, and runs on.
_Noreturn static void live_on(volatile uint64_t* counter) {
  const uint64_t area = own_area();
  syscall(SYS_getppid);
  FIELD32(area, kSigno) = SIGSYS;
  FIELD(area, kAddress) = 0xc000003e;
  FIELD(area, kRegs + 80) = SYS_exit_group;
  FIELD(area, kRegs + 112) = 5;
  // A kernel that sleeps would not see it.
  if (__atomic_load_n((uint32_t*)(area + kSentrySleeps), __ATOMIC_SEQ_CST) != 0) _exit(6);
  __atomic_store_n((uint32_t*)area, kTrapped, __ATOMIC_SEQ_CST);
  for (long i = 0; i < 50000000; i++) (*counter)++;
  _exit(6);  // a kick came in between, and the thread has really stopped once
}

// What it can reach is not its any more when the parent hears of its end.
TEST(memory_is_gone_before_the_end_is_known) {
  need_stub();
  volatile uint64_t* counter = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(counter != MAP_FAILED);
  int lived_on = 0;
  for (int i = 0; i < 100 && lived_on < 10; i++) {
    const pid_t child = CHECK_OK(fork());
    if (child == 0) live_on(counter);
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    const uint64_t at_end = *counter;
    sleep_ms(10);
    CHECK_EQ(*counter, at_end);
    lived_on += WIFEXITED(status) && WEXITSTATUS(status) == 5;
  }
  CHECK(lived_on > 0);
  check_alive();
}

// --- Hanging ------------------------------------------------------------------------------------------

static void hang_in_futex(void* argument) {
  (void)argument;
  catch_all();
  static uint32_t word;
  uint64_t places[64];
  find_syscalls(places, 64);
  // What the stub does behind its first calls is of no interest: whatever happens, wait again.
  for (;;) call_from_stub(places[0], SYS_futex, (uint64_t)&word, 0, 0);
}

// In the waiting loop, which is all in the stub's code, for a word that never changes: a kick does not get it out.
static void hang_in_wait(void* argument) {
  (void)argument;
  catch_all();
  const uint64_t area = own_area();
  static uint32_t word = 1;
  FIELD32(area, kLastWake) = 1;
  FIELD(area, kWakeWord) = (uint64_t)&word;
  FIELD(area, kSpin) = ~0ul >> 2;
  for (uint64_t at = TEXT; at < TEXT + TEXT_SIZE; at++) (void)SIGNAL_OF(jump_to(at, area, area + AREA_SIZE - 512));
}

// Others are served while such processes are waited for.
static void check_others_go_on(void (*body)(void*), int count) {
  need_stub();
  fflush(stdout);
  pid_t children[16];
  for (int i = 0; i < count; i++) {
    children[i] = CHECK_OK(fork());
    if (children[i] == 0) {
      body(NULL);
      _exit(0);
    }
  }
  sleep_ms(100);
  int64_t longest = 0;
  for (int i = 0; i < count; i++) kill(children[i], SIGKILL);
  int left = count;
  const int64_t end = now_ns() + 40 * 1000000000ll;
  while (left && now_ns() < end) {
    const int64_t begin = now_ns();
    IN_CHILD({ syscall(SYS_getppid); });
    const int64_t took = now_ns() - begin;
    if (took > longest) longest = took;
    while (left && waitpid(-1, NULL, WNOHANG) > 0) left--;
    sleep_ms(5);
  }
  CHECK_EQ(left, 0);
  // A hang is noticed after five seconds; nobody else has to wait for that.
  CHECK(longest < 4000 * 1000000ll);
}

TEST(hang_in_futex_is_killed) { check_others_go_on(hang_in_futex, 8); }
TEST(hang_in_wait_is_killed) { check_others_go_on(hang_in_wait, 8); }
