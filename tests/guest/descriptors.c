// File descriptors: dup, fcntl, close-on-exec, close_range, and the three kinds of file locks.
#include "check.h"
#include "small_files.h"

#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif

TEST(dup_shares_the_description) {
  int fd = CHECK_OK(open("/dev/null", O_RDWR));
  int other = CHECK_OK(dup(fd));
  CHECK(other > fd);
  CHECK_EQ(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
  CHECK(fcntl(other, F_GETFL) & O_NONBLOCK);
  CHECK_EQ(fcntl(fd, F_SETFD, FD_CLOEXEC), 0);
  CHECK_EQ(fcntl(other, F_GETFD), 0);  // the descriptor flag is each one's own
  CHECK_ERRNO(dup(1000), EBADF);
}

TEST(dup2_and_dup3) {
  int fd = CHECK_OK(open("/dev/null", O_RDWR));
  CHECK_EQ(dup2(fd, 100), 100);
  CHECK_EQ(dup2(fd, fd), fd);
  CHECK_ERRNO(dup2(1000, 101), EBADF);
  CHECK_ERRNO(dup2(fd, -1), EBADF);
  CHECK_EQ(dup3(fd, 101, O_CLOEXEC), 101);
  CHECK_EQ(fcntl(101, F_GETFD), FD_CLOEXEC);
  CHECK_ERRNO(dup3(fd, fd, 0), EINVAL);
  CHECK_ERRNO(dup3(fd, 102, O_APPEND), EINVAL);
  // The target was open: it is closed first.
  int p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(dup2(fd, p[1]), p[1]);
  char c;
  CHECK_EQ(read(p[0], &c, 1), 0);
}

TEST(fcntl_dupfd) {
  int fd = CHECK_OK(open("/dev/null", O_RDWR | O_CLOEXEC));
  CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  CHECK_EQ(fcntl(fd, F_DUPFD, 50), 50);
  CHECK_EQ(fcntl(fd, F_DUPFD, 50), 51);
  CHECK_EQ(fcntl(50, F_GETFD), 0);
  CHECK_EQ(fcntl(fd, F_DUPFD_CLOEXEC, 60), 60);
  CHECK_EQ(fcntl(60, F_GETFD), FD_CLOEXEC);
  CHECK_ERRNO(fcntl(fd, F_DUPFD, -1), EINVAL);
  CHECK_ERRNO(fcntl(fd, F_DUPFD, 1 << 30), EINVAL);
  CHECK_ERRNO(fcntl(fd, 9999), EINVAL);
  CHECK_ERRNO(fcntl(1000, F_GETFD), EBADF);
}

TEST(status_flags) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR | O_APPEND, 0600));
  CHECK_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_CREAT), O_RDWR | O_APPEND);
  CHECK_EQ(fcntl(fd, F_SETFL, O_NONBLOCK | O_WRONLY | O_CREAT), 0);  // only settable flags change
  CHECK_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_CREAT), O_RDWR | O_NONBLOCK);
  int on = 0;
  CHECK_EQ(ioctl(fd, FIONBIO, &on), 0);
  CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  CHECK_EQ(ioctl(fd, FIOCLEX), 0);
  CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  CHECK_EQ(ioctl(fd, FIONCLEX), 0);
  CHECK_EQ(fcntl(fd, F_GETFD), 0);
}

TEST(descriptor_limit) {
  struct rlimit limit;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = 20;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  int last = -1, fd;
  while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
  CHECK_EQ(last, 19);
  CHECK_ERRNO(open("/dev/null", O_RDONLY), EMFILE);
  CHECK_ERRNO(dup(0), EMFILE);
  CHECK_ERRNO(dup2(0, 20), EBADF);
  int p[2];
  CHECK_ERRNO(pipe(p), EMFILE);
  CHECK_ERRNO(fcntl(0, F_DUPFD, 20), EINVAL);
}

TEST(close_range_closes_or_marks) {
  for (int i = 50; i < 60; i++) CHECK_EQ(dup2(0, i), i);
  CHECK_EQ(syscall(SYS_close_range, 50, 54, 0), 0);
  CHECK_ERRNO(fcntl(52, F_GETFD), EBADF);
  CHECK_EQ(fcntl(55, F_GETFD), 0);
  CHECK_EQ(syscall(SYS_close_range, 55, ~0u, CLOSE_RANGE_CLOEXEC), 0);
  CHECK_EQ(fcntl(59, F_GETFD), FD_CLOEXEC);
  CHECK_ERRNO(syscall(SYS_close_range, 10, 9, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_close_range, 10, 11, 0x80), EINVAL);
}

TEST(descriptors_are_copied_by_fork) {
  int p[2];
  CHECK_EQ(pipe(p), 0);
  IN_CHILD({
    CHECK_EQ(close(p[0]), 0);
    CHECK_EQ(dup2(p[1], 90), 90);
  });
  CHECK_ERRNO(fcntl(90, F_GETFD), EBADF);
  CHECK_EQ(fcntl(p[0], F_GETFD), 0);
}

TEST(flock_between_descriptions) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  int one = CHECK_OK(open("a", O_RDWR)), two = CHECK_OK(open("a", O_RDWR));
  CHECK_EQ(flock(one, LOCK_SH), 0);
  CHECK_EQ(flock(two, LOCK_SH | LOCK_NB), 0);
  CHECK_ERRNO(flock(two, LOCK_EX | LOCK_NB), EWOULDBLOCK);
  CHECK_EQ(flock(one, LOCK_UN), 0);
  CHECK_EQ(flock(two, LOCK_EX | LOCK_NB), 0);
  CHECK_ERRNO(flock(one, LOCK_SH | LOCK_NB), EWOULDBLOCK);
  int twin = CHECK_OK(dup(two));
  CHECK_EQ(close(two), 0);
  CHECK_ERRNO(flock(one, LOCK_SH | LOCK_NB), EWOULDBLOCK);  // the duplicate still holds it
  CHECK_EQ(close(twin), 0);
  CHECK_EQ(flock(one, LOCK_EX | LOCK_NB), 0);
  CHECK_ERRNO(flock(one, 0), EINVAL);
}

TEST(flock_waits) {
  IN_TEMP_DIRECTORY();
  put_file("a", "x");
  int one = CHECK_OK(open("a", O_RDWR));
  CHECK_EQ(flock(one, LOCK_EX), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    int mine = CHECK_OK(open("a", O_RDWR));
    int64_t start = now_ns();
    CHECK_EQ(flock(mine, LOCK_EX), 0);
    CHECK(now_ns() - start > 30000000);
    _exit(0);
  }
  sleep_ms(100);
  CHECK_EQ(flock(one, LOCK_UN), 0);
  CHECK_CHILD_OK(pid);
}

static int set_lock(int fd, int command, short type, off_t start, off_t len) {
  struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
  return fcntl(fd, command, &l);
}

TEST(record_locks_between_processes) {
  IN_TEMP_DIRECTORY();
  put_file("a", "0123456789");
  int fd = CHECK_OK(open("a", O_RDWR));
  CHECK_EQ(set_lock(fd, F_SETLK, F_WRLCK, 2, 4), 0);
  CHECK_EQ(set_lock(fd, F_SETLK, F_RDLCK, 8, 0), 0);
  pid_t parent = getpid();
  IN_CHILD({
    // Not inherited, and in the way.
    CHECK_ERRNO(set_lock(fd, F_SETLK, F_WRLCK, 0, 0), EAGAIN);
    CHECK_EQ(set_lock(fd, F_SETLK, F_WRLCK, 0, 2), 0);
    CHECK_ERRNO(set_lock(fd, F_SETLK, F_RDLCK, 5, 1), EAGAIN);
    CHECK_EQ(set_lock(fd, F_SETLK, F_RDLCK, 8, 10), 0);
    CHECK_ERRNO(set_lock(fd, F_SETLK, F_WRLCK, 9, 1), EAGAIN);
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
    CHECK_EQ(fcntl(fd, F_GETLK, &l), 0);
    CHECK_EQ(l.l_type, F_WRLCK);
    CHECK_EQ(l.l_pid, parent);
    CHECK_EQ(l.l_start, 2);
    CHECK_EQ(l.l_len, 4);
  });
  // Unlocking the middle splits a lock.
  CHECK_EQ(set_lock(fd, F_SETLK, F_UNLCK, 3, 1), 0);
  IN_CHILD({
    CHECK_EQ(set_lock(fd, F_SETLK, F_WRLCK, 3, 1), 0);
    CHECK_ERRNO(set_lock(fd, F_SETLK, F_WRLCK, 4, 1), EAGAIN);
    CHECK_ERRNO(set_lock(fd, F_SETLK, F_WRLCK, 2, 1), EAGAIN);
  });
  // Closing any descriptor of the file drops the process's locks.
  CHECK_EQ(close(CHECK_OK(open("a", O_RDONLY))), 0);
  IN_CHILD(CHECK_EQ(set_lock(fd, F_SETLK, F_WRLCK, 0, 0), 0));
  struct flock bad = {.l_type = 99, .l_whence = SEEK_SET};
  CHECK_ERRNO(fcntl(fd, F_SETLK, &bad), EINVAL);
  int reader = CHECK_OK(open("a", O_RDONLY));
  CHECK_ERRNO(set_lock(reader, F_SETLK, F_WRLCK, 0, 1), EBADF);
}

TEST(record_lock_waits_and_detects_deadlock) {
  IN_TEMP_DIRECTORY();
  put_file("a", "0123456789");
  int fd = CHECK_OK(open("a", O_RDWR));
  CHECK_EQ(set_lock(fd, F_SETLK, F_WRLCK, 0, 1), 0);
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(set_lock(fd, F_SETLK, F_WRLCK, 1, 1), 0);
    CHECK_EQ(write(p[1], "x", 1), 1);
    CHECK_EQ(set_lock(fd, F_SETLKW, F_WRLCK, 0, 1), 0);
    _exit(0);
  }
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  sleep_ms(100);
  CHECK_ERRNO(set_lock(fd, F_SETLKW, F_WRLCK, 1, 1), EDEADLK);
  CHECK_EQ(set_lock(fd, F_SETLK, F_UNLCK, 0, 1), 0);
  CHECK_CHILD_OK(pid);
}

TEST(ofd_locks_belong_to_the_description) {
  IN_TEMP_DIRECTORY();
  put_file("a", "0123456789");
  int one = CHECK_OK(open("a", O_RDWR)), two = CHECK_OK(open("a", O_RDWR));
  CHECK_EQ(set_lock(one, F_OFD_SETLK, F_WRLCK, 0, 5), 0);
  CHECK_ERRNO(set_lock(two, F_OFD_SETLK, F_WRLCK, 4, 1), EAGAIN);
  CHECK_EQ(set_lock(two, F_OFD_SETLK, F_WRLCK, 5, 5), 0);
  CHECK_EQ(close(CHECK_OK(open("a", O_RDONLY))), 0);
  CHECK_ERRNO(set_lock(two, F_OFD_SETLK, F_WRLCK, 4, 1), EAGAIN);
  CHECK_EQ(close(one), 0);
  CHECK_EQ(set_lock(two, F_OFD_SETLK, F_WRLCK, 4, 1), 0);
}
