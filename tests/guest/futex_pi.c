// Robust and priority-inheriting mutexes, as the C library makes them.
#include "memory.h"

#include <linux/futex.h>
#include <pthread.h>

static pthread_mutex_t* shared_mutex(int robust, int protocol) {
  pthread_mutex_t* m = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK((void*)m != MAP_FAILED);
  pthread_mutexattr_t attr;
  CHECK_EQ(pthread_mutexattr_init(&attr), 0);
  CHECK_EQ(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED), 0);
  if (robust) CHECK_EQ(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST), 0);
  CHECK_EQ(pthread_mutexattr_setprotocol(&attr, protocol), 0);
  CHECK_EQ(pthread_mutex_init(m, &attr), 0);
  return m;
}

TEST(robust_list_is_known_to_the_kernel) {
  void* head = NULL;
  size_t len = 0;
  CHECK_EQ(syscall(SYS_get_robust_list, 0, &head, &len), 0);
  CHECK(head != NULL);
  CHECK_EQ(len, 24);
  CHECK_ERRNO(syscall(SYS_set_robust_list, head, 5), EINVAL);
}

TEST(owner_death_in_another_process) {
  pthread_mutex_t* m = shared_mutex(1, PTHREAD_PRIO_NONE);
  IN_CHILD(CHECK_EQ(pthread_mutex_lock(m), 0));
  CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
  CHECK_EQ(pthread_mutex_consistent(m), 0);
  CHECK_EQ(pthread_mutex_unlock(m), 0);
  CHECK_EQ(pthread_mutex_lock(m), 0);
}

TEST(killed_owner_wakes_a_waiter) {
  pthread_mutex_t* m = shared_mutex(1, PTHREAD_PRIO_NONE);
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(pthread_mutex_lock(m), 0);
    CHECK_EQ(write(p[1], "x", 1), 1);
    for (;;) pause();
  }
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  pid_t killer = CHECK_OK(fork());
  if (killer == 0) {
    sleep_ms(100);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    _exit(0);
  }
  CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
  CHECK_CHILD_OK(killer);
}

static void* lock_and_leave(void* arg) {
  CHECK_EQ(pthread_mutex_lock(arg), 0);
  return NULL;
}

TEST(owner_thread_that_ends) {
  pthread_mutex_t* m = shared_mutex(1, PTHREAD_PRIO_NONE);
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, lock_and_leave, m), 0);
  CHECK_EQ(pthread_join(t, NULL), 0);
  CHECK_EQ(pthread_mutex_trylock(m), EOWNERDEAD);
  CHECK_EQ(pthread_mutex_unlock(m), 0);
  CHECK_EQ(pthread_mutex_lock(m), ENOTRECOVERABLE);  // it was not made consistent
}

TEST(owner_that_execs) {
  pthread_mutex_t* m = shared_mutex(1, PTHREAD_PRIO_NONE);
  IN_CHILD({
    char self[256] = {0};
    CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    int null = CHECK_OK(open("/dev/null", O_WRONLY));
    CHECK_EQ(dup2(null, 1), 1);
    CHECK_EQ(pthread_mutex_lock(m), 0);
    execl(self, self, "--list", (char*)NULL);
    _exit(1);
  });
  CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
}

static pthread_mutex_t* g_pi;
static long g_sum;
static void* add_under_lock(void* arg) {
  for (int i = 0; i < 2000; i++) {
    CHECK_EQ(pthread_mutex_lock(g_pi), 0);
    g_sum++;
    CHECK_EQ(pthread_mutex_unlock(g_pi), 0);
  }
  return arg;
}

TEST(priority_inheriting_mutex_excludes) {
  g_pi = shared_mutex(0, PTHREAD_PRIO_INHERIT);
  pthread_t t[4];
  for (int i = 0; i < 4; i++) CHECK_EQ(pthread_create(&t[i], NULL, add_under_lock, NULL), 0);
  for (int i = 0; i < 4; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
  CHECK_EQ(g_sum, 8000);
}

TEST(priority_inheriting_timeout_and_owner) {
  pthread_mutex_t* m = shared_mutex(0, PTHREAD_PRIO_INHERIT);
  IN_CHILD({
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, lock_and_leave, m), 0);
    CHECK_EQ(pthread_join(t, NULL), 0);
    CHECK_EQ(pthread_mutex_trylock(m), EBUSY);
  });
}

TEST(robust_priority_inheriting_owner_death) {
  pthread_mutex_t* m = shared_mutex(1, PTHREAD_PRIO_INHERIT);
  IN_CHILD(CHECK_EQ(pthread_mutex_lock(m), 0));
  CHECK_EQ(pthread_mutex_lock(m), EOWNERDEAD);
  CHECK_EQ(pthread_mutex_consistent(m), 0);
  CHECK_EQ(pthread_mutex_unlock(m), 0);
}

TEST(raw_pi_lock_and_unlock) {
  static int word;
  CHECK_EQ(syscall(SYS_futex, &word, FUTEX_LOCK_PI, 0, NULL, NULL, 0), 0);
  CHECK_EQ(word & FUTEX_TID_MASK, syscall(SYS_gettid));
  CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_LOCK_PI, 0, NULL, NULL, 0), EDEADLK);
  CHECK_EQ(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0), 0);
  CHECK_EQ(word, 0);
  CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0), EPERM);
}
