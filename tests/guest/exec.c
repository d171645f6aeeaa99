// execve: arguments, environment, auxiliary vector, scripts, errors, and what survives.
#include "check.h"
#include "small_files.h"

#include <elf.h>
#include <limits.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/prctl.h>

static char g_self[PATH_MAX];
__attribute__((constructor)) static void find_self(void) {
  ssize_t n = readlink("/proc/self/exe", g_self, sizeof g_self - 1);
  if (n > 0) g_self[n] = 0;
}

// What the tests exec runs instead of main, before it: argv[1] says what to check.
static int reply(int argc, char** argv, char** envp);
__attribute__((constructor)) static void maybe_reply(int argc, char** argv, char** envp) {
  if (argc > 1 && strncmp(argv[1], "reply-", 6) == 0) _exit(reply(argc, argv, envp));
}

static int reply(int argc, char** argv, char** envp) {
  const char* what = argv[1] + 6;
  if (!strcmp(what, "args")) {
    for (int i = 0; i < argc; i++) printf("[%s]", argv[i]);
    for (char** e = envp; *e; e++) printf("{%s}", *e);
    printf("%s", argv[argc] == NULL ? "." : "?");
  } else if (!strcmp(what, "cloexec")) {
    printf("%d %d", fcntl(atoi(argv[2]), F_GETFD), fcntl(atoi(argv[3]), F_GETFD));
  } else if (!strcmp(what, "signals")) {
    struct sigaction ignored, handled;
    sigset_t mask, pending;
    sigaction(SIGUSR1, NULL, &ignored);
    sigaction(SIGUSR2, NULL, &handled);
    sigprocmask(SIG_BLOCK, NULL, &mask);
    sigpending(&pending);
    stack_t alt;
    sigaltstack(NULL, &alt);
    printf("%d %d %d %d %d", ignored.sa_handler == SIG_IGN, handled.sa_handler == SIG_DFL, sigismember(&mask, SIGTERM),
           sigismember(&pending, SIGTERM), alt.ss_flags == SS_DISABLE);
  } else if (!strcmp(what, "pid")) {
    printf("%d %d", getpid(), (int)syscall(SYS_gettid));
  } else if (!strcmp(what, "random")) {
    const unsigned char* random = (const unsigned char*)getauxval(AT_RANDOM);
    for (int i = 0; i < 16; i++) printf("%02x", random[i]);
  } else if (!strcmp(what, "longest")) {
    printf("%zu", strlen(argv[2]));
  } else if (!strcmp(what, "name")) {
    char name[16];
    prctl(PR_GET_NAME, name);
    printf("%s", name);
  }
  fflush(stdout);
  return 0;
}

// Runs a program with a pipe as its stdout and gives what it wrote.
static const char* output_of(const char* path, char* const argv[], char* const envp[]) {
  static char text[4096];
  int p[2], status;
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    dup2(p[1], 1);
    execve(path, argv, envp);
    dprintf(2, "execve %s: %s\n", path, strerror(errno));
    _exit(127);
  }
  CHECK_EQ(close(p[1]), 0);
  size_t n = 0;
  ssize_t r;
  while ((r = read(p[0], text + n, sizeof text - 1 - n)) > 0) n += (size_t)r;
  text[n] = 0;
  CHECK_EQ(close(p[0]), 0);
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK_EQ(status, 0);
  return text;
}

TEST(arguments_and_environment) {
  char* argv[] = {"zero", "reply-args", "", "two words", NULL};
  char* envp[] = {"A=1", "EMPTY=", "odd", NULL};
  CHECK_STR(output_of(g_self, argv, envp), "[zero][reply-args][][two words]{A=1}{EMPTY=}{odd}.");
  char* none[] = {NULL};
  char* args[] = {"x", "reply-args", NULL};
  CHECK_STR(output_of(g_self, args, none), "[x][reply-args].");
}

TEST(long_arguments) {
  static char text[MAX_CANON + 100000 + 1];
  memset(text, 'x', 100000);
  char* argv[] = {"x", "reply-longest", text, NULL};
  CHECK_STR(output_of(g_self, argv, environ), "100000");
  // One string may be up to 32 pages.
  static char big[131072 + 1];
  memset(big, 'y', 131072);
  char* too_big[] = {"x", "reply-longest", big, NULL};
  CHECK_ERRNO(execve(g_self, too_big, environ), E2BIG);
}

TEST(errors) {
  IN_TEMP_DIRECTORY();
  char* argv[] = {"x", NULL};
  CHECK_ERRNO(execve("missing", argv, environ), ENOENT);
  put_file("file", "hello\n");
  CHECK_ERRNO(execve("file", argv, environ), EACCES);
  CHECK_EQ(chmod("file", 0755), 0);
  CHECK_ERRNO(execve("file", argv, environ), ENOEXEC);
  CHECK_ERRNO(execve("file/x", argv, environ), ENOTDIR);
  CHECK_EQ(mkdir("dir", 0755), 0);
  CHECK_ERRNO(execve("dir", argv, environ), EACCES);
  CHECK_EQ(symlink("loop", "loop"), 0);
  CHECK_ERRNO(execve("loop", argv, environ), ELOOP);
  put_file("empty", "");
  CHECK_EQ(chmod("empty", 0755), 0);
  CHECK_ERRNO(execve("empty", argv, environ), ENOEXEC);
  CHECK_ERRNO(execve("", argv, environ), ENOENT);
}

static void copy_self(const char* to) {
  int in = CHECK_OK(open(g_self, O_RDONLY)), out = CHECK_OK(open(to, O_CREAT | O_WRONLY, 0755));
  static char b[65536];
  ssize_t n;
  while ((n = CHECK_OK(read(in, b, sizeof b))) > 0) CHECK_EQ(write(out, b, (size_t)n), n);
  CHECK_EQ(close(out), 0);
}

TEST(text_busy) {
  IN_TEMP_DIRECTORY();
  copy_self("program");
  int fd = CHECK_OK(open("program", O_WRONLY));
  char* argv[] = {"x", "--list", NULL};
  CHECK_ERRNO(execve("program", argv, environ), ETXTBSY);
  CHECK_EQ(close(fd), 0);
  int p[2];
  CHECK_EQ(pipe(p), 0);
  char* args[] = {"program", "reply-args", NULL};
  CHECK_STR(output_of("program", args, (char*[]){NULL}), "[program][reply-args].");
}

TEST(broken_elf) {
  IN_TEMP_DIRECTORY();
  copy_self("program");
  char* argv[] = {"x", NULL};
  int fd = CHECK_OK(open("program", O_RDWR));
  Elf64_Ehdr good, bad;
  CHECK_EQ(pread(fd, &good, sizeof good, 0), sizeof good);
  bad = good;
  bad.e_machine = EM_AARCH64;
  CHECK_EQ(pwrite(fd, &bad, sizeof bad, 0), sizeof bad);
  CHECK_EQ(close(fd), 0);
  CHECK_ERRNO(execve("program", argv, environ), ENOEXEC);
  fd = CHECK_OK(open("program", O_RDWR));
  bad = good;
  bad.e_phentsize = 7;
  CHECK_EQ(pwrite(fd, &bad, sizeof bad, 0), sizeof bad);
  CHECK_EQ(close(fd), 0);
  CHECK_ERRNO(execve("program", argv, environ), ENOEXEC);
  CHECK_EQ(truncate("program", 40), 0);
  CHECK_ERRNO(execve("program", argv, environ), ENOEXEC);
}

TEST(missing_interpreters) {
  IN_TEMP_DIRECTORY();
  char* argv[] = {"x", NULL};
  put_file("script", "#!/missing/interpreter\n");
  CHECK_EQ(chmod("script", 0755), 0);
  CHECK_ERRNO(execve("script", argv, environ), ENOENT);
  put_file("nothing", "#!\n");
  CHECK_EQ(chmod("nothing", 0755), 0);
  CHECK_ERRNO(execve("nothing", argv, environ), ENOEXEC);
}

static void put_script(const char* name, const char* first_line_format, const char* with) {
  char text[PATH_MAX + 64];
  snprintf(text, sizeof text, first_line_format, with);
  put_file(name, text);
  CHECK_EQ(chmod(name, 0755), 0);
}

TEST(scripts) {
  IN_TEMP_DIRECTORY();
  char* none[] = {NULL};
  char expected[PATH_MAX + 64];
  // The interpreter, its one optional argument, the script's path, then the arguments but argv[0].
  put_script("script", "#! %s reply-args  \nignored\n", g_self);
  char* argv[] = {"zero", "one", NULL};
  snprintf(expected, sizeof expected, "[%s][reply-args][./script][one].", g_self);
  CHECK_STR(output_of("./script", argv, none), expected);
  put_script("spaces", "#!%s reply-args more  words\n", g_self);
  CHECK_ERRNO(access("reply-args more  words", F_OK), ENOENT);
  // A script may be another's interpreter.
  put_script("inner", "#!%s reply-args\n", g_self);
  char cwd[PATH_MAX - 64];
  CHECK(getcwd(cwd, sizeof cwd));
  strcat(cwd, "/inner");
  put_script("outer", "#!%s\n", cwd);
  snprintf(expected, sizeof expected, "[%s][reply-args][%s][./outer][one].", g_self, cwd);
  CHECK_STR(output_of("./outer", argv, none), expected);
}

TEST(script_loops_end) {
  IN_TEMP_DIRECTORY();
  char cwd[PATH_MAX - 64];
  CHECK(getcwd(cwd, sizeof cwd));
  strcat(cwd, "/loop");
  put_script("loop", "#!%s\n", cwd);
  char* argv[] = {"x", NULL};
  CHECK_ERRNO(execve("loop", argv, environ), ELOOP);
}

TEST(close_on_exec) {
  int keep = CHECK_OK(open("/dev/null", O_RDONLY)), gone = CHECK_OK(open("/dev/null", O_RDONLY | O_CLOEXEC));
  char a[16], b[16];
  snprintf(a, sizeof a, "%d", keep);
  snprintf(b, sizeof b, "%d", gone);
  char* argv[] = {"x", "reply-cloexec", a, b, NULL};
  CHECK_STR(output_of(g_self, argv, environ), "0 -1");
}

static void handler(int signo) { (void)signo; }

TEST(signals_over_exec) {
  signal(SIGUSR1, SIG_IGN);
  signal(SIGUSR2, handler);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
  stack_t alt = {.ss_sp = malloc(65536), .ss_size = 65536};
  CHECK_EQ(sigaltstack(&alt, NULL), 0);
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    kill(getpid(), SIGTERM);
    dup2(p[1], 1);
    execl(g_self, "x", "reply-signals", (char*)NULL);
    _exit(127);
  }
  char text[64] = {0};
  CHECK_CHILD_OK(pid);
  CHECK(read(p[0], text, sizeof text - 1) > 0);
  CHECK_STR(text, "1 1 1 1 1");
}

TEST(auxiliary_vector) {
  CHECK_EQ(getauxval(AT_PAGESZ), 4096);
  CHECK_EQ(getauxval(AT_UID), getuid());
  CHECK_EQ(getauxval(AT_EUID), geteuid());
  CHECK_EQ(getauxval(AT_GID), getgid());
  CHECK_EQ(getauxval(AT_SECURE), 0);
  CHECK_EQ(getauxval(AT_CLKTCK), 100);
  CHECK_STR((const char*)getauxval(AT_PLATFORM), "x86_64");
  CHECK(strlen((const char*)getauxval(AT_EXECFN)) > 0);
  const unsigned char* random = (const unsigned char*)getauxval(AT_RANDOM);
  int or = 0;
  for (int i = 0; i < 16; i++) or |= random[i];
  CHECK(or != 0);
  const Elf64_Phdr* phdr = (const Elf64_Phdr*)getauxval(AT_PHDR);
  CHECK_EQ(getauxval(AT_PHENT), sizeof *phdr);
  int loads = 0;
  for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++) loads += phdr[i].p_type == PT_LOAD;
  CHECK(loads >= 2);
  extern void _start(void);
  CHECK_EQ(getauxval(AT_ENTRY), (uintptr_t)_start);
  const Elf64_Ehdr* vdso = (const Elf64_Ehdr*)getauxval(AT_SYSINFO_EHDR);
  CHECK(vdso != NULL);
  CHECK_EQ(memcmp(vdso->e_ident, ELFMAG, SELFMAG), 0);
}

TEST(random_bytes_are_new_at_each_exec) {
  char* argv[] = {"x", "reply-random", NULL};
  char first[64];
  strncpy(first, output_of(g_self, argv, environ), sizeof first - 1);
  first[sizeof first - 1] = 0;
  CHECK_EQ(strlen(first), 32);
  CHECK(strcmp(first, output_of(g_self, argv, environ)) != 0);
}

static void* exec_from_thread(void* out) {
  dup2(*(int*)out, 1);
  execl(g_self, "x", "reply-pid", (char*)NULL);
  _exit(127);
}

TEST(exec_from_a_thread_takes_over_the_group) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    pthread_t t;
    pthread_create(&t, NULL, exec_from_thread, &p[1]);
    for (;;) pause();
  }
  CHECK_CHILD_OK(pid);
  char text[64] = {0}, expected[64];
  CHECK(read(p[0], text, sizeof text - 1) > 0);
  snprintf(expected, sizeof expected, "%d %d", pid, pid);
  CHECK_STR(text, expected);
}

TEST(failed_exec_leaves_everything) {
  char* argv[] = {"x", NULL};
  int fd = CHECK_OK(open("/dev/null", O_RDONLY | O_CLOEXEC));
  CHECK_ERRNO(execve("/missing", argv, environ), ENOENT);
  CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

TEST(execveat_by_descriptor) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  int fd = CHECK_OK(open(g_self, O_PATH));
  pid_t pid = CHECK_OK(fork());
  char* argv[] = {"x", "reply-args", NULL};
  char* none[] = {NULL};
  if (pid == 0) {
    dup2(p[1], 1);
    syscall(SYS_execveat, fd, "", argv, none, AT_EMPTY_PATH);
    _exit(127);
  }
  CHECK_CHILD_OK(pid);
  char text[64] = {0};
  CHECK(read(p[0], text, sizeof text - 1) > 0);
  CHECK_STR(text, "[x][reply-args].");
  CHECK_ERRNO(syscall(SYS_execveat, AT_FDCWD, "/missing", argv, none, 0), ENOENT);
}

TEST(process_name_follows_the_file) {
  IN_TEMP_DIRECTORY();
  copy_self("a-name-longer-than-fifteen");
  char* argv[] = {"x", "reply-name", NULL};
  CHECK_STR(output_of("./a-name-longer-than-fifteen", argv, environ), "a-name-longer-t");
}

TEST(set_user_id_programs) {
  if (geteuid() != 0) SKIP("needs root");
  IN_TEMP_DIRECTORY();
  copy_self("program");
  // A program that is not readable can still be executed.
  CHECK_EQ(chmod("program", 0711), 0);
  IN_CHILD({
    CHECK_EQ(setuid(12345), 0);
    CHECK_ERRNO(open("program", O_RDONLY), EACCES);
    char* argv[] = {"program", "reply-args", NULL};
    CHECK_STR(output_of("./program", argv, (char*[]){NULL}), "[program][reply-args].");
  });
}
