#include "fs/proc/proc.h"

#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "fs/proc/nodes.h"

namespace rf::proc {
namespace {

// /proc itself: the fixed entries, then the processes.
class RootDir final : public DirInode {
 public:
  explicit RootDir(ProcFs& f) : DirInode(f, next_static_ino()), fixed_(make_ref<StaticDir>(f, ino())) {
    add_global_files(*fixed_, kernel());
    add_sys_files(*fixed_, kernel());
  }

  Result<Ref<fs::Inode>> lookup(const fs::Context& ctx, std::string_view name) override {
    task::Pid pid = 0;
    const auto [end, ec] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (ec != std::errc() || end != name.data() + name.size() || name[0] == '0' || pid <= 0)
      return fixed_->lookup(ctx, name);
    // A thread's id leads to its directory too, though it is not listed.
    Ref<fs::Inode> dir = make_task_dir(fs(), kernel(), pid, false);
    if (!dir) return err(ENOENT);
    return dir;
  }

  Result<std::vector<Entry>> list(const fs::Context& ctx) override {
    std::vector<Entry> out = TRY(fixed_->list(ctx));
    std::vector<task::Pid> pids;
    {
      std::shared_lock lock(kernel().tree_lock);
      kernel().for_each_group([&](task::ThreadGroup& g) { pids.push_back(g.pid); });
    }
    std::ranges::sort(pids);
    for (task::Pid pid : pids) out.push_back({fmt::format("{}", pid), task_ino(pid, 0), DT_DIR});
    return out;
  }

 private:
  const Ref<StaticDir> fixed_;
};

}  // namespace

// Made per call: nothing but the fixed entries' numbers has to last, and the VFS keeps the one it mounted.
Ref<fs::Inode> ProcFs::root() { return make_ref<RootDir>(*this); }

Ref<fs::FileSystem> make_procfs(task::Kernel& kernel) { return make_ref<ProcFs>(kernel); }

}  // namespace rf::proc
