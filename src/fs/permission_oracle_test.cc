// Random calls by several users on directories and files of all modes, on the host's Linux and on the Vfs.
#include <fmt/format.h>
#include <grp.h>
#include <linux/fs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include <array>
#include <fstream>

#include "fs/oracle_fixture.h"

namespace rf::fs {
namespace {

class PermissionOracleTest : public OracleTest {
 protected:
  struct User {
    u32 uid, gid;
    std::vector<u32> groups;
  };
  static constexpr u32 kUserCount = 4;
  static User user(u32 i) {
    switch (i) {
      case 0:
        return {0, 0, {}};
      case 1:
        return {1000, 1000, {}};
      case 2:
        return {1001, 1001, {1000}};
      default:
        return {1002, 1002, {}};
    }
  }

  // On this thread alone: the effective ids, and with them the capabilities.
  void act_as(const User& u) {
    std::vector<gid_t> groups(u.groups.begin(), u.groups.end());
    ASSERT_EQ(syscall(SYS_setresuid, 0, 0, 0), 0);
    ASSERT_EQ(syscall(SYS_setgroups, groups.size(), groups.data()), 0);
    ASSERT_EQ(syscall(SYS_setresgid, u.gid, u.gid, 0), 0);
    ASSERT_EQ(syscall(SYS_setresuid, u.uid, u.uid, 0), 0);
    become(u.uid, u.gid, u.groups);
  }
  static int sysctl(const char* name) {
    std::ifstream f(std::string("/proc/sys/fs/") + name);
    int v = -1;
    f >> v;
    return v;
  }

  std::string path() {
    std::string p(1, "abc"[pick(3)]);
    while (pick(2) == 0) p += std::string("/") + "abc"[pick(3)];
    return p;
  }
  u16 mode(bool directory) {
    u16 m = static_cast<u16>(random_() % 010000);
    if (pick(2) == 0) m |= 0700;
    // Where the host keeps users from others' files in sticky directories that all may write (protected_*).
    if (directory && protections_ && (m & S_ISVTX)) m &= ~022;
    return m;
  }
  std::string absolute(const std::string& p) { return (top_ / kInner / p).string(); }

  Outcome step();
  void compare_attributes(const std::string& p);
  bool protections_ = false;
};

PermissionOracleTest::Outcome PermissionOracleTest::step() {
  const std::string p = path(), q = path();
  const char* c = p.c_str();
  switch (pick(13)) {
    case 0:
    case 1: {
      u16 m = mode(true);
      return {"mkdir " + p + fmt::format(" {:o}", m), host_error(::mkdirat(host_, c, m)), mkdir(p, m)};
    }
    case 2:
    case 3: {
      static constexpr std::array kFlags{O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC, O_RDONLY | O_NOATIME};
      int flags = kFlags[pick(kFlags.size())] | (pick(2) == 0 ? O_CREAT : 0);
      u16 m = mode(false);
      int fd = ::openat(host_, c, flags, m);
      int e = host_error(fd);
      auto f = try_open(p, flags, m);
      if (fd >= 0 && f && (flags & O_ACCMODE) != O_RDONLY) {
        EXPECT_EQ(::write(fd, "x", 1), 1);
        EXPECT_EQ(error_of(write(**f, "x")), 0);
      }
      if (fd >= 0) ::close(fd);
      return {fmt::format("open {} {:o} {:o}", p, flags, m), e, error_of(f)};
    }
    case 4:
      return {"unlink " + p, host_error(::unlinkat(host_, c, 0)), unlink(p)};
    case 5:
      return {"rmdir " + p, host_error(::unlinkat(host_, c, AT_REMOVEDIR)), rmdir(p)};
    case 6: {
      u32 flags = pick(3) == 0 ? RENAME_EXCHANGE : 0;
      return {"rename " + p + " " + q + fmt::format(" {}", flags),
              host_error(syscall(SYS_renameat2, host_, c, host_, q.c_str(), flags)), rename(p, q, flags)};
    }
    case 7: {
      auto place = vfs_->walk(ctx(), nullptr, p, {});
      u16 m = mode(place && place->dentry->inode()->is_dir());
      int e = host_error(::fchmodat(host_, c, m, 0));
      return {"chmod " + p + fmt::format(" {:o}", m), e,
              place ? error_of(vfs_->chmod(ctx(), *place, m)) : error_of(place)};
    }
    case 8: {
      static constexpr std::array kIds{~0u, 0u, 1000u, 1001u};
      u32 uid = kIds[pick(4)], gid = kIds[pick(4)];
      int e = host_error(::fchownat(host_, c, uid, gid, 0));
      auto place = vfs_->walk(ctx(), nullptr, p, {});
      return {"chown " + p + fmt::format(" {} {}", static_cast<int>(uid), static_cast<int>(gid)), e,
              place ? error_of(vfs_->chown(ctx(), *place, uid, gid)) : error_of(place)};
    }
    case 9: {
      int m = static_cast<int>(pick(8));
      bool effective = pick(2) == 0;
      int e = host_error(::faccessat(host_, c, m, effective ? AT_EACCESS : 0));
      auto place = vfs_->walk(ctx(), nullptr, p, {});
      return {"access " + p + fmt::format(" {}", m), e,
              place ? error_of(vfs_->access(ctx(), *place, m, effective)) : error_of(place)};
    }
    case 10: {
      bool now = pick(2) == 0;
      timespec times[2] = {{1, now ? UTIME_NOW : 0}, {1, now ? UTIME_NOW : 0}};
      int e = host_error(::utimensat(host_, c, times, 0));
      Vfs::TimeChange t{now ? Vfs::TimeChange::What::kNow : Vfs::TimeChange::What::kSet, {1, 0}};
      auto place = vfs_->walk(ctx(), nullptr, p, {});
      return {"utimens " + p, e, place ? error_of(vfs_->utimens(ctx(), *place, t, t)) : error_of(place)};
    }
    case 11: {
      int e = host_error(::setxattr(absolute(p).c_str(), "user.x", "1", 1, 0));
      auto place = vfs_->walk(ctx(), nullptr, p, {});
      return {"setxattr " + p, e, place ? error_of(vfs_->setxattr(ctx(), *place, "user.x", "1", 0)) : error_of(place)};
    }
    default: {
      int e = host_error(::linkat(host_, c, host_, q.c_str(), 0));
      return {"link " + p + " " + q, e, link(p, q)};
    }
  }
}

void PermissionOracleTest::compare_attributes(const std::string& p) {
  struct ::stat st;
  int e = host_error(::fstatat(host_, p.c_str(), &st, 0));
  auto place = vfs_->walk(ctx(), nullptr, p, {});
  ASSERT_EQ(e, error_of(place)) << "stat " << p;
  if (e != 0) return;
  Attributes a = *vfs_->getattr(ctx(), *place);
  EXPECT_EQ(a.mode, st.st_mode) << fmt::format("{:o} is not {:o}", a.mode, st.st_mode);
  EXPECT_EQ(a.uid, st.st_uid);
  EXPECT_EQ(a.gid, st.st_gid);
  if (!S_ISDIR(a.mode)) {
    EXPECT_EQ(a.nlink, st.st_nlink);
    EXPECT_EQ(a.size, static_cast<u64>(st.st_size));
  }
}

TEST_F(PermissionOracleTest, UsersMayDoWhatTheyMayOnLinux) {
  if (::getuid() != 0) GTEST_SKIP() << "acting as several users takes root";
  if (sysctl("protected_hardlinks") != 1) GTEST_SKIP() << "the host has fs.protected_hardlinks off";
  protections_ = sysctl("protected_symlinks") > 0 || sysctl("protected_regular") > 0 || sysctl("protected_fifos") > 0;
  run([&] {
    enter_inner();
    random_.seed(2);
    ASSERT_EQ(::fchmodat(host_, "../u", 0777, 0), 0);
    ASSERT_EQ(chmod(".", 0777), 0);
    u32 wrong = 0;
    for (u32 i = 0; i < 3'000 * kStress && wrong < 10; ++i) {
      u32 who = pick(kUserCount);
      act_as(user(who));
      Outcome o = step();
      if (o.host != o.ours) {
        ++wrong;
        ADD_FAILURE() << "step " << i << " by " << who << ": " << o.what << ": " << errno_name(o.host)
                      << " on the host, " << errno_name(o.ours) << " here";
      }
      act_as(user(0));
      std::string p = path();
      compare_attributes(p);
      if (HasFailure()) {
        ADD_FAILURE() << p << " after step " << i << " by " << who << ": " << o.what;
        break;
      }
      // Else all ends up in directories that nobody may search.
      if (i % 200 == 0) {
        for (const char* n : {"a", "b", "c"}) {
          std::filesystem::remove_all(top_ / kInner / n);
          std::function<void(const std::string&)> remove = [&](const std::string& path) {
            if (walk(path) != 0) return;
            if (at(path).dentry->inode()->is_dir())
              for (const std::string& child : list(path)) remove(path + "/" + child);
            if (unlink(path) != 0) rmdir(path);
          };
          remove(n);
        }
      }
    }
    act_as(user(0));
  });
}

}  // namespace
}  // namespace rf::fs
