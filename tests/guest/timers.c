// Sleeping and interval timers.
#include "check.h"

#include <pthread.h>
#include <sys/time.h>

static volatile sig_atomic_t g_count;
static volatile siginfo_t g_info;
static void count(int signo, siginfo_t* info, void* context) {
  (void)signo, (void)context;
  g_info = *info;
  g_count++;
}
static void handle(int signo) {
  struct sigaction act = {.sa_sigaction = count, .sa_flags = SA_SIGINFO};
  CHECK_EQ(sigaction(signo, &act, NULL), 0);
}

TEST(nanosleep_sleeps_long_enough) {
  const long ms[] = {0, 1, 5, 50};
  for (int i = 0; i < 4; i++) {
    struct timespec t = {0, ms[i] * 1000000};
    int64_t start = now_ns();
    CHECK_EQ(nanosleep(&t, NULL), 0);
    CHECK(now_ns() - start >= ms[i] * 1000000);
  }
  struct timespec bad = {-1, 0};
  CHECK_ERRNO(nanosleep(&bad, NULL), EINVAL);
  bad = (struct timespec){0, 1000000000};
  CHECK_ERRNO(nanosleep(&bad, NULL), EINVAL);
}

TEST(clock_nanosleep_absolute) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_nsec += 40000000;
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
  CHECK(now_ns() >= t.tv_sec * 1000000000LL + t.tv_nsec);
  CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);  // in the past
  clock_gettime(CLOCK_REALTIME, &t);
  CHECK_EQ(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL), 0);
  CHECK_EQ(clock_nanosleep(12345, 0, &t, NULL), EINVAL);
}

TEST(alarm_fires_once) {
  handle(SIGALRM);
  CHECK_EQ(alarm(100), 0);
  CHECK(alarm(1) >= 99);
  int64_t start = now_ns();
  pause();
  CHECK_EQ(g_count, 1);
  CHECK(now_ns() - start >= 900000000);
  CHECK_EQ(alarm(5), 0);
  CHECK_EQ(alarm(0), 5);
}

TEST(real_interval_timer) {
  handle(SIGALRM);
  struct itimerval t = {{0, 10000}, {0, 20000}}, now;
  int64_t start = now_ns();
  CHECK_EQ(setitimer(ITIMER_REAL, &t, NULL), 0);
  CHECK_EQ(getitimer(ITIMER_REAL, &now), 0);
  CHECK_EQ(now.it_interval.tv_usec, 10000);
  CHECK(now.it_value.tv_usec > 0 && now.it_value.tv_usec <= 20000);
  while (g_count < 5) pause();
  CHECK(now_ns() - start >= 50000000);
  t = (struct itimerval){{0, 0}, {0, 0}};
  CHECK_EQ(setitimer(ITIMER_REAL, &t, &now), 0);
  CHECK_EQ(now.it_interval.tv_usec, 10000);
  int seen = g_count;
  sleep_ms(40);
  CHECK_EQ(g_count, seen);
  t.it_value.tv_usec = 1000000;
  CHECK_ERRNO(setitimer(ITIMER_REAL, &t, NULL), EINVAL);
  CHECK_ERRNO(setitimer(99, &now, NULL), EINVAL);
}

TEST(virtual_and_profiling_timers_count_cpu_time) {
  handle(SIGVTALRM);
  handle(SIGPROF);
  struct itimerval t = {{0, 0}, {0, 30000}};
  CHECK_EQ(setitimer(ITIMER_VIRTUAL, &t, NULL), 0);
  CHECK_EQ(setitimer(ITIMER_PROF, &t, NULL), 0);
  sleep_ms(80);
  CHECK_EQ(g_count, 0);  // asleep, no CPU time
  int64_t end = now_ns() + 5000000000;
  while (g_count < 2 && now_ns() < end) {
  }
  CHECK_EQ(g_count, 2);
}

TEST(posix_timer_signals_with_a_value) {
  handle(SIGRTMIN + 2);
  struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2, .sigev_value.sival_int = 321};
  timer_t id;
  CHECK_EQ(timer_create(CLOCK_MONOTONIC, &e, &id), 0);
  struct itimerspec t = {{0, 0}, {0, 20000000}}, now;
  CHECK_EQ(timer_settime(id, 0, &t, NULL), 0);
  CHECK_EQ(timer_gettime(id, &now), 0);
  CHECK(now.it_value.tv_nsec > 0);
  while (!g_count) pause();
  CHECK_EQ(g_info.si_code, SI_TIMER);
  CHECK_EQ(g_info.si_value.sival_int, 321);
  CHECK_EQ(timer_getoverrun(id), 0);
  CHECK_EQ(timer_delete(id), 0);
  CHECK_ERRNO(timer_settime(id, 0, &t, NULL), EINVAL);
}

TEST(posix_timer_overruns) {
  handle(SIGRTMIN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
  struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
  timer_t id;
  CHECK_EQ(timer_create(CLOCK_MONOTONIC, &e, &id), 0);
  struct itimerspec t = {{0, 5000000}, {0, 5000000}};
  CHECK_EQ(timer_settime(id, 0, &t, NULL), 0);
  sleep_ms(60);
  CHECK_EQ(sigprocmask(SIG_UNBLOCK, &set, NULL), 0);
  CHECK(g_count >= 1);
  CHECK(timer_getoverrun(id) >= 0);
  CHECK_EQ(timer_delete(id), 0);
}

static volatile int g_in_thread;
static void in_thread(union sigval v) { g_in_thread = v.sival_int; }

TEST(posix_timer_thread) {
  struct sigevent e = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = in_thread, .sigev_value.sival_int = 5};
  timer_t id;
  CHECK_EQ(timer_create(CLOCK_MONOTONIC, &e, &id), 0);
  struct itimerspec t = {{0, 0}, {0, 10000000}};
  CHECK_EQ(timer_settime(id, 0, &t, NULL), 0);
  int64_t end = now_ns() + 5000000000;
  while (!g_in_thread && now_ns() < end) sleep_ms(5);
  CHECK_EQ(g_in_thread, 5);
}

TEST(timers_are_not_inherited) {
  handle(SIGALRM);
  struct itimerval t = {{0, 0}, {5, 0}}, now;
  CHECK_EQ(setitimer(ITIMER_REAL, &t, NULL), 0);
  IN_CHILD({
    CHECK_EQ(getitimer(ITIMER_REAL, &now), 0);
    CHECK_EQ(now.it_value.tv_sec, 0);
    CHECK_EQ(now.it_value.tv_usec, 0);
  });
}

TEST(alarm_survives_exec) {
  // The new program is killed by it.
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    struct itimerval t = {{0, 0}, {0, 100000}};
    setitimer(ITIMER_REAL, &t, NULL);
    char self[256] = {0};
    if (readlink("/proc/self/exe", self, sizeof self - 1) > 0)
      execl(self, self, "--here", "wait_for_alarm", (char*)NULL);
    _exit(1);
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(WTERMSIG(status), SIGALRM);
}

TEST(wait_for_alarm) {
  struct itimerval now;
  CHECK_EQ(getitimer(ITIMER_REAL, &now), 0);
  if (now.it_value.tv_sec || now.it_value.tv_usec)
    for (;;) pause();
}

static void* sleeper(void* arg) {
  long ms = (long)(intptr_t)arg;
  int64_t start = now_ns();
  sleep_ms(ms);
  CHECK(now_ns() - start >= ms * 1000000);
  return NULL;
}

TEST(many_sleepers_wake_in_time) {
  pthread_t t[50];
  int64_t start = now_ns();
  for (intptr_t i = 0; i < 50; i++) CHECK_EQ(pthread_create(&t[i], NULL, sleeper, (void*)(i % 10 * 20)), 0);
  for (int i = 0; i < 50; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
  CHECK(now_ns() - start < 5000000000);
}

TEST(sleepers_wake_while_another_thread_computes) {
  // A wake-up must not wait for the end of a busy thread's time slice, let alone of its work.
  pid_t busy[3];
  for (int i = 0; i < 3; i++) {
    busy[i] = CHECK_OK(fork());
    if (busy[i] == 0)
      for (volatile unsigned long n = 0;; n++) {
      }
  }
  int64_t worst = 0;
  for (int i = 0; i < 20; i++) {
    int64_t start = now_ns();
    sleep_ms(10);
    int64_t took = now_ns() - start;
    if (took > worst) worst = took;
  }
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(kill(busy[i], SIGKILL), 0);
    CHECK_EQ(waitpid(busy[i], NULL, 0), busy[i]);
  }
  CHECK(worst < 1000000000);
}
