// Files of /proc that programs read.
#include "memory.h"
#include "small_files.h"

#include <ctype.h>
#include <dirent.h>
#include <pthread.h>
#include <sys/prctl.h>

// The value after "Key:" in a file of such lines; -1 when it is not there.
static long field(const char* path, const char* key) {
  const char* text = get_file(path);
  size_t n = strlen(key);
  for (const char* line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
    if (!strncmp(line, key, n) && line[n] == ':') return strtol(line + n + 1, NULL, 0);
  return -1;
}

TEST(self_is_this_process) {
  char b[64] = {0}, expected[64];
  snprintf(expected, sizeof expected, "%d", getpid());
  CHECK(readlink("/proc/self", b, sizeof b - 1) > 0);
  CHECK_STR(b, expected);
  memset(b, 0, sizeof b);
  snprintf(expected, sizeof expected, "%d/task/%d", getpid(), getpid());
  CHECK(readlink("/proc/thread-self", b, sizeof b - 1) > 0);
  CHECK_STR(b, expected);
}

TEST(exe_cwd_root) {
  IN_TEMP_DIRECTORY();
  char b[4096] = {0}, cwd[4096];
  CHECK(readlink("/proc/self/cwd", b, sizeof b - 1) > 0);
  CHECK_STR(b, getcwd(cwd, sizeof cwd));
  memset(b, 0, sizeof b);
  CHECK(readlink("/proc/self/root", b, sizeof b - 1) > 0);
  CHECK_STR(b, "/");
  memset(b, 0, sizeof b);
  CHECK(readlink("/proc/self/exe", b, sizeof b - 1) > 0);
  CHECK_EQ(b[0], '/');
  CHECK_STR(strrchr(b, '/'), "/proc");  // this program's name
  int fd = CHECK_OK(open("/proc/self/exe", O_RDONLY));
  CHECK_EQ(read(fd, b, 4), 4);
  CHECK_EQ(memcmp(b, "\177ELF", 4), 0);
}

TEST(descriptors) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(dup2(p[0], 123), 123);
  DIR* dir = opendir("/proc/self/fd");
  CHECK(dir != NULL);
  int found = 0;
  struct dirent* e;
  while ((e = readdir(dir)) != NULL) found += !strcmp(e->d_name, "123");
  CHECK_EQ(found, 1);
  CHECK_ERRNO(readlink("/proc/self/fd/124", (char[8]){0}, 8), ENOENT);
  int file = CHECK_OK(open("/dev/null", O_RDONLY));
  char path[64], target[64] = {0};
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  CHECK(readlink(path, target, sizeof target - 1) > 0);
  CHECK_STR(target, "/dev/null");
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", file);
  CHECK(strstr(get_file(path), "pos:\t0\n") != NULL);
  CHECK(strstr(get_file(path), "flags:\t0") != NULL);
}

TEST(deleted_file_link) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("gone", O_CREAT | O_RDWR, 0600));
  CHECK_EQ(unlink("gone"), 0);
  char path[64], target[4096] = {0};
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  CHECK(readlink(path, target, sizeof target - 1) > 0);
  CHECK_STR(strrchr(target, '/'), "/gone (deleted)");
}

TEST(stat_fields) {
  CHECK_EQ(prctl(PR_SET_NAME, "odd ) name"), 0);
  const char* text = get_file("/proc/self/stat");
  int pid, ppid, pgrp, session;
  char state;
  CHECK_EQ(sscanf(text, "%d (odd ) name) %c %d %d %d", &pid, &state, &ppid, &pgrp, &session), 5);
  CHECK_EQ(pid, getpid());
  CHECK_EQ(ppid, getppid());
  CHECK_EQ(pgrp, getpgrp());
  CHECK_EQ(session, getsid(0));
  CHECK_EQ(state, 'R');
  int fields = 0;
  for (const char* p = strrchr(text, ')'); *p; p++) fields += *p == ' ';
  CHECK_EQ(fields, 50);
}

TEST(status_fields) {
  CHECK_EQ(field("/proc/self/status", "Pid"), getpid());
  CHECK_EQ(field("/proc/self/status", "Tgid"), getpid());
  CHECK_EQ(field("/proc/self/status", "PPid"), getppid());
  CHECK_EQ(field("/proc/self/status", "Uid"), getuid());
  CHECK_EQ(field("/proc/self/status", "Threads"), 1);
  CHECK(field("/proc/self/status", "VmRSS") > 0);
  CHECK(field("/proc/self/status", "VmSize") >= field("/proc/self/status", "VmRSS"));
  const char* text = get_file("/proc/self/status");
  CHECK(strstr(text, "State:\tR") != NULL);
  CHECK(strstr(text, "SigBlk:\t0000000000000000") != NULL);
}

TEST(command_line_and_environment) {
  char b[4096];
  int fd = CHECK_OK(open("/proc/self/cmdline", O_RDONLY));
  ssize_t n = CHECK_OK(read(fd, b, sizeof b));
  CHECK(n > 0 && b[n - 1] == 0);
  CHECK_STR(strrchr(b, '/') ? strrchr(b, '/') + 1 : b, "proc");
  IN_CHILD({
    char* argv[] = {"proc", "--here", "environment_of_a_new_program", NULL};
    char* envp[] = {"MARK=1", "B=2", NULL};
    execve("/proc/self/exe", argv, envp);
    _exit(127);
  });
}

TEST(environment_of_a_new_program) {
  if (!getenv("MARK")) return;  // run by the test above
  char b[64] = {0};
  int fd = CHECK_OK(open("/proc/self/environ", O_RDONLY));
  CHECK_EQ(read(fd, b, sizeof b), 11);
  CHECK_EQ(memcmp(b, "MARK=1\0B=2", 11), 0);
}

static void* wait_a_while(void* arg) {
  prctl(PR_SET_NAME, "second");
  char c;
  (void)!read(*(int*)arg, &c, 1);
  return NULL;
}

TEST(tasks_of_a_process) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, wait_a_while, &p[0]), 0);
  sleep_ms(50);
  CHECK_EQ(field("/proc/self/status", "Threads"), 2);
  DIR* dir = opendir("/proc/self/task");
  CHECK(dir != NULL);
  int threads = 0, second = 0;
  struct dirent* e;
  while ((e = readdir(dir)) != NULL)
    if (isdigit((unsigned char)e->d_name[0])) {
      char path[512];
      threads++;
      snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
      second += !strcmp(get_file(path), "second\n");
    }
  CHECK_EQ(threads, 2);
  CHECK_EQ(second, 1);
  CHECK_EQ(write(p[1], "x", 1), 1);
  CHECK_EQ(pthread_join(t, NULL), 0);
}

TEST(processes_are_listed) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0)
    for (;;) pause();
  char name[16];
  snprintf(name, sizeof name, "%d", pid);
  DIR* dir = opendir("/proc");
  CHECK(dir != NULL);
  int found = 0;
  struct dirent* e;
  while ((e = readdir(dir)) != NULL) found += !strcmp(e->d_name, name);
  CHECK_EQ(found, 1);
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  CHECK_EQ(field(path, "PPid"), getpid());
  for (int i = 0; i < 200 && !strstr(get_file(path), "State:\tS"); i++) sleep_ms(5);
  CHECK(strstr(get_file(path), "State:\tS") != NULL);
  CHECK_EQ(kill(pid, SIGKILL), 0);
  CHECK_EQ(waitpid(pid, NULL, 0), pid);
  CHECK_ERRNO(open(path, O_RDONLY), ENOENT);
}

TEST(open_status_of_a_dead_process) {
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) _exit(0);
  char path[64], b[64];
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  int fd = CHECK_OK(open(path, O_RDONLY));
  CHECK_EQ(waitpid(pid, NULL, 0), pid);
  CHECK_ERRNO(read(fd, b, sizeof b), ESRCH);
}

TEST(statm_and_smaps) {
  long size = 0, resident = 0;
  CHECK_EQ(sscanf(get_file("/proc/self/statm"), "%ld %ld", &size, &resident), 2);
  CHECK(size > 0 && resident > 0 && resident <= size);
  unsigned char* p = map_anonymous(2048);
  memset(p, 1, 2048 * kPage);
  long after = 0;
  CHECK_EQ(sscanf(get_file("/proc/self/statm"), "%ld %ld", &size, &after), 2);
  CHECK(after >= resident + 1500);
}

TEST(system_files) {
  CHECK(field("/proc/meminfo", "MemTotal") > 0);
  CHECK(field("/proc/meminfo", "MemFree") >= 0);
  CHECK(field("/proc/meminfo", "MemAvailable") >= 0);
  CHECK(strstr(get_file("/proc/cpuinfo"), "processor\t: 0\n") != NULL);
  CHECK_EQ(strncmp(get_file("/proc/version"), "Linux version ", 14), 0);
  CHECK_EQ(strncmp(get_file("/proc/stat"), "cpu  ", 5), 0);
  double up = 0, idle = 0;
  CHECK_EQ(sscanf(get_file("/proc/uptime"), "%lf %lf", &up, &idle), 2);
  CHECK(up > 0);
  double load[3];
  CHECK_EQ(sscanf(get_file("/proc/loadavg"), "%lf %lf %lf", &load[0], &load[1], &load[2]), 3);
  CHECK(strstr(get_file("/proc/filesystems"), "proc") != NULL);
}

TEST(mounts_are_listed) {
  // Words: device, directory, type, options, 0 0.
  int found_root = 0, found_proc = 0;
  char text[65536];
  strncpy(text, get_file("/proc/self/mounts"), sizeof text - 1);
  for (char* line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    char directory[256], type[64];
    if (sscanf(line, "%*s %255s %63s", directory, type) != 2) continue;
    found_root |= !strcmp(directory, "/");
    found_proc |= !strcmp(directory, "/proc") && !strcmp(type, "proc");
  }
  CHECK(found_root);
  CHECK(found_proc);
  CHECK(strstr(get_file("/proc/self/mountinfo"), " / ") != NULL);
}

TEST(kernel_settings) {
  long v = 0;
  CHECK_EQ(sscanf(get_file("/proc/sys/kernel/pid_max"), "%ld", &v), 1);
  CHECK(v > 0);
  CHECK_STR(get_file("/proc/sys/kernel/ostype"), "Linux\n");
  CHECK(strlen(get_file("/proc/sys/kernel/hostname")) > 1);
  CHECK(strlen(get_file("/proc/sys/kernel/random/boot_id")) == 37);
  CHECK_EQ(sscanf(get_file("/proc/sys/vm/overcommit_memory"), "%ld", &v), 1);
  CHECK_EQ(sscanf(get_file("/proc/sys/fs/pipe-max-size"), "%ld", &v), 1);
}

TEST(proc_is_read_only_where_it_should_be) {
  CHECK_ERRNO(open("/proc/self/newfile", O_CREAT | O_WRONLY, 0600), ENOENT);
  CHECK_ERRNO(mkdir("/proc/newdir", 0755), ENOENT);
  CHECK_ERRNO(unlink("/proc/self/stat"), EPERM);
}

TEST(small_reads_and_seeks) {
  char whole[512] = {0}, parts[512] = {0};
  int fd = CHECK_OK(open("/proc/version", O_RDONLY));
  ssize_t n = CHECK_OK(read(fd, whole, sizeof whole - 1));
  CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
  for (ssize_t i = 0; i < n; i++) CHECK_EQ(read(fd, parts + i, 1), 1);
  CHECK_EQ(read(fd, parts + n, 1), 0);
  CHECK_STR(parts, whole);
  CHECK_EQ(pread(fd, parts, 5, 6), 5);
  CHECK_EQ(memcmp(parts, whole + 6, 5), 0);
}
