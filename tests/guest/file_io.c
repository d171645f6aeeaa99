// Reading, writing, seeking and moving data between regular files.
#include "check.h"
#include "small_files.h"

#include <limits.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

TEST(read_write_and_offsets) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  char b[16] = {0};
  CHECK_EQ(write(fd, "0123456789", 10), 10);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
  CHECK_EQ(read(fd, b, 4), 0);
  CHECK_EQ(lseek(fd, 2, SEEK_SET), 2);
  CHECK_EQ(read(fd, b, 3), 3);
  CHECK_STR(b, "234");
  CHECK_EQ(pread(fd, b, 2, 8), 2);
  CHECK_EQ(b[0], '8');
  CHECK_EQ(pwrite(fd, "AB", 2, 1), 2);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);  // pread and pwrite leave the offset
  CHECK_STR(get_file("a"), "0AB3456789");
  CHECK_EQ(lseek(fd, -1, SEEK_END), 9);
  CHECK_ERRNO(lseek(fd, -11, SEEK_END), EINVAL);
  CHECK_ERRNO(lseek(fd, 0, 99), EINVAL);
  CHECK_ERRNO(pread(fd, b, 1, -1), EINVAL);
  CHECK_ERRNO(pwrite(fd, b, 1, -1), EINVAL);
  CHECK_EQ(read(fd, b, 0), 0);
  CHECK_EQ(write(fd, b, 0), 0);
}

TEST(offset_is_shared_by_dup_and_fork) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  int other = CHECK_OK(open("a", O_RDWR));
  int twin = CHECK_OK(dup(fd));
  CHECK_EQ(write(fd, "abc", 3), 3);
  IN_CHILD(CHECK_EQ(write(twin, "def", 3), 3));
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 6);
  CHECK_EQ(lseek(other, 0, SEEK_CUR), 0);
  CHECK_STR(get_file("a"), "abcdef");
}

TEST(writing_past_the_end_leaves_zeros) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  CHECK_EQ(pwrite(fd, "x", 1, 100000), 1);
  CHECK_EQ(file_size("a"), 100001);
  static char b[100001];
  memset(b, 'q', sizeof b);
  CHECK_EQ(pread(fd, b, sizeof b, 0), 100001);
  for (int i = 0; i < 100000; i++)
    if (b[i]) CHECK_EQ(b[i], 0);
  CHECK_EQ(b[100000], 'x');
}

TEST(truncate_cuts_and_grows_with_zeros) {
  IN_TEMP_DIRECTORY();
  put_file("a", "0123456789");
  CHECK_EQ(truncate("a", 4), 0);
  CHECK_STR(get_file("a"), "0123");
  int fd = CHECK_OK(open("a", O_RDWR));
  CHECK_EQ(ftruncate(fd, 8), 0);
  char b[8];
  CHECK_EQ(pread(fd, b, 8, 0), 8);
  CHECK_EQ(memcmp(b, "0123\0\0\0\0", 8), 0);
  CHECK_ERRNO(ftruncate(fd, -1), EINVAL);
  CHECK_ERRNO(truncate("missing", 0), ENOENT);
  CHECK_EQ(mkdir("d", 0755), 0);
  CHECK_ERRNO(truncate("d", 0), EISDIR);
}

TEST(truncate_to_middle_of_page_clears_the_rest) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  static char b[8192];
  memset(b, 'x', sizeof b);
  CHECK_EQ(write(fd, b, sizeof b), sizeof b);
  CHECK_EQ(ftruncate(fd, 100), 0);
  CHECK_EQ(ftruncate(fd, 8192), 0);
  CHECK_EQ(pread(fd, b, sizeof b, 0), sizeof b);
  CHECK_EQ(b[99], 'x');
  for (int i = 100; i < 8192; i++)
    if (b[i]) CHECK_EQ(b[i], 0);
}

TEST(large_transfers_keep_content) {
  IN_TEMP_DIRECTORY();
  size_t size = 5 << 20;
  unsigned char *a = malloc(size), *b = malloc(size);
  for (size_t i = 0; i < size; i++) a[i] = (unsigned char)(i * 2654435761u >> 13);
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  CHECK_EQ(write(fd, a, size), size);
  CHECK_EQ(pread(fd, b, size, 0), size);
  CHECK_EQ(memcmp(a, b, size), 0);
  // Unaligned, in odd pieces.
  CHECK_EQ(lseek(fd, 1, SEEK_SET), 1);
  size_t at = 1;
  ssize_t n;
  while ((n = CHECK_OK(read(fd, b + at, 12345))) > 0) at += (size_t)n;
  CHECK_EQ(at, size);
  CHECK_EQ(memcmp(a + 1, b + 1, size - 1), 0);
}

TEST(vectors) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  struct iovec out[3] = {{"abc", 3}, {"", 0}, {"defgh", 5}};
  CHECK_EQ(writev(fd, out, 3), 8);
  char x[3], y[4] = {0};
  struct iovec in[2] = {{x, 3}, {y, 3}};
  CHECK_EQ(preadv(fd, in, 2, 1), 6);
  CHECK_EQ(memcmp(x, "bcd", 3), 0);
  CHECK_STR(y, "efg");
  CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
  CHECK_EQ(readv(fd, in, 2), 6);
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 6);
  CHECK_EQ(pwritev(fd, out, 1, 8), 3);
  CHECK_STR(get_file("a"), "abcdefghabc");
  CHECK_ERRNO(writev(fd, out, -1), EINVAL);
  CHECK_ERRNO(writev(fd, out, IOV_MAX + 1), EINVAL);
  CHECK_EQ(writev(fd, out, 0), 0);
  struct iovec huge[2] = {{x, 1}, {x, SIZE_MAX}};
  CHECK_ERRNO(readv(fd, huge, 2), EINVAL);
  CHECK_EQ(preadv2(fd, in, 2, 0, 0), 6);
  CHECK_ERRNO(preadv2(fd, in, 2, 0, 0x40000000), EOPNOTSUPP);
}

TEST(seek_data_and_hole) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  CHECK_EQ(pwrite(fd, "x", 1, 1 << 20), 1);
  off_t end = (1 << 20) + 1;
  off_t data = lseek(fd, 0, SEEK_DATA);
  CHECK(data >= 0 && data <= 1 << 20);
  CHECK_EQ(lseek(fd, 1 << 20, SEEK_DATA), 1 << 20);
  CHECK_EQ(lseek(fd, 1 << 20, SEEK_HOLE), end);  // the end counts as a hole
  CHECK_ERRNO(lseek(fd, end, SEEK_DATA), ENXIO);
  CHECK_ERRNO(lseek(fd, end + 5, SEEK_HOLE), ENXIO);
}

TEST(fallocate_modes) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  if (fallocate(fd, 0, 0, 10000) != 0 && errno == EOPNOTSUPP) SKIP("this file system has no fallocate");
  CHECK_EQ(file_size("a"), 10000);
  CHECK_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 50000), 0);
  CHECK_EQ(file_size("a"), 10000);
  CHECK_EQ(pwrite(fd, "hello", 5, 4096), 5);
  CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096), 0);
  char b[5];
  CHECK_EQ(pread(fd, b, 5, 4096), 5);
  CHECK_EQ(memcmp(b, "\0\0\0\0\0", 5), 0);
  CHECK_ERRNO(fallocate(fd, 0, 0, 0), EINVAL);
  CHECK_ERRNO(fallocate(fd, 0, -1, 10), EINVAL);
  CHECK_ERRNO(fallocate(1000, 0, 0, 10), EBADF);
  int reader = CHECK_OK(open("a", O_RDONLY));
  CHECK_ERRNO(fallocate(reader, 0, 0, 10), EBADF);
  CHECK_EQ(posix_fallocate(fd, 0, 20000), 0);
  CHECK_EQ(file_size("a"), 20000);
}

TEST(copy_file_range_copies) {
  IN_TEMP_DIRECTORY();
  put_file("from", "0123456789");
  int from = CHECK_OK(open("from", O_RDONLY)), to = CHECK_OK(open("to", O_CREAT | O_RDWR, 0600));
  loff_t in = 2, out = 3;
  CHECK_EQ(copy_file_range(from, &in, to, &out, 4, 0), 4);
  CHECK_EQ(in, 6);
  CHECK_EQ(out, 7);
  CHECK_EQ(lseek(from, 0, SEEK_CUR), 0);
  char b[8] = {0};
  CHECK_EQ(pread(to, b, 8, 0), 7);
  CHECK_EQ(memcmp(b,
                  "\0\0\0"
                  "2345",
                  7),
           0);
  CHECK_EQ(copy_file_range(from, NULL, to, NULL, 100, 0), 10);
  CHECK_EQ(copy_file_range(from, NULL, to, NULL, 100, 0), 0);
  CHECK_STR(get_file("to"), "0123456789");
  CHECK_ERRNO(copy_file_range(to, NULL, from, NULL, 1, 0), EBADF);
  CHECK_ERRNO(copy_file_range(from, NULL, to, NULL, 1, 1), EINVAL);
}

TEST(sendfile_to_file_and_pipe) {
  IN_TEMP_DIRECTORY();
  put_file("from", "0123456789");
  int from = CHECK_OK(open("from", O_RDONLY)), to = CHECK_OK(open("to", O_CREAT | O_RDWR, 0600));
  off_t at = 4;
  CHECK_EQ(sendfile(to, from, &at, 3), 3);
  CHECK_EQ(at, 7);
  CHECK_EQ(lseek(from, 0, SEEK_CUR), 0);
  CHECK_EQ(sendfile(to, from, NULL, 100), 10);
  CHECK_EQ(lseek(from, 0, SEEK_CUR), 10);
  CHECK_STR(get_file("to"), "4560123456789");
  int p[2];
  CHECK_EQ(pipe(p), 0);
  at = 0;
  CHECK_EQ(sendfile(p[1], from, &at, 5), 5);
  char b[8] = {0};
  CHECK_EQ(read(p[0], b, 8), 5);
  CHECK_STR(b, "01234");
  CHECK_ERRNO(sendfile(to, 1000, NULL, 1), EBADF);
}

TEST(splice_and_tee) {
  IN_TEMP_DIRECTORY();
  put_file("from", "0123456789");
  int from = CHECK_OK(open("from", O_RDONLY)), to = CHECK_OK(open("to", O_CREAT | O_RDWR, 0600));
  int p[2], q[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(pipe(q), 0);
  loff_t at = 2;
  CHECK_EQ(splice(from, &at, p[1], NULL, 5, 0), 5);
  CHECK_EQ(at, 7);
  CHECK_EQ(tee(p[0], q[1], 100, 0), 5);
  CHECK_EQ(splice(p[0], NULL, to, NULL, 100, 0), 5);
  CHECK_STR(get_file("to"), "23456");
  char b[8] = {0};
  CHECK_EQ(read(q[0], b, 8), 5);
  CHECK_STR(b, "23456");
  CHECK_ERRNO(splice(p[0], NULL, to, NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
  CHECK_ERRNO(splice(from, NULL, to, NULL, 1, 0), EINVAL);  // one side must be a pipe
  CHECK_ERRNO(splice(p[0], &at, to, NULL, 1, 0), ESPIPE);
  CHECK_EQ(write(p[1], "pq", 2), 2);
  CHECK_EQ(splice(p[0], NULL, q[1], NULL, 10, 0), 2);
  CHECK_EQ(read(q[0], b, 8), 2);
  struct iovec v = {"vm", 2};
  CHECK_EQ(vmsplice(p[1], &v, 1, 0), 2);
  CHECK_EQ(read(p[0], b, 8), 2);
  CHECK_EQ(memcmp(b, "vm", 2), 0);
}

TEST(sync_calls) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  CHECK_EQ(write(fd, "x", 1), 1);
  CHECK_EQ(fsync(fd), 0);
  CHECK_EQ(fdatasync(fd), 0);
  CHECK_EQ(sync_file_range(fd, 0, 1, SYNC_FILE_RANGE_WRITE), 0);
  CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL), 0);
  CHECK_EQ(readahead(fd, 0, 1), 0);
  CHECK_ERRNO(fsync(1000), EBADF);
  int p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_ERRNO(fsync(p[0]), EINVAL);
}

TEST(memfd_and_seals) {
  int fd = CHECK_OK(memfd_create("name", MFD_ALLOW_SEALING | MFD_CLOEXEC));
  CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  CHECK_EQ(write(fd, "hello", 5), 5);
  char b[8];
  CHECK_EQ(pread(fd, b, 8, 0), 5);
  CHECK_EQ(fcntl(fd, F_GET_SEALS), 0);
  CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK), 0);
  CHECK_ERRNO(ftruncate(fd, 100), EPERM);
  CHECK_ERRNO(ftruncate(fd, 1), EPERM);
  CHECK_EQ(pwrite(fd, "J", 1, 0), 1);
  CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
  CHECK_ERRNO(pwrite(fd, "K", 1, 0), EPERM);
  int plain = CHECK_OK(memfd_create("plain", 0));
  CHECK_EQ(fcntl(plain, F_GET_SEALS), F_SEAL_SEAL);
  CHECK_ERRNO(fcntl(plain, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
  CHECK_ERRNO(memfd_create("x", 0x8000000), EINVAL);
}
