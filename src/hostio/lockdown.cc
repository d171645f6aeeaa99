#include "hostio/lockdown.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/scheduler.h"
#include "core/types.h"
#include "hostio/call_filter.h"
#include "hostio/landlock.h"

namespace rf::hostio {
namespace {

u64 kept_capabilities(const LockdownOptions& options) {
  u64 keep = u64{1} << CAP_DAC_READ_SEARCH;
  for (const HostTree& tree : options.trees)
    if (tree.writable)
      keep |= u64{1} << CAP_DAC_OVERRIDE | u64{1} << CAP_CHOWN | u64{1} << CAP_FOWNER | u64{1} << CAP_FSETID;
  return keep;
}

Setup<void> drop_capabilities(u64 keep) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) != 0) return setup_error(fmt::format("capget: {}", errno_text(errno)));
  for (int i = 0; i < 2; ++i) {
    const u32 mask = static_cast<u32>(keep >> (32 * i));
    data[i].permitted &= mask;
    data[i].effective &= mask;
    data[i].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, data) != 0)
    return setup_error(fmt::format("cannot drop capabilities: {}", errno_text(errno)));
  return {};
}

}  // namespace

Setup<void> lock_down(const LockdownOptions& options) {
  const HostFd ruleset = TRY(make_landlock_ruleset(options.trees, !options.signals_children));
  const u64 keep = kept_capabilities(options);
  Setup<void> result;
  const auto restrict_thread = [&]() -> Setup<void> {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
      return setup_error(fmt::format("cannot set no_new_privs: {}", errno_text(errno)));
    TRY(restrict_to_ruleset(ruleset));
    return drop_capabilities(keep);
  };
  if (Scheduler* scheduler = Scheduler::current())
    scheduler->on_each_worker([&] {
      if (result) result = restrict_thread();
    });
  else
    result = restrict_thread();
  TRY(std::move(result));
  if (options.before_filter) TRY(options.before_filter());
  return install_call_filter(options);
}

}  // namespace rf::hostio
