#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <numeric>

#include "fs/host_news.h"
#include "fs/hostfs_fixture.h"

namespace rf::fs {
namespace {

using testing::UnorderedElementsAre;

TEST_F(HostFsTest, ShowsFilesDirectoriesAndAttributes) {
  host_put("/f", "hello");
  ::mkdir(host("/d").c_str(), 0750);
  ::chmod(host("/f").c_str(), 0640);
  ASSERT_EQ(::symlink("f", host("/l").c_str()), 0);
  run([&] {
    EXPECT_EQ(get("/f"), "hello");
    EXPECT_EQ(get("/l"), "hello");
    const Attributes a = stat("/f");
    const struct ::stat st = host_stat("/f");
    EXPECT_EQ(a.ino, st.st_ino);
    EXPECT_EQ(a.mode, S_IFREG | 0640);
    EXPECT_EQ(a.size, 5u);
    EXPECT_EQ(a.mtime.sec, st.st_mtim.tv_sec);
    EXPECT_EQ(a.mtime.nsec, st.st_mtim.tv_nsec);
    EXPECT_EQ(stat("/d").mode, S_IFDIR | 0750);
    EXPECT_EQ(stat("/l", false).mode & S_IFMT, unsigned{S_IFLNK});
    EXPECT_EQ(walk("/none"), ENOENT);
    EXPECT_EQ(walk("/f/x"), ENOTDIR);
    EXPECT_THAT(list("/"), UnorderedElementsAre("f", "d", "l"));
    EXPECT_EQ(at("/").mount->fs->statfs().value().f_namelen, 255);
  });
}

TEST_F(HostFsTest, LargeFilesReadWholeAndAtOffsets) {
  std::string text(3'000'000, '\0');
  std::iota(text.begin(), text.end(), '\0');
  host_put("/big", text);
  run([&] {
    Ref<File> f = open("/big", O_RDONLY);
    EXPECT_TRUE(read(*f, text.size() + 1000) == text);
    EXPECT_EQ(pread(*f, 1'234'567, 100), text.substr(1'234'567, 100));
    EXPECT_EQ(pread(*f, 1'234'567, 100'000), text.substr(1'234'567, 100'000));
    EXPECT_EQ(pread(*f, text.size(), 10), "");
    EXPECT_EQ(f->seek(ctx(), -10, SEEK_END).value(), text.size() - 10);
    EXPECT_EQ(read(*f), text.substr(text.size() - 10));
    EXPECT_EQ(f->seek(ctx(), 0, SEEK_DATA).value(), 0u);
  });
}

TEST_F(HostFsTest, SymlinksNeverLeadOut) {
  std::ofstream(outside_ + "/secret") << "secret";
  ASSERT_EQ(::symlink((outside_ + "/secret").c_str(), host("/abs").c_str()), 0);
  ASSERT_EQ(::symlink("../outside/secret", host("/rel").c_str()), 0);
  ASSERT_EQ(::symlink("../outside", host("/dir").c_str()), 0);
  run([&] {
    EXPECT_EQ(walk("/abs"), ENOENT);
    EXPECT_EQ(walk("/rel"), ENOENT);
    EXPECT_EQ(walk("/dir/secret"), ENOENT);
    EXPECT_EQ(walk("/../outside/secret"), ENOENT);
    EXPECT_EQ(vfs_->readlink(ctx(), nullptr, "/rel").value(), "../outside/secret");
  });
}

TEST_F(HostFsTest, FileReplacedBySymlinkOnTheHostIsNotFollowed) {
  std::ofstream(outside_ + "/secret") << "secret";
  host_put("/f", "mine");
  run([&] {
    Path path = at("/f");
    ::unlink(host("/f").c_str());
    ASSERT_EQ(::symlink((outside_ + "/secret").c_str(), host("/f").c_str()), 0);
    // The inode is still the old file, whose name is gone.
    auto r = vfs_->open_path(ctx(), path, O_RDONLY);
    EXPECT_TRUE(error_of(r) == ELOOP || error_of(r) == ESTALE) << error_of(r);
  });
}

TEST_F(HostFsTest, ReadOnlyTreeRefusesChanges) {
  host_put("/f", "x");
  run([&] {
    EXPECT_EQ(open_error("/f", O_WRONLY), EROFS);
    EXPECT_EQ(open_error("/new", O_WRONLY | O_CREAT), EROFS);
    EXPECT_EQ(mkdir("/d"), EROFS);
    EXPECT_EQ(unlink("/f"), EROFS);
    EXPECT_EQ(rename("/f", "/g"), EROFS);
    EXPECT_EQ(chmod("/f", 0600), EROFS);
    EXPECT_EQ(open_error("/f", O_RDONLY), 0);
  });
}

class SharedTreeTest : public HostFsTest {
 protected:
  // `told` runs after each of the host's changes; from then on they show.
  void expect_changes_show(const std::function<void()>& told) {
    host_put("/f", "one");
    run([&] {
      EXPECT_EQ(get("/f"), "one");
      EXPECT_EQ(walk("/g"), ENOENT);
      host_put("/g", "new");
      told();
      EXPECT_EQ(get("/g"), "new");
      host_put("/f2", "another file");
      ASSERT_EQ(::rename(host("/f2").c_str(), host("/f").c_str()), 0);
      told();
      EXPECT_EQ(get("/f"), "another file");
      EXPECT_EQ(stat("/f").size, 12u);
      ::unlink(host("/f").c_str());
      told();
      EXPECT_EQ(walk("/f"), ENOENT);
      ::mkdir(host("/f").c_str(), 0755);
      told();
      EXPECT_EQ(stat("/f").mode & S_IFMT, unsigned{S_IFDIR});
      ::chmod(host("/f").c_str(), 0700);
      told();
      EXPECT_EQ(stat("/f").mode & 07777, 0700u);
    });
  }
};

TEST_F(SharedTreeTest, ShowsChangesOfTheHostAfterNews) { expect_changes_show(HostNews::arrived); }

TEST_F(SharedTreeTest, ShowsChangesOfTheHostAfterAWhile) {
  expect_changes_show([] { sleep_until(monotonic_now() + 2 * HostNews::kBelieved, Interruptible::kNo); });
}

TEST_F(SharedTreeTest, OneChangeOfTheHostMakesEverythingBeAskedForAnew) {
  host_put("/f", "one");
  host_put("/done", "");
  run([&] {
    EXPECT_EQ(stat("/f").size, 3u);
    EXPECT_EQ(walk("/done"), 0);
    sleep_until(monotonic_now() + 2 * HostNews::kBelieved, Interruptible::kNo);
    EXPECT_EQ(stat("/f").size, 3u);  // counts for a while from here
    host_put("/f", "longer");
    ::unlink(host("/done").c_str());
    // Long not looked at, hence asked for.
    EXPECT_EQ(walk("/done"), ENOENT);
    EXPECT_EQ(stat("/f").size, 6u);
  });
}

TEST_F(SharedTreeTest, AppendsGoToTheEndThatTheHostSees) {
  read_only_ = false;
  host_put("/log", "a");
  run([&] {
    Ref<File> f = open("/log", O_WRONLY | O_APPEND);
    EXPECT_EQ(stat("/log").size, 1u);
    std::ofstream(host("/log"), std::ios::app) << "bc";
    EXPECT_EQ(write(*f, "d").value(), 1u);
    EXPECT_EQ(host_get("/log"), "abcd");
    EXPECT_EQ(f->seek(ctx(), 0, SEEK_END).value(), 4u);
  });
}

TEST_F(HostFsTest, ExclusiveTreeKeepsWhatItKnows) {
  exclusive_ = true;
  host_put("/f", "one");
  run([&] {
    EXPECT_EQ(stat("/f").size, 3u);
    host_put("/f", "longer");
    EXPECT_EQ(stat("/f").size, 3u);
    EXPECT_EQ(get("/f"), "longer") << "data is never kept";
  });
}

TEST_F(HostFsTest, HardLinksShareOneInode) {
  host_put("/a", "x");
  ASSERT_EQ(::link(host("/a").c_str(), host("/b").c_str()), 0);
  run([&] {
    EXPECT_EQ(at("/a").dentry->inode().get(), at("/b").dentry->inode().get());
    EXPECT_EQ(stat("/a").nlink, 2u);
  });
}

TEST_F(HostFsTest, ListingContinuesAtAPosition) {
  for (int i = 0; i < 2000; ++i) host_put("/file-with-a-longer-name-" + std::to_string(i), "");
  run([&] {
    Ref<File> d = open("/", O_RDONLY | O_DIRECTORY);
    std::vector<std::string> names;
    s64 middle = 0;
    for (bool more = true; more;) {
      more = false;
      size_t batch = 0;
      ASSERT_EQ(error_of(d->readdir(ctx(),
                                    [&](const DirEntry& e) {
                                      if (++batch > 7) {
                                        more = true;
                                        return false;
                                      }
                                      names.emplace_back(e.name);
                                      if (names.size() == 1000) middle = e.next_offset;
                                      return true;
                                    })),
                0);
    }
    EXPECT_EQ(names.size(), 2002u);
    EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), 2002u);
    ASSERT_EQ(d->seek(ctx(), middle, SEEK_SET).value(), static_cast<u64>(middle));
    std::vector<std::string> rest;
    ASSERT_EQ(error_of(d->readdir(ctx(),
                                  [&](const DirEntry& e) {
                                    rest.emplace_back(e.name);
                                    return true;
                                  })),
              0);
    EXPECT_EQ(rest, std::vector<std::string>(names.begin() + 1000, names.end()));
    host_put("/zzz", "");
    ASSERT_TRUE(d->seek(ctx(), 0, SEEK_SET).has_value());
    EXPECT_EQ(list(*d).size(), 2001u);
  });
}

TEST_F(HostFsTest, SpecialFilesAreShownButNotOpenedOnTheHost) {
  ASSERT_EQ(::mkfifo(host("/fifo").c_str(), 0600), 0);
  const int s = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{AF_UNIX, {}};
  strncpy(address.sun_path, host("/sock").c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(s, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  run([&] {
    EXPECT_EQ(stat("/fifo").mode & S_IFMT, unsigned{S_IFIFO});
    EXPECT_EQ(stat("/sock").mode & S_IFMT, unsigned{S_IFSOCK});
    EXPECT_EQ(open_error("/sock", O_RDWR), ENXIO);
    // A FIFO of the sandbox: opening for both never waits, and no host process sees it.
    Ref<File> fifo = open("/fifo", O_RDWR | O_NONBLOCK);
    ASSERT_TRUE(fifo);
    EXPECT_EQ(write(*fifo, "inside").value(), 6u);
    EXPECT_LT(::open(host("/fifo").c_str(), O_WRONLY | O_NONBLOCK), 0) << "a reader on the host";
    EXPECT_EQ(read(*fifo), "inside");
  });
  ::close(s);
}

TEST_F(HostFsTest, HostProcIsAnEmptyDirectory) {
  tree_ = "/";
  run([&] {
    EXPECT_EQ(stat("/proc").mode & S_IFMT, unsigned{S_IFDIR});
    EXPECT_EQ(walk("/proc/self"), ENOENT);
    EXPECT_EQ(walk("/proc/1/mem"), ENOENT);
    EXPECT_TRUE(list("/proc").empty());
    EXPECT_EQ(walk("/sys/kernel"), ENOENT);
    EXPECT_EQ(walk("/usr/bin/env"), 0);
    EXPECT_EQ(open_error("/dev/null", O_RDWR), 0);
  });
  auto refused = make_hostfs(*frames_, {.path = "/proc"});
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message, testing::HasSubstr("/proc"));
}

TEST_F(HostFsTest, MissingRootSaysWhichAndWhy) {
  auto r = make_hostfs(*frames_, {.path = "/no/such/place"});
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().message, "cannot use /no/such/place as a file tree: No such file or directory");
}

TEST_F(HostFsTest, ASingleFileCanBeTheRoot) {
  host_put("/config", "text");
  tree_ += "/config";
  read_only_ = false;
  run_fibers(
      [] {
        SchedulerOptions o;
        o.make_reactor = hostio::make_ring_reactor;
        return o;
      }(),
      [&] {
        vfs_ = std::move(*Vfs::create(make_tmpfs(*frames_, 0, 0755), "root", 0));
        creds_ = make_ref<Credentials>();
        cwd_ = vfs_->root();
        put("/point", "");
        ASSERT_EQ(error_of(vfs_->mount(ctx(), at("/point"), make_root_fs(), "file", 0)), 0);
        EXPECT_EQ(get("/point"), "text");
        put("/point", "changed");
        EXPECT_EQ(get("/point"), "changed");
        cwd_ = Path();
        vfs_.reset();
      });
  std::ifstream in(tree_);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "changed");
}

// Descriptors run out long before inodes do.
TEST_F(HostFsTest, MoreInodesThanDescriptors) {
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  rlimit few{200, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &few);
  std::string deep;
  for (int i = 0; i < 40; ++i) {
    deep += "/d" + std::to_string(i);
    ::mkdir(host(deep).c_str(), 0755);
  }
  host_put(deep + "/leaf", "deep");
  for (int i = 0; i < 600; ++i) host_put("/f" + std::to_string(i), std::to_string(i));
  run([&] {
    Path leaf = at(deep + "/leaf");
    std::vector<Path> paths;
    for (int i = 0; i < 600; ++i) paths.push_back(at("/f" + std::to_string(i)));
    for (int i = 0; i < 600; ++i) {
      auto f = vfs_->open_path(ctx(), paths[i], O_RDONLY);
      ASSERT_EQ(error_of(f), 0) << i;
      EXPECT_EQ(read(**f), std::to_string(i));
    }
    auto f = vfs_->open_path(ctx(), leaf, O_RDONLY);
    ASSERT_EQ(error_of(f), 0);
    EXPECT_EQ(read(**f), "deep");
    // Held open, they do use the host's up: an error of the whole system's, not of the process.
    std::vector<Ref<File>> open_files;
    int error = 0;
    for (int i = 0; i < 600 && error == 0; ++i) {
      auto r = vfs_->open_path(ctx(), paths[i], O_RDONLY);
      error = error_of(r);
      if (r) open_files.push_back(*r);
    }
    EXPECT_EQ(error, ENFILE);
    EXPECT_GT(open_files.size(), 100u);
  });
  ::setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace
}  // namespace rf::fs
