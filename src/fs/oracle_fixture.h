// For tests: the host's Linux as the oracle. The same tree is kept in a directory of the host and in the Vfs.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <string>

#include "fs/fs_fixture.h"

namespace rf::fs {

class OracleTest : public FsTest {
 protected:
  // So deep that no path of a call leads out of what the two have in common.
  static constexpr const char* kInner = "p/q/r/s/t/u";

  OracleTest() {
    char name[] = "/tmp/ringfence-oracle-XXXXXX";
    top_ = mkdtemp(name);
    std::filesystem::create_directories(top_ / kInner);
    std::filesystem::permissions(top_, std::filesystem::perms(0755));
    host_ = ::open((top_ / kInner).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    ::umask(022);
  }
  ~OracleTest() override {
    ::close(host_);
    std::filesystem::remove_all(top_);
  }

  // The directories of kInner in the Vfs, and the working directory in the last.
  void enter_inner() {
    std::string p;
    for (const char* c : {"p", "q", "r", "s", "t", "u"}) ASSERT_EQ(mkdir(p += std::string("/") + c), 0);
    cwd_ = at(p);
  }

  u32 pick(u32 n) { return static_cast<u32>(random_() % n); }
  static int host_error(long r) { return r < 0 ? errno : 0; }

  struct Outcome {
    std::string what;
    int host, ours;
  };

  std::filesystem::path top_;
  int host_ = -1;  // the innermost directory
  std::minstd_rand random_;
};

}  // namespace rf::fs
