// Each operation is what its row claims and as little else as can be: helpers (a partner process or thread, a file) are
// made in begin, outside the timed part, and stay from the warm-up to the last round.
#define _GNU_SOURCE
#include "operations.h"

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

const char* scratch_directory = "/tmp";

void must(int good, const char* what) {
  if (good) return;
  fprintf(stderr, "measure: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int fd = -1;  // what begin opened for the operation under way

static void close_fd(void) {
  close(fd);
  fd = -1;
}

// --- System calls ---

// The C library's wrappers, as programs use them: each has a SYSCALL instruction of its own.
static void null_call(long n) {
  for (long i = 0; i < n; i++) getppid();
}

static void open_zero(void) { must((fd = open("/dev/zero", O_RDONLY)) >= 0, "/dev/zero"); }

static void read_zero(long n) {
  char c;
  for (long i = 0; i < n; i++) must(read(fd, &c, 1) == 1, "read");
}

static void clock_call(long n) {
  struct timespec t;
  for (long i = 0; i < n; i++) clock_gettime(CLOCK_REALTIME, &t);
}

// --- Files ---

static void stat_call(long n) {
  struct stat st;
  for (long i = 0; i < n; i++) must(stat("/etc/passwd", &st) == 0, "stat");
}

static void open_close(long n) {
  for (long i = 0; i < n; i++) {
    int file = open("/etc/passwd", O_RDONLY);
    must(file >= 0, "open");
    must(close(file) == 0, "close");
  }
}

enum { kFilePages = 256 };

static void open_scratch_file(void) {
  char name[4096];
  snprintf(name, sizeof name, "%s/measure.XXXXXX", scratch_directory);
  must((fd = mkstemp(name)) >= 0, name);
  must(unlink(name) == 0, "unlink");
  char block[kPage] = {1};
  for (int i = 0; i < kFilePages; i++) must(write(fd, block, kPage) == kPage, "write");
}

static void pread_4k(long n) {
  char block[kPage];
  for (long i = 0; i < n; i++) must(pread(fd, block, kPage, i % kFilePages * kPage) == kPage, "pread");
}

static void pwrite_4k(long n) {
  char block[kPage] = {2};
  for (long i = 0; i < n; i++) must(pwrite(fd, block, kPage, i % kFilePages * kPage) == kPage, "pwrite");
}

static void create_unlink(long n) {
  char name[4096];
  snprintf(name, sizeof name, "%s/measure.%d", scratch_directory, getpid());
  for (long i = 0; i < n; i++) {
    int file = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
    must(file >= 0, name);
    must(close(file) == 0, "close");
    must(unlink(name) == 0, "unlink");
  }
}

// --- Waiting for each other ---

static int to_partner[2], from_partner[2];
static pid_t partner_process;

static void start_pipe_partner(void) {
  must(pipe(to_partner) == 0 && pipe(from_partner) == 0, "pipe");
  must((partner_process = fork()) >= 0, "fork");
  if (partner_process == 0) {
    char c;
    close(to_partner[1]), close(from_partner[0]);
    while (read(to_partner[0], &c, 1) == 1 && write(from_partner[1], &c, 1) == 1) continue;
    _exit(0);
  }
  close(to_partner[0]), close(from_partner[1]);
}

static void pipe_ping_pong(long n) {
  char c = 0;
  for (long i = 0; i < n; i++)
    must(write(to_partner[1], &c, 1) == 1 && read(from_partner[0], &c, 1) == 1, "pipe ping-pong");
}

static void end_pipe_partner(void) {
  close(to_partner[1]), close(from_partner[0]);
  must(waitpid(partner_process, NULL, 0) == partner_process, "waitpid");
}

enum { kOurTurn, kPartnersTurn, kNoMoreTurns };
static atomic_int turn;
static pthread_t partner_thread;

static int wait_while(int whose) {
  int now;
  while ((now = atomic_load(&turn)) == whose) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, whose, NULL, NULL, 0);
  return now;
}

static void pass_turn(int next) {
  atomic_store(&turn, next);
  syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void* take_turns(void* arg) {
  while (wait_while(kOurTurn) != kNoMoreTurns) pass_turn(kOurTurn);
  return arg;
}

static void start_futex_partner(void) {
  atomic_store(&turn, kOurTurn);
  must((errno = pthread_create(&partner_thread, NULL, take_turns, NULL)) == 0, "pthread_create");
}

static void futex_ping_pong(long n) {
  for (long i = 0; i < n; i++) {
    pass_turn(kPartnersTurn);
    wait_while(kPartnersTurn);
  }
}

static void end_futex_partner(void) {
  pass_turn(kNoMoreTurns);
  pthread_join(partner_thread, NULL);
}

static int epoll_pipe[2];

static void make_epoll(void) {
  must((fd = epoll_create1(0)) >= 0 && pipe(epoll_pipe) == 0, "epoll");
  struct epoll_event e = {.events = EPOLLIN};
  must(epoll_ctl(fd, EPOLL_CTL_ADD, epoll_pipe[0], &e) == 0 && write(epoll_pipe[1], "x", 1) == 1, "epoll_ctl");
}

static void epoll_one(long n) {
  struct epoll_event e;
  for (long i = 0; i < n; i++) must(epoll_wait(fd, &e, 1, -1) == 1, "epoll_wait");
}

static void end_epoll(void) {
  close(epoll_pipe[0]), close(epoll_pipe[1]);
  close_fd();
}

// --- Memory ---

static void* map(size_t size) {
  void* p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(p != MAP_FAILED, "mmap");
  return p;
}

static void mmap_touch_munmap(long n) {
  for (long i = 0; i < n; i++) {
    volatile char* p = map(16 * kPage);
    for (int k = 0; k < 16; k++) p[k * kPage] = 1;
    must(munmap((void*)p, 16 * kPage) == 0, "munmap");
  }
}

// Faults of single pages: MADV_NOHUGEPAGE and a stride that no fault-around can guess. The mapping is made and taken
// away once in 4096 faults.
static void page_fault(long n) {
  enum { kPages = 4096 };
  for (long done = 0; done < n;) {
    volatile char* p = map((size_t)kPages * kPage);
    madvise((void*)p, (size_t)kPages * kPage, MADV_NOHUGEPAGE);
    for (int k = 0; k < kPages && done < n; k++, done++) p[(size_t)((k * 1031) % kPages) * kPage] = 1;
    must(munmap((void*)p, (size_t)kPages * kPage) == 0, "munmap");
  }
}

static void touch_64m(long n) {
  const size_t size = 64 << 20;
  for (long i = 0; i < n; i++) {
    volatile char* p = map(size);
    for (size_t k = 0; k < size; k += kPage) p[k] = 1;
    must(munmap((void*)p, size) == 0, "munmap");
  }
}

// --- Threads, processes, signals ---

static void* no_work(void* arg) { return arg; }

static void thread_create_join(long n) {
  for (long i = 0; i < n; i++) {
    pthread_t t;
    must((errno = pthread_create(&t, NULL, no_work, NULL)) == 0, "pthread_create");
    pthread_join(t, NULL);
  }
}

static void wait_for(pid_t pid, const char* what) {
  int status;
  must(waitpid(pid, &status, 0) == pid, "waitpid");
  errno = 0;
  must(status == 0, what);
}

static void fork_exit(long n) {
  for (long i = 0; i < n; i++) {
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) _exit(0);
    wait_for(pid, "the child's status");
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
    wait_for(pid, "the executed program's status");
  }
}

static volatile sig_atomic_t signals_seen;

static void on_signal(int sig) {
  (void)sig;
  signals_seen++;
}

static void set_handler(void) {
  struct sigaction action = {.sa_handler = on_signal};
  must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
}

static void signal_delivery(long n) {
  pid_t pid = getpid();
  signals_seen = 0;
  for (long i = 0; i < n; i++) kill(pid, SIGUSR1);
  errno = 0;
  must(signals_seen == n, "not every signal came");
}

// --- The CPU alone ---

static void cpu_loop(long n) {
  uint64_t x = 88172645463325252u;
  for (long i = 0; i < n * 1000; i++) x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  __asm__ volatile("" ::"r"(x));
}

const struct Operation kOperations[] = {
    {"null", "getppid", NULL, null_call, NULL},
    {"read_zero", "read of 1 byte from /dev/zero", open_zero, read_zero, close_fd},
    {"clock", "clock_gettime (vDSO)", NULL, clock_call, NULL},
    {"stat", "stat of /etc/passwd", NULL, stat_call, NULL},
    {"open_close", "open and close /etc/passwd", NULL, open_close, NULL},
    {"pread_4k", "pread of 4 KiB from a scratch file", open_scratch_file, pread_4k, close_fd},
    {"pwrite_4k", "pwrite of 4 KiB to a scratch file", open_scratch_file, pwrite_4k, close_fd},
    {"create_unlink", "create, close and unlink a scratch file", NULL, create_unlink, NULL},
    {"pipe", "pipe ping-pong between two processes, round trip", start_pipe_partner, pipe_ping_pong, end_pipe_partner},
    {"futex", "futex ping-pong between two threads, round trip", start_futex_partner, futex_ping_pong,
     end_futex_partner},
    {"mmap", "mmap, touch 16 pages, munmap", NULL, mmap_touch_munmap, NULL},
    {"fault", "page fault, one page", NULL, page_fault, NULL},
    {"touch_64m", "mmap, touch and munmap 64 MiB", NULL, touch_64m, NULL},
    {"thread", "pthread_create and join", NULL, thread_create_join, NULL},
    {"fork_exit", "fork, exit, wait", NULL, fork_exit, NULL},
    {"fork_exec", "fork, exec of this static program, wait", NULL, fork_exec, NULL},
    {"signal", "kill of oneself, handler, return", set_handler, signal_delivery, NULL},
    {"epoll", "epoll_wait with one descriptor ready", make_epoll, epoll_one, end_epoll},
    {"cpu", "1000 rounds of xorshift", NULL, cpu_loop, NULL},
};
const size_t kOperationCount = sizeof kOperations / sizeof kOperations[0];
