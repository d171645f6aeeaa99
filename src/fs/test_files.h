// For unit tests of files that need no VFS: strings in and out of them.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/test_scheduler.h"
#include "fs/special_files.h"

namespace rf::fs {

inline const Context& test_context() {
  static const Ref<Credentials> creds = make_ref<Credentials>();
  static const Context* context = new Context{.creds = *creds, .pid = 1, .tid = 1};
  return *context;
}

// The error, 0 for none.
template <class T>
int error_of(const Result<T>& r) {
  return r ? 0 : errno_value(r.error());
}

inline Result<size_t> write_string(File& f, std::string_view s) {
  auto src = mm::IoBuffer::from_const(std::as_bytes(std::span(s)));
  return f.write(test_context(), src);
}

inline Result<std::string> read_string(File& f, size_t max) {
  std::string s(max, '\0');
  mm::IoBuffer dst(std::as_writable_bytes(std::span(s)));
  s.resize(TRY(f.read(test_context(), dst)));
  return s;
}

inline Result<u64> read_u64(File& f) {
  u64 v = 0;
  mm::IoBuffer dst(std::as_writable_bytes(std::span(&v, 1)));
  TRY(f.read(test_context(), dst));
  return v;
}

inline Result<size_t> write_u64(File& f, u64 v) {
  auto src = mm::IoBuffer::from_const(std::as_bytes(std::span(&v, 1)));
  return f.write(test_context(), src);
}

inline void set_nonblocking(File& f) { f.set_flags(f.flags() | O_NONBLOCK); }

// Lets others run for a while: long enough for them to block.
inline void pause_briefly() { sleep_until(monotonic_now() + 5'000'000, Interruptible::kNo); }

// Runs `call` on a fiber that is interrupted once it has blocked, and gives its result.
template <class F>
auto interrupted_result(F call) -> decltype(call()) {
  decltype(call()) result{};
  Countdown done(1);
  Ref<Fiber> fiber = spawn("interrupted", [&] {
    result = call();
    done.done();
  });
  pause_briefly();
  fiber->interrupt();
  done.wait();
  return result;
}

// The same with the interrupt already pending when the call is made.
template <class F>
auto preinterrupted_result(F call) -> decltype(call()) {
  decltype(call()) result{};
  Countdown done(1);
  spawn("interrupted", [&] {
    Fiber::current().interrupt();
    result = call();
    done.done();
  });
  done.wait();
  return result;
}

}  // namespace rf::fs
