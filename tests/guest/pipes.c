// Pipes: blocking, end of file, atomicity, sizes and SIGPIPE.
#include "check.h"

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>

static volatile sig_atomic_t g_signals;
static void count_signal(int signo) { g_signals += signo > 0; }

TEST(data_passes_in_order) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(write(p[1], "abc", 3), 3);
  CHECK_EQ(write(p[1], "def", 3), 3);
  char b[8] = {0};
  CHECK_EQ(read(p[0], b, 4), 4);
  CHECK_STR(b, "abcd");
  int n = 0;
  CHECK_EQ(ioctl(p[0], FIONREAD, &n), 0);
  CHECK_EQ(n, 2);
  CHECK_EQ(read(p[0], b, 8), 2);
  struct stat st;
  CHECK_EQ(fstat(p[0], &st), 0);
  CHECK(S_ISFIFO(st.st_mode));
  CHECK_ERRNO(lseek(p[0], 0, SEEK_CUR), ESPIPE);
  CHECK_ERRNO(pread(p[0], b, 1, 0), ESPIPE);
  CHECK_ERRNO(write(p[0], "x", 1), EBADF);
  CHECK_ERRNO(read(p[1], b, 1), EBADF);
}

TEST(pipe2_flags) {
  int p[2];
  CHECK_EQ(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
  CHECK_EQ(fcntl(p[0], F_GETFD), FD_CLOEXEC);
  CHECK(fcntl(p[1], F_GETFL) & O_NONBLOCK);
  char c;
  CHECK_ERRNO(read(p[0], &c, 1), EAGAIN);
  CHECK_ERRNO(pipe2(p, O_CREAT), EINVAL);
}

TEST(end_of_file_when_writers_are_gone) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  int twin = CHECK_OK(dup(p[1]));
  CHECK_EQ(write(p[1], "x", 1), 1);
  CHECK_EQ(close(p[1]), 0);
  CHECK_EQ(close(twin), 0);
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  CHECK_EQ(read(p[0], &c, 1), 0);
}

TEST(sigpipe_and_epipe) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(close(p[0]), 0);
  signal(SIGPIPE, count_signal);
  CHECK_ERRNO(write(p[1], "x", 1), EPIPE);
  CHECK_EQ(g_signals, 1);
  signal(SIGPIPE, SIG_IGN);
  CHECK_ERRNO(write(p[1], "x", 1), EPIPE);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    signal(SIGPIPE, SIG_DFL);
    (void)!write(p[1], "x", 1);
    _exit(0);
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
}

TEST(full_pipe) {
  int p[2];
  CHECK_EQ(pipe2(p, O_NONBLOCK), 0);
  static char b[1 << 20];
  size_t total = 0;
  ssize_t n;
  while ((n = write(p[1], b, 4096)) > 0) total += (size_t)n;
  int error = errno;
  CHECK_EQ(error, EAGAIN);
  CHECK_EQ(total, fcntl(p[1], F_GETPIPE_SZ));
  struct pollfd f = {p[1], POLLOUT, 0};
  CHECK_EQ(poll(&f, 1, 0), 0);
  CHECK_EQ(read(p[0], b, 4096), 4096);
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(write(p[1], b, 4096), 4096);
}

TEST(small_writes_are_all_or_nothing) {
  int p[2];
  CHECK_EQ(pipe2(p, O_NONBLOCK), 0);
  static char b[1 << 20];
  while (write(p[1], b, 4096) > 0) {
  }
  CHECK_EQ(read(p[0], b, 100), 100);
  // Room for some of it is not room for a PIPE_BUF write.
  CHECK_ERRNO(write(p[1], b, PIPE_BUF), EAGAIN);
}

TEST(large_nonblocking_write_is_partial) {
  int p[2];
  CHECK_EQ(pipe2(p, O_NONBLOCK), 0);
  static char b[1 << 20];
  ssize_t n = CHECK_OK(write(p[1], b, sizeof b));
  CHECK(n > 0 && n < (ssize_t)sizeof b);
}

TEST(pipe_size_can_be_changed) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(fcntl(p[1], F_GETPIPE_SZ), 65536);
  CHECK(CHECK_OK(fcntl(p[1], F_SETPIPE_SZ, 100000)) >= 100000);
  int size = fcntl(p[0], F_GETPIPE_SZ);
  CHECK_EQ(size, 131072);
  CHECK(fcntl(p[1], F_SETPIPE_SZ, 1) >= 4096);
  CHECK_EQ(fcntl(p[1], F_SETFL, O_NONBLOCK), 0);
  CHECK_EQ(fcntl(p[1], F_SETPIPE_SZ, 65536), 65536);
  static char b[32768];
  CHECK_EQ(write(p[1], b, sizeof b), sizeof b);
  CHECK_ERRNO(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
  CHECK_ERRNO(fcntl(0x7000, F_GETPIPE_SZ), EBADF);
}

TEST(blocking_transfer_larger_than_the_pipe) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  enum { kSize = 3 << 20 };
  unsigned char* b = malloc(kSize);
  for (int i = 0; i < kSize; i++) b[i] = (unsigned char)(i * 7 + (i >> 9));
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(close(p[0]), 0);
    CHECK_EQ(write(p[1], b, kSize), kSize);
    _exit(0);
  }
  CHECK_EQ(close(p[1]), 0);
  unsigned char* in = malloc(kSize);
  size_t at = 0;
  ssize_t n;
  while ((n = CHECK_OK(read(p[0], in + at, 10007 < kSize - at ? 10007 : kSize - at))) > 0) at += (size_t)n;
  CHECK_EQ(at, kSize);
  CHECK_EQ(memcmp(b, in, kSize), 0);
  CHECK_CHILD_OK(pid);
}

TEST(concurrent_small_writes_do_not_mix) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  enum { kWriters = 4, kEach = 200, kSize = 1000 };
  pid_t pids[kWriters];
  for (int w = 0; w < kWriters; w++) {
    pids[w] = CHECK_OK(fork());
    if (pids[w] == 0) {
      char b[kSize];
      memset(b, 'a' + w, sizeof b);
      for (int i = 0; i < kEach; i++) CHECK_EQ(write(p[1], b, sizeof b), kSize);
      _exit(0);
    }
  }
  CHECK_EQ(close(p[1]), 0);
  int counts[kWriters] = {0};
  char b[kSize];
  for (;;) {
    size_t at = 0;
    ssize_t n = 0;
    while (at < kSize && (n = CHECK_OK(read(p[0], b + at, kSize - at))) > 0) at += (size_t)n;
    if (at == 0) break;
    CHECK_EQ(at, kSize);
    for (int i = 1; i < kSize; i++) CHECK_EQ(b[i], b[0]);
    counts[b[0] - 'a']++;
  }
  for (int w = 0; w < kWriters; w++) {
    CHECK_EQ(counts[w], kEach);
    CHECK_CHILD_OK(pids[w]);
  }
}

TEST(poll_reports_hangup_and_error) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  struct pollfd f[2] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}};
  CHECK_EQ(poll(f, 2, 0), 1);
  CHECK_EQ(f[0].revents, 0);
  CHECK_EQ(f[1].revents, POLLOUT);
  CHECK_EQ(write(p[1], "x", 1), 1);
  CHECK_EQ(poll(f, 1, 0), 1);
  CHECK_EQ(f[0].revents, POLLIN);
  CHECK_EQ(close(p[1]), 0);
  CHECK_EQ(poll(f, 1, 0), 1);
  CHECK_EQ(f[0].revents, POLLIN | POLLHUP);
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  CHECK_EQ(poll(f, 1, 0), 1);
  CHECK_EQ(f[0].revents, POLLHUP);
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(close(p[0]), 0);
  f[0] = (struct pollfd){p[1], POLLOUT, 0};
  CHECK_EQ(poll(f, 1, 0), 1);
  CHECK(f[0].revents & POLLERR);
}

// The alarms come again and again: on a busy machine the first may come before the call that it is to interrupt.
TEST(blocked_read_is_interrupted) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  struct sigaction act = {.sa_handler = count_signal};
  CHECK_EQ(sigaction(SIGALRM, &act, NULL), 0);
  ualarm(50000, 50000);
  char c;
  CHECK_ERRNO(read(p[0], &c, 1), EINTR);
  ualarm(0, 0);
  CHECK(g_signals >= 1);
}

TEST(blocked_write_is_interrupted_after_a_part) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  struct sigaction act = {.sa_handler = count_signal};
  CHECK_EQ(sigaction(SIGALRM, &act, NULL), 0);
  ualarm(50000, 50000);
  static char b[1 << 20];
  ssize_t n = write(p[1], b, sizeof b);
  CHECK_EQ(n, 65536);
  CHECK_ERRNO(write(p[1], b, 1), EINTR);
}

TEST(blocked_read_restarts) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  struct sigaction act = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  pid_t parent = getpid(), pid = CHECK_OK(fork());
  if (pid == 0) {
    for (int i = 0; i < 3; i++) {
      sleep_ms(40);
      CHECK_EQ(kill(parent, SIGUSR1), 0);
    }
    sleep_ms(40);
    CHECK_EQ(write(p[1], "x", 1), 1);
    _exit(0);
  }
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  CHECK(g_signals >= 1);
  CHECK_CHILD_OK(pid);
}

static int g_pipe[2];
static void* close_writer(void* arg) {
  (void)arg;
  sleep_ms(50);
  close(g_pipe[1]);
  return NULL;
}

TEST(close_of_last_writer_wakes_a_reader) {
  CHECK_EQ(pipe(g_pipe), 0);
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, close_writer, NULL), 0);
  char c;
  CHECK_EQ(read(g_pipe[0], &c, 1), 0);
  CHECK_EQ(pthread_join(t, NULL), 0);
}

TEST(ping_pong_between_processes) {
  int a[2], b[2];
  CHECK_EQ(pipe(a), 0);
  CHECK_EQ(pipe(b), 0);
  enum { kRounds = 2000 };
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    for (int i = 0; i < kRounds; i++) {
      int v;
      CHECK_EQ(read(a[0], &v, sizeof v), sizeof v);
      v++;
      CHECK_EQ(write(b[1], &v, sizeof v), sizeof v);
    }
    _exit(0);
  }
  for (int i = 0; i < kRounds; i++) {
    int v = i * 3, w = 0;
    CHECK_EQ(write(a[1], &v, sizeof v), sizeof v);
    CHECK_EQ(read(b[0], &w, sizeof w), sizeof w);
    CHECK_EQ(w, v + 1);
  }
  CHECK_CHILD_OK(pid);
}

TEST(pipe_through_proc) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", p[1]);
  int w = CHECK_OK(open(path, O_WRONLY));
  CHECK_EQ(write(w, "x", 1), 1);
  char c, target[64] = {0};
  CHECK_EQ(read(p[0], &c, 1), 1);
  CHECK(readlink(path, target, sizeof target - 1) > 0);
  CHECK_EQ(strncmp(target, "pipe:[", 6), 0);
}
