// For tests: a host directory of its own, mounted as the root through hostfs, on workers with a ring.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "fs/fs_fixture.h"
#include "hostio/ring.h"

namespace rf::fs {

class HostFsTest : public FsTest {
 protected:
  HostFsTest() {
    char name[] = "/tmp/hostfs_test.XXXXXX";
    RF_CHECK(::mkdtemp(name) != nullptr);
    directory_ = name;
    outside_ = directory_ + "/outside";
    tree_ = directory_ + "/tree";
    ::mkdir(tree_.c_str(), 0755);
    ::mkdir(outside_.c_str(), 0755);
    umask_ = ::umask(0);
  }
  ~HostFsTest() override {
    ::umask(umask_);
    std::filesystem::remove_all(directory_);
  }

  Ref<FileSystem> make_root_fs() override {
    auto fs = make_hostfs(*frames_, {.path = tree_, .read_only = read_only_, .exclusive = exclusive_});
    EXPECT_TRUE(fs.has_value());
    return *fs;
  }

  void run(const std::function<void()>& body) {
    SchedulerOptions options;
    options.make_reactor = hostio::make_ring_reactor;
    run_fibers(options, [&] {
      vfs_ = std::move(*Vfs::create(make_root_fs(), "root", 0));
      creds_ = make_ref<Credentials>();
      cwd_ = vfs_->root();
      body();
      cwd_ = Path();
      vfs_.reset();
    });
  }

  // On the host, below the tree.
  std::string host(const std::string& path) const { return tree_ + path; }
  void host_put(const std::string& path, std::string_view text) { std::ofstream(host(path)) << text; }
  std::string host_get(const std::string& path) {
    std::ifstream in(host(path));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  struct ::stat host_stat(const std::string& path) {
    struct ::stat st {};
    EXPECT_EQ(::lstat(host(path).c_str(), &st), 0) << path;
    return st;
  }

  std::string directory_, outside_, tree_;
  mode_t umask_;
  bool read_only_ = true;
  bool exclusive_ = false;
};

}  // namespace rf::fs
