// A tiny self-checking harness for guest programs.
//
//   TEST(reads_back_what_it_wrote) { CHECK_EQ(write(fd, "x", 1), 1); ... }
//
// A program is one or more TESTs and nothing else: main() here runs all of them, or those named on its command
// line, prints "ok NAME" or "FAIL NAME file:line: what" for each, and exits 0 or 1. A failed CHECK ends its test.
// Each test runs in a child process of its own, so that a crash or a stray signal costs one test; `--here NAME`
// runs one in the program's own process, for debugging and for exec tests that come back.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct test_case {
  const char* name;
  void (*run)(void);
  struct test_case* next;
} test_case;

static test_case* test_first_;
static test_case** test_last_ = &test_first_;
static const char* test_name_ = "?";
static char test_directory_[64];

#define TEST(id)                                                      \
  static void test_##id(void);                                        \
  __attribute__((constructor)) static void test_register_##id(void) { \
    static test_case entry = {#id, test_##id, NULL};                  \
    *test_last_ = &entry;                                             \
    test_last_ = &entry.next;                                         \
  }                                                                   \
  static void test_##id(void)

// Exit statuses of a test's process.
enum { TEST_PASSED = 0, TEST_FAILED = 99, TEST_SKIPPED = 98 };

// Reports and leaves with all threads. Also right in a forked child of a test: its parent sees status 99.
__attribute__((noreturn, format(printf, 3, 4))) static inline void test_fail_(const char* file, int line,
                                                                              const char* format, ...) {
  char text[1024];
  int n = snprintf(text, sizeof text, "FAIL %s %s:%d: ", test_name_, file, line);
  va_list args;
  va_start(args, format);
  n += vsnprintf(text + n, sizeof text - (size_t)n - 1, format, args);
  va_end(args);
  if (n > (int)sizeof text - 2) n = (int)sizeof text - 2;
  text[n++] = '\n';
  if (write(STDOUT_FILENO, text, (size_t)n) < 0) _exit(TEST_FAILED);
  _exit(TEST_FAILED);
}

// Leaves the test as one that cannot run here, and says why.
#define SKIP(why)                               \
  do {                                          \
    printf("skip %s: %s\n", test_name_, (why)); \
    fflush(stdout);                             \
    _exit(TEST_SKIPPED);                        \
  } while (0)

#define CHECK(cond)                                                                                  \
  do {                                                                                               \
    errno = 0;                                                                                       \
    if (!(cond)) test_fail_(__FILE__, __LINE__, "%s (errno %d, %s)", #cond, errno, strerror(errno)); \
  } while (0)

#define CHECK_EQ(a, b)                                                                                                \
  do {                                                                                                                \
    errno = 0;                                                                                                        \
    long long check_a_ = (long long)(a);                                                                              \
    int check_errno_ = errno;                                                                                         \
    long long check_b_ = (long long)(b);                                                                              \
    if (check_a_ != check_b_)                                                                                         \
      test_fail_(__FILE__, __LINE__, "%s == %s: %lld (0x%llx) against %lld (0x%llx), errno %d, %s", #a, #b, check_a_, \
                 check_a_, check_b_, check_b_, check_errno_, strerror(check_errno_));                                 \
  } while (0)

#define CHECK_STR(a, b)                                                                                          \
  do {                                                                                                           \
    const char *check_a_ = (a), *check_b_ = (b);                                                                 \
    if (!check_a_ || strcmp(check_a_, check_b_) != 0)                                                            \
      test_fail_(__FILE__, __LINE__, "%s: \"%s\" against \"%s\"", #a, check_a_ ? check_a_ : "(null)", check_b_); \
  } while (0)

// The expression must give -1 (or MAP_FAILED) with this errno.
#define CHECK_ERRNO(expr, expected)                                                                            \
  do {                                                                                                         \
    errno = 0;                                                                                                 \
    long long check_r_ = (long long)(expr);                                                                    \
    int check_errno_ = errno;                                                                                  \
    if (check_r_ != -1) test_fail_(__FILE__, __LINE__, "%s gave %lld, not %s", #expr, check_r_, #expected);    \
    if (check_errno_ != (expected))                                                                            \
      test_fail_(__FILE__, __LINE__, "%s: errno %d (%s), not %s", #expr, check_errno_, strerror(check_errno_), \
                 #expected);                                                                                   \
  } while (0)

// Must give a value that is not -1; gives that value.
#define CHECK_OK(expr)                                                                          \
  __extension__({                                                                               \
    errno = 0;                                                                                  \
    __typeof__(expr) check_v_ = (expr);                                                         \
    if ((long long)check_v_ == -1)                                                              \
      test_fail_(__FILE__, __LINE__, "%s failed: errno %d, %s", #expr, errno, strerror(errno)); \
    check_v_;                                                                                   \
  })

// A fresh directory for the test, its working directory; removed afterwards by the main process.
#define IN_TEMP_DIRECTORY() CHECK_OK(chdir(test_make_directory_()))
__attribute__((unused)) static const char* test_make_directory_(void) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", test_directory_, test_name_);
  if (mkdir(path, 0755) != 0) test_fail_(__FILE__, __LINE__, "mkdir %s: %s", path, strerror(errno));
  return path;
}

// Waits for a forked child and checks that it passed its own CHECKs and exited 0.
#define CHECK_CHILD_OK(pid)                                                                                     \
  do {                                                                                                          \
    int child_status_ = 0;                                                                                      \
    pid_t child_pid_ = (pid);                                                                                   \
    pid_t waited_ = waitpid(child_pid_, &child_status_, 0);                                                     \
    if (waited_ != child_pid_) test_fail_(__FILE__, __LINE__, "waitpid: %s", strerror(errno));                  \
    if (child_status_ != 0) test_fail_(__FILE__, __LINE__, "child: wait status 0x%x", (unsigned)child_status_); \
  } while (0)

// Runs the statement block in a child and checks that it went well: IN_CHILD({ CHECK(...); });
#define IN_CHILD(...)                   \
  do {                                  \
    fflush(stdout);                     \
    pid_t in_child_ = CHECK_OK(fork()); \
    if (in_child_ == 0) {               \
      __VA_ARGS__;                      \
      fflush(stdout);                   \
      _exit(0);                         \
    }                                   \
    CHECK_CHILD_OK(in_child_);          \
  } while (0)

__attribute__((unused)) static void sleep_ms(long ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&t, &t) != 0 && errno == EINTR) {
  }
}

__attribute__((unused)) static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int test_run_(const test_case* t) {
  test_name_ = t->name;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    t->run();
    fflush(stdout);
    _exit(TEST_PASSED);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) {
    printf("FAIL %s fork or wait: %s\n", t->name, strerror(errno));
    return 1;
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_PASSED) {
    printf("ok %s\n", t->name);
    return 0;
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_SKIPPED) return 0;
  if (WIFSIGNALED(status))
    printf("FAIL %s killed by signal %d (%s)\n", t->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
  else if (WEXITSTATUS(status) != TEST_FAILED)
    printf("FAIL %s exit status %d\n", t->name, WEXITSTATUS(status));
  return 1;
}

static int test_remove_(const char* path, const struct stat* st, int type, struct FTW* where) {
  (void)st, (void)type, (void)where;
  return remove(path) != 0 && errno != ENOENT;
}

static int test_wanted_(const char* name, int argc, char** argv) {
  if (argc < 2) return 1;
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], name) == 0) return 1;
  return 0;
}

#ifndef CHECK_NO_MAIN
int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    for (test_case* t = test_first_; t; t = t->next) puts(t->name);
    return 0;
  }
  const char* base = getenv("TMPDIR");
  snprintf(test_directory_, sizeof test_directory_, "%.40s/guest-XXXXXX", base && *base ? base : "/tmp");
  if (!mkdtemp(test_directory_)) {
    printf("FAIL mkdtemp %s: %s\n", test_directory_, strerror(errno));
    return 1;
  }
  int failed = 0, ran = 0;
  if (argc == 3 && strcmp(argv[1], "--here") == 0) {
    for (test_case* t = test_first_; t; t = t->next)
      if (strcmp(t->name, argv[2]) == 0) {
        test_name_ = t->name;
        t->run();
        ran++;
      }
  } else {
    for (test_case* t = test_first_; t; t = t->next)
      if (test_wanted_(t->name, argc, argv)) failed += test_run_(t), ran++;
  }
  nftw(test_directory_, test_remove_, 16, FTW_DEPTH | FTW_PHYS);
  if (!ran) printf("FAIL no test of that name\n");
  printf("%d passed, %d failed\n", ran - failed, failed);
  return failed || !ran ? 1 : 0;
}
#endif
