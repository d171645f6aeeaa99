#include "task/credentials.h"

#include <linux/securebits.h>

namespace rf::task {
namespace {

constexpr u64 bit(int cap) { return u64{1} << cap; }

// What setfsuid(2) takes away and gives back.
constexpr u64 kFileCapabilities = bit(CAP_CHOWN) | bit(CAP_MKNOD) | bit(CAP_DAC_OVERRIDE) | bit(CAP_DAC_READ_SEARCH) |
                                  bit(CAP_FOWNER) | bit(CAP_FSETID) | bit(CAP_LINUX_IMMUTABLE) | bit(CAP_MAC_OVERRIDE);

// cap_emulate_setxuid() of Linux.
void follow_user_ids(const fs::Credentials& old, fs::Credentials& c) {
  if ((old.securebits & SECBIT_NO_SETUID_FIXUP) != 0) return;
  const bool had_root = old.uid == 0 || old.euid == 0 || old.suid == 0;
  const bool has_root = c.uid == 0 || c.euid == 0 || c.suid == 0;
  if (had_root && !has_root) {
    if ((old.securebits & SECBIT_KEEP_CAPS) == 0) c.permitted = c.effective = 0;
    c.ambient = 0;
  }
  if (old.euid == 0 && c.euid != 0) c.effective = 0;
  if (old.euid != 0 && c.euid == 0) c.effective = c.permitted;
  if (old.fsuid == 0 && c.fsuid != 0) c.effective &= ~kFileCapabilities;
  if (old.fsuid != 0 && c.fsuid == 0) c.effective |= c.permitted & kFileCapabilities;
}

}  // namespace

void set_credentials(Task& task, Ref<fs::Credentials> creds) {
  SpinGuard guard(task.group->signal_lock);
  std::swap(task.creds, creds);
}

void change_ids(Task& task, Ref<fs::Credentials> creds) {
  const fs::Credentials& old = *task.creds;
  follow_user_ids(old, *creds);
  if (creds->euid != old.euid || creds->egid != old.egid || creds->fsuid != old.fsuid || creds->fsgid != old.fsgid) {
    task.group->dumpable.store(0, std::memory_order_relaxed);
    task.parent_death_signal = 0;
  }
  set_credentials(task, std::move(creds));
}

}  // namespace rf::task
