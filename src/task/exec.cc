#include "task/exec.h"

#include <sys/mount.h>
#include <sys/personality.h>

#include <cstring>

#include "fs/walk.h"
#include "task/close.h"
#include "task/kernel.h"
#include "task/posix_timers.h"
#include "task/strace.h"

namespace rf::task {
namespace {

// exec_binprm() in Linux: a sixth rewriting gives ELOOP.
constexpr int kMaxInterpreters = 5;

mm::ExecFile exec_file(Task& task, const Ref<fs::File>& file, Ref<mm::MapObject> object, u64 size) {
  return {.object = std::move(object), .size = size, .read = [&task, file](std::span<std::byte> out, u64 offset) {
            mm::IoBuffer buffer(out);
            return file->pread(task.fs_context(), buffer, offset);
          }};
}

Result<mm::ExecFile> open_interpreter(Task& task, const std::string& path) {
  const fs::Context ctx = task.fs_context();
  Ref<fs::File> file = TRY(task.kernel.vfs->open_exec(ctx, nullptr, path, {}));
  const fs::Attributes attr = TRY(file->inode().getattr(ctx));
  return exec_file(task, file, TRY(file->map_object()), attr.size);
}

std::string base_name(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

struct Program {
  Ref<fs::File> file;
  fs::Attributes attr;
};

// Opens the program; as long as it is a script, goes on with its interpreter and puts that before the arguments.
Result<Program> find_program(Task& task, ExecRequest& r) {
  const fs::Context ctx = task.fs_context();
  Ref<fs::File> file =
      TRY(task.kernel.vfs->open_exec(ctx, r.at, r.path, {.follow = r.follow, .empty_path = r.empty_path}));
  std::string name = r.filename;
  for (int depth = 0;; depth++) {
    if (depth > kMaxInterpreters) return err(ELOOP);
    std::array<std::byte, 256> head{};
    mm::IoBuffer buffer{std::span<std::byte>(head)};
    const size_t n = TRY(file->pread(ctx, buffer, 0));
    const auto script = TRY(parse_script({reinterpret_cast<const char*>(head.data()), n}));
    if (!script) return Program{file, TRY(file->inode().getattr(ctx))};
    if (r.path_goes_away) return err(ENOENT);
    std::vector<std::string> argv{script->interpreter};
    if (script->has_argument) argv.push_back(script->argument);
    argv.push_back(name);
    for (size_t i = 1; i < r.argv.size(); i++) argv.push_back(std::move(r.argv[i]));
    r.argv = std::move(argv);
    name = script->interpreter;
    file = TRY(task.kernel.vfs->open_exec(ctx, nullptr, name, {}));
  }
}

}  // namespace

mm::Limits memory_limits(const ThreadGroup& group) {
  SpinGuard guard(group.signal_lock);
  auto soft = [&](int which) { return group.limits[which].rlim_cur; };
  return {
      .stack = soft(RLIMIT_STACK), .data = soft(RLIMIT_DATA), .as = soft(RLIMIT_AS), .memlock = soft(RLIMIT_MEMLOCK)};
}

// Whether code of the program that `task` runs now could do to the new one, and read of it, all that it likes anyhow.
static bool has_same_rights(Task& task, const ExecCredentials& creds, fs::File& file) {
  const fs::Credentials &before = *task.creds, &after = *creds.creds;
  return !creds.secure && after.euid == before.euid && after.egid == before.egid &&
         (after.permitted & ~before.permitted) == 0 && fs::inode_permission(task.fs_context(), file.inode(), R_OK);
}

Result<std::unique_ptr<ExecImage>> load_program(Task& task, ExecRequest r) {
  Program program = TRY(find_program(task, r));
  const bool nosuid = program.file->path().mount && (program.file->path().mount->flags & MS_NOSUID) != 0;
  ExecCredentials creds = exec_credentials(*task.creds, program.attr, nosuid);

  auto image = std::make_unique<ExecImage>();
  image->mm = TRY(mm::MemoryManager::create(task.kernel.memory_env()));
  const mm::Limits limits = memory_limits(*task.group);
  image->mm->set_limits(limits);
  mm::LoadRequest load;
  load.file = exec_file(task, program.file, TRY(program.file->map_object()), program.attr.size);
  load.filename = r.filename;
  load.argv = std::move(r.argv);
  load.envp = std::move(r.envp);
  load.open_interpreter = [&task](const std::string& path) { return open_interpreter(task, path); };
  load.uid = creds.creds->uid;
  load.euid = creds.creds->euid;
  load.gid = creds.creds->gid;
  load.egid = creds.creds->egid;
  load.secure = creds.secure;
  load.stack_limit = limits.stack;
  load.randomize = (task.personality & ADDR_NO_RANDOMIZE) == 0 || creds.privileges_changed;
  image->loaded = TRY(mm::load_elf(*image->mm, load));
  image->mm->set_executable(program.file);
  image->same_rights = has_same_rights(task, creds, *program.file);
  image->creds = std::move(creds.creds);
  image->privileges_changed = creds.privileges_changed;
  image->name = base_name(r.filename);
  return image;
}

namespace {

void reset_signals(Task& task) {
  ThreadGroup& group = *task.group;
  // Handlers may be shared with another process (CLONE_SIGHAND without CLONE_THREAD).
  Ref<SignalHandlers> old = group.handlers;
  Ref<SignalHandlers> own = old->fork();
  own->reset_for_exec();
  SpinGuard guard(group.signal_lock);
  group.handlers = std::move(own);
  task.altstack = {};
  task.restore_mask = false;
}

void reset_files(Task& task) {
  if (task.files->users.load(std::memory_order_acquire) > 1) replace_files(task, task.files->fork());
  for (Ref<fs::File>& file : task.files->remove_close_on_exec()) (void)close_file(task, std::move(file));
}

void set_start_registers(Task& task, const mm::LoadedImage& loaded) {
  task.regs = {};
  task.regs.rip = loaded.entry;
  task.regs.rsp = loaded.stack;
  task.regs.eflags = 0x202;
  task.regs.cs = 0x33;
  task.regs.ss = 0x2b;
  task.regs.orig_rax = ~u64{0};
  task.context->reset_fp();
}

}  // namespace

void become(Task& task, std::unique_ptr<ExecImage> image) {
  ThreadGroup& group = *task.group;
  if (task.mm) {
    task.kernel.futexes.exit_robust_list(task);
    group.timers->remove_all_posix();
    reset_signals(task);
    reset_files(task);
  }
  Ref<mm::MemoryManager> old_mm = std::move(image->mm);
  Ref<fs::Credentials> old_creds = std::move(image->creds);
  {
    SpinGuard guard(group.signal_lock);
    std::swap(task.mm, old_mm);
    std::swap(task.creds, old_creds);
  }
  task.set_name(image->name);
  group.dumpable.store(image->privileges_changed ? 0 : 1, std::memory_order_relaxed);
  if (image->privileges_changed) {
    task.parent_death_signal = 0;
    task.personality &= ~u32{ADDR_NO_RANDOMIZE | MMAP_PAGE_ZERO | ADDR_COMPAT_LAYOUT | READ_IMPLIES_EXEC};
  }
  task.clear_child_tid = task.robust_list = 0;
  task.restart = {};
  task.restart_code = 0;
  {
    std::lock_guard guard(task.kernel.tree_lock);
    group.execed = true;
    group.membarrier_registered = 0;
    group.exit_signal = SIGCHLD;
  }
  set_start_registers(task, image->loaded);
  task.context->become_program(image->same_rights);
  if (Ref<VforkLatch> latch = std::move(task.vfork_latch)) latch->release();
}

}  // namespace rf::task
