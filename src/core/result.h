// Errors are values. Guest-facing code returns Result<T>, whose error is a Linux errno; host-side
// set-up returns Setup<T>, whose error is a sentence for the person who started the sandbox.
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <utility>

namespace rf {

// A positive Linux errno value, or one of the kernel-internal restart codes below. Never 0.
enum class Errno : int {};

constexpr int errno_value(Errno e) { return static_cast<int>(e); }

// Kernel-internal results of an interrupted call (include/linux/errno.h of Linux). They never reach the
// guest: signal delivery turns them into EINTR or a restart.
inline constexpr int kERESTARTSYS = 512;            // restart if the handler has SA_RESTART or none runs
inline constexpr int kERESTARTNOINTR = 513;         // always restart
inline constexpr int kERESTARTNOHAND = 514;         // restart only if no handler runs
inline constexpr int kERESTART_RESTARTBLOCK = 516;  // like NOHAND, through restart_syscall

template <class T>
using Result = std::expected<T, Errno>;

// `return err(ENOENT);`
constexpr std::unexpected<Errno> err(int e) { return std::unexpected(Errno{e}); }
constexpr std::unexpected<Errno> err(Errno e) { return std::unexpected(e); }

// Turns a host call's "-1 and errno" into a Result.
template <class T>
Result<T> host_result(T r) {
  if (r < 0) return err(errno);
  return r;
}

// "ENOENT" for 2; "errno 4095" for what has no name.
std::string errno_name(int e);
// "No such file or directory" for 2.
std::string errno_text(int e);

// A failure of set-up, in words: what failed, on what, and what to do.
struct SetupError {
  std::string message;
};
template <class T>
using Setup = std::expected<T, SetupError>;

inline std::unexpected<SetupError> setup_error(std::string message) {
  return std::unexpected(SetupError{std::move(message)});
}

// TRY(expr): the value of a Result or Setup, or return its error from the enclosing function.
#define RF_TRY_CONCAT_(a, b) a##b
#define TRY(...)                                                     \
  (__extension__({                                                   \
    auto rf_try_result_ = (__VA_ARGS__);                             \
    if (!rf_try_result_) [[unlikely]]                                \
      return ::std::unexpected(::std::move(rf_try_result_).error()); \
    *::std::move(rf_try_result_);                                    \
  }))

}  // namespace rf
