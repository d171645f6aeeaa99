#include "core/log.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace rf {
namespace {

TEST(LogTest, ParsesLevelNames) {
  EXPECT_EQ(log::parse_level("debug").value(), log::Level::kDebug);
  EXPECT_EQ(log::parse_level("off").value(), log::Level::kOff);
  EXPECT_EQ(log::parse_level("loud").error(), Errno{EINVAL});
}

TEST(LogTest, WritesEnabledLinesToTheFile) {
  char path[] = "/tmp/rf-log-test-XXXXXX";
  int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  ASSERT_TRUE(log::init(log::Level::kInfo, path));
  RF_INFO("hello {} {:#x}", "there", 255);
  RF_DEBUG("not this");
  RF_ERROR("and {}", errno_name(EPERM));
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  unlink(path);
  EXPECT_NE(text.str().find("info: hello there 0xff"), std::string::npos) << text.str();
  EXPECT_NE(text.str().find("error: and EPERM"), std::string::npos) << text.str();
  EXPECT_EQ(text.str().find("not this"), std::string::npos) << text.str();
}

TEST(LogTest, AFileThatCannotBeOpenedIsASentence) {
  auto r = log::init(log::Level::kInfo, "/proc/no/such/file");
  ASSERT_FALSE(r);
  EXPECT_NE(r.error().message.find("/proc/no/such/file"), std::string::npos) << r.error().message;
}

}  // namespace
}  // namespace rf
