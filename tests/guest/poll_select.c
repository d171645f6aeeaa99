// poll, ppoll, select and pselect.
#include "check.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>

TEST(poll_basics) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  struct pollfd f[4] = {{p[0], POLLIN, 99}, {p[1], POLLOUT, 99}, {-1, POLLIN, 99}, {1000, POLLIN, 99}};
  CHECK_EQ(poll(f, 4, 0), 2);
  CHECK_EQ(f[0].revents, 0);
  CHECK_EQ(f[1].revents, POLLOUT);
  CHECK_EQ(f[2].revents, 0);
  CHECK_EQ(f[3].revents, POLLNVAL);
  CHECK_EQ(poll(NULL, 0, 1), 0);
  CHECK_ERRNO(poll((void*)8, 1, 0), EFAULT);
}

TEST(poll_waits_its_time) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  struct pollfd f = {p[0], POLLIN, 0};
  int64_t start = now_ns();
  CHECK_EQ(poll(&f, 1, 60), 0);
  CHECK(now_ns() - start >= 60000000);
  start = now_ns();
  struct timespec t = {0, 30000000};
  CHECK_EQ(ppoll(&f, 1, &t, NULL), 0);
  CHECK(now_ns() - start >= 30000000);
  t.tv_nsec = -1;
  CHECK_ERRNO(ppoll(&f, 1, &t, NULL), EINVAL);
}

TEST(poll_wakes) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    sleep_ms(50);
    CHECK_EQ(write(p[1], "x", 1), 1);
    _exit(0);
  }
  struct pollfd f = {p[0], POLLIN, 0};
  CHECK_EQ(poll(&f, 1, -1), 1);
  CHECK_CHILD_OK(pid);
}

TEST(poll_of_files_is_always_ready) {
  int fd = CHECK_OK(open("/proc/self/exe", O_RDONLY)), null = CHECK_OK(open("/dev/null", O_RDWR));
  struct pollfd f[2] = {{fd, POLLIN | POLLOUT, 0}, {null, POLLIN | POLLOUT, 0}};
  CHECK_EQ(poll(f, 2, -1), 2);
  CHECK_EQ(f[0].revents, POLLIN | POLLOUT);
  CHECK_EQ(f[1].revents, POLLIN | POLLOUT);
}

TEST(poll_limit) {
  struct rlimit limit;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = 10;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  struct pollfd f[11];
  for (int i = 0; i < 11; i++) f[i] = (struct pollfd){-1, 0, 0};
  CHECK_EQ(poll(f, 10, 0), 0);
  CHECK_ERRNO(poll(f, 11, 0), EINVAL);
}

static volatile sig_atomic_t g_signals;
static void count(int signo) { g_signals += signo > 0; }

TEST(poll_is_not_restarted_after_a_handler) {
  struct sigaction act = {.sa_handler = count, .sa_flags = SA_RESTART};
  CHECK_EQ(sigaction(SIGALRM, &act, NULL), 0);
  ualarm(30000, 0);
  CHECK_ERRNO(poll(NULL, 0, 5000), EINTR);
  CHECK_EQ(g_signals, 1);
}

TEST(poll_goes_on_after_stop_and_continue) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    int64_t start = now_ns();
    CHECK_EQ(poll(NULL, 0, 300), 0);
    CHECK(now_ns() - start >= 300000000);
    _exit(0);
  }
  sleep_ms(50);
  CHECK_EQ(kill(pid, SIGSTOP), 0);
  sleep_ms(50);
  CHECK_EQ(kill(pid, SIGCONT), 0);
  CHECK_CHILD_OK(pid);
}

TEST(ppoll_swaps_the_mask) {
  struct sigaction act = {.sa_handler = count};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  sigset_t set, none;
  sigemptyset(&none);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  CHECK_ERRNO(ppoll(NULL, 0, NULL, &none), EINTR);
  CHECK_EQ(g_signals, 1);
  CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &none), 0);
  CHECK(sigismember(&none, SIGUSR1));
}

TEST(select_basics) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  fd_set r, w;
  FD_ZERO(&r);
  FD_ZERO(&w);
  FD_SET(p[0], &r);
  FD_SET(p[1], &w);
  struct timeval t = {0, 0};
  CHECK_EQ(select(p[1] + 1, &r, &w, NULL, &t), 1);
  CHECK(!FD_ISSET(p[0], &r));
  CHECK(FD_ISSET(p[1], &w));
  CHECK_EQ(write(p[1], "x", 1), 1);
  FD_SET(p[0], &r);
  CHECK_EQ(select(p[1] + 1, &r, &w, NULL, NULL), 2);
  CHECK(FD_ISSET(p[0], &r));
  FD_ZERO(&r);
  FD_SET(50, &r);
  CHECK_ERRNO(select(51, &r, NULL, NULL, &t), EBADF);
  CHECK_ERRNO(select(-1, NULL, NULL, NULL, &t), EINVAL);
  t.tv_sec = -1;
  CHECK_ERRNO(select(0, NULL, NULL, NULL, &t), EINVAL);
}

TEST(select_updates_the_time_left) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    sleep_ms(50);
    CHECK_EQ(write(p[1], "x", 1), 1);
    _exit(0);
  }
  fd_set r;
  FD_ZERO(&r);
  FD_SET(p[0], &r);
  struct timeval t = {10, 0};
  CHECK_EQ(select(p[0] + 1, &r, NULL, NULL, &t), 1);
  CHECK_EQ(t.tv_sec, 9);
  CHECK_CHILD_OK(pid);
  t = (struct timeval){0, 30000};
  int64_t start = now_ns();
  CHECK_EQ(select(0, NULL, NULL, NULL, &t), 0);
  CHECK(now_ns() - start >= 30000000);
  CHECK_EQ(t.tv_usec, 0);
}

TEST(pselect_swaps_the_mask) {
  struct sigaction act = {.sa_handler = count};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  sigset_t set, none;
  sigemptyset(&none);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  CHECK_ERRNO(pselect(0, NULL, NULL, NULL, NULL, &none), EINTR);
  CHECK_EQ(g_signals, 1);
}

TEST(end_of_file_is_readable_in_select) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(close(p[1]), 0);
  fd_set r;
  FD_ZERO(&r);
  FD_SET(p[0], &r);
  CHECK_EQ(select(p[0] + 1, &r, NULL, NULL, NULL), 1);
}

TEST(many_descriptors) {
  struct pollfd f[300];
  for (int i = 0; i < 300; i++) f[i] = (struct pollfd){CHECK_OK(eventfd(i % 2, 0)), POLLIN, 0};
  CHECK_EQ(poll(f, 300, 0), 150);
  for (int i = 0; i < 300; i++) CHECK_EQ(f[i].revents, i % 2 ? POLLIN : 0);
}
