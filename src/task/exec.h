// execve(2): finding and loading the program, then making the task run it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/file.h"
#include "mm/elf.h"
#include "task/task.h"

namespace rf::task {

// Everything about the new program, made before anything of the old one is given up.
struct ExecImage {
  Ref<mm::MemoryManager> mm;
  mm::LoadedImage loaded;
  Ref<fs::Credentials> creds;
  std::string name;  // comm
  bool privileges_changed = false;
  bool same_rights = false;  // platform::Context::become_program()
};

struct ExecRequest {
  const fs::Path* at = nullptr;  // null: the working directory
  std::string path;
  bool follow = true;
  bool empty_path = false;
  std::string filename;  // what AT_EXECFN and scripts' arguments say
  // The file name leads through a descriptor that is closed by the exec: no script can be run from it.
  bool path_goes_away = false;
  std::vector<std::string> argv, envp;
};

// Opens and loads the program with the task's credentials. ENOENT, EACCES, ENOEXEC, E2BIG, ELOOP, ... Suspends.
Result<std::unique_ptr<ExecImage>> load_program(Task& task, ExecRequest request);

// Makes `image` what the task runs, the task being the only one of its process. Suspends.
void become(Task& task, std::unique_ptr<ExecImage> image);

// The `#!` line of a script.
struct ScriptLine {
  std::string interpreter, argument;
  bool has_argument = false;
};
// Null if `head`, the first bytes of the file (256 at most), is not a script. ENOEXEC: it is, but names no interpreter.
Result<std::optional<ScriptLine>> parse_script(std::string_view head);

// The credentials after exec of a file with these attributes, credentials(7) and capabilities(7).
struct ExecCredentials {
  Ref<fs::Credentials> creds;
  bool secure = false;              // AT_SECURE
  bool privileges_changed = false;  // ids changed: not dumpable
};
ExecCredentials exec_credentials(const fs::Credentials& old, const fs::Attributes& file, bool nosuid);

// What mm enforces of the group's limits.
mm::Limits memory_limits(const ThreadGroup& group);

}  // namespace rf::task
