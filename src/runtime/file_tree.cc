#include "runtime/file_tree.h"

#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "fs/filesystems.h"
#include "fs/proc/proc.h"

namespace rf::runtime {
namespace {

class TreeBuilder {
 public:
  explicit TreeBuilder(fs::Vfs& vfs) : vfs_(vfs) {}

  // Mounts `filesystem` at `where`; with an overlay a missing mount point is made (as a directory, or a file).
  Setup<void> mount(const std::string& where, Ref<fs::FileSystem> filesystem, const std::string& source, u64 flags,
                    bool directory = true) {
    fs::Context ctx = context();
    Result<fs::Path> point = vfs_.walk(ctx, nullptr, where, {});
    if (!point && point.error() == Errno{ENOENT}) point = make_mount_point(where, directory);
    Result<void> r = point ? vfs_.mount(ctx, *point, std::move(filesystem), source, flags) : err(point.error());
    if (!r)
      return setup_error(
          fmt::format("cannot mount {} at {} in the sandbox: {}", source, where, errno_text(errno_value(r.error()))));
    return {};
  }

 private:
  fs::Context context() { return fs::Context{.creds = *creds_, .root = vfs_.root(), .cwd = vfs_.root()}; }

  Result<fs::Path> make_mount_point(const std::string& where, bool directory) {
    fs::Context ctx = context();
    for (size_t slash = where.find('/', 1);; slash = where.find('/', slash + 1)) {
      const std::string part = where.substr(0, slash);
      const bool last = slash == std::string::npos;
      Result<void> made;
      if (last && !directory) {
        Result<fs::Path> file = vfs_.mknod(ctx, nullptr, part, S_IFREG | 0644, 0, 0);
        if (!file) made = err(file.error());
      } else {
        made = vfs_.mkdir(ctx, nullptr, part, 0755);
      }
      if (!made && made.error() != Errno{EEXIST}) return err(made.error());
      if (last) return vfs_.walk(ctx, nullptr, where, {});
    }
  }

  fs::Vfs& vfs_;
  Ref<fs::Credentials> creds_ = make_ref<fs::Credentials>();
};

Setup<Ref<fs::FileSystem>> make_root(const RunOptions& options, mm::Frames& frames, bool mapped_reads) {
  struct stat st {};
  if (::stat(options.root.c_str(), &st) == 0 && !S_ISDIR(st.st_mode))
    return setup_error(options.root + " is not a directory: give --root the directory that becomes /");
  Ref<fs::FileSystem> host =
      TRY(fs::make_hostfs(frames, {.path = options.root, .read_only = true, .mapped_reads = mapped_reads}));
  if (options.overlay == Overlay::kNone) return host;
  return fs::make_overlay(std::move(host), fs::make_tmpfs(frames, 0, 0755));
}

}  // namespace

Setup<std::unique_ptr<fs::Vfs>> make_file_tree(const RunOptions& options, task::Kernel& kernel) {
  mm::Frames& frames = kernel.frames;
  const bool overlay = options.overlay == Overlay::kMemory;
  // Where the sentry lives in the guest each host call is an exit.
  const bool mapped_reads = kernel.platform.leave_fiber() != nullptr;
  Result<std::unique_ptr<fs::Vfs>> vfs = fs::Vfs::create(TRY(make_root(options, frames, mapped_reads)),
                                                         overlay ? "overlay" : options.root, overlay ? 0 : MS_RDONLY);
  if (!vfs) return setup_error("cannot make the file tree: " + errno_text(errno_value(vfs.error())));
  TreeBuilder tree(**vfs);
  constexpr u64 kPlain = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  TRY(tree.mount("/proc", proc::make_procfs(kernel), "proc", kPlain));
  TRY(tree.mount("/sys", fs::make_sysfs(frames, kernel.options.cpus), "sysfs", kPlain | MS_RDONLY));
  TRY(tree.mount("/dev", fs::make_devfs(frames), "devtmpfs", MS_NOSUID));
  TRY(tree.mount("/dev/pts", fs::make_devpts(frames), "devpts", MS_NOSUID | MS_NOEXEC));
  TRY(tree.mount("/dev/shm", fs::make_tmpfs(frames, 0, 01777), "tmpfs", MS_NOSUID | MS_NODEV));
  for (const Volume& v : options.volumes) {
    struct stat st {};
    const bool directory = ::stat(v.host.c_str(), &st) != 0 || S_ISDIR(st.st_mode);
    const fs::HostFsOptions host{.path = v.host, .read_only = v.read_only, .mapped_reads = mapped_reads};
    TRY(tree.mount(v.guest, TRY(fs::make_hostfs(frames, host)), v.host, v.read_only ? MS_RDONLY : 0, directory));
  }
  return *std::move(vfs);
}

}  // namespace rf::runtime
