// fork, vfork and clone: copy-on-write memory, what is inherited, many children.
#include "memory.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

TEST(memory_is_copied_on_write) {
  enum { kPages = 300 };
  unsigned char* p = map_anonymous(kPages);
  for (int i = 0; i < kPages; i++) p[i * kPage] = (unsigned char)i;
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    for (int i = 0; i < kPages; i++) {
      CHECK_EQ(p[i * kPage], i & 0xff);
      p[i * kPage] = 0xcc;
    }
    for (int i = 0; i < kPages; i++) CHECK_EQ(p[i * kPage], 0xcc);
    _exit(0);
  }
  for (int i = 0; i < kPages; i += 2) p[i * kPage] = 0xdd;
  CHECK_CHILD_OK(pid);
  for (int i = 0; i < kPages; i++) CHECK_EQ(p[i * kPage], i % 2 ? i & 0xff : 0xdd);
}

TEST(grandchildren_see_their_own_history) {
  unsigned char* p = map_anonymous(1);
  p[0] = 1;
  IN_CHILD({
    p[1] = 2;
    IN_CHILD({
      p[2] = 3;
      IN_CHILD(CHECK(p[0] == 1 && p[1] == 2 && p[2] == 3));
      p[0] = 9;
    });
    CHECK(p[0] == 1 && p[1] == 2 && p[2] == 0);
  });
  CHECK(p[0] == 1 && p[1] == 0 && p[2] == 0);
}

TEST(parent_writes_while_child_reads) {
  volatile unsigned long* p = (unsigned long*)map_anonymous(64);
  for (int round = 0; round < 30; round++) {
    for (int i = 0; i < 64 * 512; i += 512) p[i] = (unsigned long)round;
    pid_t pid = CHECK_OK(fork());
    if (pid == 0) {
      sched_yield();
      for (int i = 0; i < 64 * 512; i += 512) CHECK_EQ(p[i], round);
      _exit(0);
    }
    for (int i = 0; i < 64 * 512; i += 512) p[i] = 0xffff;
    CHECK_CHILD_OK(pid);
  }
}

TEST(system_calls_write_to_copied_pages) {
  // A kernel write must break the sharing as a guest write does.
  unsigned char* p = map_anonymous(1);
  memset(p, 'o', kPage);
  int pipes[2];
  CHECK_EQ(pipe(pipes), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(write(pipes[1], "new", 3), 3);
    CHECK_EQ(read(pipes[0], p, 3), 3);
    CHECK_EQ(memcmp(p, "newo", 4), 0);
    _exit(0);
  }
  CHECK_CHILD_OK(pid);
  CHECK_EQ(memcmp(p, "oooo", 4), 0);
}

TEST(fork_returns_registers_as_they_were) {
  unsigned long r12 = 0x1212, rbx = 0xbbbb, ok = 0;
  long pid;
  __asm__ volatile(
      "mov %2, %%r12\n mov %3, %%rbx\n mov $57, %%eax\n syscall\n"
      "cmp %2, %%r12\n jne 1f\n cmp %3, %%rbx\n jne 1f\n movq $1, %1\n 1:\n"
      : "=&a"(pid), "+m"(ok)
      : "m"(r12), "m"(rbx)
      : "rbx", "rcx", "r11", "r12", "memory", "cc");
  if (pid == 0) _exit(ok ? 0 : 1);
  CHECK(ok);
  CHECK_CHILD_OK((pid_t)pid);
}

TEST(vfork_shares_memory_and_waits) {
  volatile int value = 1;
  pid_t pid = vfork();
  if (pid == 0) {
    value = 2;
    struct timespec t = {0, 30000000};
    nanosleep(&t, NULL);
    value = 3;
    _exit(5);
  }
  CHECK_EQ(value, 3);  // the parent did not run meanwhile
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(WEXITSTATUS(status), 5);
}

TEST(vfork_ends_at_exec) {
  char self[256] = {0};
  CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
  pid_t pid = vfork();
  if (pid == 0) {
    execl(self, self, "--list", (char*)NULL);
    _exit(126);
  }
  CHECK(pid > 0);
  CHECK_CHILD_OK(pid);
}

static int add_one(void* arg) {
  (*(int*)arg)++;
  return 7;
}

TEST(clone_vm_shares_memory) {
  int value = 1;
  char* stack = malloc(65536);
  pid_t pid = CHECK_OK(clone(add_one, stack + 65536, CLONE_VM | SIGCHLD, &value));
  int status;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(WEXITSTATUS(status), 7);
  CHECK_EQ(value, 2);
}

static int open_and_cd(void* arg) {
  (void)arg;
  dup2(0, 77);
  return chdir("/");
}

TEST(clone_files_and_fs_are_shared) {
  IN_TEMP_DIRECTORY();
  char* stack = malloc(65536);
  pid_t pid = CHECK_OK(clone(open_and_cd, stack + 65536, CLONE_FILES | CLONE_FS | SIGCHLD, NULL));
  CHECK_CHILD_OK(pid);
  CHECK_EQ(fcntl(77, F_GETFD), 0);
  char cwd[64];
  CHECK_STR(getcwd(cwd, sizeof cwd), "/");
}

TEST(clone_tid_arguments) {
  pid_t parent_tid = 0, child_tid = 0;
  long pid = CHECK_OK(
      syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, NULL, &parent_tid, &child_tid, 0));
  if (pid == 0) _exit(child_tid == syscall(SYS_gettid) ? 0 : 1);
  CHECK_EQ(parent_tid, pid);
  CHECK_EQ(child_tid, 0);
  CHECK_CHILD_OK((pid_t)pid);
}

TEST(clone3_works_like_fork) {
  struct {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
  } args = {.exit_signal = SIGCHLD};
  long pid = syscall(SYS_clone3, &args, sizeof args);
  if (pid == 0) _exit(3);
  CHECK(pid > 0);
  int status;
  CHECK_EQ(waitpid((pid_t)pid, &status, 0), pid);
  CHECK_EQ(WEXITSTATUS(status), 3);
  CHECK_ERRNO(syscall(SYS_clone3, &args, 8), EINVAL);
  args.flags = CLONE_THREAD;
  CHECK_ERRNO(syscall(SYS_clone3, &args, sizeof args), EINVAL);
}

TEST(clone_flag_errors) {
  CHECK_ERRNO(syscall(SYS_clone, CLONE_THREAD, NULL, NULL, NULL, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_clone, CLONE_SIGHAND, NULL, NULL, NULL, 0), EINVAL);
}

TEST(many_children_at_once) {
  enum { kCount = 100 };
  pid_t pids[kCount];
  for (int i = 0; i < kCount; i++) {
    pids[i] = CHECK_OK(fork());
    if (pids[i] == 0) {
      sleep_ms(i % 7);
      _exit(i);
    }
  }
  for (int i = kCount - 1; i >= 0; i--) {
    int status;
    CHECK_EQ(waitpid(pids[i], &status, 0), pids[i]);
    CHECK_EQ(WEXITSTATUS(status), i);
  }
  CHECK_ERRNO(wait(NULL), ECHILD);
}

TEST(fork_in_a_chain) {
  // Each generation is a child of the last; the deepest one's value comes all the way back.
  int depth = 0;
  for (; depth < 50; depth++) {
    pid_t pid = CHECK_OK(fork());
    if (pid != 0) {
      int status;
      CHECK_EQ(waitpid(pid, &status, 0), pid);
      CHECK_EQ(WEXITSTATUS(status), 50);
      if (depth) _exit(50);
      return;
    }
  }
  _exit(50);
}

static void* sleep_forever(void* arg) {
  (void)arg;
  for (;;) pause();
  return NULL;
}

TEST(fork_takes_only_the_calling_thread) {
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, sleep_forever, NULL), 0);
  IN_CHILD({
    char path[64];
    CHECK_EQ(syscall(SYS_gettid), getpid());
    snprintf(path, sizeof path, "/proc/self/task/%d", getpid());
    struct stat st;
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(stat("/proc/self/task", &st), 0);
    CHECK_EQ(st.st_nlink, 3);
  });
}

static int g_prepared, g_in_parent, g_in_child;
static void prepare(void) { g_prepared++; }
static void in_parent(void) { g_in_parent++; }
static void in_child(void) { g_in_child++; }

TEST(atfork_handlers) {
  CHECK_EQ(pthread_atfork(prepare, in_parent, in_child), 0);
  IN_CHILD(CHECK(g_prepared == 1 && g_in_child == 1 && g_in_parent == 0));
  CHECK(g_prepared == 1 && g_in_parent == 1 && g_in_child == 0);
}
