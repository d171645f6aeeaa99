// What the text files of /proc/PID say; formats as in proc(5).
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "fs/proc/nodes.h"
#include "fs/tty.h"

namespace rf::proc {
namespace {

using task::Task;

constexpr u64 kTicks = 100;  // USER_HZ
u64 to_ticks(Nanos n) { return static_cast<u64>(n) / (static_cast<u64>(kNanosPerSecond) / kTicks); }

const char* state_word(char c) {
  switch (c) {
    case 'R':
      return "R (running)";
    case 'T':
      return "T (stopped)";
    case 'Z':
      return "Z (zombie)";
    default:
      return "S (sleeping)";
  }
}

// What the group's signal lock guards, taken at once.
struct Snapshot {
  Ref<fs::Credentials> creds;
  Ref<fs::FdTable> files;
  task::SignalSet pending, shared_pending, blocked, ignored = 0, caught = 0;
  Ref<task::SignalHandlers> handlers;
  task::CpuTimes dead, children;
  int exit_signal = SIGCHLD;
};

Snapshot snapshot(Task& t) {
  Snapshot s;
  {
    SpinGuard guard(t.group->signal_lock);
    s.creds = t.creds;
    s.files = t.files;
    s.pending = t.pending.pending();
    s.shared_pending = t.group->pending.pending();
    s.blocked = t.mask;
    s.handlers = t.group->handlers;
    s.dead = t.group->dead_times;
    s.children = t.group->children_times;
  }
  for (int sig = 1; s.handlers && sig <= task::kSignalMax; ++sig) {
    const u64 h = s.handlers->get(sig).handler;
    if (h == reinterpret_cast<u64>(SIG_IGN))
      s.ignored |= task::signal_bit(sig);
    else if (h != reinterpret_cast<u64>(SIG_DFL))
      s.caught |= task::signal_bit(sig);
  }
  return s;
}

struct Family {
  task::Pid parent = 0, group = 0, session = 0;
  u32 terminal = 0;  // device number, as stat(2) encodes it
  task::Pid foreground = -1;
  size_t threads = 0;
  task::CpuTimes live;  // of all threads
};

Family family(Task& t) {
  Family f;
  std::shared_lock lock(t.kernel.tree_lock);
  task::ThreadGroup& g = *t.group;
  f.parent = g.parent ? g.parent->pid : 0;
  if (g.process_group) {
    f.group = g.process_group->id;
    f.session = g.process_group->session->id;
    if (const Ref<fs::Tty>& tty = g.process_group->session->controlling_tty) {
      const auto [major, minor] = tty->device();
      f.terminal = static_cast<u32>(makedev(major, minor));
      f.foreground = tty->foreground();
    }
  }
  f.threads = g.tasks.size();
  for (Task* member : g.tasks)
    if (!member->exited) f.live += member->cpu_times();
  return f;
}

// '\n' and spaces in a mount's strings are shown in octal.
std::string escape(std::string_view s) {
  std::string out;
  for (char c : s) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\\')
      out += fmt::format("\\{:03o}", static_cast<unsigned>(c));
    else
      out += c;
  }
  return out;
}

std::string mount_flags(u64 flags) {
  std::string out = (flags & MS_RDONLY) ? "ro" : "rw";
  if (flags & MS_NOSUID) out += ",nosuid";
  if (flags & MS_NODEV) out += ",nodev";
  if (flags & MS_NOEXEC) out += ",noexec";
  return out;
}

}  // namespace

Ref<mm::MemoryManager> memory_of(Task& t) {
  SpinGuard guard(t.group->signal_lock);
  return t.mm;
}

char state_letter(Task& t) {
  SpinGuard guard(t.group->signal_lock);
  if (t.group->zombie) return 'Z';
  if (t.group->stopped) return 'T';
  return Fiber::current_or_null() == t.fiber.get() ? 'R' : 'S';
}

std::string status_text(Task& t) {
  const Snapshot s = snapshot(t);
  const Family f = family(t);
  const fs::Credentials& c = *s.creds;
  std::string out = fmt::format(
      "Name:\t{}\nUmask:\t{:04o}\nState:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n"
      "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{}\nGroups:\t",
      t.name(), t.fs_state ? t.fs_state->umask.load() : 022, state_word(state_letter(t)), t.pid(), t.tid, f.parent,
      c.uid, c.euid, c.suid, c.fsuid, c.gid, c.egid, c.sgid, c.fsgid,
      s.files ? std::max<size_t>(64, s.files->descriptors().size()) : 0);
  for (u32 g : c.groups) out += fmt::format("{} ", g);
  out += fmt::format("\nNStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\n", t.pid(), t.tid, f.group, f.session);
  if (Ref<mm::MemoryManager> memory = memory_of(t)) {
    const mm::MemoryUsage u = memory->usage();
    const u64 rss = u.rss_anon + u.rss_file + u.rss_shmem;
    const auto line = [&out](const char* name, u64 bytes) { out += fmt::format("{}:\t{:8} kB\n", name, bytes >> 10); };
    line("VmPeak", u.peak_virtual);
    line("VmSize", u.virtual_size);
    line("VmLck", u.locked);
    line("VmPin", 0);
    line("VmHWM", std::max(u.peak_rss, rss));
    line("VmRSS", rss);
    line("RssAnon", u.rss_anon);
    line("RssFile", u.rss_file);
    line("RssShmem", u.rss_shmem);
    line("VmData", u.data);
    line("VmStk", u.stack);
    line("VmExe", u.exec);
    line("VmLib", u.lib);
    line("VmPTE", u.page_tables);
    line("VmSwap", 0);
  }
  const u32 cpus = t.kernel.options.cpus;
  out += fmt::format(
      "CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}\nSigQ:\t0/"
      "{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n"
      "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}"
      "\nSeccomp:\t0\nSeccomp_filters:\t0\n"
      "Cpus_allowed:\t{:x}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n"
      "voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
      f.threads, t.group->limit(RLIMIT_SIGPENDING).rlim_cur, s.pending, s.shared_pending, s.blocked, s.ignored,
      s.caught, c.inheritable, c.permitted, c.effective, c.bounding, c.ambient, c.no_new_privs ? 1 : 0,
      cpus >= 64 ? ~u64{0} : (u64{1} << cpus) - 1, cpus == 1 ? "0" : fmt::format("0-{}", cpus - 1),
      t.voluntary_switches, t.involuntary_switches);
  return out;
}

std::string stat_text(Task& t, bool whole_group) {
  const Snapshot s = snapshot(t);
  const Family f = family(t);
  mm::MemoryUsage u;
  mm::Layout l;
  if (Ref<mm::MemoryManager> memory = memory_of(t)) {
    u = memory->usage();
    l = memory->layout();
  }
  const task::CpuTimes own = t.cpu_times();
  const Nanos user = whole_group ? f.live.user + s.dead.user : own.user;
  const Nanos system = whole_group ? f.live.system + s.dead.system : own.system;
  return fmt::format(
      "{} ({}) {} {} {} {} {} {} 4194304 {} 0 {} 0 {} {} {} {} 20 0 {} 0 {} {} {} {} {} {} {} 0 0 {} {} {} {} 0 0 0 {} "
      "0 0 0 0 0 0 {} {} {} {} {} {} {} {}\n",
      t.tid, t.name(), state_letter(t), f.parent, f.group, f.session, f.terminal, f.foreground, t.minor_faults.load(),
      t.major_faults.load(), to_ticks(user), to_ticks(system), to_ticks(s.children.user), to_ticks(s.children.system),
      f.threads, to_ticks(t.start_time), u.virtual_size, (u.rss_anon + u.rss_file + u.rss_shmem) >> kPageShift,
      t.group->limit(RLIMIT_RSS).rlim_cur, l.start_code, l.end_code, l.start_stack, s.pending, s.blocked, s.ignored,
      s.caught, SIGCHLD, l.start_data, l.end_data, l.start_brk, l.arg_start, l.arg_end, l.env_start, l.env_end, 0);
}

std::string statm_text(Task& t) {
  mm::MemoryUsage u;
  if (Ref<mm::MemoryManager> memory = memory_of(t)) u = memory->usage();
  return fmt::format("{} {} {} {} 0 {} 0\n", u.virtual_size >> kPageShift,
                     (u.rss_anon + u.rss_file + u.rss_shmem) >> kPageShift, (u.rss_file + u.rss_shmem) >> kPageShift,
                     u.exec >> kPageShift, (u.data + u.stack) >> kPageShift);
}

std::string maps_text(Task& t, bool with_usage) {
  std::string out;
  Ref<mm::MemoryManager> memory = memory_of(t);
  if (!memory) return out;
  memory->for_each_vma(with_usage, [&](const mm::VmaInfo& v) {
    mm::MapObject::Identity id;
    if (v.object)
      id = v.object->identity();
    else if (v.name)
      id.path = *v.name;
    std::string line =
        fmt::format("{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ", v.start, v.end, (v.prot & PROT_READ) ? 'r' : '-',
                    (v.prot & PROT_WRITE) ? 'w' : '-', (v.prot & PROT_EXEC) ? 'x' : '-', v.shared ? 's' : 'p', v.offset,
                    id.dev_major, id.dev_minor, id.inode);
    if (!id.path.empty()) {
      if (line.size() < 73) line.append(73 - line.size(), ' ');
      for (char c : id.path) line += c == '\n' ? std::string("\\012") : std::string(1, c);
    }
    out += line + "\n";
    if (!with_usage) return;
    out += fmt::format(
        "Size:           {:8} kB\nKernelPageSize: {:8} kB\nMMUPageSize:    {:8} kB\nRss:            {:8} kB\nPss:      "
        "      {:8} kB\n"
        "Private_Dirty:  {:8} kB\nAnonymous:      {:8} kB\nLocked:         {:8} kB\nVmFlags: {}{}{}mr mw me{}{}\n",
        (v.end - v.start) >> 10, 4, 4, v.rss >> 10, v.rss >> 10, v.private_dirty >> 10, v.anonymous >> 10,
        v.locked ? v.rss >> 10 : 0, (v.prot & PROT_READ) ? "rd " : "", (v.prot & PROT_WRITE) ? "wr " : "",
        (v.prot & PROT_EXEC) ? "ex " : "", v.grows_down ? " gd" : "", v.shared ? " sh" : "");
  });
  return out;
}

std::string limits_text(Task& t) {
  struct Row {
    const char* name;
    int which;
    const char* unit;
  };
  constexpr Row kRows[] = {
      {"Max cpu time", RLIMIT_CPU, "seconds"},         {"Max file size", RLIMIT_FSIZE, "bytes"},
      {"Max data size", RLIMIT_DATA, "bytes"},         {"Max stack size", RLIMIT_STACK, "bytes"},
      {"Max core file size", RLIMIT_CORE, "bytes"},    {"Max resident set", RLIMIT_RSS, "bytes"},
      {"Max processes", RLIMIT_NPROC, "processes"},    {"Max open files", RLIMIT_NOFILE, "files"},
      {"Max locked memory", RLIMIT_MEMLOCK, "bytes"},  {"Max address space", RLIMIT_AS, "bytes"},
      {"Max file locks", RLIMIT_LOCKS, "locks"},       {"Max pending signals", RLIMIT_SIGPENDING, "signals"},
      {"Max msgqueue size", RLIMIT_MSGQUEUE, "bytes"}, {"Max nice priority", RLIMIT_NICE, ""},
      {"Max realtime priority", RLIMIT_RTPRIO, ""},    {"Max realtime timeout", RLIMIT_RTTIME, "us"}};
  const auto show = [](rlim_t v) { return v == RLIM_INFINITY ? std::string("unlimited") : fmt::format("{}", v); };
  std::string out = fmt::format("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
  for (const Row& r : kRows) {
    const rlimit l = t.group->limit(r.which);
    out += fmt::format("{:<25} {:<20} {:<20} {:<10}\n", r.name, show(l.rlim_cur), show(l.rlim_max), r.unit);
  }
  return out;
}

std::string mounts_text(task::Kernel& kernel, const fs::Path& root) {
  std::string out;
  for (const Ref<fs::Mount>& m : kernel.vfs->mounts()) {
    const u64 flags = m->flags | (m->fs->read_only() ? MS_RDONLY : 0);
    const std::string options = m->fs->options();
    out +=
        fmt::format("{} {} {} {}{}{} 0 0\n", escape(m->source), escape(kernel.vfs->path_of(fs::Path(m, m->root), root)),
                    m->fs->type(), mount_flags(flags), options.empty() ? "" : ",", options);
  }
  return out;
}

std::string mountinfo_text(task::Kernel& kernel, const fs::Path& root) {
  std::string out;
  for (const Ref<fs::Mount>& m : kernel.vfs->mounts()) {
    const std::string options = m->fs->options();
    out +=
        fmt::format("{} {} 0:{} / {} {} - {} {} {}{}{}\n", m->id, m->parent ? m->parent->id : m->id, m->fs->dev_minor(),
                    escape(kernel.vfs->path_of(fs::Path(m, m->root), root)), mount_flags(m->flags), m->fs->type(),
                    escape(m->source), m->fs->read_only() ? "ro" : "rw", options.empty() ? "" : ",", options);
  }
  return out;
}

}  // namespace rf::proc
