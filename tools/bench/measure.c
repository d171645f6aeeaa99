// The measuring program: what things cost on a Linux system, seen from a program that runs there.
//
// A static program that knows nothing of where it runs: natively, in a Ringfence sandbox, in another one's. kHelp has
// its three uses; tools/bench/run drives it on several systems side by side.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/magic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "operations.h"

static const char kHelp[] =
    "measure [OPTIONS] [ROW...]   times single operations, in nanoseconds: all, or the ROWs\n"
    "  --list          the rows\n"
    "  --json          one line of JSON with every sample, instead of a table\n"
    "  --rounds N      samples for each row (11); a slow row ends after 4 seconds if it has three\n"
    "  --round-ms N    how long one sample takes, at least (20)\n"
    "  --scratch DIR   where files are made (/tmp)\n"
    "  --settle N      wait N seconds first\n"
    "measure --run [--] COMMAND [ARG...]   runs a command; a last line tells how long it took, as JSON;\n"
    "                                      the exit status is the command's\n"
    "measure --idle                        says \"idle\", and sleeps until its standard input ends\n";

enum { kMaxRounds = 1000 };

struct Settings {
  int rounds;
  int json;
  uint64_t round_ns;
};

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t time_of(const struct Operation* operation, long n) {
  uint64_t begin = now_ns();
  operation->run(n);
  return now_ns() - begin;
}

// Warms up, and finds how many fill a round.
static long operations_for(const struct Operation* operation, uint64_t round_ns) {
  operation->run(1);
  for (long n = 1;;) {
    uint64_t took = time_of(operation, n) + 1;
    long fits = (long)((double)n * (double)round_ns / (double)took) + 1;
    if (took >= round_ns / 2) return fits;
    n = took < round_ns / 20 ? n * 10 : fits;
  }
}

static int by_value(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void measure(const struct Operation* operation, const struct Settings* settings) {
  static double ns[kMaxRounds];
  static int before;
  const uint64_t long_enough = 4000000000u;
  if (operation->begin) operation->begin();
  long n = operations_for(operation, settings->round_ns);
  int count = 0;
  for (uint64_t total = 0; count < settings->rounds && (count < 3 || total < long_enough); count++) {
    uint64_t took = time_of(operation, n);
    ns[count] = (double)took / (double)n;
    total += took;
  }
  if (operation->end) operation->end();
  if (settings->json) {
    printf("%s\"%s\": {\"operations\": %ld, \"samples_ns\": [", before++ ? ", " : "", operation->name, n);
    for (int i = 0; i < count; i++) printf("%s%.2f", i ? ", " : "", ns[i]);
    printf("]}");
  } else {
    qsort(ns, (size_t)count, sizeof ns[0], by_value);
    printf("%-14s %12.1f %12.1f  %s\n", operation->name, ns[count / 2], ns[0], operation->what);
  }
  fflush(stdout);
}

static const char* file_system_of(const char* directory) {
  struct statfs s;
  must(statfs(directory, &s) == 0, directory);
  switch ((unsigned long)s.f_type) {
    case TMPFS_MAGIC:
      return "tmpfs";
    case OVERLAYFS_SUPER_MAGIC:
      return "overlayfs";
    case EXT4_SUPER_MAGIC:
      return "ext4";
    case BTRFS_SUPER_MAGIC:
      return "btrfs";
    case XFS_SUPER_MAGIC:
      return "xfs";
    default:
      return "other";
  }
}

static int run_command(char** command) {
  uint64_t begin = now_ns();
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0) {
    execvp(command[0], command);
    int error = errno;
    fprintf(stderr, "measure: %s: %s\n", command[0], strerror(error));
    _exit(error == ENOENT ? 127 : 126);
  }
  int status;
  must(waitpid(pid, &status, 0) == pid, "waitpid");
  printf("{\"elapsed_ns\": %llu}\n", (unsigned long long)(now_ns() - begin));
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int idle(void) {
  char c;
  puts("idle");
  fflush(stdout);
  while (read(0, &c, 1) > 0) continue;
  return 0;
}

static int usage(const char* what, const char* argument) {
  fprintf(stderr, "measure: %s %s; see --help\n", what, argument);
  return 2;
}

// The number after option argv[i], or -1 if there is none from `low` to `high`.
static long number(int argc, char** argv, int i, long low, long high) {
  if (i + 1 >= argc) return -1;
  char* end;
  long value = strtol(argv[i + 1], &end, 10);
  return *end || end == argv[i + 1] || value < low || value > high ? -1 : value;
}

static const struct Operation* operation_named(const char* name) {
  for (size_t r = 0; r < kOperationCount; r++)
    if (!strcmp(name, kOperations[r].name)) return &kOperations[r];
  return NULL;
}

static void measure_all(const struct Settings* settings, const struct Operation** chosen, int count) {
  if (settings->json)
    printf("{\"scratch\": {\"directory\": \"%s\", \"filesystem\": \"%s\"}, \"rows\": {", scratch_directory,
           file_system_of(scratch_directory));
  else
    printf("%-14s %12s %12s\n", "row", "median ns", "fastest ns");
  for (size_t r = 0; r < kOperationCount; r++) {
    int wanted = count == 0;
    for (int i = 0; i < count; i++) wanted |= chosen[i] == &kOperations[r];
    if (wanted) measure(&kOperations[r], settings);
  }
  if (settings->json) puts("}}");
}

int main(int argc, char** argv) {
  struct Settings settings = {.rounds = 11, .round_ns = 20 * 1000 * 1000};
  const struct Operation** chosen = calloc((size_t)argc + 1, sizeof *chosen);
  int count = 0;
  for (int i = 1; i < argc; i++) {
    const char* argument = argv[i];
    long value = 0;
    if (!strcmp(argument, "--nothing")) return 0;
    if (!strcmp(argument, "--idle")) return idle();
    if (!strcmp(argument, "--run")) {
      char** command = argv + i + 1;
      if (*command && !strcmp(*command, "--")) command++;
      return *command ? run_command(command) : usage("no command after", "--run");
    }
    if (!strcmp(argument, "--help") || !strcmp(argument, "--list")) {
      if (argument[2] == 'h') fputs(kHelp, stdout);
      for (size_t r = 0; argument[2] == 'l' && r < kOperationCount; r++)
        printf("%-14s %s\n", kOperations[r].name, kOperations[r].what);
      return 0;
    }
    if (!strcmp(argument, "--json")) {
      settings.json = 1;
    } else if (!strcmp(argument, "--rounds")) {
      if ((value = number(argc, argv, i++, 1, kMaxRounds)) < 0)
        return usage("a number from 1 to 1000 follows", argument);
      settings.rounds = (int)value;
    } else if (!strcmp(argument, "--round-ms")) {
      if ((value = number(argc, argv, i++, 1, 10000)) < 0) return usage("a number from 1 to 10000 follows", argument);
      settings.round_ns = (uint64_t)value * 1000 * 1000;
    } else if (!strcmp(argument, "--settle")) {
      if ((value = number(argc, argv, i++, 0, 60)) < 0) return usage("a number from 0 to 60 follows", argument);
      sleep((unsigned)value);
    } else if (!strcmp(argument, "--scratch")) {
      if (++i >= argc) return usage("a directory follows", argument);
      scratch_directory = argv[i];
    } else if (!(chosen[count++] = operation_named(argument))) {
      return usage("there is no row", argument);
    }
  }
  measure_all(&settings, chosen, count);
  return 0;
}
