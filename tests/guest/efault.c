// Wild pointers give EFAULT, never a signal, and change nothing else.
#include "memory.h"

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/utsname.h>

// Addresses no program may use, each wild in its own way. The last is filled in: the start of a PROT_NONE page.
static void* g_wild[] = {(void*)8,
                         (void*)0x10000,
                         (void*)0xffffffff81000000ul,
                         (void*)0x8000000000000000ul,
                         (void*)-8l,
                         (void*)0x7ffffffff000ul,
                         NULL};
enum { kWild = sizeof g_wild / sizeof *g_wild };
static unsigned char* g_read_only;

static void set_up(void) {
  unsigned char* p = map_anonymous(2);
  CHECK_EQ(mprotect(p, kPage, PROT_NONE), 0);
  g_wild[kWild - 1] = p;
  g_read_only = p + kPage;
  CHECK_EQ(mprotect(g_read_only, kPage, PROT_READ), 0);
}

// Raw calls: the C library might look at the pointers itself.
#define EACH_WILD(...)                            \
  do {                                            \
    for (int wild_ = 0; wild_ < kWild; wild_++) { \
      void* bad = g_wild[wild_];                  \
      CHECK_ERRNO(syscall(__VA_ARGS__), EFAULT);  \
    }                                             \
  } while (0)
// For results: memory that can be read but not written is as bad.
#define EACH_UNWRITABLE(...)                   \
  do {                                         \
    EACH_WILD(__VA_ARGS__);                    \
    void* bad = g_read_only;                   \
    CHECK_ERRNO(syscall(__VA_ARGS__), EFAULT); \
  } while (0)

TEST(paths) {
  set_up();
  EACH_WILD(SYS_open, bad, O_RDONLY);
  EACH_WILD(SYS_openat, AT_FDCWD, bad, O_RDONLY);
  EACH_WILD(SYS_creat, bad, 0600);
  EACH_WILD(SYS_stat, bad, (void*)1);
  EACH_WILD(SYS_access, bad, 0);
  EACH_WILD(SYS_chdir, bad);
  EACH_WILD(SYS_mkdir, bad, 0700);
  EACH_WILD(SYS_rmdir, bad);
  EACH_WILD(SYS_unlink, bad);
  EACH_WILD(SYS_rename, bad, "x");
  EACH_WILD(SYS_rename, "/missing-x", bad);
  EACH_WILD(SYS_link, bad, "x");
  EACH_WILD(SYS_symlink, bad, "/missing/x");
  EACH_WILD(SYS_chmod, bad, 0600);
  EACH_WILD(SYS_chown, bad, 0, 0);
  EACH_WILD(SYS_truncate, bad, 0L);
  EACH_WILD(SYS_execve, bad, NULL, NULL);
  EACH_WILD(SYS_getxattr, bad, "user.x", NULL, 0);
}

TEST(results_of_paths) {
  set_up();
  EACH_UNWRITABLE(SYS_stat, "/", bad);
  EACH_UNWRITABLE(SYS_lstat, "/", bad);
  EACH_UNWRITABLE(SYS_fstat, 0, bad);
  EACH_UNWRITABLE(SYS_newfstatat, AT_FDCWD, "/", bad, 0);
  EACH_UNWRITABLE(SYS_statx, AT_FDCWD, "/", 0, 0x7ff, bad);
  EACH_UNWRITABLE(SYS_statfs, "/", bad);
  EACH_UNWRITABLE(SYS_readlink, "/proc/self/exe", bad, 10L);
  EACH_UNWRITABLE(SYS_getcwd, bad, 4096L);
  int fd = CHECK_OK(open("/", O_RDONLY | O_DIRECTORY));
  EACH_UNWRITABLE(SYS_getdents64, fd, bad, 4096L);
}

TEST(reading_and_writing) {
  set_up();
  int zero = CHECK_OK(open("/dev/zero", O_RDWR)), p[2], file = CHECK_OK(memfd_create("m", 0));
  CHECK_EQ(ftruncate(file, 100), 0);
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(write(p[1], "data", 4), 4);
  EACH_UNWRITABLE(SYS_read, zero, bad, 10L);
  EACH_UNWRITABLE(SYS_read, p[0], bad, 4L);
  EACH_UNWRITABLE(SYS_read, file, bad, 10L);
  EACH_UNWRITABLE(SYS_pread64, file, bad, 10L, 0L);
  EACH_WILD(SYS_write, p[1], bad, 10L);
  EACH_WILD(SYS_pwrite64, file, bad, 10L, 0L);
  EACH_WILD(SYS_readv, file, bad, 1L);
  EACH_WILD(SYS_writev, file, bad, 1L);
  for (int i = 0; i < kWild; i++) {
    struct iovec v = {g_wild[i], 4};
    CHECK_ERRNO(readv(zero, &v, 1), EFAULT);
    CHECK_ERRNO(writev(file, &v, 1), EFAULT);
  }
  EACH_WILD(SYS_sendfile, p[1], file, bad, 4L);
  EACH_WILD(SYS_splice, file, bad, p[1], NULL, 4L, 0);
  EACH_WILD(SYS_copy_file_range, file, bad, file, NULL, 4L, 0);
  char b[8];
  CHECK_EQ(read(p[0], b, 8), 4);  // nothing was lost or added
  CHECK_EQ(memcmp(b, "data", 4), 0);
}

TEST(transfer_stops_at_the_bad_page) {
  unsigned char* p = map_anonymous(2);
  CHECK_EQ(munmap(p + kPage, kPage), 0);
  int zero = CHECK_OK(open("/dev/zero", O_RDONLY)), q[2], file = CHECK_OK(memfd_create("m", 0));
  memset(p, 'x', kPage);
  CHECK_EQ(write(file, p + kPage - 100, 200), 100);
  CHECK_EQ(lseek(file, 0, SEEK_END), 100);
  CHECK_EQ(pipe(q), 0);
  ssize_t n = write(q[1], p + kPage - 100, 200);
  CHECK(n == 100 || n == -1);
  n = read(zero, p + kPage - 100, 200);
  CHECK(n == 100 || n == -1);
  CHECK_EQ(ftruncate(file, 8192), 0);
  n = pread(file, p + kPage - 50, 100, 0);
  CHECK(n == 50 || n == -1);
}

TEST(signals) {
  set_up();
  EACH_WILD(SYS_rt_sigaction, SIGUSR1, bad, NULL, 8L);
  EACH_UNWRITABLE(SYS_rt_sigaction, SIGUSR1, NULL, bad, 8L);
  EACH_WILD(SYS_rt_sigprocmask, SIG_BLOCK, bad, NULL, 8L);
  EACH_UNWRITABLE(SYS_rt_sigprocmask, SIG_BLOCK, NULL, bad, 8L);
  EACH_UNWRITABLE(SYS_rt_sigpending, bad, 8L);
  EACH_WILD(SYS_rt_sigsuspend, bad, 8L);
  EACH_WILD(SYS_rt_sigtimedwait, bad, NULL, NULL, 8L);
  EACH_WILD(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, bad);
  EACH_WILD(SYS_sigaltstack, bad, NULL);
  EACH_UNWRITABLE(SYS_sigaltstack, NULL, bad);
}

TEST(clocks_and_timers) {
  set_up();
  struct timespec brief = {0, 1};
  (void)brief;
  EACH_UNWRITABLE(SYS_clock_gettime, CLOCK_MONOTONIC, bad);
  EACH_UNWRITABLE(SYS_clock_getres, CLOCK_MONOTONIC, bad);
  EACH_UNWRITABLE(SYS_gettimeofday, bad, NULL);
  EACH_UNWRITABLE(SYS_time, bad);
  EACH_UNWRITABLE(SYS_times, bad);
  EACH_WILD(SYS_nanosleep, bad, NULL);
  EACH_WILD(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, bad, NULL);
  EACH_UNWRITABLE(SYS_getitimer, ITIMER_REAL, bad);
  EACH_WILD(SYS_setitimer, ITIMER_REAL, bad, NULL);
  EACH_UNWRITABLE(SYS_timer_create, CLOCK_MONOTONIC, NULL, bad);
  int fd = CHECK_OK(timerfd_create(CLOCK_MONOTONIC, 0));
  EACH_WILD(SYS_timerfd_settime, fd, 0, bad, NULL);
  EACH_UNWRITABLE(SYS_timerfd_gettime, fd, bad);
}

TEST(process_information) {
  set_up();
  EACH_UNWRITABLE(SYS_uname, bad);
  EACH_UNWRITABLE(SYS_sysinfo, bad);
  EACH_UNWRITABLE(SYS_getrusage, RUSAGE_SELF, bad);
  EACH_UNWRITABLE(SYS_getrlimit, RLIMIT_NOFILE, bad);
  EACH_WILD(SYS_setrlimit, RLIMIT_NOFILE, bad);
  EACH_WILD(SYS_prlimit64, 0, RLIMIT_NOFILE, bad, NULL);
  EACH_UNWRITABLE(SYS_getresuid, bad, bad, bad);
  EACH_UNWRITABLE(SYS_sched_getaffinity, 0, 128L, bad);
  EACH_UNWRITABLE(SYS_getcpu, bad, NULL, NULL);
  EACH_UNWRITABLE(SYS_getrandom, bad, 16L, 0);
  EACH_WILD(SYS_prctl, 15 /* PR_SET_NAME */, bad);
  EACH_UNWRITABLE(SYS_prctl, 16 /* PR_GET_NAME */, bad);
  EACH_UNWRITABLE(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, bad);
}

TEST(descriptors) {
  set_up();
  int ep = CHECK_OK(epoll_create1(0)), p[2];
  CHECK_EQ(pipe(p), 0);
  EACH_UNWRITABLE(SYS_pipe, bad);
  EACH_UNWRITABLE(SYS_pipe2, bad, 0);
  EACH_WILD(SYS_poll, bad, 1, 0);
  EACH_WILD(SYS_select, 1, bad, NULL, NULL, NULL);
  EACH_WILD(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, p[0], bad);
  EACH_WILD(SYS_fcntl, p[0], F_GETLK, bad);
  EACH_UNWRITABLE(SYS_ioctl, p[0], 0x541b /* FIONREAD */, bad);
}

TEST(sockets) {
  set_up();
  int s[2], n = 4;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  EACH_UNWRITABLE(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, bad);
  EACH_WILD(SYS_bind, s[0], bad, 16);
  EACH_WILD(SYS_connect, s[0], bad, 16);
  EACH_WILD(SYS_sendto, s[0], bad, 4L, 0, NULL, 0);
  EACH_WILD(SYS_sendmsg, s[0], bad, 0);
  EACH_WILD(SYS_recvmsg, s[0], bad, MSG_DONTWAIT);
  EACH_UNWRITABLE(SYS_getsockopt, s[0], SOL_SOCKET, SO_TYPE, bad, &n);
  EACH_UNWRITABLE(SYS_getsockopt, s[0], SOL_SOCKET, SO_TYPE, &n, bad);
  EACH_WILD(SYS_setsockopt, s[0], SOL_SOCKET, SO_PASSCRED, bad, 4);
}

TEST(processes) {
  set_up();
  EACH_WILD(SYS_execve, "/proc/self/exe", bad, NULL);
  EACH_WILD(SYS_execve, "/proc/self/exe", NULL, bad);
  char* argv[] = {"x", g_wild[0], NULL};
  CHECK_ERRNO(syscall(SYS_execve, "/proc/self/exe", argv, NULL), EFAULT);
  EACH_WILD(SYS_clone3, bad, 88L);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) _exit(0);
  siginfo_t info;
  CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
  CHECK_ERRNO(syscall(SYS_wait4, pid, (void*)8, 0, NULL), EFAULT);
}

TEST(memory_calls) {
  set_up();
  unsigned char* p = map_anonymous(1);
  EACH_UNWRITABLE(SYS_mincore, p, 4096L, bad);
  EACH_WILD(SYS_futex, bad, 0 /* FUTEX_WAIT */, 0, NULL, NULL, 0);
}

TEST(string_that_runs_into_a_hole) {
  unsigned char* p = map_anonymous(2);
  CHECK_EQ(munmap(p + kPage, kPage), 0);
  memset(p, 'x', kPage);
  memcpy(p + kPage - 2, "/x", 2);  // no terminating zero before the end
  CHECK_ERRNO(open((char*)p + kPage - 2, O_RDONLY), EFAULT);
  p[kPage - 1] = 0;
  CHECK_OK(open((char*)p + kPage - 2, O_RDONLY));
}

TEST(zero_lengths_do_not_look) {
  int zero = CHECK_OK(open("/dev/zero", O_RDWR));
  CHECK_EQ(syscall(SYS_read, zero, (void*)8, 0L), 0);
  CHECK_EQ(syscall(SYS_write, zero, (void*)8, 0L), 0);
}

TEST(dev_null_does_not_look) {
  int null = CHECK_OK(open("/dev/null", O_WRONLY));
  CHECK_EQ(syscall(SYS_write, null, (void*)8, 10L), 10);
}
