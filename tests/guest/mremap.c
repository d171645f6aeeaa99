// mremap in all its forms.
#include "memory.h"

TEST(grows_in_place_or_moves) {
  unsigned char* p = map_anonymous(4);
  memset(p, 5, 4 * kPage);
  CHECK_EQ(munmap(p + 2 * kPage, 2 * kPage), 0);
  unsigned char* q = mremap(p, 2 * kPage, 4 * kPage, 0);
  CHECK_EQ((uintptr_t)q, (uintptr_t)p);
  CHECK_EQ(q[2 * kPage - 1], 5);
  CHECK_EQ(q[2 * kPage], 0);
  CHECK_EQ(q[4 * kPage - 1], 0);
}

TEST(no_room_without_maymove) {
  unsigned char* p = map_anonymous(3);
  // A neighbour of other rights stands in the way.
  CHECK_EQ(mprotect(p + 2 * kPage, kPage, PROT_READ), 0);
  CHECK_ERRNO(mremap(p, 2 * kPage, 3 * kPage, 0), ENOMEM);
  memset(p, 6, 2 * kPage);
  unsigned char* q = mremap(p, 2 * kPage, 100 * kPage, MREMAP_MAYMOVE);
  CHECK((void*)q != MAP_FAILED && q != p);
  CHECK_EQ(q[0], 6);
  CHECK_EQ(q[2 * kPage - 1], 6);
  CHECK_EQ(q[2 * kPage], 0);
  WRITE(q + 99 * kPage, 1);
  CHECK(FAULTS(READ(p)));
}

TEST(shrinks) {
  unsigned char* p = map_anonymous(4);
  memset(p, 7, 4 * kPage);
  CHECK_EQ((uintptr_t)mremap(p, 4 * kPage, kPage, 0), (uintptr_t)p);
  CHECK_EQ(p[kPage - 1], 7);
  CHECK(FAULTS(READ(p + kPage)));
  CHECK_EQ((uintptr_t)mremap(p, kPage, kPage, 0), (uintptr_t)p);
}

TEST(fixed_moves_and_replaces) {
  unsigned char *p = map_anonymous(2), *target = map_anonymous(4);
  memset(p, 8, 2 * kPage);
  memset(target, 9, 4 * kPage);
  unsigned char* q = mremap(p, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target + kPage);
  CHECK_EQ((uintptr_t)q, (uintptr_t)(target + kPage));
  CHECK_EQ(target[kPage - 1], 9);
  CHECK_EQ(target[kPage], 8);
  CHECK_EQ(target[3 * kPage - 1], 8);
  CHECK_EQ(target[3 * kPage], 9);
  CHECK(FAULTS(READ(p)));
}

TEST(moves_part_of_a_mapping) {
  unsigned char *p = map_anonymous(5), *target = map_anonymous(1);
  for (int i = 0; i < 5; i++) memset(p + i * kPage, i, kPage);
  CHECK_EQ((uintptr_t)mremap(p + 2 * kPage, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target), (uintptr_t)target);
  CHECK_EQ(target[0], 2);
  CHECK_EQ(p[kPage], 1);
  CHECK_EQ(p[3 * kPage], 3);
  CHECK(FAULTS(READ(p + 2 * kPage)));
}

TEST(dontunmap_leaves_zeros) {
  unsigned char* p = map_anonymous(2);
  memset(p, 3, 2 * kPage);
  unsigned char* q = mremap(p, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
  CHECK((void*)q != MAP_FAILED && q != p);
  CHECK_EQ(q[kPage], 3);
  CHECK_EQ(p[kPage], 0);
  CHECK_ERRNO(mremap(p, kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL), EINVAL);
}

TEST(old_size_zero_duplicates_a_shared_mapping) {
  unsigned char* p = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK((void*)p != MAP_FAILED);
  p[0] = 1;
  unsigned char* q = mremap(p, 0, 2 * kPage, MREMAP_MAYMOVE);
  CHECK((void*)q != MAP_FAILED && q != p);
  CHECK_EQ(q[0], 1);
  q[1] = 2;
  CHECK_EQ(p[1], 2);
  unsigned char* anonymous = map_anonymous(1);
  CHECK_ERRNO(mremap(anonymous, 0, kPage, MREMAP_MAYMOVE), EINVAL);
}

TEST(errors) {
  unsigned char* p = map_anonymous(4);
  CHECK_ERRNO(mremap(p + 1, kPage, kPage, 0), EINVAL);
  CHECK_ERRNO(mremap(p, kPage, 0, 0), EINVAL);
  CHECK_ERRNO(mremap(p, kPage, kPage, 0x80), EINVAL);
  CHECK_ERRNO(mremap(p, kPage, kPage, MREMAP_FIXED, p), EINVAL);
  CHECK_ERRNO(mremap(p, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, p + kPage), EINVAL);  // overlap
  CHECK_EQ(munmap(p + kPage, kPage), 0);
  CHECK_ERRNO(mremap(p + kPage, kPage, 2 * kPage, MREMAP_MAYMOVE), EFAULT);
  CHECK_ERRNO(mremap(p, 2 * kPage, 3 * kPage, MREMAP_MAYMOVE), EFAULT);
}

TEST(moved_file_mapping_keeps_its_offset) {
  IN_TEMP_DIRECTORY();
  int fd = CHECK_OK(open("a", O_CREAT | O_RDWR, 0600));
  unsigned char b[kPage];
  for (int i = 0; i < 6; i++) {
    memset(b, 'a' + i, sizeof b);
    CHECK_EQ(write(fd, b, sizeof b), kPage);
  }
  unsigned char* p = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, kPage);
  CHECK((void*)p != MAP_FAILED);
  unsigned char* q = mremap(p, 2 * kPage, 4 * kPage, MREMAP_MAYMOVE);
  CHECK((void*)q != MAP_FAILED);
  for (int i = 0; i < 4; i++) CHECK_EQ(q[i * kPage], 'b' + i);
  q[0] = 'Z';
  CHECK_EQ(pread(fd, b, 1, kPage), 1);
  CHECK_EQ(b[0], 'Z');
}

TEST(realloc_pattern_keeps_content) {
  size_t size = kPage;
  unsigned char* p = map_anonymous(1);
  p[0] = 1;
  for (size_t next = 2; next <= 1024; next *= 2) {
    p = mremap(p, size, next * kPage, MREMAP_MAYMOVE);
    CHECK((void*)p != MAP_FAILED);
    for (size_t at = size; at < next * kPage; at += kPage) p[at] = (unsigned char)(at / kPage);
    size = next * kPage;
  }
  CHECK_EQ(p[0], 1);
  for (size_t at = kPage; at < size; at += kPage) CHECK_EQ(p[at], (at / kPage) & 0xff);
}
