// Resource limits, prctl and arch_prctl.
#include "memory.h"

#include <asm/prctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

TEST(limits_can_be_read_and_lowered) {
  for (int i = 0; i < RLIM_NLIMITS; i++) {
    struct rlimit limit;
    CHECK_EQ(getrlimit(i, &limit), 0);
    CHECK(limit.rlim_cur <= limit.rlim_max);
  }
  struct rlimit limit = {50, 60};
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  CHECK_EQ(limit.rlim_cur, 50);
  CHECK_EQ(limit.rlim_max, 60);
  limit = (struct rlimit){70, 60};
  CHECK_ERRNO(setrlimit(RLIMIT_NOFILE, &limit), EINVAL);
  CHECK_ERRNO(getrlimit(99, &limit), EINVAL);
  CHECK_EQ(sysconf(_SC_OPEN_MAX), 50);
}

TEST(ordinary_users_cannot_raise) {
  if (geteuid() != 0) SKIP("needs root");
  IN_CHILD({
    struct rlimit limit = {10, 10};
    CHECK_EQ(setrlimit(RLIMIT_CORE, &limit), 0);
    CHECK_EQ(setuid(12345), 0);
    limit.rlim_max = 20;
    CHECK_ERRNO(setrlimit(RLIMIT_CORE, &limit), EPERM);
    limit.rlim_max = 10;
    limit.rlim_cur = 5;
    CHECK_EQ(setrlimit(RLIMIT_CORE, &limit), 0);
  });
}

TEST(prlimit_of_another_process) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0)
    for (;;) pause();
  struct rlimit old, new = {33, 44};
  CHECK_EQ(prlimit(pid, RLIMIT_NOFILE, &new, &old), 0);
  CHECK(old.rlim_cur != 33);
  CHECK_EQ(prlimit(pid, RLIMIT_NOFILE, NULL, &old), 0);
  CHECK_EQ(old.rlim_cur, 33);
  CHECK_EQ(kill(pid, SIGKILL), 0);
  CHECK_EQ(waitpid(pid, NULL, 0), pid);
  CHECK_ERRNO(prlimit(0x3ffffff, RLIMIT_NOFILE, NULL, &old), ESRCH);
}

TEST(limits_are_inherited) {
  struct rlimit limit = {123, 456};
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  IN_CHILD({
    struct rlimit mine;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &mine), 0);
    CHECK_EQ(mine.rlim_cur, 123);
  });
}

TEST(file_size_limit) {
  IN_TEMP_DIRECTORY();
  struct rlimit limit = {1000, 1000};
  CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  signal(SIGXFSZ, SIG_IGN);
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  static char b[2000];
  CHECK_EQ(write(fd, b, sizeof b), 1000);
  CHECK_ERRNO(write(fd, b, 1), EFBIG);
  CHECK_ERRNO(ftruncate(fd, 5000), EFBIG);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    signal(SIGXFSZ, SIG_DFL);
    (void)!write(fd, b, 1);
    _exit(0);
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(WTERMSIG(status), SIGXFSZ);
}

TEST(cpu_limit) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    struct rlimit limit = {1, 5};
    setrlimit(RLIMIT_CPU, &limit);
    for (volatile unsigned long n = 0;; n++) {
    }
  }
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(WTERMSIG(status), SIGXCPU);
}

TEST(data_limit_bounds_brk) {
  IN_CHILD({
    struct rlimit limit = {1 << 20, 1 << 20};
    CHECK_EQ(setrlimit(RLIMIT_DATA, &limit), 0);
    uintptr_t now = (uintptr_t)syscall(SYS_brk, 0);
    CHECK_EQ(syscall(SYS_brk, now + (16 << 20)), now);
  });
}

TEST(thread_name) {
  char name[16];
  CHECK_EQ(prctl(PR_SET_NAME, "a-name-of-more-than-15"), 0);
  CHECK_EQ(prctl(PR_GET_NAME, name), 0);
  CHECK_STR(name, "a-name-of-more-");
  char comm[32] = {0};
  int fd = CHECK_OK(open("/proc/self/comm", O_RDONLY));
  CHECK(read(fd, comm, sizeof comm - 1) > 0);
  CHECK_STR(comm, "a-name-of-more-\n");
  IN_CHILD({
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_STR(name, "a-name-of-more-");
  });
}

TEST(prctl_flags) {
  CHECK_EQ(prctl(PR_GET_DUMPABLE), 1);
  CHECK_EQ(prctl(PR_SET_DUMPABLE, 0), 0);
  CHECK_EQ(prctl(PR_GET_DUMPABLE), 0);
  CHECK_EQ(prctl(PR_SET_DUMPABLE, 1), 0);
  CHECK_ERRNO(prctl(PR_SET_DUMPABLE, 77), EINVAL);
  int signo = -1;
  CHECK_EQ(prctl(PR_SET_PDEATHSIG, SIGUSR1), 0);
  CHECK_EQ(prctl(PR_GET_PDEATHSIG, &signo), 0);
  CHECK_EQ(signo, SIGUSR1);
  CHECK_ERRNO(prctl(PR_SET_PDEATHSIG, 999), EINVAL);
  CHECK_EQ(prctl(PR_SET_PDEATHSIG, 0), 0);
  CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
  CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
  CHECK_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
  CHECK_ERRNO(prctl(0x7fffffff), EINVAL);
}

TEST(fs_and_gs_base) {
  unsigned long fs = 0, gs = 1;
  CHECK_EQ(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs), 0);
  unsigned long self;
  __asm__("mov %%fs:0, %0" : "=r"(self));
  CHECK_EQ(fs, self);  // the thread block starts with its own address
  static unsigned long data[2] = {0, 0x1234};
  CHECK_EQ(syscall(SYS_arch_prctl, ARCH_SET_GS, data), 0);
  CHECK_EQ(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs), 0);
  CHECK_EQ(gs, (uintptr_t)data);
  unsigned long got;
  __asm__ volatile("mov %%gs:8, %0" : "=r"(got));
  CHECK_EQ(got, 0x1234);
  // Kept over calls, sleeps and in a child.
  sleep_ms(5);
  __asm__ volatile("mov %%gs:8, %0" : "=r"(got));
  CHECK_EQ(got, 0x1234);
  IN_CHILD({
    unsigned long mine;
    __asm__ volatile("mov %%gs:8, %0" : "=r"(mine));
    CHECK_EQ(mine, 0x1234);
  });
  CHECK_ERRNO(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x8000000000000000ul), EPERM);
  CHECK_ERRNO(syscall(SYS_arch_prctl, 0x9999, 0), EINVAL);
}

TEST(capabilities_can_be_asked) {
  struct {
    uint32_t version;
    int pid;
  } header = {0x20080522, 0};
  struct {
    uint32_t effective, permitted, inheritable;
  } data[2];
  CHECK_EQ(syscall(SYS_capget, &header, data), 0);
  header.version = 0x1234;
  CHECK_ERRNO(syscall(SYS_capget, &header, data), EINVAL);
  CHECK_EQ(header.version, 0x20080522);
  CHECK(prctl(PR_CAPBSET_READ, 0) >= 0);
}
