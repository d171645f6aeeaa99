#include "net/unix_fixture.h"

namespace rf::net {
namespace {

TEST_F(UnixTest, Kinds) {
  run([&] {
    EXPECT_EQ(error_of(create_socket(context(), AF_INET, SOCK_STREAM, 0)), EAFNOSUPPORT);
    EXPECT_EQ(error_of(create_socket(context(), AF_UNIX, SOCK_RDM, 0)), ESOCKTNOSUPPORT);
    EXPECT_EQ(error_of(create_socket(context(), AF_UNIX, SOCK_STREAM, 7)), EPROTONOSUPPORT);
    EXPECT_EQ(error_of(create_socket(context(), AF_UNIX, SOCK_STREAM | 0x100, 0)), EINVAL);
    Socket s = make(SOCK_SEQPACKET | SOCK_NONBLOCK);
    EXPECT_TRUE(s->nonblocking());
    EXPECT_EQ(get_option(s, SO_TYPE), SOCK_SEQPACKET);
    EXPECT_EQ(get_option(s, SO_DOMAIN), AF_UNIX);
    EXPECT_EQ(get_option(s, SO_PROTOCOL), 0);
    EXPECT_EQ(error_of(as_socket(**fs::make_eventfd(0, 0))), ENOTSOCK);
    EXPECT_TRUE(as_socket(*s));
    EXPECT_EQ(vfs_->path_of(s->path(), vfs_->root()).substr(0, 8), "socket:[");
  });
}

TEST_F(UnixTest, AbstractNames) {
  run([&] {
    Socket a = make(SOCK_DGRAM), b = make(SOCK_DGRAM), s = make(SOCK_STREAM);
    EXPECT_EQ(bind(a, "@name"), 0);
    EXPECT_EQ(bind(a, "@other"), EINVAL);
    EXPECT_EQ(bind(b, "@name"), EADDRINUSE);
    EXPECT_EQ(name_of(*a->getsockname()), "@name");
    EXPECT_EQ(a->getsockname()->len, 2u + 5);
    EXPECT_EQ(b->getsockname()->len, 2u);
    EXPECT_EQ(connect(b, "@none"), ECONNREFUSED);
    EXPECT_EQ(connect(s, "@name"), ECONNREFUSED) << "each type has its own names";
    EXPECT_EQ(bind(s, "@name"), 0);
    EXPECT_EQ(connect(b, "@name"), 0);
    EXPECT_EQ(name_of(*b->getpeername()), "@name");
    a.reset();
    EXPECT_EQ(bind(b, "@name"), 0);
  });
}

TEST_F(UnixTest, Autobind) {
  run([&] {
    Socket a = make(SOCK_DGRAM), b = make(SOCK_DGRAM);
    SocketAddress none = *a->getsockname();
    EXPECT_TRUE(a->bind(context(), none));
    EXPECT_TRUE(b->bind(context(), none));
    EXPECT_EQ(a->getsockname()->len, 8u);
    EXPECT_NE(name_of(*a->getsockname()), name_of(*b->getsockname()));
    EXPECT_TRUE(b->connect(context(), *a->getsockname()));
  });
}

TEST_F(UnixTest, NamesInTheFileSystem) {
  run([&] {
    Socket a = make(SOCK_STREAM), b = make(SOCK_STREAM);
    EXPECT_EQ(connect(b, "/s"), ENOENT);
    EXPECT_EQ(bind(a, "/s"), 0);
    EXPECT_EQ(a->getsockname()->len, 2u + 3);
    EXPECT_EQ(bind(b, "/s"), EADDRINUSE);
    EXPECT_EQ(bind(b, "/no/s"), ENOENT);
    EXPECT_EQ(connect(b, "/s"), ECONNREFUSED);  // it does not listen
    EXPECT_EQ(listen(a), 0);
    become(5, 5);
    EXPECT_EQ(connect(b, "/s"), EACCES);
    become(0, 0);
    EXPECT_EQ(connect(b, "/s"), 0);
    a.reset();
    EXPECT_EQ(connect(make(SOCK_STREAM), "/s"), ECONNREFUSED);
    EXPECT_EQ(bind(make(SOCK_STREAM), "/s"), EADDRINUSE);
    put("/file", "");
    EXPECT_EQ(connect(make(SOCK_STREAM), "/file"), ECONNREFUSED);
    EXPECT_EQ(error_of(vfs_->unlink(context(), nullptr, "/s")), 0);
  });
}

TEST_F(UnixTest, BadAddresses) {
  run([&] {
    Socket s = make(SOCK_STREAM);
    SocketAddress a;
    EXPECT_EQ(error_of(s->connect(context(), a)), EINVAL);
    a = address("@x");
    a.bytes[0] = std::byte{AF_INET};
    EXPECT_EQ(error_of(s->bind(context(), a)), EINVAL);
    a = address("@x");
    a.len = 111;
    EXPECT_EQ(error_of(s->bind(context(), a)), EINVAL);
    std::vector<std::byte> long_one(129);
    EXPECT_EQ(error_of(SocketAddress::from_bytes(long_one)), EINVAL);
  });
}

TEST_F(UnixTest, ConnectAndAccept) {
  run([&] {
    Socket l = listener(SOCK_STREAM, "@l");
    EXPECT_EQ(l->poll(), 0u);
    EXPECT_EQ(get_option(l, SO_ACCEPTCONN), 1);
    Socket c = make(SOCK_STREAM);
    EXPECT_EQ(c->poll(), POLLHUP | kOut);
    pid_ = 200;
    EXPECT_EQ(connect(c, "@l"), 0);
    pid_ = 100;
    EXPECT_EQ(connect(c, "@l"), EISCONN);
    EXPECT_EQ(l->poll(), kIn);
    EXPECT_EQ(*send(c, "early"), 5u);
    Socket s = *accept(l);
    EXPECT_EQ(*receive(s, 10), "early");
    EXPECT_EQ(name_of(*c->getpeername()), "@l");
    EXPECT_EQ(name_of(*s->getsockname()), "@l");
    EXPECT_EQ(s->getpeername()->len, 2u);
    ucred cred;
    ASSERT_TRUE(s->getsockopt(context(), SOL_SOCKET, SO_PEERCRED, std::as_writable_bytes(std::span(&cred, 1))));
    EXPECT_EQ(cred.pid, 200);
    ASSERT_TRUE(c->getsockopt(context(), SOL_SOCKET, SO_PEERCRED, std::as_writable_bytes(std::span(&cred, 1))));
    EXPECT_EQ(cred.pid, 100);
    EXPECT_EQ(get_option(s, SO_PEERSEC), -ENOPROTOOPT);
  });
}

TEST_F(UnixTest, WhatIsNoListener) {
  run([&] {
    Socket s = make(SOCK_STREAM), d = make(SOCK_DGRAM);
    EXPECT_EQ(listen(s), EINVAL);
    EXPECT_EQ(listen(d), EOPNOTSUPP);
    EXPECT_EQ(error_of(accept(s)), EINVAL);
    EXPECT_EQ(error_of(accept(d)), EOPNOTSUPP);
    Pair p = pair(SOCK_STREAM);
    EXPECT_EQ(bind(p.a, "@p"), 0);
    EXPECT_EQ(listen(p.a), EINVAL);
    EXPECT_EQ(connect(p.b, "@p"), ECONNREFUSED);
    EXPECT_EQ(error_of(receive(s, 1)), EINVAL);
    EXPECT_EQ(error_of(send(s, "x")), ENOTCONN);
    EXPECT_EQ(error_of(s->getpeername()), ENOTCONN);
    Socket q = make(SOCK_SEQPACKET);
    EXPECT_EQ(error_of(receive(q, 1)), ENOTCONN);
    EXPECT_EQ(error_of(send(q, "x")), ENOTCONN);
    EXPECT_EQ(error_of(send(d, "x")), ENOTCONN);
  });
}

TEST_F(UnixTest, BacklogLimitsConnections) {
  run(
      [&] {
        Socket l = listener(SOCK_STREAM, "@l", 1);
        std::vector<Socket> clients;
        for (int i = 0; i < 2; i++) {
          clients.push_back(make(SOCK_STREAM));
          EXPECT_EQ(connect(clients[i], "@l"), 0);
        }
        Socket c = make(SOCK_STREAM | SOCK_NONBLOCK);
        EXPECT_EQ(connect(c, "@l"), EAGAIN);
        c = make(SOCK_STREAM);
        EXPECT_EQ(set_timeout(c, SO_SNDTIMEO, 3), 0);
        EXPECT_EQ(connect(c, "@l"), EAGAIN);
        EXPECT_EQ(set_timeout(c, SO_SNDTIMEO, 0), 0);
        auto blocked = [&] { return Result<int>(connect(c, "@l")); };
        EXPECT_EQ(*interrupted_result(blocked), kERESTARTSYS);
        EXPECT_EQ(*preinterrupted_result(blocked), kERESTARTSYS);
        Countdown done(1);
        spawn("client", [&] {
          EXPECT_EQ(connect(c, "@l"), 0);
          done.done();
        });
        pause_briefly();
        EXPECT_TRUE(accept(l));
        done.wait();
        // Those that are never accepted are reset.
        l.reset();
        EXPECT_EQ(clients[1]->poll(), POLLERR | POLLHUP | POLLRDHUP | kIn | kOut);
        EXPECT_EQ(get_option(c, SO_ERROR), ECONNRESET);
        EXPECT_EQ(get_option(c, SO_ERROR), 0);
        EXPECT_EQ(*receive(c, 1), "");
      },
      2);
}

TEST_F(UnixTest, AcceptWaits) {
  run(
      [&] {
        Socket l = listener(SOCK_SEQPACKET, "@l");
        EXPECT_EQ(error_of(interrupted_result([&] { return accept(l); })), kERESTARTSYS);
        EXPECT_EQ(error_of(preinterrupted_result([&] { return accept(l); })), kERESTARTSYS);
        EXPECT_EQ(set_timeout(l, SO_RCVTIMEO, 3), 0);
        EXPECT_EQ(error_of(accept(l)), EAGAIN);
        EXPECT_EQ(set_timeout(l, SO_RCVTIMEO, 999), 0);
        EXPECT_EQ(error_of(interrupted_result([&] { return accept(l); })), EINTR);
        Countdown done(1);
        spawn("server", [&] {
          EXPECT_TRUE(accept(l));
          done.done();
        });
        pause_briefly();
        EXPECT_EQ(connect(make(SOCK_SEQPACKET), "@l"), 0);
        done.wait();
        EXPECT_TRUE(l->shutdown(SHUT_RD));
        EXPECT_EQ(error_of(accept(l)), EINVAL);
        EXPECT_EQ(connect(make(SOCK_SEQPACKET), "@l"), ECONNREFUSED);
      },
      2);
}

TEST_F(UnixTest, DatagramPeers) {
  run([&] {
    Socket server = make(SOCK_DGRAM), a = make(SOCK_DGRAM), b = make(SOCK_DGRAM);
    EXPECT_EQ(bind(server, "@server"), 0);
    EXPECT_EQ(bind(a, "@a"), 0);
    EXPECT_EQ(connect(a, "@server"), 0);
    EXPECT_EQ(connect(server, "@a"), 0);
    EXPECT_EQ(connect(b, "@server"), EPERM);  // it is a's now
    SocketAddress to = address("@server");
    EXPECT_EQ(error_of(send_to(b, "x", &to)), EPERM);
    EXPECT_EQ(*send(a, "one"), 3u);
    EXPECT_EQ(*send(a, "two"), 3u);
    auto m = *receive_message(server, 100);
    EXPECT_EQ(m.text, "one");
    EXPECT_EQ(name_of(m.message.from), "@a");
    SocketAddress unspecified;
    unspecified.len = 2;
    EXPECT_TRUE(server->connect(context(), unspecified));
    EXPECT_EQ(error_of(receive(server, 100, MSG_DONTWAIT)), EAGAIN);  // "two" is gone with the peer
    EXPECT_EQ(get_option(a, SO_ERROR), ECONNRESET);
    EXPECT_EQ(*send_to(b, "hi", &to), 2u);
    m = *receive_message(server, 100);
    EXPECT_EQ(m.text, "hi");
    EXPECT_EQ(m.message.from.len, 0u);
    server.reset();
    EXPECT_EQ(error_of(send(a, "x")), ECONNREFUSED);
    EXPECT_EQ(error_of(send(a, "x")), ENOTCONN);
  });
}

TEST_F(UnixTest, OptionValues) {
  run([&] {
    Socket s = make(SOCK_STREAM);
    EXPECT_EQ(get_option(s, SO_SNDBUF), 212992);
    EXPECT_EQ(set_option(s, SO_SNDBUF, 10000), 0);
    EXPECT_EQ(get_option(s, SO_SNDBUF), 20000);
    EXPECT_EQ(set_option(s, SO_SNDBUF, 1), 0);
    EXPECT_EQ(get_option(s, SO_SNDBUF), 4608);
    EXPECT_EQ(set_option(s, SO_RCVBUF, 1 << 30), 0);
    EXPECT_EQ(get_option(s, SO_RCVBUF), 425984);
    EXPECT_EQ(set_option(s, SO_PASSCRED, 1), 0);
    EXPECT_EQ(get_option(s, SO_PASSCRED), 1);
    EXPECT_EQ(set_option(s, SO_TYPE, 1), ENOPROTOOPT);
    EXPECT_EQ(set_option(s, 999, 1), ENOPROTOOPT);
    EXPECT_EQ(error_of(s->setsockopt(context(), SOL_SOCKET, SO_SNDBUF, {})), EINVAL);
    EXPECT_EQ(error_of(s->setsockopt(context(), 6, 1, {})), EOPNOTSUPP);
    u8 first = 0;
    EXPECT_EQ(*s->getsockopt(context(), SOL_SOCKET, SO_TYPE, std::as_writable_bytes(std::span(&first, 1))), 1u);
    EXPECT_EQ(first, SOCK_STREAM);
  });
}

}  // namespace
}  // namespace rf::net
