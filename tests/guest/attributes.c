// What stat and its relatives tell and what changes it.
#include "check.h"
#include "small_files.h"

#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <utime.h>

TEST(stat_of_regular_file) {
  IN_TEMP_DIRECTORY();
  umask(022);
  put_file("a", "hello");
  struct stat st, f, l;
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_mode, S_IFREG | 0644);
  CHECK_EQ(st.st_size, 5);
  CHECK_EQ(st.st_uid, geteuid());
  CHECK(st.st_blksize > 0);
  CHECK(labs(st.st_mtime - time(NULL)) < 100);
  int fd = CHECK_OK(open("a", O_RDONLY));
  CHECK_EQ(fstat(fd, &f), 0);
  CHECK_EQ(lstat("a", &l), 0);
  CHECK_EQ(f.st_ino, st.st_ino);
  CHECK_EQ(l.st_ino, st.st_ino);
  CHECK_EQ(f.st_dev, st.st_dev);
  CHECK_ERRNO(stat("missing", &st), ENOENT);
  CHECK_ERRNO(stat("a/b", &st), ENOTDIR);
  CHECK_ERRNO(fstat(1000, &st), EBADF);
}

TEST(fstatat_flags) {
  IN_TEMP_DIRECTORY();
  put_file("a", "hello");
  CHECK_EQ(symlink("a", "s"), 0);
  struct stat st;
  CHECK_EQ(fstatat(AT_FDCWD, "s", &st, 0), 0);
  CHECK(S_ISREG(st.st_mode));
  CHECK_EQ(fstatat(AT_FDCWD, "s", &st, AT_SYMLINK_NOFOLLOW), 0);
  CHECK(S_ISLNK(st.st_mode));
  int fd = CHECK_OK(open("a", O_RDONLY));
  CHECK_EQ(fstatat(fd, "", &st, AT_EMPTY_PATH), 0);
  CHECK_EQ(st.st_size, 5);
  CHECK_ERRNO(fstatat(fd, "", &st, 0), ENOENT);
  CHECK_EQ(fstatat(AT_FDCWD, "", &st, AT_EMPTY_PATH), 0);
  CHECK(S_ISDIR(st.st_mode));
  CHECK_ERRNO(fstatat(AT_FDCWD, "a", &st, 0x40000000), EINVAL);
}

TEST(statx_agrees_with_stat) {
  IN_TEMP_DIRECTORY();
  put_file("a", "hello");
  struct statx x;
  struct stat st;
  CHECK_EQ(stat("a", &st), 0);
  memset(&x, 0xff, sizeof x);
  CHECK_EQ(statx(AT_FDCWD, "a", 0, STATX_BASIC_STATS, &x), 0);
  CHECK_EQ(x.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
  CHECK_EQ(x.stx_ino, st.st_ino);
  CHECK_EQ(x.stx_size, 5);
  CHECK_EQ(x.stx_mode, st.st_mode);
  CHECK_EQ(x.stx_nlink, 1);
  CHECK_EQ(makedev(x.stx_dev_major, x.stx_dev_minor), st.st_dev);
  CHECK_EQ(x.stx_mtime.tv_sec, st.st_mtime);
  CHECK_EQ(x.stx_mtime.tv_nsec, st.st_mtim.tv_nsec);
  int fd = CHECK_OK(open("a", O_RDONLY));
  CHECK_EQ(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &x), 0);
  CHECK_EQ(x.stx_size, 5);
  CHECK_ERRNO(statx(AT_FDCWD, "a", 0, STATX__RESERVED, &x), EINVAL);
}

TEST(access_checks) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  CHECK_EQ(access("a", F_OK), 0);
  CHECK_EQ(access("a", R_OK | W_OK), 0);
  CHECK_ERRNO(access("a", X_OK), EACCES);  // not even root executes without any x bit
  CHECK_EQ(chmod("a", 0755), 0);
  CHECK_EQ(access("a", X_OK), 0);
  CHECK_ERRNO(access("a", 8), EINVAL);
  CHECK_ERRNO(access("missing", F_OK), ENOENT);
  CHECK_EQ(faccessat(AT_FDCWD, "a", R_OK, AT_EACCESS), 0);
  CHECK_EQ(symlink("missing", "s"), 0);
  CHECK_ERRNO(access("s", F_OK), ENOENT);
  long r = syscall(SYS_faccessat2, AT_FDCWD, "s", F_OK, AT_SYMLINK_NOFOLLOW);
  CHECK_EQ(r, 0);
}

TEST(chmod_and_friends) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  struct stat st;
  CHECK_EQ(chmod("a", 0421), 0);
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_mode & 07777, 0421);
  int fd = CHECK_OK(open(".", O_RDONLY | O_DIRECTORY));
  CHECK_EQ(fchmodat(fd, "a", 04755, 0), 0);
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_mode & 07777, 04755);
  int a = CHECK_OK(open("a", O_RDONLY));
  CHECK_EQ(fchmod(a, 0600), 0);
  CHECK_EQ(fstat(a, &st), 0);
  CHECK_EQ(st.st_mode & 07777, 0600);
  CHECK_ERRNO(chmod("missing", 0600), ENOENT);
}

TEST(chown_changes_owner_and_drops_setuid) {
  if (geteuid() != 0) SKIP("needs root");
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  CHECK_EQ(chmod("a", 06755), 0);
  CHECK_EQ(chown("a", 1000, 1001), 0);
  struct stat st;
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_uid, 1000);
  CHECK_EQ(st.st_gid, 1001);
  CHECK_EQ(st.st_mode & 07777, 0755);
  CHECK_EQ(chown("a", -1, 7), 0);
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_uid, 1000);
  CHECK_EQ(st.st_gid, 7);
  CHECK_EQ(symlink("a", "s"), 0);
  CHECK_EQ(lchown("s", 55, 56), 0);
  CHECK_EQ(lstat("s", &st), 0);
  CHECK_EQ(st.st_uid, 55);
  CHECK_EQ(stat("s", &st), 0);
  CHECK_EQ(st.st_uid, 1000);
}

TEST(write_by_another_user_drops_setuid) {
  if (geteuid() != 0) SKIP("needs root");
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  CHECK_EQ(chmod("a", 04777), 0);
  int fd = CHECK_OK(open("a", O_WRONLY));
  IN_CHILD({
    CHECK_EQ(setuid(12345), 0);
    CHECK_EQ(write(fd, "y", 1), 1);
  });
  struct stat st;
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_mode & 07777, 0777);
}

TEST(times_can_be_set) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  struct timespec set[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
  CHECK_EQ(utimensat(AT_FDCWD, "a", set, 0), 0);
  struct stat st;
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_atim.tv_sec, 1000000000);
  CHECK_EQ(st.st_mtim.tv_sec, 1100000000);
  CHECK(st.st_mtim.tv_nsec == 987654321 || st.st_mtim.tv_nsec == 0);
  CHECK(labs(st.st_ctim.tv_sec - time(NULL)) < 100);
  set[0].tv_nsec = UTIME_OMIT;
  set[1].tv_nsec = UTIME_NOW;
  CHECK_EQ(utimensat(AT_FDCWD, "a", set, 0), 0);
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_atim.tv_sec, 1000000000);
  CHECK(labs(st.st_mtim.tv_sec - time(NULL)) < 100);
  set[0].tv_nsec = 2000000000;
  CHECK_ERRNO(utimensat(AT_FDCWD, "a", set, 0), EINVAL);
  int fd = CHECK_OK(open("a", O_RDONLY));
  struct timespec both[2] = {{5, 0}, {6, 0}};
  CHECK_EQ(futimens(fd, both), 0);
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK_EQ(st.st_mtime, 6);
  struct utimbuf u = {7, 8};
  CHECK_EQ(utime("a", &u), 0);
  struct timeval tv[2] = {{9, 0}, {10, 0}};
  CHECK_EQ(utimes("a", tv), 0);
  CHECK_EQ(stat("a", &st), 0);
  CHECK_EQ(st.st_atime, 9);
  CHECK_EQ(st.st_mtime, 10);
}

TEST(writing_moves_mtime_and_ctime) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  struct timespec past[2] = {{1000, 0}, {1000, 0}};
  CHECK_EQ(utimensat(AT_FDCWD, "a", past, 0), 0);
  int fd = CHECK_OK(open("a", O_WRONLY));
  struct stat st;
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK_EQ(st.st_mtime, 1000);
  CHECK_EQ(write(fd, "y", 1), 1);
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK(st.st_mtime > 1000000);
  CHECK_EQ(mkdir("d", 0755), 0);
  CHECK_EQ(utimensat(AT_FDCWD, "d", past, 0), 0);
  put_file("d/new", "x");
  CHECK_EQ(stat("d", &st), 0);
  CHECK(st.st_mtime > 1000000);
}

TEST(user_attributes) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  if (setxattr("a", "user.one", "value", 5, 0) != 0 && errno == ENOTSUP) SKIP("no user attributes here");
  char b[64];
  CHECK_EQ(getxattr("a", "user.one", b, sizeof b), 5);
  CHECK_EQ(memcmp(b, "value", 5), 0);
  CHECK_EQ(getxattr("a", "user.one", NULL, 0), 5);
  CHECK_ERRNO(getxattr("a", "user.one", b, 3), ERANGE);
  CHECK_ERRNO(getxattr("a", "user.two", b, sizeof b), ENODATA);
  CHECK_ERRNO(setxattr("a", "user.one", "v", 1, XATTR_CREATE), EEXIST);
  CHECK_ERRNO(setxattr("a", "user.two", "v", 1, XATTR_REPLACE), ENODATA);
  CHECK_EQ(setxattr("a", "user.one", "longer value", 12, XATTR_REPLACE), 0);
  ssize_t n = CHECK_OK(listxattr("a", b, sizeof b));
  int found = 0;
  for (char* name = b; name < b + n; name += strlen(name) + 1) found += !strcmp(name, "user.one");
  CHECK_EQ(found, 1);
  CHECK_EQ(removexattr("a", "user.one"), 0);
  CHECK_ERRNO(removexattr("a", "user.one"), ENODATA);
}

TEST(attributes_of_odd_names_and_files) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  char b[16];
  CHECK_ERRNO(getxattr("missing", "user.one", b, sizeof b), ENOENT);
  CHECK_ERRNO(getxattr("a", "nonsense", b, sizeof b), ENOTSUP);
  CHECK_EQ(symlink("a", "s"), 0);
  // A symbolic link holds no user attributes.
  ssize_t r = lsetxattr("s", "user.one", "v", 1, 0);
  CHECK(r == -1);
}

TEST(statfs_tells_sizes) {
  struct statfs s;
  CHECK_EQ(statfs("/", &s), 0);
  CHECK(s.f_bsize > 0);
  CHECK(s.f_namelen >= 255 || s.f_namelen == 0);
  CHECK_ERRNO(statfs("/missing-directory", &s), ENOENT);
  int fd = CHECK_OK(open("/proc", O_RDONLY));
  CHECK_EQ(fstatfs(fd, &s), 0);
  CHECK_EQ(s.f_type, 0x9fa0);
  struct statvfs v;
  CHECK_EQ(statvfs("/tmp", &v), 0);
  CHECK(v.f_frsize > 0);
}

TEST(sticky_directory_protects_files) {
  if (geteuid() != 0) SKIP("needs root");
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkdir("t", 0777), 0);
  CHECK_EQ(chmod("t", 01777), 0);
  put_file("t/mine", "x");
  CHECK_EQ(chdir("t"), 0);
  IN_CHILD({
    CHECK_EQ(setuid(12345), 0);
    CHECK_ERRNO(unlink("mine"), EPERM);
    CHECK_ERRNO(rename("mine", "other"), EPERM);
    put_file("own", "y");
    CHECK_EQ(unlink("own"), 0);
  });
}

TEST(setgid_directory_gives_its_group) {
  if (geteuid() != 0) SKIP("needs root");
  IN_TEMP_DIRECTORY();
  CHECK_EQ(mkdir("d", 0755), 0);
  CHECK_EQ(chown("d", 0, 777), 0);
  CHECK_EQ(chmod("d", 02755), 0);
  put_file("d/f", "x");
  CHECK_EQ(mkdir("d/sub", 0755), 0);
  struct stat st;
  CHECK_EQ(stat("d/f", &st), 0);
  CHECK_EQ(st.st_gid, 777);
  CHECK_EQ(stat("d/sub", &st), 0);
  CHECK_EQ(st.st_gid, 777);
  CHECK(st.st_mode & S_ISGID);
}
