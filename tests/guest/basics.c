// Process identity, clocks and other calls every program makes.
#include "check.h"

#include <sys/utsname.h>

TEST(pid_and_parent) {
  CHECK(getpid() > 0);
  CHECK_EQ(getpid(), syscall(SYS_getpid));
  CHECK_EQ(syscall(SYS_gettid), getpid());
  pid_t parent = getpid();
  IN_CHILD({
    CHECK(getpid() != parent);
    CHECK_EQ(getppid(), parent);
  });
}

TEST(uname_is_linux_x86_64) {
  struct utsname u;
  CHECK_EQ(uname(&u), 0);
  CHECK_STR(u.sysname, "Linux");
  CHECK_STR(u.machine, "x86_64");
  int major = 0, minor = 0;
  CHECK_EQ(sscanf(u.release, "%d.%d", &major, &minor), 2);
  CHECK(major >= 4);
  CHECK_ERRNO(uname((void*)8), EFAULT);
}
