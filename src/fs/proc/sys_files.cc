// /proc/sys: what programs look up of the kernel's settings. Values are what holds here; only names can be set.
#include <fmt/format.h>
#include <linux/capability.h>

#include "fs/proc/nodes.h"
#include "hostio/random.h"

namespace rf::proc {
namespace {

using Ctx = const fs::Context&;
using Text = Result<std::string>;

// A random UUID (RFC 9562, version 4).
std::string make_uuid() {
  u8 b[16];
  hostio::random_bytes(std::as_writable_bytes(std::span(b)));
  b[6] = static_cast<u8>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<u8>((b[8] & 0x3f) | 0x80);
  std::string out;
  for (int i = 0; i < 16; ++i) out += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", b[i]);
  return out;
}

// A name in the UTS namespace, kernel/hostname and kernel/domainname.
void add_name(StaticDir& dir, const char* entry, task::Kernel& kernel, std::string task::Kernel::*field) {
  dir.add_text(
      entry,
      [&kernel, field](Ctx) -> Text {
        SpinGuard guard(kernel.uts_lock);
        return kernel.*field + "\n";
      },
      0644,
      [&kernel, field](Ctx ctx, std::string_view text) -> Result<void> {
        if (!ctx.creds.capable(CAP_SYS_ADMIN)) return err(EPERM);
        SpinGuard guard(kernel.uts_lock);
        kernel.*field = text.substr(0, std::min<size_t>(text.find('\n'), 64));
        return {};
      });
}

}  // namespace

void add_sys_files(StaticDir& root, task::Kernel& kernel) {
  const utsname uts = kernel.uname();
  StaticDir& sys = root.add_dir("sys");

  StaticDir& k = sys.add_dir("kernel");
  add_name(k, "hostname", kernel, &task::Kernel::hostname);
  add_name(k, "domainname", kernel, &task::Kernel::domainname);
  k.add_value("ostype", uts.sysname);
  k.add_value("osrelease", uts.release);
  k.add_value("version", uts.version);
  k.add_value("pid_max", "32768");
  k.add_value("threads-max", "32768");
  k.add_value("ngroups_max", "65536");
  k.add_value("cap_last_cap", fmt::format("{}", CAP_LAST_CAP));
  k.add_value("overflowuid", "65534");
  k.add_value("overflowgid", "65534");
  k.add_value("core_pattern", "core");
  k.add_value("randomize_va_space", "2");
  k.add_value("shmmax", "18446744073692774399");
  k.add_value("shmall", "18446744073692774399");
  k.add_value("shmmni", "4096");
  k.add_value("msgmax", "8192");
  k.add_value("sched_child_runs_first", "0");
  StaticDir& random = k.add_dir("random");
  random.add_value("boot_id", make_uuid());
  random.add_text("uuid", [](Ctx) -> Text { return make_uuid() + "\n"; });
  random.add_value("entropy_avail", "256");
  random.add_value("poolsize", "256");

  StaticDir& vm = sys.add_dir("vm");
  vm.add_value("overcommit_memory", "1");
  vm.add_value("overcommit_ratio", "50");
  vm.add_value("max_map_count", "65530");
  vm.add_value("mmap_min_addr", fmt::format("{}", mm::kMmapMinAddr));
  vm.add_value("swappiness", "60");
  vm.add_value("nr_hugepages", "0");

  StaticDir& files = sys.add_dir("fs");
  files.add_value("file-max", "1048576");
  files.add_value("nr_open", "1048576");
  files.add_value("file-nr", "0\t0\t1048576");
  files.add_value("pipe-max-size", "1048576");
  files.add_value("pipe-user-pages-soft", "16384");
  files.add_value("protected_hardlinks", "1");
  files.add_value("protected_symlinks", "1");
  StaticDir& epoll = files.add_dir("epoll");
  epoll.add_value("max_user_watches", "1048576");

  StaticDir& net = sys.add_dir("net");
  StaticDir& core = net.add_dir("core");
  core.add_value("somaxconn", "4096");
  core.add_value("rmem_default", "212992");
  core.add_value("wmem_default", "212992");
  core.add_value("rmem_max", "212992");
  core.add_value("wmem_max", "212992");
  StaticDir& unix_dir = net.add_dir("unix");
  unix_dir.add_value("max_dgram_qlen", "512");
}

}  // namespace rf::proc
