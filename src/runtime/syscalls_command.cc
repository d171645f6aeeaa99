#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "runtime/commands.h"
#include "task/syscall.h"

namespace rf::runtime {
namespace {

const char* support_name(task::Support s) {
  switch (s) {
    case task::Support::kFull:
      return "full";
    case task::Support::kPartial:
      return "partial";
    case task::Support::kNone:
      return "none";
  }
  return "";
}

}  // namespace

int list_syscalls(bool json) {
  nlohmann::json list = nlohmann::json::array();
  std::array<int, 3> counts{};
  for (u32 n = 0; n < task::kSyscallLimit; ++n) {
    const std::string name = task::SyscallTable::name_of(n);
    if (name.empty()) continue;
    const task::SyscallEntry* e = task::SyscallTable::get().find(n);
    const task::Support support = e && e->handler ? e->support : task::Support::kNone;
    const std::string note = e ? e->note : "";
    ++counts[static_cast<size_t>(support)];
    if (json)
      list.push_back({{"number", n}, {"name", name}, {"support", support_name(support)}, {"note", note}});
    else
      fmt::print("{:4} {:26} {:8} {}\n", n, name, support_name(support), note);
  }
  if (json)
    fmt::print("{}\n", list.dump(2));
  else
    fmt::print("{} full, {} partial, {} not implemented (ENOSYS)\n", counts[0], counts[1], counts[2]);
  return std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace rf::runtime
