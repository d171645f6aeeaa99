// What the decoders of strace share.
#pragma once

#include <string>
#include <string_view>

#include "task/strace_decode.h"

namespace rf::task {

// A value by its name, or in hex.
std::string decode_value(u64 v, std::span<const FlagName> names);
std::string address(u64 v);  // "NULL" or hex
// Bytes as a C string; with "..." after it when there were more.
std::string quote(std::string_view bytes, bool truncated);
// The beginning of a buffer in guest memory; its address when it cannot be read.
std::string buffer(Task& t, u64 addr, u64 len);
// An array of struct iovec; with `show`, also the first `limit` bytes they hold.
std::string iovecs(Task& t, u64 addr, u64 count, bool show, u64 limit);

// decode_argument() for the kinds of the socket calls (strace_socket.cc).
std::string decode_socket_argument(Task& t, const SyscallEntry& entry, int i, s64 result);

}  // namespace rf::task
