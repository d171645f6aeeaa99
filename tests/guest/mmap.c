// Anonymous memory: mmap's flags and errors, munmap, mprotect and its faults, madvise, brk, locks, /proc/self/maps.
#include "memory.h"
#include "small_files.h"

#include <sys/resource.h>

TEST(fresh_memory_is_zero_and_private) {
  unsigned char* p = map_anonymous(100);
  for (int i = 0; i < 100 * kPage; i++)
    if (p[i]) CHECK_EQ(p[i], 0);
  p[5] = 7;
  IN_CHILD({
    CHECK_EQ(p[5], 7);
    p[5] = 8;
  });
  CHECK_EQ(p[5], 7);
  CHECK_EQ(munmap(p, 100 * kPage), 0);
  CHECK(FAULTS(READ(p)));
  CHECK_EQ(g_fault.si_signo, SIGSEGV);
  CHECK_EQ(g_fault.si_code, SEGV_MAPERR);
  CHECK_EQ((uintptr_t)g_fault.si_addr, (uintptr_t)p);
}

TEST(shared_anonymous_memory_is_shared_over_fork) {
  int* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK((void*)p != MAP_FAILED);
  p[0] = 1;
  IN_CHILD(p[1] = p[0] + 41);
  CHECK_EQ(p[1], 42);
}

TEST(argument_errors) {
  CHECK_ERRNO(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
  CHECK_ERRNO(mmap(NULL, kPage, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
  CHECK_ERRNO(mmap(NULL, kPage, PROT_READ, MAP_PRIVATE, 1000, 0), EBADF);
  int fd = CHECK_OK(open("/dev/zero", O_RDONLY));
  CHECK_ERRNO(syscall(SYS_mmap, NULL, kPage, PROT_READ, MAP_PRIVATE, fd, 5), EINVAL);
  CHECK_ERRNO(mmap((void*)1, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
  CHECK_ERRNO(mmap(NULL, (size_t)1 << 60, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
  CHECK_ERRNO(mmap(NULL, SIZE_MAX - 100, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
  CHECK_ERRNO(munmap((void*)1, kPage), EINVAL);
  CHECK_ERRNO(munmap((void*)kPage, 0), EINVAL);
  CHECK_EQ(munmap((void*)0x10000000, kPage), 0);  // nothing there is no error
  CHECK_ERRNO(mprotect((void*)1, kPage, PROT_READ), EINVAL);
  CHECK_ERRNO(mprotect(NULL, kPage, PROT_READ), ENOMEM);
  CHECK_EQ(mprotect((void*)kPage, 0, PROT_READ), 0);
}

TEST(hint_is_taken_when_free) {
  unsigned char* p = map_anonymous(4);
  CHECK_EQ(munmap(p + kPage, kPage), 0);
  void* q = mmap(p + kPage, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK_EQ((uintptr_t)q, (uintptr_t)(p + kPage));
  q = mmap(p, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(q != MAP_FAILED && q != p);
}

TEST(fixed_replaces) {
  unsigned char* p = map_anonymous(3);
  memset(p, 'x', 3 * kPage);
  void* q = mmap(p + kPage, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK_EQ((uintptr_t)q, (uintptr_t)(p + kPage));
  CHECK_EQ(p[kPage - 1], 'x');
  CHECK_EQ(p[kPage], 0);
  CHECK_EQ(p[2 * kPage - 1], 0);
  CHECK_EQ(p[2 * kPage], 'x');
  CHECK_ERRNO(mmap(p, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
  CHECK_EQ(munmap(p + kPage, kPage), 0);
  q = mmap(p + kPage, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK_EQ((uintptr_t)q, (uintptr_t)(p + kPage));
}

TEST(hole_in_the_middle) {
  unsigned char* p = map_anonymous(5);
  memset(p, 1, 5 * kPage);
  CHECK_EQ(munmap(p + 2 * kPage, kPage), 0);
  CHECK_EQ(p[2 * kPage - 1], 1);
  CHECK_EQ(p[3 * kPage], 1);
  CHECK(FAULTS(WRITE(p + 2 * kPage + 123, 1)));
  CHECK_EQ(g_fault.si_code, SEGV_MAPERR);
  CHECK_EQ((uintptr_t)g_fault.si_addr, (uintptr_t)(p + 2 * kPage + 123));
  CHECK_ERRNO(mprotect(p, 5 * kPage, PROT_READ), ENOMEM);
}

TEST(protections_are_enforced) {
  unsigned char* p = map_anonymous(3);
  memset(p, 9, 3 * kPage);
  CHECK_EQ(mprotect(p + kPage, kPage, PROT_READ), 0);
  READ(p + kPage);
  CHECK(FAULTS(WRITE(p + kPage, 1)));
  CHECK_EQ(g_fault.si_code, SEGV_ACCERR);
  CHECK_EQ(p[kPage], 9);
  WRITE(p + kPage - 1, 2);
  WRITE(p + 2 * kPage, 3);
  CHECK_EQ(mprotect(p + kPage, kPage, PROT_NONE), 0);
  CHECK(FAULTS(READ(p + kPage + 77)));
  CHECK_EQ(g_fault.si_code, SEGV_ACCERR);
  CHECK_EQ((uintptr_t)g_fault.si_addr, (uintptr_t)(p + kPage + 77));
  CHECK_EQ(mprotect(p, 3 * kPage, PROT_READ | PROT_WRITE), 0);
  CHECK_EQ(p[kPage], 9);
  WRITE(p + kPage, 4);
}

TEST(rights_narrow_again_and_again) {
  // A stale translation would let one of the writes through.
  unsigned char* p = map_anonymous(4);
  for (int i = 0; i < 300; i++) {
    CHECK_EQ(mprotect(p, 4 * kPage, PROT_READ | PROT_WRITE), 0);
    WRITE(p + i % 4 * kPage, i);
    CHECK_EQ(mprotect(p, 4 * kPage, PROT_READ), 0);
    CHECK(FAULTS(WRITE(p + i % 4 * kPage, 0xee)));
    CHECK_EQ(p[i % 4 * kPage], i & 0xff);
  }
}

TEST(unmapped_and_mapped_again_is_zero) {
  unsigned char* p = map_anonymous(8);
  for (int i = 0; i < 200; i++) {
    memset(p, 0xa5, 8 * kPage);
    CHECK_EQ(munmap(p, 8 * kPage), 0);
    CHECK_EQ((uintptr_t)mmap(p, 8 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
             (uintptr_t)p);
    for (int j = 0; j < 8; j++) CHECK_EQ(p[j * kPage + i], 0);
  }
}

TEST(no_execute) {
  unsigned char* p = map_anonymous(1);
  p[0] = 0xc3;  // ret
  CHECK(FAULTS(((void (*)(void))p)()));
  CHECK_EQ(g_fault.si_code, SEGV_ACCERR);
  CHECK_EQ((uintptr_t)g_fault.si_addr, (uintptr_t)p);
  CHECK_EQ(mprotect(p, kPage, PROT_READ | PROT_EXEC), 0);
  ((void (*)(void))p)();
}

TEST(code_written_is_code_run) {
  unsigned char* p = map_anonymous(1);
  CHECK_EQ(mprotect(p, kPage, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
  for (int i = 0; i < 100; i++) {
    unsigned char code[6] = {0xb8, (unsigned char)i, 0, 0, 0, 0xc3};  // mov $i, %eax; ret
    memcpy(p, code, sizeof code);
    CHECK_EQ(((int (*)(void))p)(), i);
  }
}

TEST(maps_tells_the_truth) {
  unsigned char* p = map_anonymous(6);
  map_line m;
  CHECK(find_map(p, &m));
  CHECK_EQ(strncmp(m.rights, "rw-p", 4), 0);
  CHECK_EQ(mprotect(p + 2 * kPage, kPage, PROT_NONE), 0);
  CHECK_EQ(munmap(p + 4 * kPage, kPage), 0);
  CHECK(find_map(p + 2 * kPage, &m));
  CHECK_EQ(m.start, (uintptr_t)p + 2 * kPage);
  CHECK_EQ(m.end, (uintptr_t)p + 3 * kPage);
  CHECK_EQ(strncmp(m.rights, "---p", 4), 0);
  CHECK(!find_map(p + 4 * kPage, &m));
  CHECK(find_map(p + 3 * kPage, &m));
  CHECK_EQ(m.end, (uintptr_t)p + 4 * kPage);
  // Equal neighbours are one mapping again.
  CHECK_EQ(mprotect(p + 2 * kPage, kPage, PROT_READ | PROT_WRITE), 0);
  CHECK(find_map(p + 2 * kPage, &m));
  CHECK(m.start <= (uintptr_t)p);
  CHECK_EQ(m.end, (uintptr_t)p + 4 * kPage);
  int on_stack;
  CHECK(find_map(&on_stack, &m));
  CHECK_STR(m.name, "[stack]");
  CHECK(sbrk(kPage) != (void*)-1);
  CHECK(find_map((char*)sbrk(0) - 1, &m));
  CHECK_STR(m.name, "[heap]");
}

TEST(maps_names_files) {
  IN_TEMP_DIRECTORY();
  static char b[2 * kPage];
  int fd = CHECK_OK(open("named", O_CREAT | O_RDWR, 0600));
  CHECK_EQ(write(fd, b, sizeof b), sizeof b);
  void* p = mmap(NULL, kPage, PROT_READ, MAP_SHARED, fd, kPage);
  CHECK(p != MAP_FAILED);
  map_line m;
  struct stat st;
  CHECK_EQ(fstat(fd, &st), 0);
  CHECK(find_map(p, &m));
  CHECK_EQ(strncmp(m.rights, "r--s", 4), 0);
  CHECK_EQ(m.offset, kPage);
  CHECK_EQ(m.inode, st.st_ino);
  const char* slash = strrchr(m.name, '/');
  CHECK_STR(slash, "/named");
  extern const char __ehdr_start;  // our own image
  CHECK(find_map(&__ehdr_start, &m));
  char exe[256] = {0};
  CHECK(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
  CHECK_STR(m.name, exe);
}

TEST(grows_down) {
  // Room below, then a growing mapping of one page.
  unsigned char* room = map_anonymous(1024);
  CHECK_EQ(munmap(room, 1024 * kPage), 0);
  unsigned char* top = room + 1023 * kPage;
  void* p = mmap(top, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE,
                 -1, 0);
  CHECK_EQ((uintptr_t)p, (uintptr_t)top);
  WRITE(top, 1);
  for (int i = 1; i < 200; i++) WRITE(top - i * kPage, i);
  for (int i = 1; i < 200; i++) CHECK_EQ(top[-i * kPage], i & 0xff);
}

TEST(stack_grows) {
  unsigned char* low = __builtin_frame_address(0);
  // 1 MiB below is far from touched yet.
  WRITE(low - (1 << 20), 5);
  CHECK_EQ(low[-(1 << 20)], 5);
}

TEST(stack_overflow_is_a_fault_on_the_alternate_stack) {
  IN_CHILD({
    stack_t alt = {.ss_sp = malloc(65536), .ss_size = 65536};
    CHECK_EQ(sigaltstack(&alt, NULL), 0);
    struct rlimit limit = {256 << 10, 256 << 10};
    CHECK_EQ(setrlimit(RLIMIT_STACK, &limit), 0);
    struct sigaction act = {.sa_sigaction = on_fault_, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    CHECK_EQ(sigaction(SIGSEGV, &act, NULL), 0);
    volatile unsigned char* low = __builtin_frame_address(0);
    volatile int reached = 0;
    if (sigsetjmp(fault_jump_, 1) == 0) {
      fault_armed_ = 1;
      for (;; reached++) low[-(long)reached * kPage] = 1;
    }
    CHECK(reached > 8 && reached < 2000);
    CHECK_EQ(g_fault.si_signo, SIGSEGV);
  });
}

TEST(dontneed_gives_zeros) {
  unsigned char* p = map_anonymous(4);
  memset(p, 7, 4 * kPage);
  CHECK_EQ(madvise(p + kPage, 2 * kPage, MADV_DONTNEED), 0);
  CHECK_EQ(p[kPage - 1], 7);
  CHECK_EQ(p[kPage], 0);
  CHECK_EQ(p[3 * kPage - 1], 0);
  CHECK_EQ(p[3 * kPage], 7);
  WRITE(p + kPage, 5);
  CHECK_EQ(p[kPage], 5);
}

TEST(madvise_kinds_and_errors) {
  unsigned char* p = map_anonymous(4);
  const int advice[] = {MADV_NORMAL, MADV_RANDOM,   MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTFORK,
                        MADV_DOFORK, MADV_DONTDUMP, MADV_DODUMP,     MADV_FREE};
  for (size_t i = 0; i < sizeof advice / sizeof *advice; i++) CHECK_EQ(madvise(p, 4 * kPage, advice[i]), 0);
  CHECK_ERRNO(madvise(p + 1, kPage, MADV_DONTNEED), EINVAL);
  CHECK_ERRNO(madvise(p, kPage, 12345), EINVAL);
  CHECK_EQ(munmap(p + kPage, kPage), 0);
  CHECK_ERRNO(madvise(p, 4 * kPage, MADV_DONTNEED), ENOMEM);
}

TEST(dontfork_is_missing_in_the_child) {
  unsigned char* p = map_anonymous(2);
  p[0] = 1;
  p[kPage] = 2;
  CHECK_EQ(madvise(p, kPage, MADV_DONTFORK), 0);
  IN_CHILD({
    CHECK(FAULTS(READ(p)));
    CHECK_EQ(p[kPage], 2);
  });
  CHECK_EQ(p[0], 1);
}

TEST(wipeonfork_is_zero_in_the_child) {
  unsigned char* p = map_anonymous(1);
  p[0] = 1;
  CHECK_EQ(madvise(p, kPage, MADV_WIPEONFORK), 0);
  IN_CHILD(CHECK_EQ(p[0], 0));
  CHECK_EQ(p[0], 1);
}

TEST(mincore_of_touched_pages) {
  unsigned char* p = map_anonymous(4);
  WRITE(p, 1);
  WRITE(p + 2 * kPage, 1);
  unsigned char in[4] = {0};
  CHECK_EQ(mincore(p, 4 * kPage, in), 0);
  CHECK(in[0] & 1);
  CHECK(in[2] & 1);
  CHECK_ERRNO(mincore(p + 1, kPage, in), EINVAL);
  CHECK_EQ(munmap(p, kPage), 0);
  CHECK_ERRNO(mincore(p, kPage, in), ENOMEM);
}

TEST(populate_and_locks) {
  unsigned char* p = mmap(NULL, 8 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  CHECK((void*)p != MAP_FAILED);
  unsigned char in[8] = {0};
  CHECK_EQ(mincore(p, 8 * kPage, in), 0);
  for (int i = 0; i < 8; i++) CHECK(in[i] & 1);
  CHECK_EQ(mlock(p, 8 * kPage), 0);
  CHECK_EQ(munlock(p, 8 * kPage), 0);
  CHECK_EQ(mlock2(p, kPage, MLOCK_ONFAULT), 0);
  CHECK_ERRNO(mlock2(p, kPage, 0x100), EINVAL);
  CHECK_EQ(munmap(p, 8 * kPage), 0);
  CHECK_ERRNO(mlock(p, kPage), ENOMEM);
}

TEST(noreserve_of_a_huge_range) {
  size_t size = (size_t)1 << 40;
  unsigned char* p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK((void*)p != MAP_FAILED);
  CHECK_EQ(mprotect(p + (size >> 1), kPage, PROT_READ | PROT_WRITE), 0);
  WRITE(p + (size >> 1), 1);
  CHECK_EQ(munmap(p, size), 0);
}

TEST(brk_moves) {
  // Raw calls: the C library's malloc uses brk too, but not between these.
  uintptr_t start = (uintptr_t)syscall(SYS_brk, 0);
  CHECK_EQ(syscall(SYS_brk, start + 10 * kPage), start + 10 * kPage);
  unsigned char* p = (unsigned char*)start;
  size_t to_page = (size_t)(-start & (kPage - 1));
  for (size_t i = to_page; i < 10 * kPage; i++)
    if (p[i]) CHECK_EQ(p[i], 0);
  memset(p, 1, 10 * kPage);
  CHECK_EQ(syscall(SYS_brk, start + 2 * kPage), start + 2 * kPage);
  CHECK(FAULTS(READ(p + 4 * kPage)));
  CHECK_EQ(syscall(SYS_brk, start + 10 * kPage), start + 10 * kPage);
  CHECK_EQ(p[4 * kPage], 0);
  CHECK_EQ(syscall(SYS_brk, 1), start + 10 * kPage);  // refused: the old value
  CHECK_EQ(syscall(SYS_brk, start), start);
}

TEST(address_space_limit) {
  IN_CHILD({
    struct rlimit limit = {(rlim_t)1 << 30, (rlim_t)1 << 30};
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK_ERRNO(mmap(NULL, (size_t)1 << 31, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    CHECK(mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
  });
}

TEST(null_page_and_kernel_half_fault) {
  CHECK(FAULTS(READ((unsigned char*)16)));
  CHECK_EQ(g_fault.si_code, SEGV_MAPERR);
  CHECK_EQ((uintptr_t)g_fault.si_addr, 16);
  CHECK(FAULTS(READ((unsigned char*)0xffffffff80000000ul)));
  CHECK_EQ(g_fault.si_signo, SIGSEGV);
  // A non-canonical address is a general protection fault: no address is known.
  CHECK(FAULTS(READ((unsigned char*)0x8000000000000000ul)));
  CHECK_EQ(g_fault.si_signo, SIGSEGV);
  CHECK_EQ(g_fault.si_code, SI_KERNEL);
}

TEST(many_small_mappings) {
  enum { kCount = 2000 };
  static unsigned char* p[kCount];
  for (int i = 0; i < kCount; i++) {
    p[i] = mmap(NULL, kPage, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK((void*)p[i] != MAP_FAILED);
    if (i % 2 == 0) WRITE(p[i], i);
  }
  for (int i = 0; i < kCount; i += 2) CHECK_EQ(p[i][0], i & 0xff);
  for (int i = 0; i < kCount; i++) CHECK_EQ(munmap(p[i], kPage), 0);
}

TEST(large_memory_touched_sparsely) {
  size_t size = (size_t)8 << 30;
  unsigned char* p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK((void*)p != MAP_FAILED);
  for (size_t at = 0; at < size; at += size / 64 + kPage) WRITE(p + at, at >> 20);
  for (size_t at = 0; at < size; at += size / 64 + kPage) CHECK_EQ(p[at], (at >> 20) & 0xff);
}
