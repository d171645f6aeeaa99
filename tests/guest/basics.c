// Process identity, clocks and other calls that every program makes.
#include "check.h"

#include <sched.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/utsname.h>

TEST(pid_and_parent) {
  CHECK(getpid() > 0);
  CHECK_EQ(getpid(), syscall(SYS_getpid));
  CHECK_EQ(syscall(SYS_gettid), getpid());
  pid_t parent = getpid();
  IN_CHILD({
    CHECK(getpid() != parent);
    CHECK_EQ(getppid(), parent);
  });
}

TEST(uname_is_linux_x86_64) {
  struct utsname u;
  CHECK_EQ(uname(&u), 0);
  CHECK_STR(u.sysname, "Linux");
  CHECK_STR(u.machine, "x86_64");
  int major = 0, minor = 0;
  CHECK_EQ(sscanf(u.release, "%d.%d", &major, &minor), 2);
  CHECK(major >= 4);
}

TEST(unknown_call_is_enosys) {
  CHECK_ERRNO(syscall(2000), ENOSYS);
  CHECK_ERRNO(syscall(-5L), ENOSYS);
  CHECK_ERRNO(syscall(0x7fffffffL), ENOSYS);
}

TEST(syscall_keeps_registers) {
  // The call may change rax, rcx and r11, nothing else.
  unsigned long rbx = 0x1111, r8 = 0x88, r9 = 0x99, r10 = 0x10, r12 = 0x12, r15 = 0x15, rdx = 0xdd, bad = 0;
  __asm__ volatile(
      "mov %1, %%rbx\n mov %2, %%r8\n mov %3, %%r9\n mov %4, %%r10\n mov %5, %%r12\n mov %6, %%r15\n"
      "mov %7, %%rdx\n mov $39, %%eax\n syscall\n"
      "xor %1, %%rbx\n xor %2, %%r8\n xor %3, %%r9\n xor %4, %%r10\n xor %5, %%r12\n xor %6, %%r15\n xor %7, %%rdx\n"
      "or %%rbx, %0\n or %%r8, %0\n or %%r9, %0\n or %%r10, %0\n or %%r12, %0\n or %%r15, %0\n or %%rdx, %0\n"
      : "+m"(bad)
      : "m"(rbx), "m"(r8), "m"(r9), "m"(r10), "m"(r12), "m"(r15), "m"(rdx)
      : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r15", "memory", "cc");
  CHECK_EQ(bad, 0);
}

TEST(syscall_saves_rip_and_flags_as_the_cpu_does) {
  unsigned long rcx = 0, r11 = 0, here = 0;
  __asm__ volatile("mov $39, %%eax\n stc\n syscall\n 1: lea 1b(%%rip), %2\n mov %%rcx, %0\n mov %%r11, %1\n"
                   : "=m"(rcx), "=m"(r11), "=&r"(here)
                   :
                   : "rax", "rcx", "r11", "memory", "cc");
  CHECK_EQ(rcx, here);
  CHECK(r11 & 1);      // carry, as set
  CHECK(r11 & 0x200);  // interrupts are on
}

TEST(clocks_advance_and_agree) {
  struct timespec a, b;
  CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &a), 0);
  sleep_ms(20);
  CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &b), 0);
  int64_t ns = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
  CHECK(ns >= 20000000);
  CHECK(ns < 5000000000LL);
  // The vDSO's clock and the system call's are the same clock.
  struct timespec via_call;
  CHECK_EQ(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &via_call), 0);
  CHECK(via_call.tv_sec - b.tv_sec <= 1);
  CHECK(via_call.tv_sec > b.tv_sec || via_call.tv_nsec >= b.tv_nsec);
}

TEST(monotonic_never_goes_back) {
  int64_t last = now_ns();
  for (int i = 0; i < 200000; i++) {
    int64_t now = now_ns();
    if (now < last) CHECK_EQ(now, last);
    last = now;
  }
}

TEST(realtime_clocks_agree) {
  struct timespec t;
  struct timeval v;
  CHECK_EQ(clock_gettime(CLOCK_REALTIME, &t), 0);
  CHECK_EQ(gettimeofday(&v, NULL), 0);
  time_t now = time(NULL), stored = 0;
  CHECK(t.tv_sec > 1500000000);
  CHECK(labs(v.tv_sec - t.tv_sec) <= 1);
  CHECK(labs(now - t.tv_sec) <= 1);
  CHECK(labs(syscall(SYS_time, &stored) - now) <= 1);
  CHECK(labs(stored - now) <= 1);
}

TEST(other_clocks_exist) {
  const clockid_t ids[] = {CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW,
                           CLOCK_REALTIME_COARSE,    CLOCK_MONOTONIC_COARSE,  CLOCK_BOOTTIME};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    struct timespec t, resolution;
    CHECK_EQ(clock_gettime(ids[i], &t), 0);
    CHECK(t.tv_nsec >= 0 && t.tv_nsec < 1000000000);
    CHECK_EQ(clock_getres(ids[i], &resolution), 0);
    CHECK(resolution.tv_sec == 0 && resolution.tv_nsec > 0);
  }
  struct timespec t;
  CHECK_ERRNO(clock_gettime(12345, &t), EINVAL);
  CHECK_ERRNO(clock_settime(CLOCK_MONOTONIC, &t), EINVAL);
}

TEST(cpu_time_counts_work_and_not_sleep) {
  struct timespec a, b;
  CHECK_EQ(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a), 0);
  int64_t end = now_ns() + 100000000;
  for (volatile int i = 0; now_ns() < end; i++) {
  }
  CHECK_EQ(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b), 0);
  int64_t busy = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
  CHECK(busy > 5000000);
  sleep_ms(200);
  struct timespec c;
  CHECK_EQ(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &c), 0);
  int64_t asleep = (c.tv_sec - b.tv_sec) * 1000000000LL + c.tv_nsec - b.tv_nsec;
  CHECK(asleep < 100000000);
}

TEST(getcpu_is_within_affinity) {
  unsigned cpu = 9999, node = 9999;
  CHECK_EQ(syscall(SYS_getcpu, &cpu, &node, NULL), 0);
  cpu_set_t set;
  CPU_ZERO(&set);
  CHECK_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  CHECK(CPU_COUNT(&set) >= 1);
  CHECK(CPU_ISSET(cpu, &set));
  CHECK(sched_getcpu() >= 0);
  CHECK_EQ(sched_yield(), 0);
}

TEST(sysinfo_is_plausible) {
  struct sysinfo s;
  CHECK_EQ(sysinfo(&s), 0);
  CHECK(s.mem_unit > 0);
  CHECK(s.totalram > 0);
  CHECK(s.freeram <= s.totalram);
  CHECK(s.procs > 0);
}

TEST(rusage_and_times) {
  struct rusage u;
  CHECK_EQ(getrusage(RUSAGE_SELF, &u), 0);
  CHECK(u.ru_utime.tv_sec >= 0);
  CHECK_EQ(getrusage(RUSAGE_CHILDREN, &u), 0);
  CHECK_ERRNO(getrusage(77, &u), EINVAL);
  struct tms t;
  CHECK(times(&t) != (clock_t)-1);
}

TEST(credentials_are_consistent) {
  uid_t r, e, s;
  gid_t gr, ge, gs;
  CHECK_EQ(getresuid(&r, &e, &s), 0);
  CHECK_EQ(r, getuid());
  CHECK_EQ(e, geteuid());
  CHECK_EQ(getresgid(&gr, &ge, &gs), 0);
  CHECK_EQ(gr, getgid());
  CHECK_EQ(ge, getegid());
  gid_t groups[256];
  int n = CHECK_OK(getgroups(0, NULL));
  CHECK_EQ(getgroups(256, groups), n);
  if (n > 1) CHECK_ERRNO(getgroups(1, groups), EINVAL);
}

TEST(root_can_become_another_and_not_go_back) {
  if (geteuid() != 0) SKIP("needs root");
  IN_CHILD({
    CHECK_EQ(setresgid(1000, 1000, 1000), 0);
    CHECK_EQ(setresuid(1000, 1000, 1000), 0);
    CHECK_EQ(getuid(), 1000);
    CHECK_EQ(getegid(), 1000);
    CHECK_ERRNO(setuid(0), EPERM);
    CHECK_ERRNO(setresgid(0, 0, 0), EPERM);
  });
  IN_CHILD({
    CHECK_EQ(seteuid(1000), 0);
    CHECK_EQ(geteuid(), 1000);
    CHECK_EQ(getuid(), 0);
    CHECK_EQ(seteuid(0), 0);
  });
}

TEST(sessions_and_groups) {
  IN_CHILD({
    CHECK_EQ(setsid(), getpid());
    CHECK_EQ(getsid(0), getpid());
    CHECK_EQ(getpgrp(), getpid());
    CHECK_ERRNO(setsid(), EPERM);
    CHECK_ERRNO(setpgid(0, getpid()), EPERM);  // a session leader stays in its group
    pid_t pid = CHECK_OK(fork());
    if (pid == 0) {
      pause();
      _exit(1);
    }
    CHECK_EQ(getpgid(pid), getpid());
    CHECK_EQ(setpgid(pid, pid), 0);
    CHECK_EQ(getpgid(pid), pid);
    CHECK_EQ(getsid(pid), getpid());
    CHECK_EQ(kill(-pid, SIGKILL), 0);
    int status;
    CHECK_EQ(waitpid(-pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status));
  });
  CHECK_ERRNO(getpgid(0x3ffffff), ESRCH);
  CHECK_ERRNO(getsid(0x3ffffff), ESRCH);
  CHECK_ERRNO(setpgid(0, -1), EINVAL);
}

TEST(getrandom_fills_and_varies) {
  unsigned char a[32] = {0}, b[32] = {0};
  CHECK_EQ(getrandom(a, sizeof a, 0), 32);
  CHECK_EQ(getrandom(b, sizeof b, GRND_NONBLOCK), 32);
  CHECK(memcmp(a, b, sizeof a) != 0);
  CHECK_ERRNO(getrandom(a, sizeof a, 0x100), EINVAL);
}

TEST(umask_is_returned_and_inherited) {
  mode_t old = umask(027);
  CHECK_EQ(umask(027), 027);
  IN_CHILD(CHECK_EQ(umask(0), 027));
  CHECK_EQ(umask(07777), 027);
  CHECK_EQ(umask(old), 0777);
}

TEST(working_directory) {
  IN_TEMP_DIRECTORY();
  char start[4096], now[4096];
  CHECK(getcwd(start, sizeof start));
  CHECK_EQ(mkdir("inner", 0755), 0);
  CHECK_EQ(chdir("inner"), 0);
  CHECK(getcwd(now, sizeof now));
  CHECK_EQ(strncmp(now, start, strlen(start)), 0);
  CHECK_STR(now + strlen(start), "/inner");
  int fd = CHECK_OK(open("..", O_RDONLY | O_DIRECTORY));
  CHECK_EQ(fchdir(fd), 0);
  CHECK_STR(getcwd(now, sizeof now), start);
  // The raw call gives the length with its terminating zero.
  CHECK_EQ(syscall(SYS_getcwd, now, sizeof now), strlen(start) + 1);
  CHECK_ERRNO(syscall(SYS_getcwd, now, strlen(start)), ERANGE);
  CHECK_ERRNO(chdir("missing"), ENOENT);
  int file = CHECK_OK(open("file", O_CREAT | O_RDWR, 0644));
  CHECK_ERRNO(chdir("file"), ENOTDIR);
  CHECK_ERRNO(fchdir(file), ENOTDIR);
  CHECK_EQ(chdir("inner"), 0);
  CHECK_EQ(rmdir("../inner"), 0);
  CHECK_ERRNO(syscall(SYS_getcwd, now, sizeof now), ENOENT);
  CHECK_ERRNO(open("new", O_CREAT | O_RDWR, 0644), ENOENT);
}

TEST(personality_query) { CHECK_EQ(personality(0xffffffff) & 0xff, PER_LINUX); }

TEST(priorities) {
  errno = 0;
  int old = getpriority(PRIO_PROCESS, 0);
  int error = errno;
  CHECK_EQ(error, 0);
  IN_CHILD({
    CHECK_EQ(setpriority(PRIO_PROCESS, 0, old + 1 > 19 ? 19 : old + 1), 0);
    CHECK_EQ(getpriority(PRIO_PROCESS, 0), old + 1 > 19 ? 19 : old + 1);
  });
  CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
  struct sched_param p;
  CHECK_EQ(sched_getparam(0, &p), 0);
  CHECK_EQ(p.sched_priority, 0);
}
