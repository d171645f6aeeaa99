// Signal delivery: siginfo, masks, nesting, the alternate stack, restarts, queueing, waiting.
#include "check.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/ucontext.h>

static volatile sig_atomic_t g_count, g_order[16];
static volatile siginfo_t g_info;  // volatile: raise() is declared never to call back
static void count(int signo) {
  if (g_count < 16) g_order[g_count] = signo;
  g_count++;
}
static void record(int signo, siginfo_t* info, void* context) {
  (void)context;
  count(signo);
  g_info = *info;
}
static void handle(int signo, int flags) {
  struct sigaction act = {.sa_sigaction = record, .sa_flags = flags | SA_SIGINFO};
  CHECK_EQ(sigaction(signo, &act, NULL), 0);
}
static void mask(int how, int signo) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signo);
  CHECK_EQ(sigprocmask(how, &set, NULL), 0);
}
static int pending(int signo) {
  sigset_t set;
  CHECK_EQ(sigpending(&set), 0);
  return sigismember(&set, signo);
}

TEST(kill_carries_sender) {
  handle(SIGUSR1, 0);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  CHECK_EQ(g_count, 1);  // delivered before kill returns
  CHECK_EQ(g_info.si_signo, SIGUSR1);
  CHECK_EQ(g_info.si_code, SI_USER);
  CHECK_EQ(g_info.si_pid, getpid());
  CHECK_EQ(g_info.si_uid, getuid());
  CHECK_EQ(raise(SIGUSR1), 0);
  CHECK_EQ(g_info.si_code, SI_TKILL);
}

TEST(sigqueue_carries_a_value) {
  handle(SIGRTMIN, 0);
  CHECK_EQ(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_ptr = (void*)0x123456789ab}), 0);
  CHECK_EQ(g_info.si_code, SI_QUEUE);
  CHECK_EQ((uintptr_t)g_info.si_value.sival_ptr, 0x123456789ab);
  CHECK_EQ(g_info.si_pid, getpid());
}

TEST(realtime_signals_queue_and_standard_ones_do_not) {
  handle(SIGRTMIN + 1, 0);
  handle(SIGUSR1, 0);
  mask(SIG_BLOCK, SIGRTMIN + 1);
  mask(SIG_BLOCK, SIGUSR1);
  for (int i = 0; i < 5; i++) {
    CHECK_EQ(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i}), 0);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  }
  CHECK_EQ(g_count, 0);
  mask(SIG_UNBLOCK, SIGUSR1);
  CHECK_EQ(g_count, 1);
  mask(SIG_UNBLOCK, SIGRTMIN + 1);
  CHECK_EQ(g_count, 6);
  CHECK_EQ(g_info.si_value.sival_int, 4);
}

TEST(lower_numbers_first) {
  sigset_t all;
  sigfillset(&all);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &all, NULL), 0);
  // Blocked during each handler, so that they run one after another in order of delivery.
  const int signals[] = {SIGRTMIN + 5, SIGRTMIN + 2, SIGRTMIN + 9};
  for (int i = 0; i < 3; i++) {
    struct sigaction act = {.sa_handler = count};
    sigfillset(&act.sa_mask);
    CHECK_EQ(sigaction(signals[i], &act, NULL), 0);
    CHECK_EQ(kill(getpid(), signals[i]), 0);
  }
  CHECK_EQ(sigprocmask(SIG_UNBLOCK, &all, NULL), 0);
  CHECK_EQ(g_count, 3);
  CHECK_EQ(g_order[0], SIGRTMIN + 2);
  CHECK_EQ(g_order[1], SIGRTMIN + 5);
  CHECK_EQ(g_order[2], SIGRTMIN + 9);
}

TEST(masks_and_pending) {
  handle(SIGUSR2, 0);
  mask(SIG_BLOCK, SIGUSR2);
  CHECK_EQ(kill(getpid(), SIGUSR2), 0);
  CHECK(pending(SIGUSR2));
  CHECK_EQ(g_count, 0);
  mask(SIG_UNBLOCK, SIGUSR2);
  CHECK_EQ(g_count, 1);
  CHECK(!pending(SIGUSR2));
  // SIGKILL and SIGSTOP cannot be blocked or handled.
  mask(SIG_BLOCK, SIGKILL);
  sigset_t now;
  CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
  CHECK(!sigismember(&now, SIGKILL));
  struct sigaction act = {.sa_handler = count};
  CHECK_ERRNO(sigaction(SIGKILL, &act, NULL), EINVAL);
  CHECK_ERRNO(sigaction(SIGSTOP, &act, NULL), EINVAL);
  CHECK_ERRNO(syscall(SYS_rt_sigaction, 65, NULL, NULL, 8), EINVAL);
  CHECK_ERRNO(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, NULL, 4), EINVAL);
  CHECK_ERRNO(syscall(SYS_rt_sigprocmask, 99, &now, NULL, 8), EINVAL);
}

TEST(pending_signal_that_becomes_ignored_is_dropped) {
  handle(SIGUSR1, 0);
  mask(SIG_BLOCK, SIGUSR1);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  signal(SIGUSR1, SIG_IGN);
  CHECK(!pending(SIGUSR1));
}

TEST(handler_mask_and_nesting) {
  handle(SIGUSR1, 0);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  sigset_t now;
  CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
  CHECK(!sigismember(&now, SIGUSR1));  // restored by the return
  CHECK_EQ(g_count, 1);
}

static volatile sig_atomic_t g_depth, g_deepest, g_again;
static void nest(int signo) {
  if (++g_depth > g_deepest) g_deepest = g_depth;
  if (g_again-- > 0) raise(signo);
  g_depth--;
}

TEST(nodefer_allows_recursion) {
  struct sigaction act = {.sa_handler = nest, .sa_flags = SA_NODEFER};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  g_again = 3;
  CHECK_EQ(raise(SIGUSR1), 0);
  CHECK_EQ(g_deepest, 4);
  act.sa_flags = 0;
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  g_again = 3;
  g_deepest = 0;
  CHECK_EQ(raise(SIGUSR1), 0);
  CHECK_EQ(g_deepest, 1);  // one after another
  CHECK(g_again <= 0);
}

TEST(resethand_is_once) {
  IN_CHILD({
    handle(SIGUSR1, SA_RESETHAND);
    CHECK_EQ(raise(SIGUSR1), 0);
    struct sigaction act;
    CHECK_EQ(sigaction(SIGUSR1, NULL, &act), 0);
    CHECK(act.sa_handler == SIG_DFL);
  });
}

static uintptr_t g_alt_low, g_alt_high;
static volatile int g_on_alt, g_alt_flags;
static void where(int signo) {
  (void)signo;
  uintptr_t here = (uintptr_t)&here;
  g_on_alt = here >= g_alt_low && here < g_alt_high;
  stack_t now;
  sigaltstack(NULL, &now);
  g_alt_flags = now.ss_flags;
}

TEST(alternate_stack) {
  stack_t alt = {.ss_sp = malloc(65536), .ss_size = 65536}, old;
  g_alt_low = (uintptr_t)alt.ss_sp;
  g_alt_high = g_alt_low + alt.ss_size;
  CHECK_EQ(sigaltstack(&alt, &old), 0);
  CHECK_EQ(old.ss_flags, SS_DISABLE);
  struct sigaction act = {.sa_handler = where, .sa_flags = SA_ONSTACK};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  CHECK_EQ(raise(SIGUSR1), 0);
  CHECK(g_on_alt);
  CHECK_EQ(g_alt_flags, SS_ONSTACK);
  act.sa_flags = 0;
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  CHECK_EQ(raise(SIGUSR1), 0);
  CHECK(!g_on_alt);
  CHECK_EQ(sigaltstack(NULL, &old), 0);
  CHECK_EQ((uintptr_t)old.ss_sp, g_alt_low);
  alt.ss_size = 100;
  CHECK_ERRNO(sigaltstack(&alt, NULL), ENOMEM);
  alt.ss_flags = 0x100;
  CHECK_ERRNO(sigaltstack(&alt, NULL), EINVAL);
  IN_CHILD({
    CHECK_EQ(sigaltstack(NULL, &old), 0);
    CHECK_EQ((uintptr_t)old.ss_sp, g_alt_low);
  });
}

TEST(frame_that_cannot_be_written_kills) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    stack_t alt = {.ss_sp = (void*)0x10000, .ss_size = 65536};
    sigaltstack(&alt, NULL);
    struct sigaction act = {.sa_handler = where, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &act, NULL);
    raise(SIGUSR1);
    _exit(0);
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(WTERMSIG(status), SIGSEGV);
}

static volatile uint64_t g_rip, g_rsp;
static void edit_context(int signo, siginfo_t* info, void* context) {
  (void)signo, (void)info;
  ucontext_t* u = context;
  g_rip = (uint64_t)u->uc_mcontext.gregs[REG_RIP];
  g_rsp = (uint64_t)u->uc_mcontext.gregs[REG_RSP];
  u->uc_mcontext.gregs[REG_RAX] = 0x77;
  u->uc_mcontext.gregs[REG_R13] = 0x1313;
  u->uc_mcontext.gregs[REG_RIP] += 2;  // over the ud2
}

TEST(context_can_be_read_and_changed) {
  struct sigaction act = {.sa_sigaction = edit_context, .sa_flags = SA_SIGINFO};
  CHECK_EQ(sigaction(SIGILL, &act, NULL), 0);
  uint64_t rax = 1, r13 = 0, at = 0, rsp = 0;
  __asm__ volatile("lea 1f(%%rip), %2\n mov %%rsp, %3\n 1: ud2\n mov %%r13, %1\n"
                   : "+a"(rax), "=&r"(r13), "=&r"(at), "=&r"(rsp)
                   :
                   : "r13", "memory");
  CHECK_EQ(rax, 0x77);
  CHECK_EQ(r13, 0x1313);
  CHECK_EQ(g_rip, at);
  CHECK_EQ(g_rsp, rsp);
}

TEST(red_zone_and_all_registers_survive) {
  handle(SIGALRM, 0);
  struct itimerval t = {{0, 1000}, {0, 1000}};
  CHECK_EQ(setitimer(ITIMER_REAL, &t, NULL), 0);
  // Values in every general register and below the stack pointer, over many deliveries.
  const int64_t begin = now_ns(), end = begin + 300000000, patience = begin + 20000000000;
  for (int64_t now = begin; now < end || (g_count <= 20 && now < patience); now = now_ns()) {
    uint64_t bad = 0;
    __asm__ volatile(
        "mov $0x1111, %%rbx\n mov $0x2222, %%r8\n mov $0x3333, %%r9\n mov $0x4444, %%r10\n mov $0x5555, %%r11\n"
        "mov $0x6666, %%r12\n mov $0x7777, %%r14\n mov $0x8888, %%r15\n mov $0x9999, %%rdi\n mov $0xaaaa, %%rsi\n"
        "movq $0x5a5a5a5a, -64(%%rsp)\n mov $20000, %%ecx\n stc\n setc %%dl\n"
        "1: dec %%ecx\n jnz 1b\n"
        "cmp $0x1111, %%rbx\n jne 2f\n cmp $0x2222, %%r8\n jne 2f\n cmp $0x3333, %%r9\n jne 2f\n"
        "cmp $0x4444, %%r10\n jne 2f\n cmp $0x5555, %%r11\n jne 2f\n cmp $0x6666, %%r12\n jne 2f\n"
        "cmp $0x7777, %%r14\n jne 2f\n cmp $0x8888, %%r15\n jne 2f\n cmp $0x9999, %%rdi\n jne 2f\n"
        "cmp $0xaaaa, %%rsi\n jne 2f\n cmpq $0x5a5a5a5a, -64(%%rsp)\n jne 2f\n jmp 3f\n"
        "2: mov $1, %0\n 3:\n"
        : "+a"(bad)
        :
        : "rbx", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12", "r14", "r15", "memory", "cc");
    CHECK_EQ(bad, 0);
  }
  CHECK(g_count > 20);
}

TEST(sleep_is_interrupted_and_tells_the_rest) {
  handle(SIGALRM, SA_RESTART);
  ualarm(50000, 0);
  struct timespec t = {10, 0}, rest = {0, 0};
  CHECK_ERRNO(nanosleep(&t, &rest), EINTR);  // SA_RESTART or not
  CHECK(rest.tv_sec == 9);
  CHECK_EQ(g_count, 1);
}

TEST(sleep_goes_on_after_stop_and_continue) {
  int64_t start = now_ns();
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    struct timespec t = {0, 300000000};
    CHECK_EQ(nanosleep(&t, NULL), 0);
    _exit(0);
  }
  sleep_ms(50);
  CHECK_EQ(kill(pid, SIGSTOP), 0);
  sleep_ms(50);
  CHECK_EQ(kill(pid, SIGCONT), 0);
  CHECK_CHILD_OK(pid);
  int64_t took = now_ns() - start;
  CHECK(took >= 300000000);
  CHECK(took < 3000000000);
}

TEST(pause_and_sigsuspend) {
  handle(SIGALRM, SA_RESTART);
  // Again and again: on a busy machine the first may come before pause() is there.
  ualarm(30000, 30000);
  CHECK_ERRNO(pause(), EINTR);
  ualarm(0, 0);
  mask(SIG_BLOCK, SIGALRM);
  const int before = g_count;
  CHECK(before >= 1);
  ualarm(1000, 0);
  sleep_ms(30);
  CHECK_EQ(g_count, before);
  sigset_t none;
  sigemptyset(&none);
  CHECK_ERRNO(sigsuspend(&none), EINTR);
  CHECK_EQ(g_count, before + 1);
  sigset_t now;
  CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
  CHECK(sigismember(&now, SIGALRM));  // the old mask is back
}

TEST(sigwait_family) {
  sigset_t set;
  siginfo_t info;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGRTMIN);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
  struct timespec zero = {0, 0}, brief = {0, 30000000};
  CHECK_ERRNO(sigtimedwait(&set, &info, &zero), EAGAIN);
  CHECK_ERRNO(sigtimedwait(&set, &info, &brief), EAGAIN);
  CHECK_EQ(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 5}), 0);
  CHECK_EQ(sigwaitinfo(&set, &info), SIGRTMIN);
  CHECK_EQ(info.si_value.sival_int, 5);
  CHECK(!pending(SIGRTMIN));
  pid_t parent = getpid(), pid = CHECK_OK(fork());
  if (pid == 0) {
    sleep_ms(50);
    CHECK_EQ(kill(parent, SIGUSR1), 0);
    _exit(0);
  }
  int signo;
  CHECK_EQ(sigwait(&set, &signo), 0);
  CHECK_EQ(signo, SIGUSR1);
  CHECK_CHILD_OK(pid);
  // A signal outside the set interrupts.
  handle(SIGALRM, SA_RESTART);
  ualarm(30000, 30000);  // again and again: the first may come before the call
  brief.tv_sec = 5;
  CHECK_ERRNO(sigtimedwait(&set, &info, &brief), EINTR);
}

TEST(default_actions) {
  const int ignored[] = {SIGCHLD, SIGURG, SIGWINCH, SIGCONT};
  for (size_t i = 0; i < 4; i++) CHECK_EQ(raise(ignored[i]), 0);
  const int fatal[] = {SIGHUP,    SIGINT,  SIGQUIT, SIGILL,  SIGTRAP, SIGABRT, SIGBUS,  SIGFPE,
                       SIGUSR1,   SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGXCPU, SIGXFSZ,
                       SIGVTALRM, SIGPROF, SIGIO,   SIGPWR,  SIGSYS,  SIGRTMIN};
  for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) {
    pid_t pid = CHECK_OK(fork());
    if (pid == 0) {
      signal(fatal[i], SIG_DFL);
      raise(fatal[i]);
      _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), fatal[i]);
  }
}

TEST(kill_targets_and_errors) {
  CHECK_EQ(kill(getpid(), 0), 0);
  CHECK_ERRNO(kill(0x3ffffff, 0), ESRCH);
  CHECK_ERRNO(kill(getpid(), 65), EINVAL);
  CHECK_ERRNO(kill(getpid(), -1), EINVAL);
  IN_CHILD({
    CHECK_EQ(setpgid(0, 0), 0);
    handle(SIGUSR1, 0);
    CHECK_EQ(kill(0, SIGUSR1), 0);
    CHECK_EQ(kill(-getpid(), SIGUSR1), 0);
    CHECK_EQ(g_count, 2);
  });
  if (geteuid() == 0) {
    pid_t mine = getpid();
    IN_CHILD({
      CHECK_EQ(setuid(12345), 0);
      CHECK_ERRNO(kill(mine, 0), EPERM);
      CHECK_EQ(kill(getpid(), 0), 0);
    });
  }
}

TEST(handlers_and_masks_over_fork) {
  handle(SIGUSR1, 0);
  mask(SIG_BLOCK, SIGUSR2);
  CHECK_EQ(kill(getpid(), SIGUSR2), 0);
  IN_CHILD({
    CHECK(!pending(SIGUSR2));  // pending ones are not inherited
    sigset_t now;
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
    CHECK(sigismember(&now, SIGUSR2));
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(g_count, 1);
  });
  CHECK_EQ(g_count, 0);
  signal(SIGUSR2, SIG_IGN);
}

TEST(busy_loop_is_interrupted) {
  handle(SIGALRM, 0);
  ualarm(20000, 0);
  while (!g_count) {
  }
  CHECK_EQ(g_info.si_signo, SIGALRM);
  CHECK_EQ(g_info.si_code, SI_KERNEL);
}

static volatile int g_children_signals;
static void from_child(int signo) { g_children_signals += signo == SIGUSR1; }

TEST(storm_of_signals_between_processes) {
  struct sigaction act = {.sa_handler = from_child, .sa_flags = SA_RESTART};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  pid_t parent = getpid(), pids[4];
  for (int i = 0; i < 4; i++) {
    pids[i] = CHECK_OK(fork());
    if (pids[i] == 0) {
      for (int j = 0; j < 500; j++) CHECK_EQ(kill(parent, SIGUSR1), 0);
      _exit(0);
    }
  }
  for (int i = 0; i < 4; i++) CHECK_CHILD_OK(pids[i]);
  CHECK(g_children_signals > 0 && g_children_signals <= 2000);
}

TEST(sigreturn_restores_the_mask_of_the_frame) {
  handle(SIGUSR1, 0);
  mask(SIG_BLOCK, SIGUSR2);
  CHECK_EQ(raise(SIGUSR1), 0);
  sigset_t now;
  CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
  CHECK(sigismember(&now, SIGUSR2));
  CHECK(!sigismember(&now, SIGUSR1));
}

TEST(bad_sigreturn_kills) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    __asm__ volatile("mov $0x1000, %%rsp\n mov $15, %%eax\n syscall\n" ::: "memory");
    _exit(0);
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(WTERMSIG(status), SIGSEGV);
}
