// Loading a program: ELF64 x86-64, static, static-PIE or with an interpreter. (`#!` scripts are resolved by the
// task room's exec, which reads the first bytes and calls again.)
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "mm/memory_manager.h"

namespace rf::mm {

// A file that can be executed, as the VFS hands it in.
struct ExecFile {
  Ref<MapObject> object;  // to map segments from
  u64 size = 0;
  std::function<Result<size_t>(std::span<std::byte>, u64 offset)> read;  // may suspend
};

struct LoadRequest {
  ExecFile file;
  std::string filename;  // AT_EXECFN
  std::vector<std::string> argv, envp;
  // Opens the interpreter (PT_INTERP) by path, with the caller's root and credentials.
  std::function<Result<ExecFile>(const std::string& path)> open_interpreter;
  u32 uid = 0, euid = 0, gid = 0, egid = 0;
  bool secure = false;  // AT_SECURE
  u64 stack_limit = 8 << 20;
  bool randomize = true;  // ASLR
};

struct LoadedImage {
  UserAddr entry = 0;  // first instruction (the interpreter's when there is one)
  UserAddr stack = 0;  // initial rsp
};

// Maps the program, its interpreter, the stack with argc, argv, envp and auxv, and the vDSO into `mm`, which is fresh.
// ENOEXEC for what is not such an ELF; E2BIG when the strings exceed Linux's limits (128 KiB each, a quarter of the
// stack limit in all); EINVAL, ENOMEM, ELIBBAD as Linux. Every field of the file is hostile. Suspends.
Result<LoadedImage> load_elf(MemoryManager& mm, const LoadRequest& request);

}  // namespace rf::mm
