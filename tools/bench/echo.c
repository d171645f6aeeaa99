// echo THREADS: answers each byte of stdin on stdout, beside so many threads that compute. tools/bench/echo measures
// it.
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static volatile unsigned long counter;

static void* compute(void* unused) {
  (void)unused;
  for (;;) counter++;
  return NULL;
}

int main(int argc, char** argv) {
  pthread_t thread;
  for (int i = argc > 1 ? atoi(argv[1]) : 0; i > 0; i--)
    if (pthread_create(&thread, NULL, compute, NULL)) return 1;
  char byte;
  while (read(0, &byte, 1) == 1)
    if (write(1, &byte, 1) != 1) return 1;
  _exit(0);
}
