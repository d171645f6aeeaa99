// Threads: raw clone and futexes, pthread objects, TLS, exit of threads and groups, signals to threads.
#include "memory.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>

static long futex(atomic_int* at, int op, int value, const struct timespec* timeout, void* other, int value3) {
  return syscall(SYS_futex, at, op, value, timeout, other, value3);
}

// Threads of the C library must not be mixed with raw clones, so each raw thread runs this assembly-free loop only.
typedef struct {
  atomic_int go, done, tid;
} raw_state;

static int raw_thread(void* arg) {
  raw_state* s = arg;
  while (atomic_load(&s->go) == 0) futex(&s->go, FUTEX_WAIT, 0, NULL, NULL, 0);
  atomic_store(&s->done, 1);
  futex(&s->done, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
  return 0;
}

TEST(raw_clone_thread_and_clear_child_tid) {
  static raw_state s;
  char* stack = malloc(65536);
  int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID |
              CLONE_CHILD_CLEARTID;
  int tid = CHECK_OK(clone(raw_thread, stack + 65536, flags, &s, &s.tid, NULL, &s.tid));
  CHECK(tid != getpid());
  CHECK_EQ(atomic_load(&s.tid), tid);
  atomic_store(&s.go, 1);
  CHECK_EQ(futex(&s.go, FUTEX_WAKE, 1, NULL, NULL, 0) >= 0, 1);
  // The kernel clears tid and wakes it when the thread is gone.
  while (atomic_load(&s.tid) != 0) futex(&s.tid, FUTEX_WAIT, tid, NULL, NULL, 0);
  CHECK_EQ(s.done, 1);
  CHECK_ERRNO(waitpid(tid, NULL, __WALL), ECHILD);
}

TEST(futex_value_and_timeouts) {
  atomic_int f = 5;
  CHECK_ERRNO(futex(&f, FUTEX_WAIT, 4, NULL, NULL, 0), EAGAIN);
  struct timespec t = {0, 30000000};
  int64_t start = now_ns();
  CHECK_ERRNO(futex(&f, FUTEX_WAIT, 5, &t, NULL, 0), ETIMEDOUT);
  CHECK(now_ns() - start >= 30000000);
  CHECK_EQ(futex(&f, FUTEX_WAKE, 10, NULL, NULL, 0), 0);
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_nsec += 30000000;
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  CHECK_ERRNO(futex(&f, FUTEX_WAIT_BITSET, 5, &t, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
  clock_gettime(CLOCK_REALTIME, &t);
  CHECK_ERRNO(futex(&f, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 5, &t, NULL, -1), ETIMEDOUT);
  t = (struct timespec){0, 2000000000};
  CHECK_ERRNO(futex(&f, FUTEX_WAIT, 5, &t, NULL, 0), EINVAL);
  CHECK_ERRNO(futex(&f, FUTEX_WAIT_BITSET, 5, NULL, NULL, 0), EINVAL);
  CHECK_ERRNO(futex((atomic_int*)((char*)&f + 1), FUTEX_WAIT, 5, NULL, NULL, 0), EINVAL);
  CHECK_ERRNO(futex((atomic_int*)8, FUTEX_WAIT, 5, NULL, NULL, 0), EFAULT);
  CHECK_ERRNO(futex(&f, 99, 5, NULL, NULL, 0), ENOSYS);
}

static atomic_int g_futex, g_futex2, g_awake;
static void* wait_on_futex(void* arg) {
  unsigned bits = arg ? (unsigned)(uintptr_t)arg : FUTEX_BITSET_MATCH_ANY;
  futex(&g_futex, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, (int)bits);
  atomic_fetch_add(&g_awake, 1);
  return NULL;
}
static void until_asleep(void) { sleep_ms(100); }

TEST(futex_wake_counts) {
  pthread_t t[4];
  for (int i = 0; i < 4; i++) CHECK_EQ(pthread_create(&t[i], NULL, wait_on_futex, NULL), 0);
  until_asleep();
  CHECK_EQ(futex(&g_futex, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0), 1);
  CHECK_EQ(futex(&g_futex, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 2, NULL, NULL, 0), 2);
  CHECK_EQ(futex(&g_futex, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 2, NULL, NULL, 0), 1);
  for (int i = 0; i < 4; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
  CHECK_EQ(g_awake, 4);
}

TEST(futex_bitsets_choose) {
  pthread_t a, b;
  CHECK_EQ(pthread_create(&a, NULL, wait_on_futex, (void*)1), 0);
  CHECK_EQ(pthread_create(&b, NULL, wait_on_futex, (void*)2), 0);
  until_asleep();
  CHECK_EQ(futex(&g_futex, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 10, NULL, NULL, 2), 1);
  CHECK_EQ(pthread_join(b, NULL), 0);
  CHECK_EQ(g_awake, 1);
  CHECK_EQ(futex(&g_futex, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 10, NULL, NULL, 5), 1);
  CHECK_EQ(pthread_join(a, NULL), 0);
}

TEST(futex_requeue) {
  pthread_t t[3];
  for (int i = 0; i < 3; i++) CHECK_EQ(pthread_create(&t[i], NULL, wait_on_futex, NULL), 0);
  until_asleep();
  CHECK_ERRNO(futex(&g_futex, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, (void*)5, &g_futex2, 99), EAGAIN);
  CHECK_EQ(futex(&g_futex, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, (void*)5, &g_futex2, 0), 3);
  until_asleep();
  CHECK_EQ(g_awake, 1);
  CHECK_EQ(futex(&g_futex, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 5, NULL, NULL, 0), 0);
  CHECK_EQ(futex(&g_futex2, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 5, NULL, NULL, 0), 2);
  for (int i = 0; i < 3; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
}

TEST(futex_wake_op) {
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, wait_on_futex, NULL), 0);
  until_asleep();
  g_futex2 = 5;
  // g_futex2 += 3; wake one of g_futex; nobody of g_futex2 as 5 is not > 7.
  int op = FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_GT, 7);
  CHECK_EQ(futex(&g_futex, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 1, (void*)1, &g_futex2, op), 1);
  CHECK_EQ(g_futex2, 8);
  CHECK_EQ(pthread_join(t, NULL), 0);
}

TEST(shared_futex_between_processes) {
  atomic_int* f = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK((void*)f != MAP_FAILED);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    while (atomic_load(f) == 0) futex(f, FUTEX_WAIT, 0, NULL, NULL, 0);
    _exit(atomic_load(f) == 7 ? 0 : 1);
  }
  sleep_ms(50);
  atomic_store(f, 7);
  futex(f, FUTEX_WAKE, 1, NULL, NULL, 0);
  CHECK_CHILD_OK(pid);
}

TEST(private_futex_keys_are_by_address_space) {
  // After a fork the same address in parent and child is not the same futex.
  static atomic_int f;
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    struct timespec t = {0, 200000000};
    CHECK_ERRNO(futex(&f, FUTEX_WAIT, 0, &t, NULL, 0), ETIMEDOUT);
    _exit(0);
  }
  sleep_ms(50);
  CHECK_EQ(futex(&f, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
  CHECK_CHILD_OK(pid);
}

static __thread int t_value = 42;
static __thread int t_zero[100];
static void* tls_thread(void* arg) {
  CHECK_EQ(t_value, 42);
  for (int i = 0; i < 100; i++) CHECK_EQ(t_zero[i], 0);
  t_value = (int)(uintptr_t)arg;
  for (int i = 0; i < 50; i++) {
    sched_yield();
    CHECK_EQ(t_value, (uintptr_t)arg);
  }
  return (void*)(uintptr_t)t_value;
}

TEST(thread_local_storage) {
  pthread_t t[10];
  for (uintptr_t i = 0; i < 10; i++) CHECK_EQ(pthread_create(&t[i], NULL, tls_thread, (void*)(i + 100)), 0);
  for (uintptr_t i = 0; i < 10; i++) {
    void* value;
    CHECK_EQ(pthread_join(t[i], &value), 0);
    CHECK_EQ((uintptr_t)value, i + 100);
  }
  CHECK_EQ(t_value, 42);
}

static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;
static long g_counter;
static void* count_up(void* arg) {
  for (int i = 0; i < 20000; i++) {
    pthread_mutex_lock(&g_mutex);
    g_counter++;
    pthread_mutex_unlock(&g_mutex);
  }
  return arg;
}

TEST(mutex_excludes) {
  pthread_t t[8];
  for (int i = 0; i < 8; i++) CHECK_EQ(pthread_create(&t[i], NULL, count_up, NULL), 0);
  for (int i = 0; i < 8; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
  CHECK_EQ(g_counter, 160000);
}

static pthread_cond_t g_cond = PTHREAD_COND_INITIALIZER;
static int g_turn;
static void* take_turns(void* arg) {
  int me = (int)(uintptr_t)arg;
  for (int i = 0; i < 500; i++) {
    pthread_mutex_lock(&g_mutex);
    while (g_turn % 3 != me) pthread_cond_wait(&g_cond, &g_mutex);
    g_turn++;
    pthread_cond_broadcast(&g_cond);
    pthread_mutex_unlock(&g_mutex);
  }
  return NULL;
}

TEST(condition_variable_turns) {
  pthread_t t[3];
  for (uintptr_t i = 0; i < 3; i++) CHECK_EQ(pthread_create(&t[i], NULL, take_turns, (void*)i), 0);
  for (int i = 0; i < 3; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
  CHECK_EQ(g_turn, 1500);
}

TEST(timed_waits) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  t.tv_nsec += 50000000;
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  pthread_mutex_lock(&g_mutex);
  CHECK_EQ(pthread_cond_timedwait(&g_cond, &g_mutex, &t), ETIMEDOUT);
  sem_t sem;
  CHECK_EQ(sem_init(&sem, 0, 0), 0);
  CHECK_ERRNO(sem_timedwait(&sem, &t), ETIMEDOUT);
  CHECK_EQ(sem_post(&sem), 0);
  CHECK_EQ(sem_wait(&sem), 0);
}

static pthread_barrier_t g_barrier;
static atomic_int g_phase_sum;
static void* phases(void* arg) {
  (void)arg;
  for (int i = 0; i < 50; i++) {
    atomic_fetch_add(&g_phase_sum, 1);
    pthread_barrier_wait(&g_barrier);
    CHECK_EQ(atomic_load(&g_phase_sum), 5 * (i + 1));
    pthread_barrier_wait(&g_barrier);
  }
  return NULL;
}

TEST(barriers) {
  CHECK_EQ(pthread_barrier_init(&g_barrier, NULL, 5), 0);
  pthread_t t[5];
  for (int i = 0; i < 5; i++) CHECK_EQ(pthread_create(&t[i], NULL, phases, NULL), 0);
  for (int i = 0; i < 5; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
}

static void* nothing(void* arg) { return arg; }

TEST(many_threads_one_after_another) {
  for (uintptr_t i = 0; i < 500; i++) {
    pthread_t t;
    void* value;
    CHECK_EQ(pthread_create(&t, NULL, nothing, (void*)i), 0);
    CHECK_EQ(pthread_join(t, &value), 0);
    CHECK_EQ((uintptr_t)value, i);
  }
}

static void* block(void* arg) {
  sem_wait(arg);
  return NULL;
}

TEST(many_threads_at_once) {
  enum { kCount = 200 };
  pthread_t t[kCount];
  pthread_attr_t small;
  sem_t sem;
  CHECK_EQ(sem_init(&sem, 0, 0), 0);
  CHECK_EQ(pthread_attr_init(&small), 0);
  CHECK_EQ(pthread_attr_setstacksize(&small, 64 << 10), 0);
  for (int i = 0; i < kCount; i++) CHECK_EQ(pthread_create(&t[i], &small, block, &sem), 0);
  for (int i = 0; i < kCount; i++) CHECK_EQ(sem_post(&sem), 0);
  for (int i = 0; i < kCount; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
}

static void* exit_group_now(void* arg) {
  sleep_ms(20);
  _exit((int)(uintptr_t)arg);
}
static void* spin(void* arg) {
  for (volatile int* p = arg;;) (*p)++;
  return NULL;
}

TEST(exit_group_ends_blocked_and_spinning_threads) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    static int counter;
    sem_t sem;
    sem_init(&sem, 0, 0);
    pthread_t t;
    pthread_create(&t, NULL, block, &sem);
    pthread_create(&t, NULL, spin, &counter);
    pthread_create(&t, NULL, exit_group_now, (void*)33);
    sem_wait(&sem);
    _exit(1);
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(status, 33 << 8);
}

TEST(main_thread_may_leave_first) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    pthread_t t;
    pthread_create(&t, NULL, exit_group_now, (void*)44);
    syscall(SYS_exit, 1);
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(WEXITSTATUS(status), 44);
}

static atomic_int g_handler_tid;
static void note_tid(int signo) {
  (void)signo;
  atomic_store(&g_handler_tid, (int)syscall(SYS_gettid));
}
static atomic_int g_thread_tid;
static void* tell_tid(void* arg) {
  atomic_store(&g_thread_tid, (int)syscall(SYS_gettid));
  while (!atomic_load(&g_handler_tid)) sched_yield();
  return arg;
}

TEST(signal_to_one_thread) {
  signal(SIGUSR1, note_tid);
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, tell_tid, NULL), 0);
  while (!g_thread_tid) sched_yield();
  CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
  CHECK_EQ(pthread_join(t, NULL), 0);
  CHECK_EQ(g_handler_tid, g_thread_tid);
  CHECK(g_handler_tid != getpid());
  CHECK_ERRNO(syscall(SYS_tgkill, getpid(), 0x3ffffff, SIGUSR1), ESRCH);
  CHECK_ERRNO(syscall(SYS_tgkill, 0, 1, SIGUSR1), EINVAL);
}

TEST(process_signal_goes_to_a_thread_that_takes_it) {
  signal(SIGUSR1, note_tid);
  pthread_t t;
  sigset_t set;
  CHECK_EQ(pthread_create(&t, NULL, tell_tid, NULL), 0);
  while (!g_thread_tid) sched_yield();
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  CHECK_EQ(pthread_join(t, NULL), 0);
  CHECK_EQ(g_handler_tid, g_thread_tid);
}

static void* cancel_me(void* arg) {
  (void)arg;
  for (;;) pause();
  return NULL;
}

TEST(cancellation) {
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, cancel_me, NULL), 0);
  sleep_ms(20);
  CHECK_EQ(pthread_cancel(t), 0);
  void* value;
  CHECK_EQ(pthread_join(t, &value), 0);
  CHECK(value == PTHREAD_CANCELED);
}

TEST(setuid_is_for_all_threads) {
  if (geteuid() != 0) SKIP("needs root");
  pthread_t t;
  sem_t sem;
  sem_init(&sem, 0, 0);
  CHECK_EQ(pthread_create(&t, NULL, block, &sem), 0);
  CHECK_EQ(setresuid(-1, 1000, -1), 0);  // the C library interrupts each thread to do it there too
  CHECK_EQ(geteuid(), 1000);
  CHECK_EQ(sem_post(&sem), 0);
  CHECK_EQ(pthread_join(t, NULL), 0);
}

static void* tally(void* arg) {
  for (volatile long* p = arg;;) (*p)++;
  return NULL;
}

TEST(spinners_share_the_cpus_fairly) {
  // More busy threads than CPUs: preemption must let each come forward.
  enum { kCount = 6 };
  static volatile long counters[kCount * 8];
  pthread_t t[kCount];
  for (int i = 0; i < kCount; i++) CHECK_EQ(pthread_create(&t[i], NULL, tally, (void*)&counters[i * 8]), 0);
  sleep_ms(1500);
  long least = LONG_MAX;
  for (int i = 0; i < kCount; i++) least = counters[i * 8] < least ? counters[i * 8] : least;
  CHECK(least > 1000);
}

TEST(membarrier_and_rseq_do_not_harm) {
  long commands = syscall(SYS_membarrier, 0, 0, 0);
  CHECK(commands >= 0 || errno == ENOSYS);
}
