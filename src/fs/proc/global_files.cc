// The files of /proc that are about the whole sandbox.
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <cmath>

#include "fs/proc/nodes.h"
#include "hostio/calls.h"
#include "hostio/ring.h"

namespace rf::proc {
namespace {

using task::Kernel;
using Ctx = const fs::Context&;
using Text = Result<std::string>;

// The host's /proc/cpuinfo; invalid if it cannot be opened.
const hostio::HostFd& host_cpuinfo() {
  static const hostio::HostFd file = [] {
    Result<hostio::HostFd> fd =
        hostio::openat2_now(AT_FDCWD, "/proc/cpuinfo", {.flags = O_RDONLY | O_CLOEXEC, .mode = 0, .resolve = 0});
    return fd ? std::move(*fd) : hostio::HostFd();
  }();
  return file;
}

// The host's own description of its CPUs (the guest executes CPUID itself, so nothing is given away), for as many as
// the sandbox has.
Text cpuinfo_text(const Kernel& kernel) {
  const hostio::HostFd& host = host_cpuinfo();
  if (!host.valid()) return err(EIO);
  std::string text;
  for (;;) {
    char chunk[16384];
    const size_t n =
        TRY(hostio::read(host.get(), std::as_writable_bytes(std::span(chunk)), static_cast<s64>(text.size())));
    if (n == 0) break;
    text.append(chunk, n);
  }
  size_t end = 0;
  for (u32 cpu = 0; cpu < kernel.options.cpus && end != std::string::npos; ++cpu) {
    end = text.find("\n\n", end);
    if (end != std::string::npos) end += 2;
  }
  return text.substr(0, end);
}

std::string meminfo_text(const Kernel& kernel) {
  const u64 total = kernel.frames.limit() >> 10, free = total - std::min(total, kernel.frames.used() >> 10);
  const auto line = [](const char* name, u64 kib) {
    return fmt::format("{:<16}{:8} kB\n", fmt::format("{}:", name), kib);
  };
  std::string out = line("MemTotal", total) + line("MemFree", free) + line("MemAvailable", free);
  for (const char* zero : {"Buffers", "Cached", "SwapCached", "Active", "Inactive", "Unevictable", "Mlocked",
                           "SwapTotal", "SwapFree", "Dirty", "Writeback"})
    out += line(zero, 0);
  out += line("AnonPages", total - free);
  for (const char* zero :
       {"Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables"})
    out += line(zero, 0);
  out += line("CommitLimit", total) + line("Committed_AS", total - free) + line("VmallocTotal", 34359738367) +
         line("VmallocUsed", 0);
  return out +
         "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        "
         "0\nHugepagesize:       2048 kB\n";
}

struct Totals {
  Nanos user = 0, system = 0;
  u64 running = 0, tasks = 0;
  task::Pid last = 0;
};

Totals totals(Kernel& kernel) {
  Totals t;
  std::shared_lock lock(kernel.tree_lock);
  kernel.for_each_task([&](task::Task& task) {
    if (!task.exited) {
      const task::CpuTimes times = task.cpu_times();
      t.user += times.user;
      t.system += times.system;
    }
    t.last = std::max(t.last, task.tid);
    ++t.tasks;
  });
  kernel.for_each_group([&](task::ThreadGroup& g) {
    t.user += g.dead_times.user;
    t.system += g.dead_times.system;
  });
  t.running = 1;
  return t;
}

Nanos uptime(Kernel& kernel) { return std::max<Nanos>(kernel.clock.now(CLOCK_REALTIME) - kernel.boot_time, 0); }

std::string stat_text(Kernel& kernel) {
  const Totals t = totals(kernel);
  const u32 cpus = kernel.options.cpus;
  const auto ticks = [](Nanos n) { return n / 10'000'000; };
  const Nanos idle = std::max<Nanos>(uptime(kernel) * cpus - t.user - t.system, 0);
  std::string out = fmt::format("cpu  {} 0 {} {} 0 0 0 0 0 0\n", ticks(t.user), ticks(t.system), ticks(idle));
  // Times are kept per task, not per CPU: shared out evenly.
  for (u32 i = 0; i < cpus; ++i)
    out += fmt::format("cpu{} {} 0 {} {} 0 0 0 0 0 0\n", i, ticks(t.user / cpus), ticks(t.system / cpus),
                       ticks(idle / cpus));
  return out + fmt::format(
                   "intr 0\nctxt {}\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 "
                   "0 0 0 0\n",
                   kernel.context_switches.load(), kernel.boot_time / kNanosPerSecond, kernel.forks.load() + 1,
                   t.running);
}

std::string version_text(Kernel& kernel) {
  const utsname u = kernel.uname();
  return fmt::format("{} version {} (ringfence) {}\n", u.sysname, u.release, u.version);
}

std::string filesystems_text() {
  return "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\tdevpts\nnodev\toverlay\nnodev\tpipefs\nnodev"
         "\tsockfs\n";
}

void add_link(StaticDir& root, const char* name, LinkInode::Target target) {
  root.add(name, DT_LNK, [target = std::move(target)](fs::FileSystem& f, u64 ino) -> Ref<fs::Inode> {
    return make_ref<LinkInode>(f, ino, Owner{}, target);
  });
}

}  // namespace

void add_global_files(StaticDir& root, Kernel& kernel) {
  host_cpuinfo();  // now: once the sentry is locked down it can open nothing outside the sandbox's root
  Kernel* k = &kernel;
  add_link(root, "self", [](Ctx ctx) -> Text {
    if (ctx.task == nullptr) return err(ENOENT);
    return fmt::format("{}", task::Task::of(ctx).pid());
  });
  add_link(root, "thread-self", [](Ctx ctx) -> Text {
    if (ctx.task == nullptr) return err(ENOENT);
    return fmt::format("{}/task/{}", task::Task::of(ctx).pid(), task::Task::of(ctx).tid);
  });
  add_link(root, "mounts", [](Ctx) -> Text { return std::string("self/mounts"); });
  add_link(root, "net", [](Ctx) -> Text { return std::string("self/net"); });
  root.add_text("cpuinfo", [k](Ctx) { return cpuinfo_text(*k); });
  root.add_text("meminfo", [k](Ctx) -> Text { return meminfo_text(*k); });
  root.add_text("stat", [k](Ctx) -> Text { return stat_text(*k); });
  root.add_text("uptime", [k](Ctx) -> Text {
    const Totals t = totals(*k);
    const Nanos up = uptime(*k);
    const double idle = static_cast<double>(std::max<Nanos>(up * k->options.cpus - t.user - t.system, 0));
    return fmt::format("{:.2f} {:.2f}\n", static_cast<double>(up) / 1e9, idle / 1e9);
  });
  root.add_text("loadavg", [k](Ctx) -> Text {
    const Totals t = totals(*k);
    return fmt::format("0.00 0.00 0.00 {}/{} {}\n", t.running, t.tasks, t.last);
  });
  root.add_text("version", [k](Ctx) -> Text { return version_text(*k); });
  root.add_text("filesystems", [](Ctx) -> Text { return filesystems_text(); });
  root.add_value("cmdline", "ringfence");
  root.add_text("swaps", [](Ctx) -> Text { return std::string("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"); });
  root.add_text("partitions", [](Ctx) -> Text { return std::string("major minor  #blocks  name\n\n"); });
  root.add_text("diskstats", [](Ctx) -> Text { return std::string(); });
  root.add_text("modules", [](Ctx) -> Text { return std::string(); });
  root.add_text("devices", [](Ctx) -> Text {
    return std::string(
        "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n");
  });
  root.add_text("vmstat", [k](Ctx) -> Text {
    return fmt::format("nr_free_pages {}\nnr_anon_pages {}\n",
                       (k->frames.limit() - std::min(k->frames.limit(), k->frames.used())) >> kPageShift,
                       k->frames.used() >> kPageShift);
  });
}

}  // namespace rf::proc
