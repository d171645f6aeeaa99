// counted OPERATION N: does one operation N times, for tests/counts/run to count what it costs in exits and host calls.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kPage = 4096, kRead = 65536, kPages = 64 };

static void must(int good, const char* what) {
  if (good) return;
  perror(what);
  exit(1);
}

static void null_call(long n) {
  while (n-- > 0) syscall(SYS_getppid);
}

static void clock_call(long n) {
  struct timespec t;
  while (n-- > 0) syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
}

static void yield(long n) {
  while (n-- > 0) sched_yield();
}

static volatile sig_atomic_t g_caught;
static void caught(int signo) {
  (void)signo;
  g_caught++;
}

static void signals(long n) {
  struct sigaction act = {.sa_handler = caught};
  must(sigaction(SIGUSR1, &act, NULL) == 0, "sigaction");
  for (long i = 0; i < n; i++) must(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1) == 0, "tgkill");
  must(g_caught == n, "signals");
}

static atomic_int g_turn;
static void wait_for_turn(int mine) {
  while (atomic_load(&g_turn) != mine) syscall(SYS_futex, &g_turn, FUTEX_WAIT_PRIVATE, !mine, NULL, NULL, 0);
}
static void give_turn(int to) {
  atomic_store(&g_turn, to);
  syscall(SYS_futex, &g_turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
static void* futex_partner(void* n) {
  for (long i = 0; i < (long)n; i++) {
    wait_for_turn(1);
    give_turn(0);
  }
  return NULL;
}
static void futexes(long n) {
  pthread_t thread;
  must(pthread_create(&thread, NULL, futex_partner, (void*)n) == 0, "pthread_create");
  for (long i = 0; i < n; i++) {
    give_turn(1);
    wait_for_turn(0);
  }
  pthread_join(thread, NULL);
}

static void pipes(long n) {
  int to[2], from[2];
  char c = 0;
  must(pipe(to) == 0 && pipe(from) == 0, "pipe");
  const pid_t child = fork();
  must(child >= 0, "fork");
  if (child == 0) {
    for (long i = 0; i < n; i++) must(read(to[0], &c, 1) == 1 && write(from[1], &c, 1) == 1, "partner");
    _exit(0);
  }
  for (long i = 0; i < n; i++) must(write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1, "ping-pong");
  must(waitpid(child, NULL, 0) == child, "waitpid");
}

// Pages that the sandbox has memory for: each was there before, was given back, and is touched again. The first
// thousand, which may meet memory that never was, come on top.
static void faults(long n) {
  char* p = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(p != MAP_FAILED && madvise(p, kPages * kPage, MADV_NOHUGEPAGE) == 0, "mmap");
  memset(p, 1, kPages * kPage);
  for (long i = -1024; i < n; i++) {
    char* page = p + (i + 1024) % kPages * kPage;
    must(madvise(page, kPage, MADV_DONTNEED) == 0, "madvise");
    *(volatile char*)page = 1;
  }
}

static void protections(long n) {
  char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(p != MAP_FAILED, "mmap");
  for (long i = 0; i < n; i++) {
    must(mprotect(p, kPage, PROT_READ) == 0 && mprotect(p, kPage, PROT_READ | PROT_WRITE) == 0, "mprotect");
    *(volatile char*)p = 1;
  }
}

static void forks(long n) {
  for (long i = 0; i < n; i++) {
    const pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) _exit(0);
    must(waitpid(child, NULL, 0) == child, "waitpid");
  }
}

// The sandbox's root is the host's: this program's own file lies there.
static void file_reads(long n, off_t step) {
  static char buffer[kRead];
  const int fd = open("/proc/self/exe", O_RDONLY);
  must(fd >= 0, "/proc/self/exe");
  const off_t size = lseek(fd, 0, SEEK_END) - kRead;
  for (long i = 0; i < n; i++) must(pread(fd, buffer, kRead, step ? i * step % size : 0) == kRead, "pread");
  close(fd);
}
static void same_read(long n) { file_reads(n, 0); }
static void many_reads(long n) { file_reads(n, kRead); }

static void memory_reads(long n) {
  static char buffer[kRead];
  const int fd = memfd_create("counted", 0);
  must(fd >= 0 && write(fd, buffer, kRead) == kRead, "memfd");
  for (long i = 0; i < n; i++) must(pread(fd, buffer, kRead, 0) == kRead, "pread");
}

static const struct {
  const char* name;
  void (*run)(long n);
} kOperations[] = {{"null", null_call}, {"clock", clock_call},     {"yield", yield},     {"signal", signals},
                   {"futex", futexes},  {"pipe", pipes},           {"fault", faults},    {"protect", protections},
                   {"fork", forks},     {"read-again", same_read}, {"read", many_reads}, {"read-memory", memory_reads}};

int main(int argc, char** argv) {
  for (size_t i = 0; argc == 3 && i < sizeof kOperations / sizeof *kOperations; i++)
    if (!strcmp(argv[1], kOperations[i].name)) {
      kOperations[i].run(atol(argv[2]));
      return 0;
    }
  fputs("counted OPERATION N\n", stderr);
  return 2;
}
