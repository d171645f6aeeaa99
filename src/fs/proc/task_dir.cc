// /proc/PID and /proc/PID/task/TID: the entries, and what they lead to.
#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "fs/proc/nodes.h"
#include "net/unix_socket.h"
#include "task/task.h"

namespace rf::proc {
namespace {

using task::Pid;
using task::Task;

// Entries hold the task itself: one that is gone shows what is left of it, or ESRCH.
struct Subject {
  Ref<Task> task;
  bool thread;  // /proc/PID/task/TID rather than /proc/PID
  Owner owner;
};

Owner owner_of(Task& t) {
  SpinGuard guard(t.group->signal_lock);
  return {t.creds->euid, t.creds->egid};
}

Ref<fs::FdTable> files_of(Task& t) {
  SpinGuard guard(t.group->signal_lock);
  return t.files;
}

Ref<task::FsState> fs_state_of(Task& t) {
  SpinGuard guard(t.group->signal_lock);
  return t.fs_state;
}

// Another user's memory, descriptors and directories are not the caller's to see (ptrace(2), PTRACE_MODE_READ).
Result<void> may_inspect(const fs::Context& ctx, Task& t) {
  if (ctx.task == nullptr || ctx.creds.capable(CAP_SYS_PTRACE)) return {};
  if (Task::of(ctx).group == t.group) return {};
  SpinGuard guard(t.group->signal_lock);
  const fs::Credentials& c = *t.creds;
  if (ctx.creds.fsuid == c.uid && c.uid == c.euid && c.uid == c.suid && ctx.creds.fsgid == c.gid && c.gid == c.egid &&
      c.gid == c.sgid)
    return {};
  return err(EACCES);
}

// --- fd/ and fdinfo/ ---

class FdDir final : public DirInode {
 public:
  FdDir(fs::FileSystem& f, u64 ino, Subject s, bool info)
      : DirInode(f, ino, s.owner, info ? 0555 : 0500), s_(std::move(s)), info_(info) {}

  Result<Ref<fs::Inode>> lookup(const fs::Context& ctx, std::string_view name) override {
    int fd = 0;
    const auto [end, ec] = std::from_chars(name.data(), name.data() + name.size(), fd);
    if (ec != std::errc() || end != name.data() + name.size()) return err(ENOENT);
    TRY(may_inspect(ctx, *s_.task));
    Ref<fs::FdTable> files = files_of(*s_.task);
    if (!files) return err(ENOENT);
    Result<Ref<fs::File>> file = files->get(fd);
    if (!file) return err(ENOENT);
    const u64 ino = task_ino(s_.task->tid, (info_ ? 0x8000u : 0x4000u) + static_cast<u32>(fd & 0x3fff));
    task::Kernel& k = kernel();
    if (!info_)
      return Ref<fs::Inode>(make_ref<LinkInode>(
          fs(), ino, s_.owner,
          [&k, f = *file](const fs::Context& c) -> Result<std::string> { return k.vfs->path_of(f->path(), c.root); },
          [f = *file](const fs::Context&) -> Result<fs::Path> { return f->path(); }));
    const bool cloexec = files->close_on_exec(fd);
    return Ref<fs::Inode>(
        make_ref<TextInode>(fs(), ino, 0400, s_.owner, [f = *file, cloexec](const fs::Context&) -> Result<std::string> {
          return fmt::format("pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{}\nino:\t{}\n{}", f->position(),
                             f->flags() | (cloexec ? O_CLOEXEC : 0), f->path().mount ? f->path().mount->id : 0, 0,
                             f->fdinfo());
        }));
  }

  Result<std::vector<Entry>> list(const fs::Context& ctx) override {
    TRY(may_inspect(ctx, *s_.task));
    std::vector<Entry> out;
    Ref<fs::FdTable> files = files_of(*s_.task);
    if (!files) return out;
    for (int fd : files->descriptors())
      out.push_back({fmt::format("{}", fd),
                     task_ino(s_.task->tid, (info_ ? 0x8000u : 0x4000u) + static_cast<u32>(fd & 0x3fff)),
                     static_cast<u8>(info_ ? DT_REG : DT_LNK)});
    return out;
  }

 private:
  const Subject s_;
  const bool info_;
};

// --- task/ ---

class ThreadsDir final : public DirInode {
 public:
  ThreadsDir(fs::FileSystem& f, u64 ino, Subject s) : DirInode(f, ino, s.owner), s_(std::move(s)) {}

  Result<Ref<fs::Inode>> lookup(const fs::Context&, std::string_view name) override {
    Pid tid = 0;
    const auto [end, ec] = std::from_chars(name.data(), name.data() + name.size(), tid);
    if (ec != std::errc() || end != name.data() + name.size()) return err(ENOENT);
    for (Pid member : members())
      if (member == tid)
        if (Ref<fs::Inode> dir = make_task_dir(fs(), kernel(), tid, true)) return dir;
    return err(ENOENT);
  }

  Result<std::vector<Entry>> list(const fs::Context&) override {
    std::vector<Entry> out;
    for (Pid tid : members()) out.push_back({fmt::format("{}", tid), task_ino(tid, 0x3fff), DT_DIR});
    return out;
  }

 protected:
  u32 links() const override { return 2 + static_cast<u32>(members().size()); }

 private:
  std::vector<Pid> members() const {
    std::vector<Pid> tids;
    std::shared_lock lock(kernel().tree_lock);
    for (Task* t : s_.task->group->tasks) tids.push_back(t->tid);
    std::ranges::sort(tids);
    return tids;
  }
  const Subject s_;
};

// --- The table of a task's entries ---

using MakeEntry = Ref<fs::Inode> (*)(fs::FileSystem&, u64 ino, const Subject&);

// ESRCH for a task that has been waited for, as far as descriptors opened before still lead here.
Result<void> must_exist(const Subject& s) {
  task::Kernel& kernel = s.task->kernel;
  std::shared_lock lock(kernel.tree_lock);
  if (kernel.find_task(s.task->tid) != s.task.get()) return err(ESRCH);
  return {};
}

template <auto text>
Ref<fs::Inode> text_entry(fs::FileSystem& f, u64 ino, const Subject& s) {
  return make_ref<TextInode>(f, ino, 0444, s.owner, [s](const fs::Context& ctx) -> Result<std::string> {
    TRY(must_exist(s));
    return text(ctx, s);
  });
}

// For what only the owner may read.
template <auto text>
Ref<fs::Inode> private_entry(fs::FileSystem& f, u64 ino, const Subject& s) {
  return make_ref<TextInode>(f, ino, 0400, s.owner, [s](const fs::Context& ctx) -> Result<std::string> {
    TRY(must_exist(s));
    TRY(may_inspect(ctx, *s.task));
    return text(ctx, s);
  });
}

using Text = Result<std::string>;
using Ctx = const fs::Context&;

// Bytes [start, end) of the task's memory: arguments, environment.
Text memory_range(const Subject& s, u64 mm::Layout::*start, u64 mm::Layout::*end) {
  Ref<mm::MemoryManager> memory = memory_of(*s.task);
  if (!memory) return std::string();
  const mm::Layout& l = memory->layout();
  if (l.*end <= l.*start) return std::string();
  std::string out(std::min<u64>(l.*end - l.*start, 4 << 20), '\0');
  out.resize(memory->copy_in(out.data(), l.*start, out.size()));
  return out;
}

Text cmdline(Ctx, const Subject& s) { return memory_range(s, &mm::Layout::arg_start, &mm::Layout::arg_end); }
Text environ_text(Ctx, const Subject& s) { return memory_range(s, &mm::Layout::env_start, &mm::Layout::env_end); }
Text auxv(Ctx, const Subject& s) {
  Ref<mm::MemoryManager> memory = memory_of(*s.task);
  if (!memory) return std::string();
  const std::vector<u64>& v = memory->layout().auxv;
  return std::string(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(u64));
}
Text status(Ctx, const Subject& s) { return status_text(*s.task); }
Text stat(Ctx, const Subject& s) { return stat_text(*s.task, !s.thread); }
Text statm(Ctx, const Subject& s) { return statm_text(*s.task); }
Text maps(Ctx, const Subject& s) { return maps_text(*s.task, false); }
Text smaps(Ctx, const Subject& s) { return maps_text(*s.task, true); }
Text limits(Ctx, const Subject& s) { return limits_text(*s.task); }
Text mounts(Ctx ctx, const Subject& s) { return mounts_text(s.task->kernel, ctx.root); }
Text mountinfo(Ctx ctx, const Subject& s) { return mountinfo_text(s.task->kernel, ctx.root); }
Text cgroup(Ctx, const Subject&) { return std::string("0::/\n"); }
Text id_map(Ctx, const Subject&) { return std::string("         0          0 4294967295\n"); }
Text setgroups(Ctx, const Subject&) { return std::string("allow\n"); }
Text login_uid(Ctx, const Subject&) { return std::string("4294967295"); }
Text session_id(Ctx, const Subject&) { return std::string("4294967295"); }
Text personality(Ctx, const Subject&) { return std::string("00000000\n"); }
Text wchan(Ctx, const Subject&) { return std::string("0"); }
Text schedstat(Ctx, const Subject& s) { return fmt::format("{} 0 0\n", s.task->cpu_times().total()); }
Text io(Ctx, const Subject&) {
  return std::string(
      "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
}

Text oom_score(Ctx, const Subject& s) {
  Ref<mm::MemoryManager> memory = memory_of(*s.task);
  const u64 rss = memory ? memory->usage().rss_anon + memory->usage().rss_shmem : 0;
  return fmt::format("{}\n", rss * 1000 / std::max<u64>(s.task->kernel.frames.limit(), 1));
}

Ref<fs::Inode> comm(fs::FileSystem& f, u64 ino, const Subject& s) {
  return make_ref<TextInode>(
      f, ino, 0644, s.owner, [s](Ctx) -> Text { return s.task->name() + "\n"; },
      [s](Ctx ctx, std::string_view text) -> Result<void> {
        if (ctx.task == nullptr || Task::of(ctx).group != s.task->group) return err(EINVAL);
        s.task->set_name(text.substr(0, text.find('\n')));
        return {};
      });
}

Ref<fs::Inode> oom_score_adj(fs::FileSystem& f, u64 ino, const Subject& s) {
  return make_ref<TextInode>(
      f, ino, 0644, s.owner,
      [s](Ctx) -> Text {
        SpinGuard guard(s.task->group->signal_lock);
        return fmt::format("{}\n", s.task->group->oom_score_adj);
      },
      [s](Ctx ctx, std::string_view text) -> Result<void> {
        int value = 0;
        if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) return err(EINVAL);
        if (value < -1000 || value > 1000) return err(EINVAL);
        SpinGuard guard(s.task->group->signal_lock);
        if (value < s.task->group->oom_score_adj && !ctx.creds.capable(CAP_SYS_RESOURCE)) return err(EACCES);
        s.task->group->oom_score_adj = value;
        return {};
      });
}

// A link to a place of the task's: exe, cwd, root.
template <auto place>
Ref<fs::Inode> place_link(fs::FileSystem& f, u64 ino, const Subject& s) {
  return make_ref<LinkInode>(
      f, ino, s.owner,
      [s](Ctx ctx) -> Text {
        TRY(may_inspect(ctx, *s.task));
        return s.task->kernel.vfs->path_of(TRY(place(*s.task)), ctx.root);
      },
      [s](Ctx ctx) -> Result<fs::Path> {
        TRY(may_inspect(ctx, *s.task));
        return place(*s.task);
      });
}

Result<fs::Path> exe(Task& t) {
  Ref<mm::MemoryManager> memory = memory_of(t);
  Ref<fs::File> file = memory ? ref_cast<fs::File>(memory->executable()) : Ref<fs::File>();
  if (!file) return err(ENOENT);
  return file->path();
}
Result<fs::Path> cwd(Task& t) {
  Ref<task::FsState> state = fs_state_of(t);
  if (!state) return err(ENOENT);
  return state->cwd();
}
Result<fs::Path> root(Task& t) {
  Ref<task::FsState> state = fs_state_of(t);
  if (!state) return err(ENOENT);
  return state->root();
}

template <bool info>
Ref<fs::Inode> fd_dir(fs::FileSystem& f, u64 ino, const Subject& s) {
  return make_ref<FdDir>(f, ino, s, info);
}
Ref<fs::Inode> threads_dir(fs::FileSystem& f, u64 ino, const Subject& s) { return make_ref<ThreadsDir>(f, ino, s); }

// Namespaces: there is one of each, so every task's link says the same.
Ref<fs::Inode> namespaces(fs::FileSystem& f, u64 ino, const Subject&) {
  auto dir = make_ref<StaticDir>(f, ino);
  constexpr const char* kNames[] = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"};
  for (size_t i = 0; i < std::size(kNames); ++i)
    dir->add(kNames[i], DT_LNK,
             [text = fmt::format("{}:[{}]", kNames[i], 4026531835 + i)](fs::FileSystem& g, u64 n) -> Ref<fs::Inode> {
               return make_ref<LinkInode>(g, n, Owner{}, [text](Ctx) -> Text { return text; });
             });
  return dir;
}

// The sandbox's network: one for all tasks.
Ref<fs::Inode> network(fs::FileSystem& f, u64 ino, const Subject&) {
  auto dir = make_ref<StaticDir>(f, ino);
  dir->add_text("unix", [](Ctx) -> Text { return net::unix_sockets_text(); });
  return dir;
}

struct TaskEntry {
  const char* name;
  u8 type;
  MakeEntry make;
  bool process_only = false;
};

constexpr TaskEntry kEntries[] = {
    {"auxv", DT_REG, private_entry<auxv>},
    {"cgroup", DT_REG, text_entry<cgroup>},
    {"cmdline", DT_REG, text_entry<cmdline>},
    {"comm", DT_REG, comm},
    {"cwd", DT_LNK, place_link<cwd>},
    {"environ", DT_REG, private_entry<environ_text>},
    {"exe", DT_LNK, place_link<exe>},
    {"fd", DT_DIR, fd_dir<false>},
    {"fdinfo", DT_DIR, fd_dir<true>},
    {"gid_map", DT_REG, text_entry<id_map>},
    {"io", DT_REG, private_entry<io>},
    {"limits", DT_REG, text_entry<limits>},
    {"loginuid", DT_REG, text_entry<login_uid>},
    {"maps", DT_REG, private_entry<maps>},
    {"mountinfo", DT_REG, text_entry<mountinfo>},
    {"mounts", DT_REG, text_entry<mounts>},
    {"net", DT_DIR, network},
    {"ns", DT_DIR, namespaces},
    {"oom_score", DT_REG, text_entry<oom_score>},
    {"oom_score_adj", DT_REG, oom_score_adj},
    {"personality", DT_REG, text_entry<personality>},
    {"root", DT_LNK, place_link<root>},
    {"schedstat", DT_REG, text_entry<schedstat>},
    {"sessionid", DT_REG, text_entry<session_id>},
    {"setgroups", DT_REG, text_entry<setgroups>},
    {"smaps", DT_REG, private_entry<smaps>},
    {"stat", DT_REG, text_entry<stat>},
    {"statm", DT_REG, text_entry<statm>},
    {"status", DT_REG, text_entry<status>},
    {"task", DT_DIR, threads_dir, true},
    {"uid_map", DT_REG, text_entry<id_map>},
    {"wchan", DT_REG, text_entry<wchan>},
};

class TaskDir final : public DirInode {
 public:
  TaskDir(fs::FileSystem& f, Subject s)
      : DirInode(f, task_ino(s.task->tid, s.thread ? 0x3fff : 0), s.owner), s_(std::move(s)) {}

  // Immutable.
  Result<void> permission(const fs::Context& ctx, int mask) override {
    if (mask & W_OK) return err(EPERM);
    return DirInode::permission(ctx, mask);
  }

  Result<Ref<fs::Inode>> lookup(const fs::Context&, std::string_view name) override {
    for (const TaskEntry& e : kEntries)
      if (name == e.name && !(e.process_only && s_.thread)) return e.make(fs(), entry_ino(e), s_);
    return err(ENOENT);
  }

  Result<std::vector<Entry>> list(const fs::Context&) override {
    std::vector<Entry> out;
    for (const TaskEntry& e : kEntries)
      if (!(e.process_only && s_.thread)) out.push_back({e.name, entry_ino(e), e.type});
    return out;
  }

 private:
  u64 entry_ino(const TaskEntry& e) const {
    return task_ino(s_.task->tid, (s_.thread ? 0x2000u : 0x1000u) + static_cast<u32>(&e - kEntries));
  }
  const Subject s_;
};

}  // namespace

Ref<fs::Inode> make_task_dir(fs::FileSystem& f, task::Kernel& kernel, Pid id, bool thread) {
  Ref<Task> task;
  {
    std::shared_lock lock(kernel.tree_lock);
    if (thread) {
      task = Ref<Task>(kernel.find_task(id));
    } else if (task::ThreadGroup* group = kernel.find_group(id)) {
      task = Ref<Task>(group->leader);
    } else {
      task = Ref<Task>(kernel.find_task(id));
    }
  }
  if (!task) return nullptr;
  const Owner owner = owner_of(*task);
  return make_ref<TaskDir>(f, Subject{std::move(task), thread, owner});
}

}  // namespace rf::proc
