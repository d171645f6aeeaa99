// Many at once: a thousand processes that live together, and threads that compute beside many that mostly sleep.
#include "check.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { kProcesses = 1000 };

// All of them live at the same time, sleep, answer, and end when told.
TEST(a_thousand_processes) {
  struct rlimit limit;
  CHECK_EQ(getrlimit(RLIMIT_NPROC, &limit), 0);
  if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < kProcesses + 200) SKIP("ulimit -u is too low");
  static pid_t children[kProcesses];
  int answers[2], orders[2];
  CHECK_EQ(pipe(answers), 0);
  CHECK_EQ(pipe(orders), 0);
  const int64_t begin = now_ns();
  for (int i = 0; i < kProcesses; i++) {
    children[i] = CHECK_OK(fork());
    if (children[i] == 0) {
      char order;
      for (int k = 0; k < 2; k++) {
        if (read(orders[0], &order, 1) != 1) _exit(1);
        // Its own number, and memory of its own: all have the same parent's page.
        answers[0] = i;
        const uint32_t answer = (uint32_t)getpid();
        if (write(answers[1], &answer, sizeof answer) != sizeof answer) _exit(2);
        // Not the same one twice: who has answered waits for the others.
        sleep_ms(200);
      }
      _exit(answers[0] == i ? i % 100 : 255);
    }
  }
  const int64_t alive = now_ns();
  long seen = 0;
  for (int k = 0; k < 2; k++) {
    for (int i = 0; i < kProcesses; i++) CHECK_EQ(write(orders[1], "x", 1), 1);
    for (int i = 0; i < kProcesses; i++) {
      uint32_t pid;
      CHECK_EQ(read(answers[0], &pid, sizeof pid), sizeof pid);
      int known = 0;
      for (int j = 0; j < kProcesses; j++) known |= children[j] == (pid_t)pid;
      CHECK(known);
      seen++;
    }
  }
  CHECK_EQ(seen, 2 * kProcesses);
  // Who answered twice has made another one wait in vain: the pipe's end tells those.
  close(orders[1]);
  const int64_t answered = now_ns();
  int ended = 0;
  for (int i = 0; i < kProcesses; i++) {
    int status;
    CHECK_EQ(waitpid(children[i], &status, 0), children[i]);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == i % 100 || WEXITSTATUS(status) == 1);
    ended++;
  }
  CHECK_EQ(ended, kProcesses);
  printf("%d processes: made in %lld ms, answered in %lld ms, ended in %lld ms\n", kProcesses,
         (long long)(alive - begin) / 1000000, (long long)(answered - alive) / 1000000,
         (long long)(now_ns() - answered) / 1000000);
}

enum { kBusy = 4, kSleepers = 200 };

static volatile int g_stop;
static uint64_t g_work[kBusy], g_wakes[kSleepers];

static void* compute(void* argument) {
  uint64_t* work = argument;
  uint64_t x = 88172645463325252ul;
  while (!g_stop) {
    for (int i = 0; i < 10000; i++) x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    *work += 1 + (x == 0);
  }
  return NULL;
}

static void* doze(void* argument) {
  uint64_t* wakes = argument;
  while (!g_stop) {
    sleep_ms(50);
    ++*wakes;
  }
  return NULL;
}

// Nobody starves, neither those that compute nor those that sleep.
TEST(busy_threads_beside_sleepers) {
  pthread_t busy[kBusy], sleepers[kSleepers];
  for (int i = 0; i < kBusy; i++) CHECK_EQ(pthread_create(&busy[i], NULL, compute, &g_work[i]), 0);
  for (int i = 0; i < kSleepers; i++) CHECK_EQ(pthread_create(&sleepers[i], NULL, doze, &g_wakes[i]), 0);
  sleep_ms(3000);
  g_stop = 1;
  for (int i = 0; i < kBusy; i++) CHECK_EQ(pthread_join(busy[i], NULL), 0);
  for (int i = 0; i < kSleepers; i++) CHECK_EQ(pthread_join(sleepers[i], NULL), 0);
  uint64_t least = ~0ul, most = 0, fewest = ~0ul;
  for (int i = 0; i < kBusy; i++) {
    if (g_work[i] < least) least = g_work[i];
    if (g_work[i] > most) most = g_work[i];
  }
  for (int i = 0; i < kSleepers; i++)
    if (g_wakes[i] < fewest) fewest = g_wakes[i];
  CHECK(least > 0);
  CHECK(least > most / 20);  // a share for each
  CHECK(fewest > 1);
}
