// AF_UNIX sockets: the three types, names, passing of descriptors and credentials.
#include "check.h"

#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

static socklen_t make_name(struct sockaddr_un* a, const char* path) {
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  strcpy(a->sun_path, path);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
}
static socklen_t make_abstract(struct sockaddr_un* a, const char* name) {
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  int n = snprintf(a->sun_path + 1, sizeof a->sun_path - 1, "%s-%d", name, getpid());
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

TEST(stream_pair) {
  int s[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  CHECK_EQ(write(s[0], "hello", 5), 5);
  CHECK_EQ(write(s[0], " world", 6), 6);
  char b[32] = {0};
  CHECK_EQ(read(s[1], b, 32), 11);  // no message borders
  CHECK_STR(b, "hello world");
  CHECK_EQ(send(s[1], "back", 4, 0), 4);
  CHECK_EQ(recv(s[0], b, 2, MSG_PEEK), 2);
  CHECK_EQ(recv(s[0], b, 32, 0), 4);
  CHECK_ERRNO(recv(s[0], b, 32, MSG_DONTWAIT), EAGAIN);
  int n = -1;
  CHECK_EQ(write(s[0], "abc", 3), 3);
  CHECK_EQ(ioctl(s[1], FIONREAD, &n), 0);
  CHECK_EQ(n, 3);
  struct stat st;
  CHECK_EQ(fstat(s[0], &st), 0);
  CHECK(S_ISSOCK(st.st_mode));
  CHECK_ERRNO(lseek(s[0], 0, SEEK_SET), ESPIPE);
}

TEST(end_of_file_and_broken_pipe) {
  int s[2];
  char c;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  CHECK_EQ(write(s[0], "x", 1), 1);
  CHECK_EQ(close(s[0]), 0);
  CHECK_EQ(read(s[1], &c, 1), 1);
  CHECK_EQ(read(s[1], &c, 1), 0);
  CHECK_ERRNO(send(s[1], "x", 1, MSG_NOSIGNAL), EPIPE);
  signal(SIGPIPE, SIG_IGN);
  CHECK_ERRNO(write(s[1], "x", 1), EPIPE);
  // Unread data at close is a reset for the peer.
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  CHECK_EQ(write(s[0], "x", 1), 1);
  CHECK_EQ(close(s[1]), 0);
  CHECK_ERRNO(read(s[0], &c, 1), ECONNRESET);
}

TEST(shutdown_directions) {
  int s[2];
  char c;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  CHECK_EQ(write(s[0], "x", 1), 1);
  CHECK_EQ(shutdown(s[0], SHUT_WR), 0);
  CHECK_ERRNO(send(s[0], "y", 1, MSG_NOSIGNAL), EPIPE);
  CHECK_EQ(read(s[1], &c, 1), 1);
  CHECK_EQ(read(s[1], &c, 1), 0);
  CHECK_EQ(write(s[1], "z", 1), 1);
  CHECK_EQ(read(s[0], &c, 1), 1);
  struct pollfd f = {s[1], POLLIN | POLLRDHUP, 0};
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK(f.revents & POLLRDHUP);
  CHECK_ERRNO(shutdown(s[0], 99), EINVAL);
}

TEST(named_stream_connection) {
  IN_TEMP_DIRECTORY();
  struct sockaddr_un a, peer;
  socklen_t len = make_name(&a, "socket"), got = sizeof peer;
  int listener = CHECK_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK_EQ(fcntl(listener, F_GETFD), FD_CLOEXEC);
  CHECK_EQ(bind(listener, (void*)&a, len), 0);
  struct stat st;
  CHECK_EQ(stat("socket", &st), 0);
  CHECK(S_ISSOCK(st.st_mode));
  int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_ERRNO(connect(client, (void*)&a, len), ECONNREFUSED);
  CHECK_EQ(listen(listener, 5), 0);
  CHECK_EQ(connect(client, (void*)&a, len), 0);
  CHECK_ERRNO(connect(client, (void*)&a, len), EISCONN);
  CHECK_EQ(write(client, "early", 5), 5);  // before accept
  int server = CHECK_OK(accept4(listener, (void*)&peer, &got, SOCK_NONBLOCK));
  CHECK_EQ(got, sizeof(sa_family_t));  // the client has no name
  CHECK(fcntl(server, F_GETFL) & O_NONBLOCK);
  char b[8];
  CHECK_EQ(read(server, b, 8), 5);
  got = sizeof peer;
  CHECK_EQ(getpeername(client, (void*)&peer, &got), 0);
  CHECK_STR(peer.sun_path, "socket");
  got = sizeof peer;
  CHECK_EQ(getsockname(server, (void*)&peer, &got), 0);
  CHECK_STR(peer.sun_path, "socket");
  int second = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_ERRNO(bind(second, (void*)&a, len), EADDRINUSE);
  CHECK_ERRNO(open("socket", O_RDWR), ENXIO);
  CHECK_EQ(unlink("socket"), 0);
  CHECK_ERRNO(connect(second, (void*)&a, len), ENOENT);
}

TEST(abstract_names) {
  struct sockaddr_un a, got;
  socklen_t len = make_abstract(&a, "check"), n = sizeof got;
  int listener = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(bind(listener, (void*)&a, len), 0);
  CHECK_EQ(getsockname(listener, (void*)&got, &n), 0);
  CHECK_EQ(n, len);
  CHECK_EQ(memcmp(&got, &a, len), 0);
  CHECK_EQ(listen(listener, 1), 0);
  CHECK_EQ(connect(client, (void*)&a, len), 0);
  int other = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_ERRNO(connect(other, (void*)&a, len - 1), ECONNREFUSED);  // another name
  CHECK_ERRNO(bind(other, (void*)&a, len), EADDRINUSE);
  CHECK_EQ(close(listener), 0);
  CHECK_EQ(bind(other, (void*)&a, len), 0);
}

TEST(autobind) {
  int s = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0));
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  CHECK_EQ(bind(s, (void*)&a, sizeof(sa_family_t)), 0);
  socklen_t n = sizeof a;
  CHECK_EQ(getsockname(s, (void*)&a, &n), 0);
  CHECK_EQ(n, sizeof(sa_family_t) + 6);
  CHECK_EQ(a.sun_path[0], 0);
}

TEST(datagrams_keep_borders) {
  int s[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, s), 0);
  CHECK_EQ(send(s[0], "first", 5, 0), 5);
  CHECK_EQ(send(s[0], "", 0, 0), 0);
  CHECK_EQ(send(s[0], "third", 5, 0), 5);
  char b[16];
  CHECK_EQ(recv(s[1], b, 3, 0), 3);
  CHECK_EQ(recv(s[1], b, 16, 0), 0);
  CHECK_EQ(recv(s[1], b, 2, MSG_TRUNC), 5);  // its real length
  CHECK_ERRNO(recv(s[1], b, 16, MSG_DONTWAIT), EAGAIN);
}

TEST(datagram_names) {
  IN_TEMP_DIRECTORY();
  struct sockaddr_un a, b, from;
  socklen_t alen = make_name(&a, "a"), blen = make_name(&b, "b"), n = sizeof from;
  int one = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0)), two = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0));
  CHECK_EQ(bind(one, (void*)&a, alen), 0);
  CHECK_EQ(bind(two, (void*)&b, blen), 0);
  CHECK_EQ(sendto(one, "hi", 2, 0, (void*)&b, blen), 2);
  char text[8];
  CHECK_EQ(recvfrom(two, text, 8, 0, (void*)&from, &n), 2);
  CHECK_STR(from.sun_path, "a");
  CHECK_ERRNO(send(one, "x", 1, 0), ENOTCONN);
  CHECK_EQ(connect(one, (void*)&b, blen), 0);
  CHECK_EQ(send(one, "x", 1, 0), 1);
  CHECK_EQ(close(two), 0);
  CHECK_ERRNO(send(one, "x", 1, 0), ECONNREFUSED);
}

TEST(seqpacket) {
  int s[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s), 0);
  CHECK_EQ(send(s[0], "one", 3, 0), 3);
  CHECK_EQ(send(s[0], "two!", 4, 0), 4);
  char b[16];
  struct iovec v = {b, 16};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
  CHECK_EQ(recvmsg(s[1], &m, 0), 3);
  CHECK(m.msg_flags == 0 || m.msg_flags == MSG_EOR);
  v.iov_len = 2;
  CHECK_EQ(recvmsg(s[1], &m, 0), 2);
  CHECK(m.msg_flags & MSG_TRUNC);
  CHECK_EQ(close(s[0]), 0);
  CHECK_EQ(recv(s[1], b, 16, 0), 0);
}

static void send_fds(int s, const int* fds, int count) {
  char control[CMSG_SPACE(sizeof(int) * 8)] = {0};
  struct iovec v = {"f", 1};
  struct msghdr m = {.msg_iov = &v,
                     .msg_iovlen = 1,
                     .msg_control = control,
                     .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count)};
  struct cmsghdr* c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
  memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)count);
  CHECK_EQ(sendmsg(s, &m, 0), 1);
}

static int receive_fds(int s, int* fds, int room, int flags, int* out_flags) {
  char control[CMSG_SPACE(sizeof(int) * 8)], byte;
  struct iovec v = {&byte, 1};
  struct msghdr m = {
      .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_LEN(sizeof(int) * (size_t)room)};
  CHECK_EQ(recvmsg(s, &m, flags), 1);
  if (out_flags) *out_flags = m.msg_flags;
  struct cmsghdr* c = CMSG_FIRSTHDR(&m);
  if (!c) return 0;
  CHECK_EQ(c->cmsg_level, SOL_SOCKET);
  CHECK_EQ(c->cmsg_type, SCM_RIGHTS);
  int n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
  memcpy(fds, CMSG_DATA(c), sizeof(int) * (size_t)n);
  return n;
}

TEST(descriptors_are_passed) {
  int s[2], p[2], got[4];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  CHECK_EQ(pipe(p), 0);
  send_fds(s[0], p, 2);
  CHECK_EQ(receive_fds(s[1], got, 4, MSG_CMSG_CLOEXEC, NULL), 2);
  CHECK(got[0] != p[0]);
  CHECK_EQ(fcntl(got[0], F_GETFD), FD_CLOEXEC);
  CHECK_EQ(write(got[1], "x", 1), 1);
  char c;
  CHECK_EQ(read(p[0], &c, 1), 1);
  // To another process.
  IN_CHILD({
    int q[2];
    CHECK_EQ(pipe(q), 0);
    CHECK_EQ(write(q[1], "from child", 10), 10);
    send_fds(s[0], q, 1);
  });
  CHECK_EQ(receive_fds(s[1], got, 4, 0, NULL), 1);
  char b[16] = {0};
  CHECK_EQ(read(got[0], b, 16), 10);
  CHECK_STR(b, "from child");
  CHECK_EQ(read(got[0], b, 16), 0);
}

TEST(descriptors_in_flight_keep_files_open) {
  int s[2], p[2], got[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  CHECK_EQ(pipe(p), 0);
  send_fds(s[0], &p[0], 1);
  CHECK_EQ(close(p[0]), 0);
  CHECK_EQ(write(p[1], "x", 1), 1);  // still has a reader
  CHECK_EQ(receive_fds(s[1], got, 2, 0, NULL), 1);
  char c;
  CHECK_EQ(read(got[0], &c, 1), 1);
  // Thrown away unread, they are closed.
  send_fds(s[0], &got[0], 1);
  CHECK_EQ(close(got[0]), 0);
  CHECK_EQ(close(s[1]), 0);
  CHECK_EQ(close(s[0]), 0);
  signal(SIGPIPE, SIG_IGN);
  CHECK_ERRNO(write(p[1], "x", 1), EPIPE);
}

TEST(too_little_room_for_descriptors) {
  int s[2], p[2], got[4], flags;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  CHECK_EQ(pipe(p), 0);
  send_fds(s[0], p, 2);
  CHECK_EQ(receive_fds(s[1], got, 1, 0, &flags), 1);
  CHECK(flags & MSG_CTRUNC);
}

TEST(bad_descriptor_cannot_be_sent) {
  int s[2], bad = 1000;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  char control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec v = {"f", 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr* c = CMSG_FIRSTHDR(&m);
  *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(c), &bad, sizeof bad);
  CHECK_ERRNO(sendmsg(s[0], &m, 0), EBADF);
}

TEST(peer_credentials) {
  int s[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  struct ucred u = {0};
  socklen_t n = sizeof u;
  CHECK_EQ(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &u, &n), 0);
  CHECK_EQ(u.pid, getpid());
  CHECK_EQ(u.uid, getuid());
  // Of who connected, and who listened.
  struct sockaddr_un a;
  socklen_t len = make_abstract(&a, "cred");
  int listener = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(bind(listener, (void*)&a, len), 0);
  CHECK_EQ(listen(listener, 1), 0);
  pid_t parent = getpid(), pid = CHECK_OK(fork());
  if (pid == 0) {
    int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_EQ(connect(client, (void*)&a, len), 0);
    CHECK_EQ(getsockopt(client, SOL_SOCKET, SO_PEERCRED, &u, &n), 0);
    CHECK_EQ(u.pid, parent);
    char c;
    CHECK_EQ(read(client, &c, 1), 1);
    _exit(0);
  }
  int server = CHECK_OK(accept(listener, NULL, NULL));
  CHECK_EQ(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &u, &n), 0);
  CHECK_EQ(u.pid, pid);
  CHECK_EQ(write(server, "x", 1), 1);
  CHECK_CHILD_OK(pid);
}

TEST(passed_credentials) {
  int s[2], on = 1;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, s), 0);
  CHECK_EQ(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  CHECK_EQ(send(s[0], "x", 1, 0), 1);
  char control[CMSG_SPACE(sizeof(struct ucred))], byte;
  struct iovec v = {&byte, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  CHECK_EQ(recvmsg(s[1], &m, 0), 1);
  struct cmsghdr* c = CMSG_FIRSTHDR(&m);
  CHECK(c != NULL);
  CHECK_EQ(c->cmsg_type, SCM_CREDENTIALS);
  struct ucred u;
  memcpy(&u, CMSG_DATA(c), sizeof u);
  CHECK_EQ(u.pid, getpid());
  CHECK_EQ(u.uid, getuid());
}

TEST(options) {
  int s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), v = -1;
  socklen_t n = sizeof v;
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_TYPE, &v, &n), 0);
  CHECK_EQ(v, SOCK_STREAM);
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_DOMAIN, &v, &n), 0);
  CHECK_EQ(v, AF_UNIX);
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_ERROR, &v, &n), 0);
  CHECK_EQ(v, 0);
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_ACCEPTCONN, &v, &n), 0);
  CHECK_EQ(v, 0);
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_SNDBUF, &v, &n), 0);
  CHECK(v > 0);
  struct timeval t = {0, 50000};
  int p[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
  CHECK_EQ(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), 0);
  char c;
  int64_t start = now_ns();
  CHECK_ERRNO(read(p[0], &c, 1), EAGAIN);
  CHECK(now_ns() - start >= 40000000);
  CHECK_ERRNO(getsockopt(s, SOL_SOCKET, 9999, &v, &n), ENOPROTOOPT);
  CHECK_ERRNO(getsockopt(0x7000, SOL_SOCKET, SO_TYPE, &v, &n), EBADF);
  int file = CHECK_OK(open("/dev/null", O_RDWR));
  CHECK_ERRNO(getsockopt(file, SOL_SOCKET, SO_TYPE, &v, &n), ENOTSOCK);
}

TEST(creation_errors) {
  CHECK_ERRNO(socket(AF_UNIX, 99, 0), EINVAL);
  CHECK_ERRNO(socket(AF_UNIX, SOCK_RDM, 0), ESOCKTNOSUPPORT);
  CHECK_ERRNO(socket(12345, SOCK_STREAM, 0), EAFNOSUPPORT);
  CHECK_ERRNO(socket(AF_UNIX, SOCK_STREAM, 77), EPROTONOSUPPORT);
  int s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_ERRNO(accept(s, NULL, NULL), EINVAL);
  CHECK_ERRNO(send(s, "x", 1, MSG_NOSIGNAL), ENOTCONN);
  char c;
  CHECK_ERRNO(recv(s, &c, 1, 0), EINVAL);
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  socklen_t n = sizeof a;
  CHECK_ERRNO(getpeername(s, (void*)&a, &n), ENOTCONN);
  CHECK_ERRNO(bind(s, (void*)&a, 1), EINVAL);
}

TEST(large_transfer_with_backpressure) {
  int s[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
  enum { kSize = 4 << 20 };
  unsigned char* out = malloc(kSize);
  for (int i = 0; i < kSize; i++) out[i] = (unsigned char)(i ^ i >> 8);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(close(s[1]), 0);
    CHECK_EQ(write(s[0], out, kSize), kSize);
    _exit(0);
  }
  CHECK_EQ(close(s[0]), 0);
  unsigned char* in = malloc(kSize);
  size_t at = 0;
  ssize_t n;
  while ((n = CHECK_OK(read(s[1], in + at, kSize - at < 70001 ? kSize - at : 70001))) > 0) at += (size_t)n;
  CHECK_EQ(at, kSize);
  CHECK_EQ(memcmp(in, out, kSize), 0);
  CHECK_CHILD_OK(pid);
}

TEST(nonblocking_writes_fill_up) {
  int s[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
  static char b[65536];
  size_t total = 0;
  ssize_t n;
  while ((n = write(s[0], b, sizeof b)) > 0) total += (size_t)n;
  int error = errno;
  CHECK_EQ(error, EAGAIN);
  struct pollfd f = {s[0], POLLOUT, 0};
  CHECK_EQ(poll(&f, 1, 0), 0);
  while (total > 0) total -= (size_t)CHECK_OK(read(s[1], b, sizeof b));
  CHECK_EQ(poll(&f, 1, 0), 1);
}

TEST(accept_waits_and_polls) {
  struct sockaddr_un a;
  socklen_t len = make_abstract(&a, "accept");
  int listener = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(bind(listener, (void*)&a, len), 0);
  CHECK_EQ(listen(listener, 8), 0);
  CHECK_EQ(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
  CHECK_ERRNO(accept(listener, NULL, NULL), EAGAIN);
  CHECK_EQ(fcntl(listener, F_SETFL, 0), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    for (int i = 0; i < 20; i++) {
      int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
      CHECK_EQ(connect(client, (void*)&a, len), 0);
      CHECK_EQ(write(client, &i, sizeof i), sizeof i);
      int back = -1;
      CHECK_EQ(read(client, &back, sizeof back), sizeof back);
      CHECK_EQ(back, i * 2);
      CHECK_EQ(close(client), 0);
    }
    _exit(0);
  }
  for (int i = 0; i < 20; i++) {
    struct pollfd f = {listener, POLLIN, 0};
    CHECK_EQ(poll(&f, 1, 5000), 1);
    int server = CHECK_OK(accept(listener, NULL, NULL)), v = -1;
    CHECK_EQ(read(server, &v, sizeof v), sizeof v);
    v *= 2;
    CHECK_EQ(write(server, &v, sizeof v), sizeof v);
    CHECK_EQ(close(server), 0);
  }
  CHECK_CHILD_OK(pid);
}

TEST(batches_of_messages) {
  int s[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, s), 0);
  struct iovec v[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}};
  struct mmsghdr out[3] = {0};
  for (int i = 0; i < 3; i++) out[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
  CHECK_EQ(sendmmsg(s[0], out, 3, 0), 3);
  CHECK_EQ(out[2].msg_len, 3);
  char b[3][8];
  struct iovec w[3] = {{b[0], 8}, {b[1], 8}, {b[2], 8}};
  struct mmsghdr in[3] = {0};
  for (int i = 0; i < 3; i++) in[i].msg_hdr = (struct msghdr){.msg_iov = &w[i], .msg_iovlen = 1};
  CHECK_EQ(recvmmsg(s[1], in, 3, MSG_DONTWAIT, NULL), 3);
  CHECK_EQ(in[1].msg_len, 2);
  CHECK_EQ(memcmp(b[2], "ccc", 3), 0);
}
