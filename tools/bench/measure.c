// measure [--rounds N] [--json] [ROW...]: what single operations of a Linux system cost, in nanoseconds.
//
// A static program that knows nothing of where it runs: natively, in a Ringfence sandbox, in another one's. Each row is
// warmed up, then timed in rounds of about 20 ms; the median round and the fastest are printed. With --list: the rows.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kPage = 4096 };

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void must(int good, const char* what) {
  if (good) return;
  fprintf(stderr, "measure: %s: %s\n", what, strerror(errno));
  exit(1);
}

// --- Rows: each does its operation n times; what it needs is made at the first call. ---

static void null_call(long n) {
  for (long i = 0; i < n; i++) syscall(SYS_getppid);
}

static void read_zero(long n) {
  static int fd = -1;
  char c;
  if (fd < 0) must((fd = open("/dev/zero", O_RDONLY)) >= 0, "/dev/zero");
  for (long i = 0; i < n; i++) must(read(fd, &c, 1) == 1, "read");
}

static void clock_call(long n) {
  struct timespec t;
  for (long i = 0; i < n; i++) clock_gettime(CLOCK_REALTIME, &t);
}

static void stat_call(long n) {
  struct stat st;
  for (long i = 0; i < n; i++) must(stat("/etc/passwd", &st) == 0, "stat");
}

static void open_close(long n) {
  for (long i = 0; i < n; i++) {
    int fd = open("/etc/passwd", O_RDONLY);
    must(fd >= 0, "open");
    close(fd);
  }
}

static int scratch_file(void) {
  static int fd = -1;
  if (fd >= 0) return fd;
  char name[] = "/tmp/measure.XXXXXX";
  must((fd = mkstemp(name)) >= 0, "mkstemp");
  unlink(name);
  char block[kPage] = {1};
  for (int i = 0; i < 256; i++) must(write(fd, block, kPage) == kPage, "write");
  return fd;
}

static void pread_4k(long n) {
  int fd = scratch_file();
  char block[kPage];
  for (long i = 0; i < n; i++) must(pread(fd, block, kPage, (i & 255) * kPage) == kPage, "pread");
}

static void pwrite_4k(long n) {
  int fd = scratch_file();
  char block[kPage] = {2};
  for (long i = 0; i < n; i++) must(pwrite(fd, block, kPage, (i & 255) * kPage) == kPage, "pwrite");
}

static void create_unlink(long n) {
  char name[64];
  snprintf(name, sizeof name, "/tmp/measure.%d", getpid());
  for (long i = 0; i < n; i++) {
    int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
    must(fd >= 0, "create");
    close(fd);
    must(unlink(name) == 0, "unlink");
  }
}

// Round trips between two processes.
static void pipe_ping_pong(long n) {
  int to[2], from[2];
  char c = 0;
  must(pipe(to) == 0 && pipe(from) == 0, "pipe");
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0) {
    close(to[1]), close(from[0]);
    while (read(to[0], &c, 1) == 1 && write(from[1], &c, 1) == 1) continue;
    _exit(0);
  }
  close(to[0]), close(from[1]);
  for (long i = 0; i < n; i++) must(write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1, "ping-pong");
  close(to[1]), close(from[0]);
  waitpid(pid, NULL, 0);
}

static atomic_int turn;
static long turns;

static void take_turns(int mine) {
  for (long i = 0; i < turns; i++) {
    while (atomic_load(&turn) != mine) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !mine, NULL, NULL, 0);
    atomic_store(&turn, !mine);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
  }
}

static void* other_side(void* arg) {
  (void)arg;
  take_turns(1);
  return NULL;
}

// Round trips between two threads.
static void futex_ping_pong(long n) {
  pthread_t t;
  turns = n;
  atomic_store(&turn, 0);
  must(pthread_create(&t, NULL, other_side, NULL) == 0, "pthread_create");
  take_turns(0);
  pthread_join(t, NULL);
}

static void mmap_touch_munmap(long n) {
  for (long i = 0; i < n; i++) {
    volatile char* p = mmap(NULL, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED, "mmap");
    for (int k = 0; k < 16; k++) p[k * kPage] = 1;
    munmap((void*)p, 16 * kPage);
  }
}

// Faults of single pages: MADV_NOHUGEPAGE and a stride that no fault-around can guess.
static void page_fault(long n) {
  enum { kPages = 4096 };
  for (long done = 0; done < n;) {
    volatile char* p = mmap(NULL, (size_t)kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED, "mmap");
    madvise((void*)p, (size_t)kPages * kPage, MADV_NOHUGEPAGE);
    for (int k = 0; k < kPages && done < n; k++, done++) p[(size_t)((k * 1031) % kPages) * kPage] = 1;
    munmap((void*)p, (size_t)kPages * kPage);
  }
}

static void touch_64m(long n) {
  const size_t size = 64 << 20;
  for (long i = 0; i < n; i++) {
    volatile char* p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED, "mmap");
    for (size_t k = 0; k < size; k += kPage) p[k] = 1;
    munmap((void*)p, size);
  }
}

static void* no_work(void* arg) { return arg; }

static void thread_create_join(long n) {
  for (long i = 0; i < n; i++) {
    pthread_t t;
    must(pthread_create(&t, NULL, no_work, NULL) == 0, "pthread_create");
    pthread_join(t, NULL);
  }
}

static void fork_exit(long n) {
  for (long i = 0; i < n; i++) {
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) _exit(0);
    waitpid(pid, NULL, 0);
  }
}

static void fork_exec(long n) {
  for (long i = 0; i < n; i++) {
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
      execl("/proc/self/exe", "measure", "--nothing", NULL);
      _exit(127);
    }
    int status;
    waitpid(pid, &status, 0);
    must(status == 0, "exec");
  }
}

static void on_signal(int sig) { (void)sig; }

static void signal_delivery(long n) {
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  pid_t pid = getpid();
  for (long i = 0; i < n; i++) kill(pid, SIGUSR1);
}

static void epoll_one(long n) {
  static int ep = -1, p[2];
  if (ep < 0) {
    must((ep = epoll_create1(0)) >= 0 && pipe(p) == 0, "epoll");
    struct epoll_event e = {.events = EPOLLIN};
    must(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e) == 0 && write(p[1], "x", 1) == 1, "epoll_ctl");
  }
  struct epoll_event e;
  for (long i = 0; i < n; i++) must(epoll_wait(ep, &e, 1, -1) == 1, "epoll_wait");
}

static void cpu_loop(long n) {
  uint64_t x = 88172645463325252u;
  for (long i = 0; i < n * 1000; i++) x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  __asm__ volatile("" ::"r"(x));
}

static const struct Row {
  const char* name;
  const char* what;
  void (*run)(long n);
} kRows[] = {
    {"null", "getppid", null_call},
    {"read_zero", "read of 1 byte from /dev/zero", read_zero},
    {"clock", "clock_gettime (vDSO)", clock_call},
    {"stat", "stat of /etc/passwd", stat_call},
    {"open_close", "open and close /etc/passwd", open_close},
    {"pread_4k", "pread of 4 KiB from a file in /tmp", pread_4k},
    {"pwrite_4k", "pwrite of 4 KiB to a file in /tmp", pwrite_4k},
    {"create_unlink", "create, close and unlink a file in /tmp", create_unlink},
    {"pipe", "pipe ping-pong between two processes, round trip", pipe_ping_pong},
    {"futex", "futex ping-pong between two threads, round trip", futex_ping_pong},
    {"mmap", "mmap, touch 16 pages, munmap", mmap_touch_munmap},
    {"fault", "page fault, one page", page_fault},
    {"touch_64m", "mmap, touch and munmap 64 MiB", touch_64m},
    {"thread", "pthread_create and join", thread_create_join},
    {"fork_exit", "fork, exit, wait", fork_exit},
    {"fork_exec", "fork, exec of this static program, wait", fork_exec},
    {"signal", "kill of oneself, handler, return", signal_delivery},
    {"epoll", "epoll_wait with one descriptor ready", epoll_one},
    {"cpu", "1000 rounds of xorshift", cpu_loop},
};

static int by_value(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void measure(const struct Row* row, int rounds, int json, int first) {
  enum { kMaxRounds = 1000 };
  static double ns[kMaxRounds];
  const uint64_t round_ns = 20 * 1000 * 1000;
  long n = 1;
  for (;;) {  // warms up, and finds how many fill a round
    uint64_t begin = now_ns();
    row->run(n);
    uint64_t took = now_ns() - begin;
    if (took >= round_ns / 2) break;
    n = took < round_ns / 20 ? n * 10 : (long)((double)n * (double)round_ns / (double)took) + 1;
  }
  for (int i = 0; i < rounds; i++) {
    uint64_t begin = now_ns();
    row->run(n);
    ns[i] = (double)(now_ns() - begin) / (double)n;
  }
  qsort(ns, (size_t)rounds, sizeof ns[0], by_value);
  if (json)
    printf("%s\n  \"%s\": {\"median_ns\": %.1f, \"fastest_ns\": %.1f, \"slowest_ns\": %.1f}", first ? "{" : ",",
           row->name, ns[rounds / 2], ns[0], ns[rounds - 1]);
  else
    printf("%-14s %12.1f %12.1f  %s\n", row->name, ns[rounds / 2], ns[0], row->what);
  fflush(stdout);
}

int main(int argc, char** argv) {
  int rounds = 11, json = 0, chosen = 0, first = 1;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--nothing")) return 0;
    if (!strcmp(argv[i], "--help")) {
      puts("measure [--rounds N] [--json] [ROW...]: nanoseconds per operation; --list shows the rows");
      return 0;
    }
    if (!strcmp(argv[i], "--list")) {
      for (size_t r = 0; r < sizeof kRows / sizeof kRows[0]; r++) printf("%-14s %s\n", kRows[r].name, kRows[r].what);
      return 0;
    }
    if (!strcmp(argv[i], "--json")) {
      json = 1;
    } else if (!strcmp(argv[i], "--rounds") && i + 1 < argc) {
      rounds = atoi(argv[++i]);
      if (rounds < 1 || rounds > 1000) {
        fprintf(stderr, "measure: --rounds takes 1 to 1000\n");
        return 2;
      }
    } else {
      size_t r = 0;
      while (r < sizeof kRows / sizeof kRows[0] && strcmp(argv[i], kRows[r].name) != 0) r++;
      if (r == sizeof kRows / sizeof kRows[0]) {
        fprintf(stderr, "measure: there is no row %s; see --list\n", argv[i]);
        return 2;
      }
      chosen = 1;
    }
  }
  if (!json) printf("%-14s %12s %12s\n", "row", "median ns", "fastest ns");
  for (size_t r = 0; r < sizeof kRows / sizeof kRows[0]; r++) {
    int wanted = !chosen;
    for (int i = 1; i < argc; i++) wanted |= !strcmp(argv[i], kRows[r].name);
    if (!wanted) continue;
    measure(&kRows[r], rounds, json, first);
    first = 0;
  }
  if (json) puts("\n}");
  return 0;
}
