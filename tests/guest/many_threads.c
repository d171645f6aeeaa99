// Sixteen threads that do everything at once: mutexes, condition variables, barriers, thread-local storage, and
// floating-point and AVX arithmetic whose results must not depend on who was preempted when.
#include "check.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

enum { kThreads = 16, kRounds = 60 };

static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_cond = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t g_barrier;
static long g_sum, g_turn;
static __thread long t_sum;
static __thread double t_scratch[64];

// A long dependent chain: one lost bit of state shows in the end.
static double scalar_chain(int seed) {
  double x = seed + 0.5;
  long double y = seed + 1.25L;
  for (int i = 0; i < 20000; i++) {
    x = x * 1.0000001 + 1.0 / (1.0 + x * x);
    y = y * 1.0000002L + 1.0L / (2.0L + y);
  }
  return x + (double)y;
}

__attribute__((target("avx2,fma"))) static double vector_chain(int seed) {
  __m256d a = _mm256_set_pd(seed, seed + 1, seed + 2, seed + 3), b = _mm256_set1_pd(1.0000001),
          c = _mm256_set1_pd(0.25), d = _mm256_set1_pd(3.0);
  for (int i = 0; i < 30000; i++) {
    a = _mm256_fmadd_pd(a, b, c);
    d = _mm256_add_pd(_mm256_sqrt_pd(_mm256_mul_pd(d, a)), c);
    a = _mm256_permute4x64_pd(a, 0x39);
  }
  double out[4];
  _mm256_storeu_pd(out, _mm256_add_pd(a, d));
  return out[0] + out[1] * 3 + out[2] * 5 + out[3] * 7;
}

static double compute(int seed) {
  double v = scalar_chain(seed);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) v += vector_chain(seed);
  return v;
}

static double g_expected[kThreads];

static void* worker(void* arg) {
  int me = (int)(intptr_t)arg;
  for (int i = 0; i < 64; i++) t_scratch[i] = me * 1000 + i;
  for (int round = 0; round < kRounds; round++) {
    double got = compute(me);
    if (memcmp(&got, &g_expected[me], sizeof got) != 0)
      test_fail_(__FILE__, __LINE__, "thread %d round %d: %.17g, not %.17g", me, round, got, g_expected[me]);
    for (int i = 0; i < 64; i++) CHECK(t_scratch[i] == me * 1000 + i);
    t_sum += round;
    pthread_mutex_lock(&g_mutex);
    g_sum += round;
    if (round % 8 == 0) sched_yield();
    pthread_mutex_unlock(&g_mutex);
    if (round % 10 == 9) {
      pthread_barrier_wait(&g_barrier);
      // In turn, by the condition variable.
      pthread_mutex_lock(&g_mutex);
      while (g_turn % kThreads != me) pthread_cond_wait(&g_cond, &g_mutex);
      g_turn++;
      pthread_cond_broadcast(&g_cond);
      pthread_mutex_unlock(&g_mutex);
      pthread_barrier_wait(&g_barrier);
    }
  }
  return (void*)t_sum;
}

TEST(sixteen_threads_agree_with_one) {
  for (int i = 0; i < kThreads; i++) g_expected[i] = compute(i);
  CHECK_EQ(pthread_barrier_init(&g_barrier, NULL, kThreads), 0);
  pthread_t t[kThreads];
  for (intptr_t i = 0; i < kThreads; i++) CHECK_EQ(pthread_create(&t[i], NULL, worker, (void*)i), 0);
  long each = kRounds * (kRounds - 1) / 2;
  for (int i = 0; i < kThreads; i++) {
    void* sum;
    CHECK_EQ(pthread_join(t[i], &sum), 0);
    CHECK_EQ((long)sum, each);
  }
  CHECK_EQ(g_sum, each * kThreads);
  CHECK_EQ(g_turn, kThreads * (kRounds / 10));
}

static volatile int g_stop;

static void* remap(void* unused) {
  while (!g_stop) {
    char* p = mmap(NULL, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    for (int i = 0; i < 16; i++) p[i << 12] = 1;
    CHECK_EQ(munmap(p, 64 << 10), 0);
  }
  return unused;
}

static void* wait_for_all(void* unused) {
  pthread_barrier_wait(&g_barrier);
  return unused;
}

TEST(threads_start_while_memory_changes) {
  pthread_t changer, t[kThreads];
  CHECK_EQ(pthread_create(&changer, NULL, remap, NULL), 0);
  for (int round = 0; round < 10; round++)
    // In processes of their own, so that no thread is one that has run before.
    IN_CHILD({
      CHECK_EQ(pthread_create(&changer, NULL, remap, NULL), 0);
      CHECK_EQ(pthread_barrier_init(&g_barrier, NULL, kThreads), 0);
      for (int i = 0; i < kThreads; i++) CHECK_EQ(pthread_create(&t[i], NULL, wait_for_all, NULL), 0);
      for (int i = 0; i < kThreads; i++) CHECK_EQ(pthread_join(t[i], NULL), 0);
    });
  g_stop = 1;
  CHECK_EQ(pthread_join(changer, NULL), 0);
}
