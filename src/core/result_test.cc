#include "core/result.h"

#include <gtest/gtest.h>

namespace rf {
namespace {

Result<int> half(int v) {
  if (v % 2) return err(EINVAL);
  return v / 2;
}
Result<int> quarter(int v) { return TRY(half(TRY(half(v)))); }

TEST(ResultTest, TryReturnsTheFirstError) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).error(), Errno{EINVAL});
  EXPECT_EQ(quarter(3).error(), Errno{EINVAL});
}

TEST(ResultTest, ErrnoNamesAreLinuxNames) {
  EXPECT_EQ(errno_name(ENOENT), "ENOENT");
  EXPECT_EQ(errno_name(EAGAIN), "EAGAIN");
  EXPECT_EQ(errno_name(kERESTARTSYS), "ERESTARTSYS");
  EXPECT_EQ(errno_name(4095), "errno 4095");
  EXPECT_EQ(errno_name(-1), "errno -1");
  EXPECT_EQ(errno_text(ENOENT), "No such file or directory");
  EXPECT_EQ(errno_text(4095), "Unknown error 4095");
}

TEST(ResultTest, HostResultTakesErrno) {
  errno = EBADF;
  EXPECT_EQ(host_result(-1).error(), Errno{EBADF});
  EXPECT_EQ(host_result(5L).value(), 5);
}

}  // namespace
}  // namespace rf
