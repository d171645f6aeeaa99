#include "task/strace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "task/strace_decode.h"
#include "task/task.h"

namespace rf::task {

Setup<std::unique_ptr<StraceSink>> StraceSink::create(const StraceOptions& options) {
  // A description of our own, so that the guest closing its stderr leaves the trace alone.
  const int fd = options.file.empty() ? ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
                                      : ::open(options.file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0)
    return setup_error(fmt::format("cannot write the trace to {}: {}",
                                   options.file.empty() ? "standard error" : options.file, errno_text(errno)));
  return std::unique_ptr<StraceSink>(new StraceSink(hostio::HostFd(fd), options.durations));
}

void StraceSink::line(Task& task, const std::string& text) {
  const std::string out = fmt::format("[pid {:5}] {}\n", task.tid, text);
  SpinGuard guard(lock_);
  std::string_view rest = out;
  while (!rest.empty()) {
    const ssize_t n = ::write(fd_.get(), rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody to tell
    rest.remove_prefix(static_cast<size_t>(n));
  }
}

void StraceSink::enter(Task& task, const SyscallEntry* entry) {
  task.strace_start = monotonic_now();
  if (entry == nullptr) {
    const std::string name = SyscallTable::name_of(task.syscall_number);
    task.strace_line =
        fmt::format("{}({:#x}, {:#x}, {:#x}, {:#x}, {:#x}, {:#x}",
                    name.empty() ? fmt::format("syscall_{:#x}", task.syscall_number) : name, task.args.v[0],
                    task.args.v[1], task.args.v[2], task.args.v[3], task.args.v[4], task.args.v[5]);
    return;
  }
  std::string text = std::string(entry->name) + "(";
  for (int i = 0; i < 6 && entry->args[static_cast<size_t>(i)] != Arg::kNone; ++i) {
    const Arg kind = entry->args[static_cast<size_t>(i)];
    if (kind == Arg::kUnused) continue;
    if (i > 0) text += ", ";
    // What the call will write is filled in on return, at the mark.
    if (decoded_after(kind))
      text += static_cast<char>(1 + i);
    else
      text += decode_argument(task, *entry, i, false, 0);
  }
  task.strace_line = std::move(text);
}

void StraceSink::exit(Task& task, const SyscallEntry* entry, SysResult result) {
  const s64 value = result.next() ? 0 : result.error() == 0 ? static_cast<s64>(result.rax()) : -1;
  std::string text;
  for (char c : task.strace_line) {
    if (entry != nullptr && c >= 1 && c <= 6)
      text += decode_argument(task, *entry, c - 1, true, value);
    else
      text += c;
  }
  text += ')';
  if (text.size() < 39) text.append(39 - text.size(), ' ');
  text += " = " + decode_result(result, entry != nullptr && entry->returns_address);
  if (durations_) text += fmt::format(" <{:.6f}>", static_cast<double>(monotonic_now() - task.strace_start) / 1e9);
  task.strace_line.clear();
  line(task, text);
}

void StraceSink::signal(Task& task, const siginfo_t& info) {
  std::string text = fmt::format("--- {} {{si_signo={}, si_code={}", signal_name(info.si_signo),
                                 signal_name(info.si_signo), info.si_code);
  if (info.si_code > 0 && info.si_signo != SIGCHLD)
    text += fmt::format(", si_addr={:#x}", reinterpret_cast<u64>(info.si_addr));
  else
    text += fmt::format(", si_pid={}, si_uid={}", info.si_pid, info.si_uid);
  line(task, text + "} ---");
}

void StraceSink::exited(Task& task) {
  const int s = task.exit_code;
  line(task, WIFSIGNALED(s)
                 ? fmt::format("+++ killed by {}{} +++", signal_name(WTERMSIG(s)), WCOREDUMP(s) ? " (core dumped)" : "")
                 : fmt::format("+++ exited with {} +++", WEXITSTATUS(s)));
}

}  // namespace rf::task
