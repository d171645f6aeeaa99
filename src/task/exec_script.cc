#include "task/exec.h"

namespace rf::task {
namespace {

constexpr std::string_view kBlank = " \t";

}  // namespace

Result<std::optional<ScriptLine>> parse_script(std::string_view head) {
  constexpr size_t kHeadSize = 256;  // BINPRM_BUF_SIZE
  if (!head.starts_with("#!")) return std::nullopt;
  head = head.substr(0, std::min(head.size(), kHeadSize));
  std::string_view line = head.substr(2);
  const size_t newline = line.find('\n');
  // The file may be longer than what was read of it.
  const bool cut = newline == std::string_view::npos && head.size() == kHeadSize;
  line = line.substr(0, newline);
  line = line.substr(0, line.find('\0'));
  const size_t begin = line.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return err(ENOEXEC);
  line.remove_prefix(begin);
  const size_t blank = line.find_first_of(kBlank);
  if (cut && blank == std::string_view::npos) return err(ENOEXEC);  // the interpreter's name is cut off

  ScriptLine result;
  result.interpreter = line.substr(0, blank);
  if (blank != std::string_view::npos) {
    line.remove_prefix(blank);
    const size_t first = line.find_first_not_of(kBlank);
    if (first != std::string_view::npos) {
      const size_t last = line.find_last_not_of(kBlank);
      result.argument = line.substr(first, last - first + 1);
      result.has_argument = true;
    }
  }
  return std::optional(std::move(result));
}

}  // namespace rf::task
