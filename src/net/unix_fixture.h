// For tests of AF_UNIX sockets: calls by short names, strings in and out, errors as errno values.
#pragma once

#include <gtest/gtest.h>
#include <sys/un.h>

#include <cstring>
#include <string>

#include "fs/fs_fixture.h"
#include "fs/test_files.h"
#include "net/unix_socket.h"

namespace rf::net {

using fs::error_of;
using fs::interrupted_result;
using fs::pause_briefly;
using fs::preinterrupted_result;

inline constexpr EventMask kIn = POLLIN | POLLRDNORM;
inline constexpr EventMask kOut = POLLOUT | POLLWRNORM | POLLWRBAND;

class UnixTest : public fs::FsTest {
 protected:
  using Socket = Ref<SocketFile>;
  struct Pair {
    Socket a, b;
  };

  fs::Context context() {
    fs::Context c = ctx();
    c.vfs = vfs_.get();
    c.pid = pid_;
    return c;
  }
  Socket make(int type) { return ref_cast<SocketFile>(*create_socket(context(), AF_UNIX, type, 0)); }
  Pair pair(int type) {
    auto p = *create_socket_pair(context(), AF_UNIX, type, 0);
    return {ref_cast<SocketFile>(p.first), ref_cast<SocketFile>(p.second)};
  }
  // "@x" is the abstract name x.
  static SocketAddress address(std::string name) {
    if (name[0] == '@') name[0] = '\0';
    return unix_address(name);
  }
  static std::string name_of(const SocketAddress& a) {
    std::string s(reinterpret_cast<const char*>(a.bytes.data()) + 2, a.len - 2);
    if (!s.empty() && s[0] == '\0') s[0] = '@';
    return s;
  }
  int bind(const Socket& s, const std::string& name) { return error_of(s->bind(context(), address(name))); }
  int listen(const Socket& s, int backlog = 8) { return error_of(s->listen(context(), backlog)); }
  int connect(const Socket& s, const std::string& name) { return error_of(s->connect(context(), address(name))); }
  Result<Socket> accept(const Socket& s) { return s->accept(context(), 0); }
  Socket listener(int type, const std::string& name, int backlog = 8) {
    Socket s = make(type);
    EXPECT_EQ(bind(s, name), 0);
    EXPECT_EQ(listen(s, backlog), 0);
    return s;
  }

  Result<size_t> send_to(const Socket& s, std::string_view text, const SocketAddress* to, int flags = 0,
                         Control control = {}) {
    auto src = mm::IoBuffer::from_const(std::as_bytes(std::span(text)));
    SendMessage m{src, to, std::move(control), flags};
    return s->sendmsg(context(), m);
  }
  Result<size_t> send(const Socket& s, std::string_view text, int flags = 0) {
    return send_to(s, text, nullptr, flags);
  }
  Result<size_t> send_files(const Socket& s, std::vector<Ref<fs::File>> files, std::string_view text = "x") {
    return send_to(s, text, nullptr, 0, Control{std::move(files), {}});
  }
  struct Received {
    std::string text;
    ReceivedMessage message;
  };
  Result<Received> receive_message(const Socket& s, size_t max, int flags = 0) {
    Received r;
    r.text.resize(max);
    mm::IoBuffer dst(std::as_writable_bytes(std::span(r.text)));
    r.message = TRY(s->recvmsg(context(), dst, flags));
    r.text.resize(std::min(max, r.message.bytes));
    return r;
  }
  Result<std::string> receive(const Socket& s, size_t max, int flags = 0) {
    return TRY(receive_message(s, max, flags)).text;
  }
  int set_option(const Socket& s, int name, int value) {
    return error_of(s->setsockopt(context(), SOL_SOCKET, name, std::as_bytes(std::span(&value, 1))));
  }
  int set_timeout(const Socket& s, int name, int ms) {
    timeval t{0, ms * 1000};
    return error_of(s->setsockopt(context(), SOL_SOCKET, name, std::as_bytes(std::span(&t, 1))));
  }
  int get_option(const Socket& s, int name) {
    int value = -1;
    auto n = s->getsockopt(context(), SOL_SOCKET, name, std::as_writable_bytes(std::span(&value, 1)));
    return n ? value : -errno_value(n.error());
  }

  s32 pid_ = 100;
};

}  // namespace rf::net
