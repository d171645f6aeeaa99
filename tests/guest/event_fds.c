// eventfd, timerfd, signalfd and epoll.
#include "check.h"

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static uint64_t read8(int fd) {
  uint64_t v = 0;
  CHECK_EQ(read(fd, &v, 8), 8);
  return v;
}
static void write8(int fd, uint64_t v) { CHECK_EQ(write(fd, &v, 8), 8); }

TEST(eventfd_counts) {
  int fd = CHECK_OK(eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC));
  CHECK_EQ(read8(fd), 3);
  uint64_t v = 0;
  CHECK_ERRNO(read(fd, &v, 8), EAGAIN);
  write8(fd, 5);
  write8(fd, 6);
  CHECK_EQ(read8(fd), 11);
  v = UINT64_MAX;
  CHECK_ERRNO(write(fd, &v, 8), EINVAL);
  write8(fd, UINT64_MAX - 1);
  v = 1;
  CHECK_ERRNO(write(fd, &v, 8), EAGAIN);
  CHECK_ERRNO(read(fd, &v, 4), EINVAL);
  CHECK_ERRNO(eventfd(0, 0x1000), EINVAL);
}

TEST(eventfd_semaphore) {
  int fd = CHECK_OK(eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE));
  for (int i = 0; i < 3; i++) CHECK_EQ(read8(fd), 1);
  uint64_t v;
  CHECK_ERRNO(read(fd, &v, 8), EAGAIN);
}

TEST(eventfd_blocks_and_wakes) {
  int fd = CHECK_OK(eventfd(0, 0));
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    sleep_ms(50);
    write8(fd, 7);
    _exit(0);
  }
  struct pollfd f = {fd, POLLIN | POLLOUT, 0};
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(f.revents, POLLOUT);
  CHECK_EQ(read8(fd), 7);
  CHECK_CHILD_OK(pid);
}

TEST(timerfd_once_and_periodic) {
  int fd = CHECK_OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  uint64_t v;
  CHECK_ERRNO(read(fd, &v, 8), EAGAIN);
  struct itimerspec t = {{0, 0}, {0, 30000000}}, now;
  int64_t start = now_ns();
  CHECK_EQ(timerfd_settime(fd, 0, &t, NULL), 0);
  CHECK_EQ(timerfd_gettime(fd, &now), 0);
  CHECK(now.it_value.tv_nsec > 0 && now.it_value.tv_nsec <= 30000000);
  struct pollfd f = {fd, POLLIN, 0};
  CHECK_EQ(poll(&f, 1, 5000), 1);
  CHECK(now_ns() - start >= 30000000);
  CHECK_EQ(read8(fd), 1);
  t = (struct itimerspec){{0, 10000000}, {0, 10000000}};
  CHECK_EQ(timerfd_settime(fd, 0, &t, NULL), 0);
  sleep_ms(105);
  uint64_t n = read8(fd);
  CHECK(n >= 10);
  t = (struct itimerspec){{0, 0}, {0, 0}};
  CHECK_EQ(timerfd_settime(fd, 0, &t, &now), 0);
  CHECK_EQ(now.it_interval.tv_nsec, 10000000);
  sleep_ms(30);
  CHECK_ERRNO(read(fd, &v, 8), EAGAIN);
  CHECK_ERRNO(timerfd_create(12345, 0), EINVAL);
  t.it_value.tv_nsec = 1000000000;
  CHECK_ERRNO(timerfd_settime(fd, 0, &t, NULL), EINVAL);
}

TEST(timerfd_absolute) {
  int fd = CHECK_OK(timerfd_create(CLOCK_REALTIME, 0));
  struct itimerspec t = {{0, 0}, {0, 0}};
  clock_gettime(CLOCK_REALTIME, &t.it_value);
  t.it_value.tv_sec -= 10;
  CHECK_EQ(timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL), 0);
  CHECK_EQ(read8(fd), 1);  // in the past: at once
}

TEST(signalfd_reads_signals) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGRTMIN);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
  int fd = CHECK_OK(signalfd(-1, &set, SFD_NONBLOCK));
  struct signalfd_siginfo info[4];
  CHECK_ERRNO(read(fd, info, sizeof info), EAGAIN);
  CHECK_ERRNO(read(fd, info, 10), EINVAL);
  CHECK_EQ(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 9}), 0);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  struct pollfd f = {fd, POLLIN, 0};
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(read(fd, info, sizeof info), 2 * sizeof *info);
  CHECK_EQ(info[0].ssi_signo, SIGUSR1);
  CHECK_EQ(info[0].ssi_pid, getpid());
  CHECK_EQ(info[1].ssi_signo, SIGRTMIN);
  CHECK_EQ(info[1].ssi_int, 9);
  sigdelset(&set, SIGUSR1);
  CHECK_EQ(signalfd(fd, &set, 0), fd);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  CHECK_EQ(poll(&f, 1, 0), 0);
}

TEST(signalfd_wakes_a_reader) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
  int fd = CHECK_OK(signalfd(-1, &set, 0));
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    sleep_ms(40);
    _exit(6);
  }
  struct signalfd_siginfo info;
  CHECK_EQ(read(fd, &info, sizeof info), sizeof info);
  CHECK_EQ(info.ssi_pid, pid);
  CHECK_EQ(info.ssi_status, 6);
}

static int add(int ep, int fd, uint32_t events, uint64_t data) {
  struct epoll_event e = {events, {.u64 = data}};
  return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}

TEST(epoll_level_triggered) {
  int ep = CHECK_OK(epoll_create1(EPOLL_CLOEXEC)), p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(add(ep, p[0], EPOLLIN, 42), 0);
  struct epoll_event e[4];
  CHECK_EQ(epoll_wait(ep, e, 4, 0), 0);
  CHECK_EQ(write(p[1], "ab", 2), 2);
  char c;
  for (int i = 0; i < 2; i++) {
    CHECK_EQ(epoll_wait(ep, e, 4, -1), 1);
    CHECK_EQ(e[0].events, EPOLLIN);
    CHECK_EQ(e[0].data.u64, 42);
    CHECK_EQ(read(p[0], &c, 1), 1);
  }
  CHECK_EQ(epoll_wait(ep, e, 4, 0), 0);
  CHECK_EQ(close(p[1]), 0);
  CHECK_EQ(epoll_wait(ep, e, 4, 0), 1);
  CHECK_EQ(e[0].events, EPOLLHUP);
}

TEST(epoll_edge_triggered) {
  int ep = CHECK_OK(epoll_create1(0)), p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(add(ep, p[0], EPOLLIN | EPOLLET, 1), 0);
  struct epoll_event e;
  CHECK_EQ(write(p[1], "ab", 2), 2);
  CHECK_EQ(epoll_wait(ep, &e, 1, 0), 1);
  CHECK_EQ(epoll_wait(ep, &e, 1, 0), 0);  // told once
  CHECK_EQ(write(p[1], "c", 1), 1);
  CHECK_EQ(epoll_wait(ep, &e, 1, 0), 1);  // new data, told again
}

TEST(epoll_oneshot) {
  int ep = CHECK_OK(epoll_create1(0)), fd = CHECK_OK(eventfd(1, 0));
  CHECK_EQ(add(ep, fd, EPOLLIN | EPOLLONESHOT, 1), 0);
  struct epoll_event e;
  CHECK_EQ(epoll_wait(ep, &e, 1, 0), 1);
  CHECK_EQ(epoll_wait(ep, &e, 1, 0), 0);
  e = (struct epoll_event){EPOLLIN | EPOLLONESHOT, {.u64 = 2}};
  CHECK_EQ(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e), 0);
  CHECK_EQ(epoll_wait(ep, &e, 1, 0), 1);
  CHECK_EQ(e.data.u64, 2);
}

TEST(epoll_errors) {
  int ep = CHECK_OK(epoll_create1(0)), fd = CHECK_OK(eventfd(0, 0));
  struct epoll_event e = {EPOLLIN, {0}};
  CHECK_EQ(add(ep, fd, EPOLLIN, 1), 0);
  CHECK_ERRNO(add(ep, fd, EPOLLIN, 1), EEXIST);
  CHECK_EQ(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL), 0);
  CHECK_ERRNO(epoll_ctl(ep, EPOLL_CTL_DEL, fd, &e), ENOENT);
  CHECK_ERRNO(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e), ENOENT);
  CHECK_ERRNO(add(ep, ep, EPOLLIN, 1), EINVAL);
  CHECK_ERRNO(add(ep, 1000, EPOLLIN, 1), EBADF);
  CHECK_ERRNO(epoll_wait(fd, &e, 1, 0), EINVAL);
  CHECK_ERRNO(epoll_wait(ep, &e, 0, 0), EINVAL);
  int file = CHECK_OK(open("/proc/self/exe", O_RDONLY));
  CHECK_ERRNO(add(ep, file, EPOLLIN, 1), EPERM);  // regular files are always ready
  CHECK_ERRNO(epoll_create(0), EINVAL);
  int other = CHECK_OK(epoll_create1(0));
  CHECK_EQ(add(ep, other, EPOLLIN, 1), 0);
  CHECK_ERRNO(add(other, ep, EPOLLIN, 1), ELOOP);
}

TEST(epoll_nested_and_polled) {
  int inner = CHECK_OK(epoll_create1(0)), outer = CHECK_OK(epoll_create1(0)), fd = CHECK_OK(eventfd(0, 0));
  CHECK_EQ(add(inner, fd, EPOLLIN, 1), 0);
  CHECK_EQ(add(outer, inner, EPOLLIN, 2), 0);
  struct epoll_event e;
  CHECK_EQ(epoll_wait(outer, &e, 1, 0), 0);
  write8(fd, 1);
  CHECK_EQ(epoll_wait(outer, &e, 1, 1000), 1);
  CHECK_EQ(e.data.u64, 2);
  struct pollfd f = {outer, POLLIN, 0};
  CHECK_EQ(poll(&f, 1, 0), 1);
}

TEST(epoll_forgets_closed_files) {
  int ep = CHECK_OK(epoll_create1(0)), fd = CHECK_OK(eventfd(1, 0));
  CHECK_EQ(add(ep, fd, EPOLLIN, 1), 0);
  int twin = CHECK_OK(dup(fd));
  struct epoll_event e;
  CHECK_EQ(close(fd), 0);
  CHECK_EQ(epoll_wait(ep, &e, 1, 0), 1);  // the description is still open
  CHECK_EQ(close(twin), 0);
  CHECK_EQ(epoll_wait(ep, &e, 1, 0), 0);
}

static int g_fd;
static void* write_later(void* arg) {
  sleep_ms(50);
  write8(g_fd, (uint64_t)(uintptr_t)arg);
  return NULL;
}

TEST(epoll_wakes_waiters_and_times_out) {
  int ep = CHECK_OK(epoll_create1(0));
  g_fd = CHECK_OK(eventfd(0, 0));
  CHECK_EQ(add(ep, g_fd, EPOLLIN, 1), 0);
  struct epoll_event e;
  int64_t start = now_ns();
  CHECK_EQ(epoll_wait(ep, &e, 1, 40), 0);
  CHECK(now_ns() - start >= 40000000);
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, write_later, (void*)1), 0);
  CHECK_EQ(epoll_wait(ep, &e, 1, 5000), 1);
  CHECK_EQ(pthread_join(t, NULL), 0);
}

static void ignore_signal(int signo) { (void)signo; }

TEST(epoll_pwait_changes_the_mask) {
  int ep = CHECK_OK(epoll_create1(0));
  struct sigaction act = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART};
  CHECK_EQ(sigaction(SIGUSR1, &act, NULL), 0);
  sigset_t set, none;
  sigemptyset(&none);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  struct epoll_event e;
  CHECK_ERRNO(epoll_pwait(ep, &e, 1, 5000, &none), EINTR);
  CHECK_EQ(kill(getpid(), SIGUSR1), 0);
  CHECK_EQ(epoll_pwait(ep, &e, 1, 10, &set), 0);
}

TEST(epoll_many_descriptors) {
  enum { kCount = 200 };
  int ep = CHECK_OK(epoll_create1(0)), fds[kCount];
  for (int i = 0; i < kCount; i++) {
    fds[i] = CHECK_OK(eventfd(0, 0));
    CHECK_EQ(add(ep, fds[i], EPOLLIN, (uint64_t)i), 0);
  }
  for (int i = 0; i < kCount; i += 3) write8(fds[i], 1);
  struct epoll_event e[kCount];
  int n = CHECK_OK(epoll_wait(ep, e, kCount, 0));
  CHECK_EQ(n, (kCount + 2) / 3);
  for (int i = 0; i < n; i++) CHECK_EQ(e[i].data.u64 % 3, 0);
  // A short array gets to all of them in turn.
  int seen[kCount] = {0};
  for (int i = 0; i < n; i++) {
    CHECK_EQ(epoll_wait(ep, e, 1, 0), 1);
    seen[e[0].data.u64]++;
  }
  for (int i = 0; i < kCount; i += 3) CHECK_EQ(seen[i], 1);
}
