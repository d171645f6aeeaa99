#include <seccomp.h>

#include "core/check.h"
#include "task/syscall.h"
#include "task/syscalls/families.h"

namespace rf::task {

SyscallTable::SyscallTable() {
  for (Family family : {process_family(), resource_family(), signal_family(), time_family(), identity_family(),
                        prctl_family(), futex_family(), misc_family(), mm_family(), file_family(), fd_family(),
                        path_family(), metadata_family(), poll_family(), socket_family(), socket_message_family()})
    for (const SyscallEntry& e : family) {
      RF_CHECK(e.number < kSyscallLimit && entries_[e.number] == nullptr, "two entries for one system call");
      entries_[e.number] = &e;
    }
}

const SyscallTable& SyscallTable::get() {
  static const SyscallTable table;
  return table;
}

std::string SyscallTable::name_of(u64 number) {
  if (number < kSyscallLimit) {
    if (const SyscallEntry* e = get().find(number)) return e->name;
    // libseccomp knows the names of the calls that have no entry here.
    if (char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, static_cast<int>(number))) {
      std::string result = name;
      ::free(name);
      return result;
    }
  }
  return "";
}

}  // namespace rf::task
