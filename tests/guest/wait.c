// wait4 and waitid: statuses, groups, stops, SIGCHLD, orphans.
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static pid_t child_exiting(int status) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) _exit(status);
  return pid;
}
static pid_t child_pausing(void) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0)
    for (;;) pause();
  return pid;
}

TEST(exit_status) {
  int status;
  pid_t pid = child_exiting(42);
  CHECK_EQ(wait(&status), pid);
  CHECK_EQ(status, 42 << 8);
  pid = child_exiting(0x1ff);  // the low eight bits count
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(status, 0xff << 8);
  CHECK_ERRNO(wait(&status), ECHILD);
  CHECK_ERRNO(waitpid(getppid(), &status, 0), ECHILD);
}

TEST(death_by_signal) {
  int status;
  const int signals[] = {SIGKILL, SIGTERM, SIGUSR1, SIGALRM, SIGRTMIN + 3};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    pid_t pid = child_pausing();
    CHECK_EQ(kill(pid, signals[i]), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), signals[i]);
  }
}

TEST(nohang) {
  int status = 0x1234;
  pid_t pid = child_pausing();
  CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
  CHECK_EQ(status, 0x1234);
  CHECK_EQ(kill(pid, SIGKILL), 0);
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_ERRNO(waitpid(-1, &status, WNOHANG), ECHILD);
  CHECK_ERRNO(waitpid(-1, &status, 0x10000000), EINVAL);
}

TEST(waitid_fills_siginfo) {
  siginfo_t info;
  pid_t pid = child_exiting(7);
  CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
  CHECK_EQ(info.si_signo, SIGCHLD);
  CHECK_EQ(info.si_code, CLD_EXITED);
  CHECK_EQ(info.si_pid, pid);
  CHECK_EQ(info.si_uid, getuid());
  CHECK_EQ(info.si_status, 7);
  memset(&info, 0xff, sizeof info);
  CHECK_EQ(waitid(P_ALL, 0, &info, WEXITED), 0);  // it was left waitable
  CHECK_EQ(info.si_pid, pid);
  CHECK_ERRNO(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
  pid = child_pausing();
  memset(&info, 0xff, sizeof info);
  CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG), 0);
  CHECK_EQ(info.si_pid, 0);
  CHECK_EQ(info.si_signo, 0);
  CHECK_EQ(kill(pid, SIGKILL), 0);
  CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
  CHECK_EQ(info.si_code, CLD_KILLED);
  CHECK_EQ(info.si_status, SIGKILL);
  CHECK_ERRNO(waitid(P_PID, (id_t)pid, &info, 0), EINVAL);
  CHECK_ERRNO(waitid(99, 0, &info, WEXITED), EINVAL);
}

TEST(stop_and_continue) {
  int status;
  pid_t pid = child_pausing();
  CHECK_EQ(setpgid(pid, pid), 0);  // SIGTSTP does nothing in an orphaned process group, which ours may be
  CHECK_EQ(kill(pid, SIGSTOP), 0);
  CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
  CHECK(WIFSTOPPED(status));
  CHECK_EQ(WSTOPSIG(status), SIGSTOP);
  CHECK_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);  // told once
  CHECK_EQ(kill(pid, SIGCONT), 0);
  CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
  CHECK(WIFCONTINUED(status));
  siginfo_t info;
  CHECK_EQ(kill(pid, SIGTSTP), 0);
  CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WSTOPPED), 0);
  CHECK_EQ(info.si_code, CLD_STOPPED);
  CHECK_EQ(info.si_status, SIGTSTP);
  CHECK_EQ(kill(pid, SIGKILL), 0);  // a stopped process dies
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(WTERMSIG(status), SIGKILL);
}

TEST(a_continue_undoes_a_stop_that_is_only_beginning) {
  // At any moment of the child's way from its signal to its stop.
  int to[2], from[2];
  char c = 0;
  CHECK_EQ(pipe(to), 0);
  CHECK_EQ(pipe(from), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    while (read(to[0], &c, 1) == 1 && write(from[1], &c, 1) == 1) continue;
    _exit(0);
  }
  for (int i = 0; i < 300; i++) {
    CHECK_EQ(kill(pid, i % 2 ? SIGTSTP : SIGSTOP), 0);
    for (volatile int k = 0; k < i * 200; k++) continue;
    CHECK_EQ(kill(pid, SIGCONT), 0);
    CHECK_EQ(write(to[1], &c, 1), 1);
    struct pollfd answer = {from[0], POLLIN, 0};
    CHECK_EQ(poll(&answer, 1, 10000), 1);
    CHECK_EQ(read(from[0], &c, 1), 1);
  }
  CHECK_EQ(kill(pid, SIGKILL), 0);
  CHECK_EQ(waitpid(pid, NULL, 0), pid);
  close(to[0]), close(to[1]), close(from[0]), close(from[1]);
}

TEST(stopped_process_does_not_run) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0)
    for (;;) {
      CHECK_EQ(write(p[1], "x", 1), 1);
      sleep_ms(5);
    }
  char b[4096];
  CHECK_EQ(read(p[0], b, 1), 1);
  CHECK_EQ(kill(pid, SIGSTOP), 0);
  int status;
  CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
  CHECK_EQ(fcntl(p[0], F_SETFL, O_NONBLOCK), 0);
  while (read(p[0], b, sizeof b) > 0) {
  }
  sleep_ms(80);
  CHECK_ERRNO(read(p[0], b, 1), EAGAIN);
  CHECK_EQ(kill(pid, SIGCONT), 0);
  struct pollfd f = {p[0], POLLIN, 0};
  CHECK_EQ(poll(&f, 1, 5000), 1);
  CHECK_EQ(kill(pid, SIGKILL), 0);
  CHECK_EQ(waitpid(pid, &status, 0), pid);
}

static volatile sig_atomic_t g_chld;
static volatile siginfo_t g_chld_info;
static void on_chld(int signo, siginfo_t* info, void* context) {
  (void)signo, (void)context;
  g_chld_info = *info;
  g_chld++;
}

TEST(sigchld_tells_what_happened) {
  struct sigaction act = {.sa_sigaction = on_chld, .sa_flags = SA_SIGINFO | SA_RESTART};
  CHECK_EQ(sigaction(SIGCHLD, &act, NULL), 0);
  pid_t pid = child_exiting(9);
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  while (!g_chld) sleep_ms(1);
  CHECK_EQ(g_chld_info.si_pid, pid);
  CHECK_EQ(g_chld_info.si_code, CLD_EXITED);
  CHECK_EQ(g_chld_info.si_status, 9);
}

TEST(nocldstop_keeps_quiet_about_stops) {
  struct sigaction act = {.sa_sigaction = on_chld, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NOCLDSTOP};
  CHECK_EQ(sigaction(SIGCHLD, &act, NULL), 0);
  pid_t pid = child_pausing();
  int status;
  CHECK_EQ(kill(pid, SIGSTOP), 0);
  CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
  CHECK_EQ(g_chld, 0);
  CHECK_EQ(kill(pid, SIGKILL), 0);
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(g_chld, 1);
}

TEST(ignored_sigchld_reaps) {
  signal(SIGCHLD, SIG_IGN);
  child_exiting(1);
  child_exiting(2);
  int status;
  CHECK_ERRNO(wait(&status), ECHILD);  // waits for all, then there is none
}

TEST(nocldwait_reaps) {
  struct sigaction act = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
  CHECK_EQ(sigaction(SIGCHLD, &act, NULL), 0);
  pid_t pid = child_exiting(1);
  CHECK_ERRNO(waitpid(pid, NULL, 0), ECHILD);
}

TEST(wait_by_group) {
  pid_t a = child_pausing(), b = child_pausing();
  CHECK_EQ(setpgid(a, a), 0);
  int status;
  CHECK_EQ(kill(b, SIGKILL), 0);
  CHECK_EQ(waitpid(-a, &status, WNOHANG), 0);
  CHECK_EQ(waitpid(0, &status, 0), b);
  CHECK_EQ(kill(-a, SIGTERM), 0);
  CHECK_EQ(waitpid(-a, &status, 0), a);
  CHECK_EQ(WTERMSIG(status), SIGTERM);
}

TEST(zombie_is_there_until_waited_for) {
  pid_t pid = child_exiting(0);
  siginfo_t info;
  CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
  CHECK_EQ(kill(pid, 0), 0);
  char path[64], text[512] = {0};
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = CHECK_OK(open(path, O_RDONLY));
  CHECK(read(fd, text, sizeof text - 1) > 0);
  CHECK_EQ(strrchr(text, ')')[2], 'Z');
  CHECK_EQ(waitpid(pid, NULL, 0), pid);
  CHECK_ERRNO(kill(pid, 0), ESRCH);
}

TEST(orphan_gets_a_new_parent) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    pid_t middle = getpid();
    if (fork() == 0) {
      while (getppid() == middle) sleep_ms(1);
      pid_t now = getppid();
      CHECK_EQ(write(p[1], &now, sizeof now), sizeof now);
      _exit(0);
    }
    _exit(0);
  }
  CHECK_CHILD_OK(pid);
  pid_t now = 0;
  CHECK_EQ(read(p[0], &now, sizeof now), sizeof now);
  CHECK(now != pid);
}

TEST(subreaper_adopts) {
  CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    pid_t inner = fork();
    if (inner == 0) {
      char c;
      (void)!read(p[0], &c, 1);
      _exit(5);
    }
    CHECK_EQ(write(p[1], &inner, sizeof inner), sizeof inner);
    _exit(0);
  }
  CHECK_CHILD_OK(pid);
  CHECK_EQ(write(p[1], "x", 1), 1);
  int status;
  pid_t adopted = wait(&status);
  CHECK(adopted > 0 && adopted != pid);
  CHECK_EQ(WEXITSTATUS(status), 5);
}

TEST(parent_death_signal) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    if (fork() == 0) {
      sigset_t set;
      sigemptyset(&set);
      sigaddset(&set, SIGUSR1);
      sigprocmask(SIG_BLOCK, &set, NULL);
      prctl(PR_SET_PDEATHSIG, SIGUSR1);
      CHECK_EQ(write(p[1], "r", 1), 1);
      struct timespec t = {5, 0};
      char c = sigtimedwait(&set, NULL, &t) == SIGUSR1 ? 'y' : 'n';
      (void)!write(p[1], &c, 1);
      _exit(0);
    }
    sleep_ms(100);
    _exit(0);
  }
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  CHECK_EQ(c, 'r');
  CHECK_CHILD_OK(pid);
  CHECK_EQ(read(p[0], &c, 1), 1);
  CHECK_EQ(c, 'y');
}

TEST(wait4_gives_usage_of_the_child) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    struct timespec t;
    do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    while (t.tv_sec == 0 && t.tv_nsec < 60000000);
    _exit(0);
  }
  int status;
  struct rusage u;
  CHECK_EQ(wait4(pid, &status, 0, &u), pid);
  CHECK(u.ru_utime.tv_sec * 1000000L + u.ru_utime.tv_usec + u.ru_stime.tv_sec * 1000000L + u.ru_stime.tv_usec > 20000);
}

static void* wait_in_thread(void* arg) {
  int status;
  return (void*)(intptr_t)(waitpid(*(pid_t*)arg, &status, 0) == *(pid_t*)arg && WEXITSTATUS(status) == 3);
}

TEST(any_thread_may_wait) {
  pid_t pid = child_exiting(3);
  pthread_t t;
  void* ok;
  CHECK_EQ(pthread_create(&t, NULL, wait_in_thread, &pid), 0);
  CHECK_EQ(pthread_join(t, &ok), 0);
  CHECK(ok != NULL);
}

TEST(pidfd_waits_polls_and_signals) {
  pid_t pid = child_pausing();
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0 && errno == ENOSYS) SKIP("no pidfd_open");
  CHECK(fd >= 0);
  struct pollfd f = {fd, POLLIN, 0};
  CHECK_EQ(poll(&f, 1, 0), 0);
  CHECK_EQ(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0), 0);
  CHECK_EQ(poll(&f, 1, 5000), 1);
  siginfo_t info;
  CHECK_EQ(waitid(P_PIDFD, (id_t)fd, &info, WEXITED), 0);
  CHECK_EQ(info.si_status, SIGTERM);
}
