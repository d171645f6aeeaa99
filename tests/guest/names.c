// Names in directories: rename, link, unlink, mkdir, readlink, getdents64.
#include "check.h"
#include "small_files.h"

#include <dirent.h>
#include <limits.h>

TEST(rename_replaces) {
  IN_TEMP_DIRECTORY();
  put_file("a", "A");
  put_file("b", "B");
  int old = CHECK_OK(open("b", O_RDONLY));
  CHECK_EQ(rename("a", "b"), 0);
  CHECK_STR(get_file("b"), "A");
  CHECK_ERRNO(access("a", F_OK), ENOENT);
  char c;
  CHECK_EQ(read(old, &c, 1), 1);
  CHECK_EQ(c, 'B');
  CHECK_ERRNO(rename("missing", "b"), ENOENT);
  CHECK_EQ(rename("b", "b"), 0);
}

TEST(rename_of_directories) {
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkdir("d", 0755), 0);
  put_file("d/x", "X");
  CHECK_EQ(mkdir("e", 0755), 0);
  put_file("file", "F");
  CHECK_EQ(rename("d", "e"), 0);  // an empty directory is replaced
  CHECK_STR(get_file("e/x"), "X");
  CHECK_EQ(mkdir("f", 0755), 0);
  CHECK_ERRNO(rename("f", "e"), ENOTEMPTY);
  CHECK_ERRNO(rename("file", "e"), EISDIR);
  CHECK_ERRNO(rename("e", "file"), ENOTDIR);
  CHECK_ERRNO(rename("e", "e/inner"), EINVAL);
  CHECK_ERRNO(rename("e/.", "g"), EBUSY);
  CHECK_EQ(mkdir("e/sub", 0755), 0);
  CHECK_EQ(rename("e/sub", "sub"), 0);
  CHECK_EQ(access("sub", F_OK), 0);
  CHECK_ERRNO(rename("file/", "g"), ENOTDIR);
}

TEST(rename_of_two_links_to_one_file_does_nothing) {
  IN_TEMP_DIRECTORY();
  put_file("a", "A");
  CHECK_EQ(link("a", "b"), 0);
  CHECK_EQ(rename("a", "b"), 0);
  CHECK_EQ(access("a", F_OK), 0);
  CHECK_EQ(access("b", F_OK), 0);
}

TEST(renameat2_flags) {
  IN_TEMP_DIRECTORY();
  put_file("a", "A");
  put_file("b", "B");
  CHECK_ERRNO(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
  CHECK_EQ(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE), 0);
  CHECK_EQ(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE), 0);
  CHECK_STR(get_file("b"), "A");
  CHECK_STR(get_file("c"), "B");
  CHECK_ERRNO(renameat2(AT_FDCWD, "b", AT_FDCWD, "missing", RENAME_EXCHANGE), ENOENT);
  CHECK_ERRNO(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
  CHECK_ERRNO(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 1 << 20), EINVAL);
}

TEST(hard_links) {
  IN_TEMP_DIRECTORY();
  put_file("a", "A");
  CHECK_EQ(link("a", "b"), 0);
  struct stat a, b;
  CHECK_EQ(stat("a", &a), 0);
  CHECK_EQ(stat("b", &b), 0);
  CHECK_EQ(a.st_ino, b.st_ino);
  CHECK_EQ(a.st_nlink, 2);
  put_file("b", "changed");
  CHECK_STR(get_file("a"), "changed");
  CHECK_EQ(unlink("a"), 0);
  CHECK_EQ(stat("b", &b), 0);
  CHECK_EQ(b.st_nlink, 1);
  CHECK_ERRNO(link("missing", "c"), ENOENT);
  CHECK_EQ(mkdir("d", 0755), 0);
  CHECK_ERRNO(link("d", "e"), EPERM);
  put_file("c", "C");
  CHECK_ERRNO(link("b", "c"), EEXIST);
  CHECK_EQ(symlink("b", "s"), 0);
  CHECK_EQ(link("s", "hard_s"), 0);  // the link itself, not what it names
  CHECK_EQ(lstat("hard_s", &a), 0);
  CHECK(S_ISLNK(a.st_mode));
  CHECK_EQ(linkat(AT_FDCWD, "s", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW), 0);
  CHECK_EQ(lstat("followed", &a), 0);
  CHECK(S_ISREG(a.st_mode));
}

TEST(symlinks_and_readlink) {
  IN_TEMP_DIRECTORY();
  CHECK_EQ(symlink("some/target", "s"), 0);
  char b[32];
  memset(b, '#', sizeof b);
  CHECK_EQ(readlink("s", b, sizeof b), 11);
  CHECK_EQ(memcmp(b, "some/target#", 12), 0);  // no terminating zero
  CHECK_EQ(readlink("s", b, 4), 4);
  CHECK_ERRNO(readlink("s", b, 0), EINVAL);
  put_file("file", "x");
  CHECK_ERRNO(readlink("file", b, 4), EINVAL);
  CHECK_ERRNO(symlink("x", "s"), EEXIST);
  CHECK_ERRNO(symlink("", "t"), ENOENT);
  struct stat st;
  CHECK_EQ(lstat("s", &st), 0);
  CHECK_EQ(st.st_size, 11);
  CHECK_EQ(st.st_mode, S_IFLNK | 0777);
  CHECK_ERRNO(stat("s", &st), ENOENT);
  CHECK_EQ(unlink("s"), 0);
}

TEST(links_within_paths) {
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkdir("d", 0755), 0);
  CHECK_EQ(mkdir("d/e", 0755), 0);
  put_file("d/x", "X");
  CHECK_EQ(symlink("d/e", "to_e"), 0);
  // ".." after a link is the parent of the link's target.
  CHECK_STR(get_file("to_e/../x"), "X");
  CHECK_EQ(symlink("../x", "d/e/up"), 0);
  CHECK_STR(get_file("to_e/up"), "X");
  CHECK_STR(get_file("d//e/.././x"), "X");
  char here[PATH_MAX - 8], absolute[PATH_MAX];
  CHECK(getcwd(here, sizeof here));
  snprintf(absolute, sizeof absolute, "%s/d", here);
  CHECK_EQ(symlink(absolute, "absolute"), 0);
  CHECK_STR(get_file("absolute/x"), "X");
}

TEST(trailing_slash_follows_a_link_to_a_directory) {
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkdir("d", 0755), 0);
  CHECK_EQ(symlink("d", "s"), 0);
  struct stat st;
  CHECK_EQ(lstat("s/", &st), 0);
  CHECK(S_ISDIR(st.st_mode));
  CHECK_ERRNO(unlink("s/"), ENOTDIR);
  CHECK_ERRNO(rmdir("s"), ENOTDIR);
  CHECK_EQ(mkdir("new/", 0755), 0);
  CHECK_EQ(rmdir("new/"), 0);
  CHECK_ERRNO(symlink("x", "t/"), ENOENT);
}

TEST(directories_are_made_and_removed) {
  IN_TEMP_DIRECTORY();
  umask(022);
  CHECK_EQ(mkdir("d", 01777), 0);
  struct stat st;
  CHECK_EQ(stat("d", &st), 0);
  CHECK_EQ(st.st_mode, S_IFDIR | 01755);
  CHECK_ERRNO(mkdir("d", 0755), EEXIST);
  CHECK_ERRNO(mkdir("x/y", 0755), ENOENT);
  put_file("d/f", "x");
  CHECK_ERRNO(mkdir("d/f/z", 0755), ENOTDIR);
  CHECK_ERRNO(rmdir("d"), ENOTEMPTY);
  CHECK_ERRNO(rmdir("d/f"), ENOTDIR);
  CHECK_ERRNO(unlink("d"), EISDIR);
  CHECK_ERRNO(rmdir("d/."), EINVAL);
  CHECK_ERRNO(rmdir("d/.."), ENOTEMPTY);
  CHECK_EQ(unlink("d/f"), 0);
  CHECK_EQ(rmdir("d"), 0);
  CHECK_ERRNO(rmdir("d"), ENOENT);
  CHECK_ERRNO(rmdir("/"), EBUSY);
}

TEST(unlinkat_and_mkdirat) {
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkdir("d", 0755), 0);
  int d = CHECK_OK(open("d", O_RDONLY | O_DIRECTORY));
  CHECK_EQ(mkdirat(d, "sub", 0755), 0);
  CHECK_ERRNO(unlinkat(d, "sub", 0), EISDIR);
  CHECK_EQ(unlinkat(d, "sub", AT_REMOVEDIR), 0);
  CHECK_ERRNO(unlinkat(d, "x", 12345), EINVAL);
  CHECK_EQ(symlinkat("t", d, "s"), 0);
  char b[4];
  CHECK_EQ(readlinkat(d, "s", b, 4), 1);
  CHECK_EQ(mknodat(d, "fifo", S_IFIFO | 0600, 0), 0);
  struct stat st;
  CHECK_EQ(fstatat(d, "fifo", &st, 0), 0);
  CHECK(S_ISFIFO(st.st_mode));
  CHECK_EQ(unlinkat(d, "fifo", 0), 0);
}

TEST(link_counts_of_directories) {
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkdir("d", 0755), 0);
  struct stat st;
  CHECK_EQ(stat("d", &st), 0);
  if (st.st_nlink != 2) SKIP("this file system counts directory links its own way");
  CHECK_EQ(mkdir("d/a", 0755), 0);
  CHECK_EQ(mkdir("d/b", 0755), 0);
  CHECK_EQ(stat("d", &st), 0);
  CHECK_EQ(st.st_nlink, 4);
  CHECK_EQ(rmdir("d/a"), 0);
  CHECK_EQ(stat("d", &st), 0);
  CHECK_EQ(st.st_nlink, 3);
}

TEST(getdents_lists_everything_once) {
  IN_TEMP_DIRECTORY();
  enum { kFiles = 500 };
  char name[32];
  for (int i = 0; i < kFiles; i++) {
    snprintf(name, sizeof name, "file-with-a-number-%d", i);
    CHECK_EQ(close(CHECK_OK(open(name, O_CREAT | O_WRONLY, 0600))), 0);
  }
  CHECK_EQ(mkdir("sub", 0755), 0);
  CHECK_EQ(symlink("x", "link"), 0);
  DIR* dir = opendir(".");
  CHECK(dir != NULL);
  int seen[kFiles] = {0}, dots = 0, others = 0;
  struct dirent* e;
  while ((e = readdir(dir)) != NULL) {
    int n;
    struct stat st;
    CHECK_EQ(lstat(e->d_name, &st), 0);
    if (strcmp(e->d_name, "..") != 0) CHECK_EQ(e->d_ino, st.st_ino);
    if (e->d_type != DT_UNKNOWN) CHECK_EQ(DTTOIF(e->d_type), st.st_mode & S_IFMT);
    if (sscanf(e->d_name, "file-with-a-number-%d", &n) == 1)
      seen[n]++;
    else if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
      dots++;
    else
      others++;
  }
  for (int i = 0; i < kFiles; i++) CHECK_EQ(seen[i], 1);
  CHECK_EQ(dots, 2);
  CHECK_EQ(others, 2);
  // Again from the start, and from a remembered place.
  rewinddir(dir);
  for (int i = 0; i < 10; i++) CHECK(readdir(dir) != NULL);
  long at = telldir(dir);
  e = readdir(dir);
  CHECK(e != NULL);
  char tenth[NAME_MAX + 1];
  strcpy(tenth, e->d_name);
  for (int i = 0; i < 100; i++) CHECK(readdir(dir) != NULL);
  seekdir(dir, at);
  e = readdir(dir);
  CHECK(e != NULL);
  CHECK_STR(e->d_name, tenth);
}

TEST(getdents_edges) {
  IN_TEMP_DIRECTORY();
  put_file("file", "x");
  char buffer[1024];
  int fd = CHECK_OK(open(".", O_RDONLY | O_DIRECTORY)), file = CHECK_OK(open("file", O_RDONLY));
  CHECK_ERRNO(syscall(SYS_getdents64, fd, buffer, 8), EINVAL);
  CHECK_ERRNO(syscall(SYS_getdents64, file, buffer, 1024), ENOTDIR);
  CHECK(CHECK_OK(syscall(SYS_getdents64, fd, buffer, 1024)) > 0);
  CHECK_EQ(syscall(SYS_getdents64, fd, buffer, 1024), 0);
  CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
  CHECK(CHECK_OK(syscall(SYS_getdents64, fd, buffer, 1024)) > 0);
  // A removed directory has no entries any more.
  CHECK_EQ(mkdir("gone", 0755), 0);
  int gone = CHECK_OK(open("gone", O_RDONLY | O_DIRECTORY));
  CHECK_EQ(rmdir("gone"), 0);
  long n = syscall(SYS_getdents64, gone, buffer, 1024);
  CHECK(n == 0 || n == -1);
}

TEST(removing_while_listing_misses_nothing) {
  IN_TEMP_DIRECTORY();
  char name[32];
  for (int i = 0; i < 300; i++) {
    snprintf(name, sizeof name, "f%d", i);
    CHECK_EQ(close(CHECK_OK(open(name, O_CREAT | O_WRONLY, 0600))), 0);
  }
  DIR* dir = opendir(".");
  CHECK(dir != NULL);
  int removed = 0;
  struct dirent* e;
  while ((e = readdir(dir)) != NULL)
    if (e->d_name[0] == 'f') {
      CHECK_EQ(unlink(e->d_name), 0);
      removed++;
    }
  CHECK_EQ(removed, 300);
}

TEST(fifo_in_the_file_system) {
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkfifo("f", 0600), 0);
  CHECK_ERRNO(open("f", O_WRONLY | O_NONBLOCK), ENXIO);
  int r = CHECK_OK(open("f", O_RDONLY | O_NONBLOCK));
  char c;
  CHECK_EQ(read(r, &c, 1), 0);  // no writer: end of file
  int w = CHECK_OK(open("f", O_WRONLY));
  CHECK_ERRNO(read(r, &c, 1), EAGAIN);
  CHECK_EQ(write(w, "x", 1), 1);
  CHECK_EQ(read(r, &c, 1), 1);
  CHECK_EQ(close(w), 0);
  CHECK_EQ(close(r), 0);
  // Blocking opens meet.
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    w = CHECK_OK(open("f", O_WRONLY));
    CHECK_EQ(write(w, "hello", 5), 5);
    _exit(0);
  }
  r = CHECK_OK(open("f", O_RDONLY));
  char b[8] = {0};
  CHECK_EQ(read(r, b, 8), 5);
  CHECK_STR(b, "hello");
  CHECK_EQ(read(r, b, 8), 0);
  CHECK_CHILD_OK(pid);
}
