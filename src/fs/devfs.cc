// /dev: a tmpfs with the nodes and links that programs expect, as container runtimes make it.

#include <sys/stat.h>

#include "core/check.h"
#include "fs/filesystems.h"

namespace rf::fs {
namespace {

constexpr u64 kSizeLimit = 64 << 20;  // for what guests put there

struct Node {
  const char* name;
  u16 mode;
  u32 major, minor;
};
// Documentation/admin-guide/devices.txt of Linux.
constexpr Node kNodes[] = {
    {"null", 0666, 1, 3},    {"zero", 0666, 1, 5}, {"full", 0666, 1, 7},    {"random", 0666, 1, 8},
    {"urandom", 0666, 1, 9}, {"tty", 0666, 5, 0},  {"console", 0620, 5, 1},
};

struct Link {
  const char* name;
  const char* target;
};
constexpr Link kLinks[] = {
    {"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
    {"stderr", "/proc/self/fd/2"}, {"core", "/proc/kcore"},      {"ptmx", "pts/ptmx"},
};

struct Directory {
  const char* name;
  u16 mode;
};
constexpr Directory kDirectories[] = {{"pts", 0755}, {"shm", 01777}, {"mqueue", 01777}};

}  // namespace

Ref<FileSystem> make_devfs(mm::Frames& frames) {
  Ref<FileSystem> fs = make_tmpfs(frames, kSizeLimit, 0755);
  auto creds = make_ref<Credentials>();
  const Context ctx{.creds = *creds};
  Ref<Inode> root = fs->root();
  // Nobody else has the file system yet, so nothing waits and its lock is not needed; what cannot be made for lack of
  // memory is missing, and programs say so.
  for (const Node& n : kNodes) (void)root->mknod(ctx, n.name, S_IFCHR | n.mode, n.major, n.minor);
  for (const Link& l : kLinks) (void)root->symlink(ctx, l.name, l.target);
  for (const Directory& d : kDirectories) (void)root->mkdir(ctx, d.name, S_IFDIR | d.mode);
  return fs;
}

}  // namespace rf::fs
