// Mapped files: private and shared, beyond the end, with truncation, and against read and write.
#include "memory.h"
#include "small_files.h"

static int make_file(const char* name, size_t pages) {
  int fd = CHECK_OK(open(name, O_CREAT | O_RDWR | O_TRUNC, 0600));
  unsigned char b[kPage];
  for (size_t i = 0; i < pages; i++) {
    for (int j = 0; j < kPage; j++) b[j] = (unsigned char)(i * 31 + (size_t)j * 7);
    CHECK_EQ(write(fd, b, kPage), kPage);
  }
  return fd;
}
static unsigned char expected(size_t at) { return (unsigned char)(at / kPage * 31 + at % kPage * 7); }

TEST(private_mapping_reads_the_file_and_keeps_writes) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 10);
  unsigned char* p = mmap(NULL, 10 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  for (size_t i = 0; i < 10 * kPage; i++)
    if (p[i] != expected(i)) CHECK_EQ(p[i], expected(i));
  p[5000] = 0xff;
  unsigned char c;
  CHECK_EQ(pread(fd, &c, 1, 5000), 1);
  CHECK_EQ(c, expected(5000));
  CHECK_EQ(p[5000], 0xff);
  // It outlives the descriptor and the name.
  CHECK_EQ(close(fd), 0);
  CHECK_EQ(unlink("a"), 0);
  CHECK_EQ(p[9 * kPage + 1], expected(9 * kPage + 1));
}

TEST(offset_maps_the_right_page) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 20);
  unsigned char* p = mmap(NULL, 3 * kPage, PROT_READ, MAP_PRIVATE, fd, 13 * kPage);
  CHECK((void*)p != MAP_FAILED);
  for (size_t i = 0; i < 3 * kPage; i++)
    if (p[i] != expected(13 * kPage + i)) CHECK_EQ(p[i], expected(13 * kPage + i));
}

TEST(shared_mapping_and_file_are_one) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 4);
  unsigned char* p = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  p[4097] = 0xab;
  unsigned char c = 0;
  CHECK_EQ(pread(fd, &c, 1, 4097), 1);
  CHECK_EQ(c, 0xab);
  c = 0xcd;
  CHECK_EQ(pwrite(fd, &c, 1, 8200), 1);
  CHECK_EQ(p[8200], 0xcd);
  CHECK_EQ(msync(p, 4 * kPage, MS_SYNC), 0);
  CHECK_EQ(msync(p, 4 * kPage, MS_ASYNC), 0);
  CHECK_ERRNO(msync(p + 1, kPage, MS_SYNC), EINVAL);
  CHECK_ERRNO(msync(p, kPage, MS_SYNC | MS_ASYNC), EINVAL);
  unsigned char* q = mmap(NULL, kPage, PROT_READ, MAP_SHARED, fd, kPage);
  CHECK((void*)q != MAP_FAILED);
  CHECK_EQ(q[1], 0xab);
  p[4098] = 0x77;
  CHECK_EQ(q[2], 0x77);
}

TEST(shared_mapping_between_processes) {
  IN_TEMP_DIRECTORY();
  make_file("a", 1);
  IN_CHILD({
    int fd = CHECK_OK(open("a", O_RDWR));
    unsigned char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK((void*)p != MAP_FAILED);
    p[10] = 99;
    CHECK_EQ(munmap(p, kPage), 0);
  });
  CHECK_EQ((unsigned char)get_file("a")[10], 99);
}

TEST(rights_follow_the_descriptor) {
  IN_TEMP_DIRECTORY();
  make_file("a", 1);
  int reader = CHECK_OK(open("a", O_RDONLY)), writer = CHECK_OK(open("a", O_WRONLY));
  CHECK_ERRNO(mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0), EACCES);
  CHECK_ERRNO(mmap(NULL, kPage, PROT_READ, MAP_PRIVATE, writer, 0), EACCES);
  CHECK_ERRNO(mmap(NULL, kPage, PROT_WRITE, MAP_SHARED, writer, 0), EACCES);
  unsigned char* p = mmap(NULL, kPage, PROT_READ, MAP_SHARED, reader, 0);
  CHECK((void*)p != MAP_FAILED);
  CHECK_ERRNO(mprotect(p, kPage, PROT_READ | PROT_WRITE), EACCES);
  p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0);
  CHECK((void*)p != MAP_FAILED);
  WRITE(p, 1);
  int path = CHECK_OK(open("a", O_PATH));
  CHECK_ERRNO(mmap(NULL, kPage, PROT_READ, MAP_PRIVATE, path, 0), EBADF);
  int pipes[2];
  CHECK_EQ(pipe(pipes), 0);
  CHECK_ERRNO(mmap(NULL, kPage, PROT_READ, MAP_PRIVATE, pipes[0], 0), ENODEV);
}

TEST(last_page_is_padded_with_zeros) {
  IN_TEMP_DIRECTORY();
  put_file("a", "hello");
  int fd = CHECK_OK(open("a", O_RDWR));
  unsigned char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  CHECK_EQ(memcmp(p, "hello", 5), 0);
  for (int i = 5; i < kPage; i++)
    if (p[i]) CHECK_EQ(p[i], 0);
  p[6] = 'x';  // not part of the file
  CHECK_EQ(munmap(p, kPage), 0);
  CHECK_EQ(file_size("a"), 5);
}

TEST(beyond_the_end_is_sigbus) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 1);
  unsigned char* p = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  READ(p);
  CHECK(FAULTS(READ(p + 2 * kPage + 8)));
  CHECK_EQ(g_fault.si_signo, SIGBUS);
  CHECK_EQ(g_fault.si_code, BUS_ADRERR);
  CHECK_EQ((uintptr_t)g_fault.si_addr, (uintptr_t)(p + 2 * kPage + 8));
  // After it has grown the same page is there.
  CHECK_EQ(ftruncate(fd, 4 * kPage), 0);
  WRITE(p + 2 * kPage + 8, 5);
  unsigned char c;
  CHECK_EQ(pread(fd, &c, 1, 2 * kPage + 8), 1);
  CHECK_EQ(c, 5);
}

TEST(truncation_takes_pages_away) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 4);
  unsigned char* shared = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  unsigned char* private = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK((void*)shared != MAP_FAILED && (void*)private != MAP_FAILED);
  READ(shared + 3 * kPage);
  READ(private + 3 * kPage);
  CHECK_EQ(ftruncate(fd, kPage + 10), 0);
  CHECK(FAULTS(READ(shared + 3 * kPage)));
  CHECK_EQ(g_fault.si_signo, SIGBUS);
  CHECK(FAULTS(READ(private + 3 * kPage)));
  CHECK_EQ(g_fault.si_signo, SIGBUS);
  CHECK_EQ(shared[kPage + 9], expected(kPage + 9));
  CHECK_EQ(shared[kPage + 10], 0);  // the rest of the last page is cleared
}

TEST(read_into_a_mapping_of_the_same_file) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 2);
  unsigned char* p = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  CHECK_EQ(pread(fd, p, 100, kPage), 100);
  for (int i = 0; i < 100; i++) CHECK_EQ(p[i], expected(kPage + (size_t)i));
  CHECK_EQ(pwrite(fd, p + kPage, 100, 200), 100);
  for (int i = 0; i < 100; i++) CHECK_EQ(p[200 + i], expected(kPage + (size_t)i));
}

TEST(write_from_unread_mapping) {
  IN_TEMP_DIRECTORY();
  int from = make_file("a", 50), to = CHECK_OK(open("b", O_CREAT | O_RDWR, 0600));
  unsigned char* p = mmap(NULL, 50 * kPage, PROT_READ, MAP_PRIVATE, from, 0);
  CHECK((void*)p != MAP_FAILED);
  CHECK_EQ(write(to, p, 50 * kPage), 50 * kPage);
  unsigned char* q = mmap(NULL, 50 * kPage, PROT_READ, MAP_SHARED, to, 0);
  CHECK_EQ(memcmp(p, q, 50 * kPage), 0);
  // From beyond the end of the mapped file: EFAULT, not a signal.
  CHECK_EQ(ftruncate(from, kPage), 0);
  CHECK_ERRNO(write(to, p + 10 * kPage, kPage), EFAULT);
}

TEST(private_dontneed_goes_back_to_the_file) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 2);
  unsigned char* p = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  memset(p, 0xee, 2 * kPage);
  CHECK_EQ(madvise(p, kPage, MADV_DONTNEED), 0);
  CHECK_EQ(p[100], expected(100));
  CHECK_EQ(p[kPage + 100], 0xee);
}

TEST(private_mapping_is_copied_on_fork) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 2);
  unsigned char* p = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  p[0] = 1;
  IN_CHILD({
    CHECK_EQ(p[0], 1);
    CHECK_EQ(p[kPage], expected(kPage));
    p[0] = 2;
    p[kPage] = 3;
  });
  CHECK_EQ(p[0], 1);
  CHECK_EQ(p[kPage], expected(kPage));
}

TEST(shared_validate_and_unknown_flags) {
  IN_TEMP_DIRECTORY();
  int fd = make_file("a", 1);
  void* p = mmap(NULL, kPage, PROT_READ, MAP_SHARED_VALIDATE, fd, 0);
  CHECK(p != MAP_FAILED);
  CHECK_ERRNO(mmap(NULL, kPage, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0), EOPNOTSUPP);
}

TEST(mapped_memfd_is_shared) {
  int fd = CHECK_OK(memfd_create("m", MFD_ALLOW_SEALING));
  CHECK_EQ(ftruncate(fd, 4 * kPage), 0);
  unsigned char* p = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  unsigned char* q = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK((void*)p != MAP_FAILED && (void*)q != MAP_FAILED && p != q);
  for (int i = 0; i < 4; i++) p[i * kPage] = (unsigned char)(i + 1);
  for (int i = 0; i < 4; i++) CHECK_EQ(q[i * kPage], i + 1);
  IN_CHILD(q[5] = 55);
  CHECK_EQ(p[5], 55);
  CHECK_ERRNO(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);  // while writable mappings exist
  unsigned char c;
  CHECK_EQ(pread(fd, &c, 1, 5), 1);
  CHECK_EQ(c, 55);
}

TEST(dev_zero_mappings) {
  int fd = CHECK_OK(open("/dev/zero", O_RDWR));
  unsigned char* p = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  CHECK_EQ(p[5], 0);
  p[5] = 1;
  unsigned char* s = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK((void*)s != MAP_FAILED);
  IN_CHILD(s[0] = 9);
  CHECK_EQ(s[0], 9);
}

TEST(shm_open_file) {
  char name[64];
  snprintf(name, sizeof name, "/dev/shm/check-%d", getpid());
  int fd = CHECK_OK(open(name, O_CREAT | O_EXCL | O_RDWR, 0600));
  CHECK_EQ(ftruncate(fd, kPage), 0);
  unsigned char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  IN_CHILD({
    int mine = CHECK_OK(open(name, O_RDWR));
    unsigned char* q = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, mine, 0);
    q[7] = 77;
  });
  CHECK_EQ(p[7], 77);
  CHECK_EQ(unlink(name), 0);
}

TEST(append_is_seen_in_a_mapping) {
  IN_TEMP_DIRECTORY();
  put_file("a", "abc");
  int fd = CHECK_OK(open("a", O_RDWR | O_APPEND));
  unsigned char* p = mmap(NULL, 2 * kPage, PROT_READ, MAP_SHARED, fd, 0);
  CHECK((void*)p != MAP_FAILED);
  CHECK_EQ(p[2], 'c');
  static char b[kPage];
  memset(b, 'z', sizeof b);
  CHECK_EQ(write(fd, b, sizeof b), sizeof b);
  CHECK_EQ(p[3], 'z');
  CHECK_EQ(p[kPage + 2], 'z');
}
