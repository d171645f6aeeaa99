// Random calls with awkward paths, made on the host's Linux and on the Vfs: the same errno each time.
#include <linux/fs.h>
#include <sys/syscall.h>

#include "fs/oracle_fixture.h"

namespace rf::fs {
namespace {

class PathOracleTest : public OracleTest {
 protected:
  std::string path() {
    static constexpr const char* kNames[] = {"a", "b", "c", "d", "a", "b", ".", ".."};
    std::string p;
    int ups = 0;
    for (u32 n = pick(4) + 1; n > 0; --n) {
      std::string name = kNames[pick(8)];
      if (name == ".." && ++ups > 1) name = "a";
      if (!p.empty()) p += pick(12) == 0 ? "//" : "/";
      p += name;
    }
    if (pick(5) == 0) p += pick(4) == 0 ? "//" : "/";
    if (pick(60) == 0) p.clear();
    if (pick(60) == 0) p = std::string(256, 'n');
    return p;
  }

  int ours(auto&& result) { return error_of(result); }

  Outcome open_both(const std::string& p) {
    static constexpr int kExtra[] = {O_CREAT, O_CREAT | O_EXCL, O_DIRECTORY, O_NOFOLLOW, O_TRUNC, O_PATH, O_APPEND};
    static constexpr int kAccess[] = {O_RDONLY, O_WRONLY, O_RDWR};
    int flags = kAccess[pick(3)] | O_NONBLOCK;
    for (u32 n = pick(3); n > 0; --n) flags |= kExtra[pick(std::size(kExtra))];
    if (pick(16) == 0) flags |= O_TMPFILE;
    // Invalid only since Linux 6.4.
    if ((flags & O_CREAT) && (flags & O_DIRECTORY)) flags &= ~O_CREAT;
    int fd = ::openat(host_, p.c_str(), flags | O_CLOEXEC, 0644);
    int e = host_error(fd);
    if (fd >= 0) ::close(fd);
    auto f = try_open(p, flags, 0644);
    return {"open " + p + " " + std::to_string(flags), e, ours(f)};
  }
  Outcome rename_both(const std::string& p, const std::string& q) {
    static constexpr u32 kFlags[] = {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
    u32 flags = kFlags[pick(std::size(kFlags))];
    int e = host_error(syscall(SYS_renameat2, host_, p.c_str(), host_, q.c_str(), flags));
    return {"rename " + p + " " + q + " " + std::to_string(flags), e, rename(p, q, flags)};
  }
  Outcome link_both(const std::string& p, const std::string& q) {
    bool follow = pick(2) == 0;
    int e = host_error(::linkat(host_, p.c_str(), host_, q.c_str(), follow ? AT_SYMLINK_FOLLOW : 0));
    auto target = vfs_->walk(ctx(), nullptr, p, {.follow = follow});
    int mine = target ? error_of(vfs_->link(ctx(), *target, nullptr, q)) : error_of(target);
    return {"link " + p + " " + q + (follow ? " follow" : ""), e, mine};
  }
  Outcome stat_both(const std::string& p) {
    bool follow = pick(2) == 0;
    struct ::stat st;
    int e = host_error(::fstatat(host_, p.c_str(), &st, follow ? 0 : AT_SYMLINK_NOFOLLOW));
    auto place = vfs_->walk(ctx(), nullptr, p, {.follow = follow});
    std::string what = "stat " + p + (follow ? " follow" : "");
    if (e != 0 || !place) return {what, e, ours(place)};
    Attributes a = *vfs_->getattr(ctx(), *place);
    EXPECT_EQ(a.mode, st.st_mode) << what;
    if (!S_ISDIR(a.mode)) {
      EXPECT_EQ(a.nlink, st.st_nlink) << what;
      EXPECT_EQ(a.size, static_cast<u64>(st.st_size)) << what;
    }
    return {what, e, 0};
  }
  Outcome truncate_both(const std::string& p) {
    u64 size = pick(100);
    int e = host_error(::truncate((top_ / kInner / p).c_str(), static_cast<off_t>(size)));
    if (p.empty()) e = ENOENT;
    auto place = vfs_->walk(ctx(), nullptr, p, {});
    return {"truncate " + p, e, place ? error_of(vfs_->truncate(ctx(), *place, size)) : error_of(place)};
  }
  Outcome readlink_both(const std::string& p) {
    char buffer[300];
    ssize_t n = ::readlinkat(host_, p.c_str(), buffer, sizeof buffer);
    auto mine = vfs_->readlink(ctx(), nullptr, p);
    if (n >= 0 && mine) {
      EXPECT_EQ(*mine, std::string(buffer, static_cast<size_t>(n)));
    }
    return {"readlink " + p, host_error(n), ours(mine)};
  }

  Outcome step() {
    std::string p = path(), q = path();
    switch (pick(14)) {
      case 0:
      case 1:
        return {"mkdir " + p, host_error(::mkdirat(host_, p.c_str(), 0755)), mkdir(p)};
      case 2:
      case 3:
      case 4:
        return open_both(p);
      case 5:
        return {"unlink " + p, host_error(::unlinkat(host_, p.c_str(), 0)), unlink(p)};
      case 6:
        return {"rmdir " + p, host_error(::unlinkat(host_, p.c_str(), AT_REMOVEDIR)), rmdir(p)};
      case 7:
      case 8:
        return rename_both(p, q);
      case 9:
        return link_both(p, q);
      case 10:
        return {"symlink " + q + " " + p, host_error(::symlinkat(q.c_str(), host_, p.c_str())), symlink(q, p)};
      case 11:
        if (pick(2) == 0) return truncate_both(p);
        return {"mkfifo " + p, host_error(::mkfifoat(host_, p.c_str(), 0600)), mknod(p, S_IFIFO | 0600)};
      case 12:
        return readlink_both(p);
      default:
        return stat_both(p);
    }
  }
};

TEST_F(PathOracleTest, RandomCallsEndAsOnLinux) {
  run([&] {
    enter_inner();
    random_.seed(1);
    u32 wrong = 0;
    for (u32 i = 0; i < 3'000 * kStress && wrong < 20; ++i) {
      Outcome o = step();
      if (o.host == o.ours) continue;
      ++wrong;
      ADD_FAILURE() << "step " << i << ": " << o.what << ": " << errno_name(o.host) << " on the host, "
                    << errno_name(o.ours) << " here";
    }
  });
}

}  // namespace
}  // namespace rf::fs
