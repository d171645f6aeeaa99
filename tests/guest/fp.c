// Vector and x87 state: kept over system calls, signals, preemption and fork, and new at start.
#include "check.h"

#include <cpuid.h>
#include <pthread.h>
#include <sched.h>
#include <sys/time.h>
#include <sys/ucontext.h>

static uint64_t xcr0(void) {
  uint32_t a, b, c, d;
  __cpuid(1, a, b, c, d);
  if (!(c & (1u << 27))) return 3;  // no OSXSAVE
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (uint64_t)d << 32 | a;
}
static int has_avx(void) { return (xcr0() & 6) == 6; }
static int has_avx512(void) {
  uint32_t a, b, c, d;
  __cpuid_count(7, 0, a, b, c, d);
  return (xcr0() & 0xe6) == 0xe6 && (b & (1u << 16));
}

typedef struct {
  unsigned char bytes[32][64];
} vectors;

static void pattern(vectors* v, unsigned seed) {
  for (unsigned i = 0; i < 32; i++)
    for (unsigned j = 0; j < 64; j++) v->bytes[i][j] = (unsigned char)(seed * 131 + i * 17 + j * 3 + 1);
}

// Each loads 16 (or 32) registers, runs for a while without touching them, and stores them again.
#define EACH16(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)
#define EACH32(M) \
  EACH16(M) M(16) M(17) M(18) M(19) M(20) M(21) M(22) M(23) M(24) M(25) M(26) M(27) M(28) M(29) M(30) M(31)
#define LOAD_X(n) "movups " #n "*64(%0), %%xmm" #n "\n"
#define STORE_X(n) "movups %%xmm" #n ", " #n "*64(%1)\n"
#define LOAD_Y(n) "vmovups " #n "*64(%0), %%ymm" #n "\n"
#define STORE_Y(n) "vmovups %%ymm" #n ", " #n "*64(%1)\n"
#define LOAD_Z(n) "vmovups " #n "*64(%0), %%zmm" #n "\n"
#define STORE_Z(n) "vmovups %%zmm" #n ", " #n "*64(%1)\n"
#define CLOBBER16                                                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
      "xmm14", "xmm15"

enum { kSyscall = -1 };  // instead of a loop count: make a getpid in between

#define MIDDLE                                                                                    \
  "mov %2, %%rax\n cmp $-1, %%rax\n je 2f\n 1: dec %%rax\n jnz 1b\n jmp 3f\n 2: mov $39, %%eax\n" \
  " syscall\n 3:\n"

static void hold_sse(const vectors* in, vectors* out, long loops) {
  __asm__ volatile(EACH16(LOAD_X) MIDDLE EACH16(STORE_X)::"r"(in), "r"(out), "r"(loops)
                   : "rax", "rcx", "r11", "memory", CLOBBER16);
}
__attribute__((target("avx"))) static void hold_avx(const vectors* in, vectors* out, long loops) {
  __asm__ volatile(EACH16(LOAD_Y) MIDDLE EACH16(STORE_Y) "vzeroupper\n" ::"r"(in), "r"(out), "r"(loops)
                   : "rax", "rcx", "r11", "memory", CLOBBER16);
}
__attribute__((target("avx512f"))) static void hold_avx512(const vectors* in, vectors* out, long loops) {
  // The mask registers are kept too.
  uint64_t good;
  __asm__ volatile("mov $0x5aa5, %%eax\n kmovw %%eax, %%k1\n mov $0x1234, %%eax\n kmovw %%eax, %%k7\n" EACH32(LOAD_Z)
                       MIDDLE EACH32(STORE_Z) "kmovw %%k1, %%eax\n sub $0x5aa5, %%eax\n kmovw %%k7, %%ecx\n"
                                              "sub $0x1234, %%ecx\n or %%ecx, %%eax\n mov %%rax, %3\n vzeroupper\n"
                   :
                   : "r"(in), "r"(out), "r"(loops), "m"(good)
                   : "rax", "rcx", "r11", "memory", "k1", "k7", CLOBBER16, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20",
                     "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
  CHECK_EQ(good, 0);
}

static void check_vectors(const vectors* in, const vectors* out, int count, int width) {
  for (int i = 0; i < count; i++)
    if (memcmp(in->bytes[i], out->bytes[i], (size_t)width) != 0)
      test_fail_(__FILE__, __LINE__, "register %d of width %d changed", i, width);
}

static void hold_and_check(unsigned seed, long loops) {
  static __thread vectors in, out;
  pattern(&in, seed);
  hold_sse(&in, &out, loops);
  check_vectors(&in, &out, 16, 16);
  if (has_avx()) {
    hold_avx(&in, &out, loops);
    check_vectors(&in, &out, 16, 32);
  }
  if (has_avx512()) {
    hold_avx512(&in, &out, loops);
    check_vectors(&in, &out, 32, 64);
  }
}

TEST(kept_over_system_calls) {
  for (unsigned i = 0; i < 2000; i++) hold_and_check(i, kSyscall);
}

static volatile sig_atomic_t g_signals;
static void clobber_in_handler(int signo) {
  (void)signo;
  static __thread vectors in, out;
  pattern(&in, 0xdead);
  hold_sse(&in, &out, 1);
  if (has_avx()) hold_avx(&in, &out, 1);
  if (has_avx512()) hold_avx512(&in, &out, 1);
  __asm__ volatile("fninit\n fld1\n fld1\n fld1\n");
  g_signals++;
}

static void tick(long microseconds) {
  struct sigaction act = {.sa_handler = clobber_in_handler, .sa_flags = SA_RESTART};
  CHECK_EQ(sigaction(SIGALRM, &act, NULL), 0);
  struct itimerval t = {{0, microseconds}, {0, microseconds}};
  CHECK_EQ(setitimer(ITIMER_REAL, &t, NULL), 0);
}

TEST(kept_over_signal_handlers) {
  tick(1000);
  int64_t end = now_ns() + 500000000;
  for (unsigned i = 0; now_ns() < end; i++) hold_and_check(i, 100000);
  CHECK(g_signals > 20);
}

static void* hold_in_thread(void* arg) {
  int64_t end = now_ns() + 1000000000;
  for (unsigned i = 0; now_ns() < end; i++) {
    hold_and_check((unsigned)(uintptr_t)arg * 1000 + i, 200000);
    if (i % 16 == 0) sched_yield();
  }
  return NULL;
}

TEST(kept_over_preemption_by_other_threads) {
  pthread_t t[12];
  for (uintptr_t i = 0; i < 12; i++) CHECK_EQ(pthread_create(&t[i], NULL, hold_in_thread, (void*)i), 0);
  for (int i = 0; i < 12; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
}

TEST(kept_over_preemption_by_other_processes) {
  pid_t pids[6];
  for (uintptr_t i = 0; i < 6; i++) {
    pids[i] = CHECK_OK(fork());
    if (pids[i] == 0) {
      tick(3000);
      hold_in_thread((void*)i);
      _exit(0);
    }
  }
  for (int i = 0; i < 6; i++) CHECK_CHILD_OK(pids[i]);
}

TEST(x87_stack_and_control_are_kept) {
  tick(1000);
  int64_t end = now_ns() + 300000000;
  while (now_ns() < end) {
    double a = 0, b = 0, c = 0;
    uint16_t set = 0x27f, got = 0;  // double precision
    long loops = 100000;
    __asm__ volatile(
        "fninit\n fldcw %4\n fldpi\n fldl2e\n fldln2\n"
        "1: dec %5\n jnz 1b\n mov $39, %%eax\n syscall\n"
        "fnstcw %3\n fstpl %2\n fstpl %1\n fstpl %0\n fninit\n"
        : "=m"(a), "=m"(b), "=m"(c), "=m"(got), "+m"(set), "+r"(loops)
        :
        : "rax", "rcx", "r11", "memory", "st", "st(1)", "st(2)");
    CHECK_EQ(got, set);
    CHECK(a > 3.14159265 && a < 3.14159266);
    CHECK(b > 1.44269504 && b < 1.44269505);
    CHECK(c > 0.69314718 && c < 0.69314719);
  }
}

TEST(mxcsr_is_kept) {
  tick(1000);
  uint32_t set = 0x7fa0, got = 0;  // round to zero, with the inexact flag set
  int64_t end = now_ns() + 200000000;
  while (now_ns() < end) {
    __asm__ volatile("ldmxcsr %0" ::"m"(set));
    for (volatile int i = 0; i < 10000; i++) {
    }
    syscall(SYS_getpid);
    __asm__ volatile("stmxcsr %0" : "=m"(got));
    CHECK_EQ(got & 0xffc0, set & 0xffc0);
  }
}

static uint32_t g_handler_mxcsr;
static uint16_t g_handler_control;
static void read_control(int signo) {
  (void)signo;
  __asm__ volatile("stmxcsr %0\n fnstcw %1\n" : "=m"(g_handler_mxcsr), "=m"(g_handler_control));
}

TEST(handler_sees_the_state_in_its_frame) {
  signal(SIGUSR1, read_control);
  uint32_t set = 0x3f80;
  __asm__ volatile("ldmxcsr %0" ::"m"(set));
  CHECK_EQ(raise(SIGUSR1), 0);
  set = 0x1f80;
  __asm__ volatile("ldmxcsr %0" ::"m"(set));
  // Linux enters handlers with a fresh FP state.
  CHECK_EQ(g_handler_mxcsr, 0x1f80);
  CHECK_EQ(g_handler_control, 0x37f);
}

static volatile double g_seen;
static void change_xmm(int signo, siginfo_t* info, void* context) {
  (void)signo, (void)info;
  ucontext_t* u = context;
  double value;
  memcpy(&value, &u->uc_mcontext.fpregs->_xmm[8], sizeof value);
  g_seen = value;
  value = 99.5;
  memcpy(&u->uc_mcontext.fpregs->_xmm[8], &value, sizeof value);
}

TEST(handler_can_change_a_vector_register) {
  struct sigaction act = {.sa_sigaction = change_xmm, .sa_flags = SA_SIGINFO};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  double value = 12.25, after = 0;
  pid_t pid = getpid();
  __asm__ volatile("movsd %1, %%xmm8\n mov $62, %%eax\n mov %2, %%edi\n mov $10, %%esi\n syscall\n movsd %%xmm8, %0\n"
                   : "=m"(after)
                   : "m"(value), "r"(pid)
                   : "rax", "rdi", "rsi", "rcx", "r11", "xmm8", "memory");
  CHECK(g_seen == 12.25);
  CHECK(after == 99.5);
}

static uint32_t g_magic, g_xstate_size, g_end_magic;
static uint64_t g_xfeatures;
static void read_frame(int signo, siginfo_t* info, void* context) {
  (void)signo, (void)info;
  // struct _fpx_sw_bytes lies in the last 48 bytes of the 512-byte FXSAVE area.
  const unsigned char* area = (const unsigned char*)((ucontext_t*)context)->uc_mcontext.fpregs;
  memcpy(&g_magic, area + 464, 4);
  memcpy(&g_xfeatures, area + 472, 8);
  memcpy(&g_xstate_size, area + 480, 4);
  if (g_magic == 0x46505853) memcpy(&g_end_magic, area + g_xstate_size, 4);
}

TEST(frame_announces_extended_state) {
  struct sigaction act = {.sa_sigaction = read_frame, .sa_flags = SA_SIGINFO};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  CHECK_EQ(raise(SIGUSR1), 0);
  CHECK_EQ(g_magic, 0x46505853);      // FP_XSTATE_MAGIC1
  CHECK_EQ(g_end_magic, 0x46505845);  // FP_XSTATE_MAGIC2
  CHECK_EQ(g_xfeatures & xcr0(), xcr0());
  CHECK(g_xstate_size >= 576);
}

TEST(child_inherits_state) {
  vectors in, out;
  pattern(&in, 77);
  pid_t pid;
  __asm__ volatile(EACH16(LOAD_X) "mov $57, %%eax\n syscall\n mov %%eax, %2\n" EACH16(STORE_X)
                   :
                   : "r"(&in), "r"(&out), "m"(pid)
                   : "rax", "rcx", "r11", "memory", CLOBBER16);
  if (pid == 0) {
    check_vectors(&in, &out, 16, 16);
    _exit(0);
  }
  check_vectors(&in, &out, 16, 16);
  CHECK_CHILD_OK(pid);
}

// Started as a new program: registers of the old one must not show.
__attribute__((constructor)) static void maybe_check_fresh(int argc, char** argv) {
  if (argc < 2 || strcmp(argv[1], "check-fresh") != 0) return;
  uint32_t mxcsr;
  uint16_t control;
  __asm__ volatile("stmxcsr %0\n fnstcw %1\n" : "=m"(mxcsr), "=m"(control));
  _exit((mxcsr & 0xffc0) == 0x1f80 && control == 0x37f ? 0 : 1);
}

TEST(exec_starts_fresh) {
  IN_CHILD({
    uint32_t mxcsr = 0x7f80;
    uint16_t control = 0x27f;
    char self[256] = {0};
    CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    __asm__ volatile("ldmxcsr %0\n fldcw %1\n" ::"m"(mxcsr), "m"(control));
    execl(self, self, "check-fresh", (char*)NULL);
    _exit(2);
  });
}

TEST(cpuid_and_state_agree) {
  uint32_t a, b, c, d;
  __cpuid(1, a, b, c, d);
  CHECK(d & (1u << 26));  // SSE2
  if (c & (1u << 28)) CHECK(has_avx());
  __cpuid_count(7, 0, a, b, c, d);
  if (b & (1u << 16)) CHECK(has_avx512());
  CHECK((xcr0() & 3) == 3);
}
