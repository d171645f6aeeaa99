// Four threads that compute beside two hundred that mostly sleep: crowd SECONDS prints, as JSON, how much each of the
// first did, and how often the others woke up. tools/bench/crowd compares systems with it.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kBusy = 4, kSleepers = 200, kNapMs = 50 };

static volatile int stop;
static struct {
  uint64_t count;
  char apart[56];
} work[kBusy], wakes[kSleepers];

static void nap(long ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&t, NULL);
}

static void* compute(void* argument) {
  uint64_t* count = argument;
  uint64_t x = 88172645463325252u;
  while (!stop) {
    for (int i = 0; i < 10000; i++) x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    *count += 1 + (x == 0);
  }
  return NULL;
}

static void* doze(void* argument) {
  uint64_t* count = argument;
  for (; !stop; ++*count) nap(kNapMs);
  return NULL;
}

static void print(const char* name, uint64_t least, uint64_t most, uint64_t sum) {
  printf("\"%s\": {\"least\": %lu, \"most\": %lu, \"sum\": %lu}", name, (unsigned long)least, (unsigned long)most,
         (unsigned long)sum);
}

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? atof(argv[1]) : 10;
  pthread_t threads[kBusy + kSleepers];
  for (int i = 0; i < kBusy + kSleepers; i++)
    if (i < kBusy ? pthread_create(&threads[i], NULL, compute, &work[i].count)
                  : pthread_create(&threads[i], NULL, doze, &wakes[i - kBusy].count))
      return 1;
  nap((long)(seconds * 1000));
  stop = 1;
  for (int i = 0; i < kBusy + kSleepers; i++) pthread_join(threads[i], NULL);
  uint64_t least = ~0ul, most = 0, sum = 0;
  for (int i = 0; i < kBusy; i++) {
    least = work[i].count < least ? work[i].count : least;
    most = work[i].count > most ? work[i].count : most;
    sum += work[i].count;
  }
  printf("{"), print("work", least, most, sum), printf(", ");
  least = ~0ul, most = 0, sum = 0;
  for (int i = 0; i < kSleepers; i++) {
    least = wakes[i].count < least ? wakes[i].count : least;
    most = wakes[i].count > most ? wakes[i].count : most;
    sum += wakes[i].count;
  }
  print("wakes", least, most, sum), printf("}\n");
  return 0;
}
