#include "hostio/landlock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/types.h"

namespace rf::hostio {
namespace {

// include/uapi/linux/landlock.h of newer kernels than this build's headers may be from.
constexpr u64 kTruncate = u64{1} << 14;         // ABI 3
constexpr u64 kIoctlDevice = u64{1} << 15;      // ABI 5
constexpr u64 kNetwork = 3;                     // ABI 4: bind and connect TCP
constexpr u64 kScopeAbstractSockets = 1;        // ABI 6
constexpr u64 kScopeSignals = 2;                // ABI 6
constexpr u64 kAllSince1 = (u64{1} << 13) - 1;  // ABI 1: EXECUTE to MAKE_SYM
struct RulesetAttributes {
  u64 handled_access_fs;
  u64 handled_access_net;
  u64 scoped;
};

constexpr u64 kReadFile = LANDLOCK_ACCESS_FS_READ_FILE;
constexpr u64 kWriteFile = LANDLOCK_ACCESS_FS_WRITE_FILE | kTruncate;
constexpr u64 kReadTree = kReadFile | LANDLOCK_ACCESS_FS_READ_DIR;
// All but devices: a guest's device nodes are not the host's.
constexpr u64 kWriteTree = kWriteFile | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                           LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                           LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER;

u64 handled_by(long abi) {
  u64 handled = kAllSince1;
  if (abi >= 2) handled |= LANDLOCK_ACCESS_FS_REFER;
  if (abi >= 3) handled |= kTruncate;
  if (abi >= 5) handled |= kIoctlDevice;
  return handled;
}

size_t attributes_size(long abi) {
  if (abi >= 6) return sizeof(RulesetAttributes);
  return abi >= 4 ? offsetof(RulesetAttributes, scoped) : offsetof(RulesetAttributes, handled_access_net);
}

Setup<void> add_tree(int ruleset, const HostTree& tree, u64 handled) {
  auto failed = [&](const char* what) {
    return setup_error(fmt::format("cannot confine the sentry to {}: {}: {}", tree.path, what, errno_text(errno)));
  };
  HostFd fd(::open(tree.path.c_str(), O_PATH | O_CLOEXEC));
  struct stat st {};
  if (!fd.valid() || ::fstat(fd.get(), &st) != 0) return failed("open");
  const bool directory = S_ISDIR(st.st_mode);
  u64 access = directory ? kReadTree : kReadFile;
  if (tree.writable) access |= directory ? kWriteTree : kWriteFile;
  landlock_path_beneath_attr rule{};
  rule.allowed_access = access & handled;
  rule.parent_fd = fd.get();
  if (::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
    return failed("landlock_add_rule");
  return {};
}

}  // namespace

Setup<HostFd> make_landlock_ruleset(std::span<const HostTree> trees, bool scope_signals) {
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 2) return HostFd();  // the first has no way to allow renames between directories
  RulesetAttributes attributes{};
  attributes.handled_access_fs = handled_by(abi);
  if (abi >= 4) attributes.handled_access_net = kNetwork;
  if (abi >= 6) attributes.scoped = kScopeAbstractSockets | (scope_signals ? kScopeSignals : 0);
  HostFd ruleset(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, attributes_size(abi), 0)));
  if (!ruleset.valid()) return setup_error(fmt::format("landlock_create_ruleset: {}", errno_text(errno)));
  for (const HostTree& tree : trees) TRY(add_tree(ruleset.get(), tree, attributes.handled_access_fs));
  return ruleset;
}

Setup<void> restrict_to_ruleset(const HostFd& ruleset) {
  if (!ruleset.valid()) return {};
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0)
    return setup_error(fmt::format("landlock_restrict_self: {}", errno_text(errno)));
  return {};
}

}  // namespace rf::hostio
