// open and openat: flags, modes and the errors of path walking.
#include "check.h"
#include "small_files.h"

#include <limits.h>

TEST(creates_with_mode_and_umask) {
  IN_TEMP_DIRECTORY();
  umask(022);
  int fd = CHECK_OK(open("a", O_CREAT | O_WRONLY, 0666));
  struct stat st;
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK_EQ(st.st_mode, S_IFREG | 0644);
  CHECK_EQ(st.st_size, 0);
  CHECK_EQ(st.st_nlink, 1);
  umask(077);
  fd = CHECK_OK(open("b", O_CREAT | O_WRONLY, 0777));
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK_EQ(st.st_mode, S_IFREG | 0700);
}

TEST(lowest_descriptor_is_taken) {
  int a = CHECK_OK(open("/dev/null", O_RDONLY));
  int b = CHECK_OK(open("/dev/null", O_RDONLY));
  CHECK_EQ(close(a), 0);
  CHECK_EQ(open("/dev/null", O_RDONLY), a);
  CHECK(b != a);
  CHECK_EQ(close(b), 0);
  CHECK_ERRNO(close(b), EBADF);
}

TEST(exclusive_creation) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_EXCL | O_WRONLY, 0600));
  CHECK_EQ(close(fd), 0);
  CHECK_ERRNO(open("a", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
  CHECK_EQ(symlink("nowhere", "dangling"), 0);
  CHECK_ERRNO(open("dangling", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
  // Without O_EXCL a dangling link's target is made.
  CHECK_OK(open("dangling", O_CREAT | O_WRONLY, 0600));
  CHECK_EQ(access("nowhere", F_OK), 0);
}

TEST(truncation_and_append) {
  IN_TEMP_DIRECTORY();
  put_file("a", "hello world");
  int fd = CHECK_OK(open("a", O_WRONLY | O_APPEND));
  CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
  CHECK_EQ(write(fd, "!", 1), 1);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 12);
  CHECK_STR(get_file("a"), "hello world!");
  // Linux appends even on pwrite.
  CHECK_EQ(pwrite(fd, "?", 1, 0), 1);
  CHECK_STR(get_file("a"), "hello world!?");
  CHECK_OK(open("a", O_WRONLY | O_TRUNC));
  CHECK_EQ(file_size("a"), 0);
}

TEST(access_mode_is_enforced) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  char c;
  int r = CHECK_OK(open("a", O_RDONLY)), w = CHECK_OK(open("a", O_WRONLY));
  CHECK_ERRNO(write(r, "y", 1), EBADF);
  CHECK_ERRNO(read(w, &c, 1), EBADF);
  CHECK_ERRNO(ftruncate(r, 0), EINVAL);
  CHECK_EQ(fcntl(r, F_GETFL) & O_ACCMODE, O_RDONLY);
  CHECK_EQ(fcntl(w, F_GETFL) & O_ACCMODE, O_WRONLY);
}

TEST(directories) {
  IN_TEMP_DIRECTORY();
  put_file("file", "x");
  CHECK_EQ(mkdir("dir", 0755), 0);
  int fd = CHECK_OK(open("dir", O_RDONLY));
  char c;
  CHECK_ERRNO(read(fd, &c, 1), EISDIR);
  CHECK_ERRNO(open("dir", O_WRONLY), EISDIR);
  CHECK_ERRNO(open("dir", O_RDWR), EISDIR);
  CHECK_ERRNO(open("dir", O_CREAT | O_RDWR, 0644), EISDIR);
  CHECK_ERRNO(open("file", O_RDONLY | O_DIRECTORY), ENOTDIR);
  CHECK_OK(open("dir", O_RDONLY | O_DIRECTORY));
  CHECK_ERRNO(open("file/x", O_RDONLY), ENOTDIR);
  CHECK_ERRNO(open("file/", O_RDONLY), ENOTDIR);
  CHECK_OK(open("dir/", O_RDONLY));
  CHECK_ERRNO(open("new/", O_CREAT | O_WRONLY, 0644), EISDIR);
}

TEST(nofollow_and_symlinks) {
  IN_TEMP_DIRECTORY();
  put_file("file", "text");
  CHECK_EQ(symlink("file", "link"), 0);
  CHECK_EQ(mkdir("dir", 0755), 0);
  CHECK_EQ(symlink("dir", "dirlink"), 0);
  CHECK_STR(get_file("link"), "text");
  CHECK_ERRNO(open("link", O_RDONLY | O_NOFOLLOW), ELOOP);
  CHECK_ERRNO(open("dirlink", O_RDONLY | O_DIRECTORY | O_NOFOLLOW), ENOTDIR);
  // Only the last component counts.
  put_file("dir/inner", "deep");
  CHECK_OK(open("dirlink/inner", O_RDONLY | O_NOFOLLOW));
  CHECK_EQ(symlink("loop2", "loop1"), 0);
  CHECK_EQ(symlink("loop1", "loop2"), 0);
  CHECK_ERRNO(open("loop1", O_RDONLY), ELOOP);
  CHECK_ERRNO(open("loop1/x", O_RDONLY), ELOOP);
}

TEST(forty_links_are_followed_and_no_more) {
  IN_TEMP_DIRECTORY();
  put_file("0", "end");
  for (int i = 1; i <= 41; i++) {
    char from[16], to[16];
    snprintf(from, sizeof from, "%d", i);
    snprintf(to, sizeof to, "%d", i - 1);
    CHECK_EQ(symlink(to, from), 0);
  }
  CHECK_STR(get_file("40"), "end");
  CHECK_ERRNO(open("41", O_RDONLY), ELOOP);
}

TEST(path_descriptors) {
  IN_TEMP_DIRECTORY();
  put_file("file", "text");
  CHECK_EQ(symlink("file", "link"), 0);
  int fd = CHECK_OK(open("file", O_PATH));
  char c;
  CHECK_ERRNO(read(fd, &c, 1), EBADF);
  CHECK_ERRNO(write(fd, &c, 1), EBADF);
  CHECK_ERRNO(fchmod(fd, 0600), EBADF);
  CHECK_ERRNO(lseek(fd, 0, SEEK_SET), EBADF);
  struct stat st;
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK_EQ(st.st_size, 4);
  int link = CHECK_OK(open("link", O_PATH | O_NOFOLLOW));
  CHECK_EQ(fstat(link, &st), 0);
  CHECK(S_ISLNK(st.st_mode));
  char target[16];
  CHECK_EQ(readlinkat(link, "", target, sizeof target), 4);
  // It can be opened for real through /proc.
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  CHECK_STR(get_file(path), "text");
  int dir = CHECK_OK(open(".", O_PATH | O_DIRECTORY));
  CHECK_OK(openat(dir, "file", O_RDONLY));
  CHECK_EQ(fchdir(dir), 0);
  CHECK(fcntl(dir, F_GETFL) & O_PATH);
}

TEST(openat_bases) {
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkdir("dir", 0755), 0);
  put_file("dir/file", "text");
  int dir = CHECK_OK(open("dir", O_RDONLY | O_DIRECTORY));
  int fd = CHECK_OK(openat(dir, "file", O_RDONLY));
  CHECK_ERRNO(openat(fd, "file", O_RDONLY), ENOTDIR);
  CHECK_ERRNO(openat(1000, "file", O_RDONLY), EBADF);
  CHECK_OK(openat(1000, "/dev/null", O_RDONLY));  // an absolute path needs no base
  CHECK_OK(openat(AT_FDCWD, "dir/../dir/./file", O_RDONLY));
  CHECK_ERRNO(openat(dir, "../missing/../dir/file", O_RDONLY), ENOENT);
}

TEST(errors_of_names) {
  IN_TEMP_DIRECTORY();
  CHECK_ERRNO(open("", O_RDONLY), ENOENT);
  CHECK_ERRNO(open("missing", O_RDONLY), ENOENT);
  CHECK_ERRNO(open("missing/x", O_CREAT | O_WRONLY, 0600), ENOENT);
  char name[300];
  memset(name, 'n', sizeof name);
  name[255] = 0;
  CHECK_OK(open(name, O_CREAT | O_WRONLY, 0600));
  name[255] = 'n';
  name[256] = 0;
  CHECK_ERRNO(open(name, O_CREAT | O_WRONLY, 0600), ENAMETOOLONG);
  // PATH_MAX counts the terminating zero.
  static char path[PATH_MAX + 16];
  for (int i = 0; i + 2 <= PATH_MAX; i += 2) memcpy(path + i, "./", 2);
  path[PATH_MAX - 1] = 0;
  CHECK_OK(open(path, O_RDONLY));
  path[PATH_MAX - 1] = '/';
  path[PATH_MAX] = 0;
  CHECK_ERRNO(open(path, O_RDONLY), ENAMETOOLONG);
}

TEST(root_has_no_parent) {
  struct stat a, b;
  CHECK_EQ(stat("/", &a), 0);
  CHECK_EQ(stat("/../../..", &b), 0);
  CHECK_EQ(a.st_ino, b.st_ino);
  CHECK_EQ(a.st_dev, b.st_dev);
}

TEST(tmpfile_flag) {
  IN_TEMP_DIRECTORY();
  int fd = open(".", O_TMPFILE | O_RDWR, 0600);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) SKIP("this file system has no O_TMPFILE");
  CHECK(fd >= 0);
  CHECK_EQ(write(fd, "abc", 3), 3);
  struct stat st;
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK_EQ(st.st_nlink, 0);
  CHECK_EQ(st.st_size, 3);
}

TEST(unlinked_file_lives_while_open) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  CHECK_EQ(write(fd, "hello", 5), 5);
  CHECK_EQ(unlink("a"), 0);
  CHECK_ERRNO(access("a", F_OK), ENOENT);
  char text[8] = {0};
  CHECK_EQ(pread(fd, text, 8, 0), 5);
  CHECK_STR(text, "hello");
  CHECK_EQ(pwrite(fd, "J", 1, 0), 1);
  struct stat st;
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK_EQ(st.st_nlink, 0);
  // A new file of that name is another file.
  put_file("a", "new");
  CHECK_EQ(pread(fd, text, 8, 0), 5);
  CHECK_STR(text, "Jello");
}

TEST(creat_and_old_open_calls) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(syscall(SYS_creat, "a", 0600));
  CHECK_EQ(write(fd, "x", 1), 1);
  fd = CHECK_OK(syscall(SYS_open, "a", O_RDONLY, 0));
  char c;
  CHECK_EQ(read(fd, &c, 1), 1);
}

TEST(permissions_bind_ordinary_users) {
  if (geteuid() != 0) SKIP("needs root, to be someone else");
  IN_TEMP_DIRECTORY();
  put_file("secret", "x");
  CHECK_EQ(chmod("secret", 0600), 0);
  CHECK_EQ(mkdir("closed", 0700), 0);
  put_file("closed/file", "x");
  put_file("shown", "x");
  IN_CHILD({
    CHECK_EQ(setgid(12345), 0);
    CHECK_EQ(setuid(12345), 0);
    // The directories above belong to root and may be closed to us: relative names start inside.
    CHECK_ERRNO(open("secret", O_RDONLY), EACCES);
    CHECK_ERRNO(open("closed/file", O_RDONLY), EACCES);
    CHECK_ERRNO(open("new", O_CREAT | O_WRONLY, 0600), EACCES);
    CHECK_ERRNO(unlink("shown"), EACCES);
    CHECK_ERRNO(access("secret", R_OK), EACCES);
    CHECK_ERRNO(chmod("shown", 0777), EPERM);
  });
}

TEST(device_files) {
  char buffer[64];
  memset(buffer, 'x', sizeof buffer);
  int zero = CHECK_OK(open("/dev/zero", O_RDWR));
  CHECK_EQ(read(zero, buffer, 64), 64);
  for (int i = 0; i < 64; i++) CHECK_EQ(buffer[i], 0);
  CHECK_EQ(write(zero, buffer, 64), 64);
  int null = CHECK_OK(open("/dev/null", O_RDWR));
  CHECK_EQ(read(null, buffer, 64), 0);
  CHECK_EQ(write(null, buffer, 64), 64);
  int full = CHECK_OK(open("/dev/full", O_RDWR));
  CHECK_EQ(read(full, buffer, 64), 64);
  CHECK_ERRNO(write(full, buffer, 64), ENOSPC);
  int random = CHECK_OK(open("/dev/urandom", O_RDONLY));
  CHECK_EQ(read(random, buffer, 64), 64);
  struct stat st;
  CHECK_EQ(fstat(null, &st), 0);
  CHECK(S_ISCHR(st.st_mode));
  CHECK_EQ(st.st_rdev, 0x103);
}
