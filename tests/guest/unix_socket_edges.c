// AF_UNIX sockets: the order of errors, messages and control data in bad memory, limits, signals, interruption,
// waiting.
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>

static void* const kBad = (void*)8;

static socklen_t make_abstract(struct sockaddr_un* a, const char* name) {
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  int n = snprintf(a->sun_path + 1, sizeof a->sun_path - 1, "%s-%d", name, getpid());
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static void make_pair(int type, int* s) { CHECK_EQ(socketpair(AF_UNIX, type, 0, s), 0); }

static int make_listener(struct sockaddr_un* a, const char* name, int type, int backlog, socklen_t* len) {
  *len = make_abstract(a, name);
  int s = CHECK_OK(socket(AF_UNIX, type, 0));
  CHECK_EQ(bind(s, (void*)a, *len), 0);
  CHECK_EQ(listen(s, backlog), 0);
  return s;
}

static void handler(int sig) { (void)sig; }
static void handle(int sig, int flags) {
  struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};
  CHECK_EQ(sigaction(sig, &sa, NULL), 0);
}
static void alarm_after_ms(long ms) {
  struct itimerval t = {{0, 0}, {ms / 1000, ms % 1000 * 1000}};
  CHECK_EQ(setitimer(ITIMER_REAL, &t, NULL), 0);
}

TEST(creation) {
  CHECK_ERRNO(socket(-1, SOCK_STREAM, 0), EAFNOSUPPORT);
  CHECK_ERRNO(socket(AF_UNIX, -1, 0), EINVAL);
  CHECK_ERRNO(socket(AF_UNIX, 0, 0), ESOCKTNOSUPPORT);
  CHECK_ERRNO(socket(AF_UNIX, 11, 0), EINVAL);
  CHECK_ERRNO(socket(AF_UNIX, SOCK_STREAM | 0x100000, 0), EINVAL);
  CHECK_ERRNO(socket(AF_UNIX, SOCK_RDM, 7), EPROTONOSUPPORT);
  CHECK_OK(socket(AF_UNIX, SOCK_STREAM, PF_UNIX));
  int s = CHECK_OK(socket(AF_UNIX, SOCK_RAW, 0)), v = 0;
  socklen_t n = sizeof v;
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_TYPE, &v, &n), 0);
  CHECK_EQ(v, SOCK_DGRAM);
  int p[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, p), 0);
  CHECK_EQ(fcntl(p[1], F_GETFD), FD_CLOEXEC);
  CHECK_EQ(fcntl(p[1], F_GETFL), O_RDWR | O_NONBLOCK);
  CHECK_ERRNO(socketpair(AF_UNIX, SOCK_STREAM, 0, kBad), EFAULT);
  CHECK_EQ(socket(AF_UNIX, SOCK_STREAM, 0), p[1] + 1);  // nothing stayed open
  CHECK_ERRNO(socketpair(AF_UNIX, 0, 0, p), ESOCKTNOSUPPORT);
}

TEST(other_families_are_refused_or_made) {
  // In a sandbox without a network: EAFNOSUPPORT. Natively it is made.
  int s = socket(AF_INET, SOCK_STREAM, 0);
  int error = errno;
  CHECK(s >= 0 || error == EAFNOSUPPORT);
  CHECK_ERRNO(socket(AF_MAX, SOCK_STREAM, 0), EAFNOSUPPORT);
  CHECK_ERRNO(socket(AF_INET, 11, 0), EINVAL);
}

TEST(descriptor_limit_loses_no_connection) {
  struct sockaddr_un a;
  socklen_t len;
  int listener = make_listener(&a, "limit", SOCK_STREAM, 4, &len);
  int client = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(connect(client, (void*)&a, len), 0);
  struct rlimit old, tight;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  tight = old;
  tight.rlim_cur = (rlim_t)client + 1;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  CHECK_ERRNO(accept(listener, NULL, NULL), EMFILE);
  CHECK_ERRNO(accept(0x7000, NULL, NULL), EBADF);
  CHECK_ERRNO(accept4(listener, NULL, NULL, 1), EINVAL);
  CHECK_ERRNO(socket(AF_UNIX, SOCK_STREAM, 0), EMFILE);
  int p[2];
  CHECK_ERRNO(socketpair(AF_UNIX, SOCK_STREAM, 0, p), EMFILE);
  tight.rlim_cur++;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  CHECK_ERRNO(socketpair(AF_UNIX, SOCK_STREAM, 0, p), EMFILE);  // one is not enough
  CHECK_EQ(accept(listener, NULL, NULL), client + 1);
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
}

TEST(names) {
  IN_TEMP_DIRECTORY();
  struct sockaddr_un a = {.sun_family = AF_UNIX}, got;
  int s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), file = CHECK_OK(open("file", O_CREAT | O_RDWR, 0600));
  CHECK_ERRNO(bind(0x7000, kBad, 3), EBADF);
  CHECK_ERRNO(bind(file, kBad, 3), ENOTSOCK);
  CHECK_ERRNO(bind(s, kBad, 3), EFAULT);
  CHECK_ERRNO(bind(s, kBad, 129), EINVAL);
  CHECK_ERRNO(bind(s, kBad, (socklen_t)-1), EINVAL);
  CHECK_ERRNO(bind(s, kBad, 0), EINVAL);
  CHECK_ERRNO(bind(s, (void*)&a, sizeof a + 1), EINVAL);
  a.sun_family = AF_INET;
  CHECK_ERRNO(bind(s, (void*)&a, sizeof a), EINVAL);
  a.sun_family = AF_UNIX;
  strcpy(a.sun_path, "file");
  CHECK_ERRNO(bind(s, (void*)&a, sizeof a), EADDRINUSE);
  CHECK_ERRNO(connect(s, (void*)&a, sizeof a), ECONNREFUSED);
  strcpy(a.sun_path, "missing/socket");
  CHECK_ERRNO(bind(s, (void*)&a, sizeof a), ENOENT);
  strcpy(a.sun_path, "file/socket");
  CHECK_ERRNO(bind(s, (void*)&a, sizeof a), ENOTDIR);
  CHECK_ERRNO(listen(s, 1), EINVAL);  // no name yet
  // A name that fills sun_path has no NUL there, and is given back with one.
  memset(a.sun_path, 'x', sizeof a.sun_path);
  CHECK_EQ(bind(s, (void*)&a, sizeof a), 0);
  char long_name[160];
  socklen_t n = sizeof long_name;
  CHECK_EQ(getsockname(s, (void*)long_name, &n), 0);
  CHECK_EQ(n, sizeof a + 1);
  CHECK_EQ(long_name[sizeof a], 0);
  n = 4;  // cut off, with the whole length told
  memset(&got, 'z', sizeof got);
  CHECK_EQ(getsockname(s, (void*)&got, &n), 0);
  CHECK_EQ(n, sizeof a + 1);
  CHECK_EQ(got.sun_path[1], 'x');
  CHECK_EQ(got.sun_path[2], 'z');
  n = 0;
  CHECK_EQ(getsockname(s, kBad, &n), 0);
  n = (socklen_t)-1;
  CHECK_ERRNO(getsockname(s, (void*)&got, &n), EINVAL);
  CHECK_ERRNO(getsockname(s, (void*)&got, kBad), EFAULT);
  n = sizeof got;
  CHECK_ERRNO(getsockname(s, kBad, &n), EFAULT);
  CHECK_ERRNO(getpeername(s, kBad, kBad), ENOTCONN);
  struct sockaddr_un b;
  socklen_t len = make_abstract(&b, "second");
  CHECK_ERRNO(bind(s, (void*)&b, len), EINVAL);  // has a name
}

TEST(permissions_of_a_name) {
  IN_TEMP_DIRECTORY();
  umask(022);
  struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "s"};
  int s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(fchmod(s, 0606), 0);
  CHECK_EQ(bind(s, (void*)&a, sizeof a), 0);
  struct stat st;
  CHECK_EQ(stat("s", &st), 0);
  CHECK_EQ(st.st_mode, S_IFSOCK | 0604);
  CHECK_EQ(chmod("s", 0600), 0);
  CHECK_EQ(listen(s, 3), 0);
  CHECK_EQ(chmod(".", 0755), 0);
  if (geteuid() == 0) {
    IN_CHILD({
      CHECK_EQ(setresuid(1234, 1234, 1234), 0);
      int c = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
      CHECK_ERRNO(connect(c, (void*)&a, sizeof a), EACCES);
    });
  }
  // Renamed, it is the same socket; a link leads to it too.
  CHECK_EQ(rename("s", "t"), 0);
  CHECK_EQ(symlink("t", "u"), 0);
  strcpy(a.sun_path, "u");
  int c = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(connect(c, (void*)&a, sizeof a), 0);
  socklen_t n = sizeof a;
  CHECK_EQ(getpeername(c, (void*)&a, &n), 0);
  CHECK_STR(a.sun_path, "s");
  CHECK_EQ(n, 4);  // as it was bound, with one NUL
}

TEST(connect_errors) {
  struct sockaddr_un a, none = {.sun_family = AF_UNSPEC};
  socklen_t len;
  int listener = make_listener(&a, "connect", SOCK_STREAM, 4, &len), null = CHECK_OK(open("/dev/null", O_RDWR));
  int s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_ERRNO(connect(0x7000, kBad, 10), EBADF);
  CHECK_ERRNO(connect(null, kBad, 10), EFAULT);
  CHECK_ERRNO(connect(null, (void*)&a, len), ENOTSOCK);
  CHECK_ERRNO(connect(s, (void*)&none, sizeof none), EINVAL);
  int d = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0));
  CHECK_ERRNO(connect(d, (void*)&a, len), ECONNREFUSED);
  int q = CHECK_OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  CHECK_EQ(bind(q, (void*)&a, len), 0);  // abstract names are each type's own
  IN_TEMP_DIRECTORY();
  struct sockaddr_un b = {.sun_family = AF_UNIX, .sun_path = "s"};
  int named = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(bind(named, (void*)&b, sizeof b), 0);
  CHECK_ERRNO(connect(d, (void*)&b, sizeof b), EPROTOTYPE);
  CHECK_ERRNO(sendto(d, "x", 1, 0, (void*)&b, sizeof b), EPROTOTYPE);
  CHECK_ERRNO(connect(listener, (void*)&a, len), EINVAL);
  CHECK_ERRNO(listen(d, 1), EOPNOTSUPP);
  CHECK_ERRNO(accept(d, NULL, NULL), EOPNOTSUPP);
  CHECK_ERRNO(accept(null, NULL, NULL), ENOTSOCK);
  CHECK_EQ(connect(s, (void*)&a, len), 0);
  CHECK_ERRNO(listen(s, 1), EINVAL);
  CHECK_ERRNO(accept(s, NULL, NULL), EINVAL);
  CHECK_EQ(close(listener), 0);  // with the connection in its queue
  char c;
  CHECK_ERRNO(read(s, &c, 1), ECONNRESET);
  CHECK_EQ(read(s, &c, 1), 0);
}

TEST(full_backlog) {
  struct sockaddr_un a;
  socklen_t len;
  int listener = make_listener(&a, "backlog", SOCK_STREAM, 0, &len);
  int first = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
  CHECK_EQ(connect(first, (void*)&a, len), 0);
  CHECK_ERRNO(connect(s, (void*)&a, len), EAGAIN);
  CHECK_EQ(fcntl(s, F_SETFL, 0), 0);
  struct timeval t = {0, 30000};
  CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t), 0);
  CHECK_ERRNO(connect(s, (void*)&a, len), EAGAIN);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    int waits = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_EQ(connect(waits, (void*)&a, len), 0);
    _exit(0);
  }
  sleep_ms(30);
  CHECK_OK(accept(listener, NULL, NULL));
  CHECK_CHILD_OK(pid);
  // Who waits is told when the listener goes.
  pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(close(listener), 0);
    int waits = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_ERRNO(connect(waits, (void*)&a, len), ECONNREFUSED);
    _exit(0);
  }
  sleep_ms(30);
  CHECK_EQ(close(listener), 0);
  CHECK_CHILD_OK(pid);
}

TEST(accept_tells_the_peer) {
  struct sockaddr_un a, peer, own;
  socklen_t len, n = sizeof peer;
  int listener = make_listener(&a, "accept", SOCK_SEQPACKET, 4, &len);
  int s = CHECK_OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  socklen_t own_len = make_abstract(&own, "own");
  CHECK_EQ(bind(s, (void*)&own, own_len), 0);
  CHECK_EQ(connect(s, (void*)&a, len), 0);
  int server = CHECK_OK(accept(listener, (void*)&peer, &n));
  CHECK_EQ(n, own_len);
  CHECK_EQ(memcmp(&peer, &own, n), 0);
  // A bad address costs the connection.
  int t = CHECK_OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  CHECK_EQ(connect(t, (void*)&a, len), 0);
  CHECK_ERRNO(accept(listener, (void*)&peer, kBad), EFAULT);
  struct pollfd f = {t, POLLIN, 0};
  CHECK_EQ(poll(&f, 1, 1000), 1);
  CHECK(f.revents & POLLHUP);
  CHECK_EQ(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
  CHECK_ERRNO(accept(listener, NULL, NULL), EAGAIN);
  CHECK_EQ(close(server), 0);
  // A client that left already still has its name.
  int u = CHECK_OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  own_len = make_abstract(&own, "gone");
  CHECK_EQ(bind(u, (void*)&own, own_len), 0);
  CHECK_EQ(connect(u, (void*)&a, len), 0);
  CHECK_EQ(close(u), 0);
  n = sizeof peer;
  CHECK_OK(accept(listener, (void*)&peer, &n));
  CHECK_EQ(n, own_len);
}

TEST(shutdown_of_a_listener_ends_accept) {
  struct sockaddr_un a;
  socklen_t len;
  int listener = make_listener(&a, "shut", SOCK_STREAM, 4, &len);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_ERRNO(accept(listener, NULL, NULL), EINVAL);
    _exit(0);
  }
  sleep_ms(30);
  CHECK_EQ(shutdown(listener, SHUT_RDWR), 0);
  CHECK_CHILD_OK(pid);
  int s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_ERRNO(connect(s, (void*)&a, len), ECONNREFUSED);
}

TEST(sending_errors) {
  int s[2], null = CHECK_OK(open("/dev/null", O_RDWR)), path = CHECK_OK(open("/", O_PATH));
  make_pair(SOCK_STREAM, s);
  struct sockaddr_un a;
  socklen_t len = make_abstract(&a, "nobody");
  CHECK_ERRNO(send(0x7000, "x", 1, 0), EBADF);
  CHECK_ERRNO(send(path, "x", 1, 0), EBADF);
  CHECK_ERRNO(send(null, "x", 1, 0), ENOTSOCK);
  CHECK_ERRNO(send(s[0], kBad, 1, 0), EFAULT);
  CHECK_ERRNO(send(null, (void*)-4096, 1, 0), EFAULT);  // before the descriptor is looked at
  CHECK_ERRNO(recv(null, (void*)-4096, 1, 0), EFAULT);
  CHECK_EQ(send(s[0], kBad, 0, 0), 0);
  CHECK_ERRNO(sendto(s[0], "x", 1, 0, (void*)&a, len), EISCONN);
  CHECK_ERRNO(sendto(s[0], "x", 1, 0, (void*)&a, 129), EINVAL);
  CHECK_ERRNO(sendto(s[0], "x", 1, 0, kBad, 10), EFAULT);
  CHECK_EQ(sendto(s[0], "x", 1, 0, (void*)&a, 0), 1);
  int lone = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_ERRNO(sendto(lone, "x", 1, 0, (void*)&a, len), EOPNOTSUPP);
  int d = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0));
  CHECK_ERRNO(sendto(d, "x", 1, 0, (void*)&a, len), ECONNREFUSED);
  CHECK_ERRNO(sendto(d, "x", 1, 0, (void*)&a, 2), EINVAL);
  int d2[2], big = 400000;
  make_pair(SOCK_DGRAM, d2);
  char* b = malloc((size_t)big);
  CHECK_ERRNO(send(d2[0], b, (size_t)big, 0), EMSGSIZE);
  int q[2];
  make_pair(SOCK_SEQPACKET, q);
  CHECK_ERRNO(send(q[0], b, (size_t)big, 0), EMSGSIZE);
  CHECK_EQ(sendto(q[0], "abc", 3, 0, (void*)&a, len), 3);  // the address is not looked at
  int q1 = CHECK_OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  CHECK_ERRNO(send(q1, "x", 1, 0), ENOTCONN);
  CHECK_ERRNO(recv(q1, b, 1, 0), ENOTCONN);
}

TEST(message_headers_in_bad_memory) {
  int s[2], null = CHECK_OK(open("/dev/null", O_RDWR));
  make_pair(SOCK_DGRAM, s);
  struct iovec v = {"abc", 3}, bad = {kBad, 3}, negative = {"abc", (size_t)-1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
  CHECK_ERRNO(sendmsg(null, kBad, 0), ENOTSOCK);
  CHECK_ERRNO(sendmsg(s[0], kBad, 0), EFAULT);
  CHECK_ERRNO(syscall(SYS_sendmsg, s[0], &m, 1u << 31), EINVAL);
  CHECK_ERRNO(syscall(SYS_recvmsg, s[0], &m, 1u << 31), EINVAL);
  m.msg_iovlen = 1025;
  CHECK_ERRNO(sendmsg(s[0], &m, 0), EMSGSIZE);
  CHECK_ERRNO(recvmsg(s[0], &m, 0), EMSGSIZE);
  m.msg_iovlen = 1;
  m.msg_iov = kBad;
  CHECK_ERRNO(sendmsg(s[0], &m, 0), EFAULT);
  m.msg_iov = &negative;
  CHECK_ERRNO(sendmsg(s[0], &m, 0), EINVAL);
  m.msg_iov = &bad;
  CHECK_ERRNO(sendmsg(s[0], &m, 0), EFAULT);
  m = (struct msghdr){.msg_iov = &v, .msg_iovlen = 1, .msg_name = kBad, .msg_namelen = 5};
  CHECK_ERRNO(sendmsg(s[0], &m, 0), EFAULT);
  m.msg_namelen = (socklen_t)-5;
  CHECK_ERRNO(sendmsg(s[0], &m, 0), EINVAL);
  CHECK_ERRNO(recvmsg(s[0], &m, 0), EINVAL);
  m.msg_name = NULL;
  CHECK_EQ(sendmsg(s[0], &m, 0), 3);  // the length counts with a name only
  m = (struct msghdr){.msg_iov = &v, .msg_iovlen = 1, .msg_control = kBad, .msg_controllen = 16};
  CHECK_ERRNO(sendmsg(s[0], &m, 0), EFAULT);
  m.msg_controllen = 1ul << 31;
  CHECK_ERRNO(sendmsg(s[0], &m, 0), ENOBUFS);
  m.msg_controllen = 1ul << 30;
  CHECK_ERRNO(sendmsg(s[0], &m, 0), ENOBUFS);
  // No data at all is a datagram too.
  m = (struct msghdr){0};
  CHECK_EQ(sendmsg(s[0], &m, 0), 0);
  char b[8];
  CHECK_EQ(recv(s[1], b, 8, 0), 3);
  CHECK_EQ(recv(s[1], b, 8, 0), 0);
  // A datagram that cannot be delivered to memory is lost.
  CHECK_EQ(send(s[0], "one", 3, 0), 3);
  CHECK_EQ(send(s[0], "two", 3, 0), 3);
  CHECK_ERRNO(recv(s[1], kBad, 3, 0), EFAULT);
  CHECK_EQ(recv(s[1], b, 8, 0), 3);
  CHECK_EQ(memcmp(b, "two", 3), 0);
  int stream[2];
  make_pair(SOCK_STREAM, stream);
  CHECK_EQ(send(stream[0], "kept", 4, 0), 4);  // while of a stream nothing is
  CHECK_ERRNO(recv(stream[1], kBad, 3, 0), EFAULT);
  CHECK_EQ(recv(stream[1], b, 8, 0), 4);
}

TEST(transfers_stop_at_the_bad_page) {
  int s[2];
  make_pair(SOCK_STREAM, s);
  char* p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  CHECK_EQ(munmap(p + 4096, 4096), 0);
  CHECK_ERRNO(send(s[0], p + 4090, 12, 0), EFAULT);  // one piece is sent as a whole or not
  CHECK_EQ(send(s[0], "0123456789ab", 12, 0), 12);
  CHECK_ERRNO(recv(s[1], p + 4090, 12, 0), EFAULT);
  CHECK_EQ(recv(s[1], p + 4090, 6, 0), 6);  // nothing was lost
  CHECK_EQ(memcmp(p + 4090, "012345", 6), 0);
}

TEST(scattered_and_gathered) {
  int s[2];
  make_pair(SOCK_SEQPACKET, s);
  struct iovec out[3] = {{"ab", 2}, {NULL, 0}, {"cdef", 4}};
  char x[2], y[8];
  struct iovec in[2] = {{x, 2}, {y, 8}};
  struct msghdr m = {.msg_iov = out, .msg_iovlen = 3}, r = {.msg_iov = in, .msg_iovlen = 2, .msg_flags = 99};
  CHECK_EQ(sendmsg(s[0], &m, MSG_EOR), 6);
  CHECK_EQ(recvmsg(s[1], &r, 0), 6);
  CHECK_EQ(memcmp(x, "ab", 2), 0);
  CHECK_EQ(memcmp(y, "cdef", 4), 0);
  CHECK_EQ(r.msg_flags & ~MSG_EOR, 0);
  CHECK_EQ(writev(s[1], out, 3), 6);
  CHECK_EQ(readv(s[0], in, 2), 6);
}

TEST(names_of_senders) {
  struct sockaddr_un a, from;
  socklen_t len = make_abstract(&a, "named"), n;
  int s = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0)), t = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0));
  CHECK_EQ(bind(s, (void*)&a, len), 0);
  CHECK_EQ(sendto(t, "anonymous", 9, 0, (void*)&a, len), 9);
  char b[16];
  n = sizeof from;
  CHECK_EQ(recvfrom(s, b, 16, 0, (void*)&from, &n), 9);
  CHECK_EQ(n, 0);
  CHECK_EQ(sendto(s, "self", 4, 0, (void*)&a, len), 4);
  struct iovec v = {b, 16};
  memset(&from, 'z', sizeof from);
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_name = &from, .msg_namelen = 4};
  CHECK_EQ(recvmsg(s, &m, 0), 4);
  CHECK_EQ(m.msg_namelen, len);
  CHECK_EQ(from.sun_path[2], 'z');
  // Not even looked at without a name; a bad length pointer fails the call after the datagram is gone.
  CHECK_EQ(sendto(s, "1", 1, 0, (void*)&a, len), 1);
  CHECK_EQ(sendto(s, "22", 2, 0, (void*)&a, len), 2);
  CHECK_ERRNO(recvfrom(s, b, 16, 0, (void*)&from, kBad), EFAULT);
  CHECK_EQ(recvfrom(s, b, 16, 0, NULL, kBad), 2);
}

TEST(datagrams_only_from_the_peer) {
  struct sockaddr_un a, b, none = {.sun_family = AF_UNSPEC};
  socklen_t alen = make_abstract(&a, "A"), blen = make_abstract(&b, "B");
  int s = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0)), t = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0)),
      u = CHECK_OK(socket(AF_UNIX, SOCK_DGRAM, 0));
  CHECK_EQ(bind(s, (void*)&a, alen), 0);
  CHECK_EQ(bind(t, (void*)&b, blen), 0);
  CHECK_EQ(connect(s, (void*)&b, blen), 0);
  CHECK_EQ(sendto(t, "x", 1, 0, (void*)&a, alen), 1);
  CHECK_ERRNO(sendto(u, "x", 1, 0, (void*)&a, alen), EPERM);
  CHECK_ERRNO(connect(u, (void*)&a, alen), EPERM);
  CHECK_EQ(connect(s, (void*)&none, sizeof none), 0);
  CHECK_EQ(sendto(u, "x", 1, 0, (void*)&a, alen), 1);
  struct sockaddr_un got;
  socklen_t n = sizeof got;
  CHECK_ERRNO(getpeername(s, (void*)&got, &n), ENOTCONN);
  CHECK_EQ(shutdown(s, SHUT_RD), 0);
  CHECK_ERRNO(sendto(u, "x", 1, 0, (void*)&a, alen), EPIPE);
}

// --- SIGPIPE ---

static volatile sig_atomic_t pipes;
static void count_pipe(int sig) { (void)sig, pipes++; }

TEST(sigpipe_is_for_streams) {
  signal(SIGPIPE, count_pipe);
  int s[2], types[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
  struct iovec v = {"x", 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
  for (int i = 0; i < 3; i++) {
    make_pair(types[i], s);
    CHECK_EQ(shutdown(s[0], SHUT_WR), 0);
    pipes = 0;
    CHECK_ERRNO(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_ERRNO(sendmsg(s[0], &m, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(pipes, 0);
    CHECK_ERRNO(send(s[0], "x", 1, 0), EPIPE);
    CHECK_ERRNO(sendmsg(s[0], &m, 0), EPIPE);
    CHECK_ERRNO(write(s[0], "x", 1), EPIPE);
    CHECK_ERRNO(writev(s[0], &v, 1), EPIPE);
    CHECK_EQ(pipes, types[i] == SOCK_STREAM ? 4 : 0);
  }
}

// --- Waiting ---

TEST(interrupted_calls_restart_or_fail) {
  int s[2];
  char c;
  make_pair(SOCK_STREAM, s);
  handle(SIGALRM, 0);
  alarm_after_ms(20);
  CHECK_ERRNO(recv(s[0], &c, 1, 0), EINTR);
  handle(SIGALRM, SA_RESTART);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    sleep_ms(80);
    CHECK_EQ(send(s[1], "x", 1, 0), 1);
    _exit(0);
  }
  alarm_after_ms(20);
  CHECK_EQ(recv(s[0], &c, 1, 0), 1);  // went on after the signal
  CHECK_CHILD_OK(pid);
  // With a time-out a call is not restarted.
  struct timeval t = {5, 0};
  CHECK_EQ(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), 0);
  alarm_after_ms(20);
  CHECK_ERRNO(recv(s[0], &c, 1, 0), EINTR);
  struct sockaddr_un a;
  socklen_t len;
  int listener = make_listener(&a, "intr", SOCK_STREAM, 4, &len);
  handle(SIGALRM, 0);
  alarm_after_ms(20);
  CHECK_ERRNO(accept(listener, NULL, NULL), EINTR);
}

TEST(send_times_out) {
  int s[2];
  make_pair(SOCK_STREAM, s);
  struct timeval t = {0, 40000};
  CHECK_EQ(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t), 0);
  struct timeval got;
  socklen_t n = sizeof got;
  CHECK_EQ(getsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &got, &n), 0);
  CHECK_EQ(n, sizeof got);
  CHECK_EQ(got.tv_usec, 40000);
  static char b[1 << 20];
  int64_t start = now_ns();
  ssize_t sent = CHECK_OK(send(s[0], b, sizeof b, 0));  // what went before the time-out
  CHECK(sent > 0 && sent < (ssize_t)sizeof b);
  CHECK(now_ns() - start >= 30000000);
  CHECK_ERRNO(send(s[0], b, 1 << 16, 0), EAGAIN);
  t = (struct timeval){0, 1000000};
  CHECK_ERRNO(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t), EDOM);
  CHECK_ERRNO(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &t, 8), EINVAL);
}

TEST(wait_for_all) {
  int s[2];
  make_pair(SOCK_STREAM, s);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    for (int i = 0; i < 5; i++) {
      sleep_ms(5);
      CHECK_EQ(send(s[1], "ab", 2, 0), 2);
    }
    _exit(0);
  }
  char b[16];
  CHECK_EQ(recv(s[0], b, 10, MSG_WAITALL), 10);
  CHECK_CHILD_OK(pid);
  CHECK_EQ(send(s[1], "abc", 3, 0), 3);
  CHECK_EQ(recv(s[0], b, 10, MSG_WAITALL | MSG_DONTWAIT), 3);
  CHECK_EQ(send(s[1], "abc", 3, 0), 3);
  CHECK_EQ(close(s[1]), 0);
  CHECK_EQ(recv(s[0], b, 10, MSG_WAITALL), 3);
  CHECK_EQ(recv(s[0], b, 10, MSG_WAITALL), 0);
}

TEST(closing_wakes_blocked_peers) {
  int s[2];
  make_pair(SOCK_STREAM, s);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(close(s[1]), 0);
    char c;
    CHECK_EQ(read(s[0], &c, 1), 0);
    _exit(0);
  }
  CHECK_EQ(close(s[0]), 0);
  sleep_ms(20);
  CHECK_EQ(close(s[1]), 0);
  CHECK_CHILD_OK(pid);
  make_pair(SOCK_STREAM, s);
  pid = CHECK_OK(fork());
  if (pid == 0) {
    signal(SIGPIPE, SIG_IGN);
    CHECK_EQ(close(s[1]), 0);
    static char b[1 << 20];
    ssize_t n = write(s[0], b, sizeof b);  // a part, then the reset
    CHECK(n > 0 && n < (ssize_t)sizeof b);
    CHECK_ERRNO(write(s[0], b, 1), EPIPE);
    _exit(0);
  }
  CHECK_EQ(close(s[0]), 0);
  for (int queued = 0; queued == 0; sleep_ms(20)) CHECK_EQ(ioctl(s[1], FIONREAD, &queued), 0);
  CHECK_EQ(close(s[1]), 0);
  CHECK_CHILD_OK(pid);
}

TEST(killed_while_waiting) {
  int s[2], status;
  make_pair(SOCK_STREAM, s);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    char c;
    (void)!read(s[0], &c, 1);
    _exit(1);
  }
  sleep_ms(20);
  CHECK_EQ(kill(pid, SIGKILL), 0);
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CHECK(WIFSIGNALED(status));
}

// --- Control data ---

// `room` bytes of control buffer; returns msg_controllen.
static size_t receive_control(int s, void* control, size_t room, int flags, int* msg_flags) {
  char byte;
  struct iovec v = {&byte, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
  CHECK_EQ(recvmsg(s, &m, flags), 1);
  *msg_flags = m.msg_flags;
  return m.msg_controllen;
}

static ssize_t send_control(int s, int level, int type, const void* data, size_t len) {
  char control[2048] = {0};
  struct iovec v = {"f", 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(len)};
  struct cmsghdr* c = CMSG_FIRSTHDR(&m);
  *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
  memcpy(CMSG_DATA(c), data, len);
  return sendmsg(s, &m, MSG_NOSIGNAL);
}

static int open_descriptors(void) {
  int n = 0;
  for (int fd = 0; fd < 64; fd++) n += fcntl(fd, F_GETFD) != -1;
  return n;
}

TEST(rights_that_cannot_be_received) {
  int s[2], p[2], flags, before;
  make_pair(SOCK_STREAM, s);
  CHECK_EQ(pipe(p), 0);
  before = open_descriptors();
  union {
    char room[256];
    struct cmsghdr header;
  } u;
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, p, sizeof p), 1);
  CHECK_EQ(receive_control(s[1], NULL, 0, 0, &flags), 0);
  CHECK_EQ(flags, MSG_CTRUNC);
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, p, sizeof p), 1);
  CHECK_EQ(receive_control(s[1], u.room, 16, 0, &flags), 0);
  CHECK_EQ(flags, MSG_CTRUNC);
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, p, sizeof p), 1);
  CHECK_EQ(receive_control(s[1], kBad, 256, 0, &flags), 0);
  CHECK_EQ(flags, MSG_CTRUNC);
  CHECK_EQ(open_descriptors(), before);
  // read(2) drops them.
  char c;
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, p, sizeof p), 1);
  CHECK_EQ(read(s[1], &c, 1), 1);
  CHECK_EQ(open_descriptors(), before);
  // No free descriptor: as many as there are.
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, p, sizeof p), 1);
  struct rlimit old, tight;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  tight = old;
  tight.rlim_cur = (rlim_t)p[1] + 2;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  CHECK_EQ(receive_control(s[1], u.room, 256, 0, &flags), CMSG_SPACE(sizeof(int)));
  CHECK_EQ(flags, MSG_CTRUNC);
  CHECK_EQ(u.header.cmsg_len, CMSG_LEN(sizeof(int)));
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  CHECK_EQ(open_descriptors(), before + 1);
}

TEST(peeked_rights_are_copies) {
  int s[2], p[2], flags, one, two;
  make_pair(SOCK_DGRAM, s);
  CHECK_EQ(pipe(p), 0);
  union {
    char room[64];
    struct cmsghdr header;
  } u;
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, &p[1], sizeof(int)), 1);
  CHECK_EQ(receive_control(s[1], u.room, 64, MSG_PEEK, &flags), CMSG_SPACE(sizeof(int)));
  memcpy(&one, CMSG_DATA(&u.header), sizeof one);
  CHECK_EQ(receive_control(s[1], u.room, 64, 0, &flags), CMSG_SPACE(sizeof(int)));
  memcpy(&two, CMSG_DATA(&u.header), sizeof two);
  CHECK(one != two);
  CHECK_EQ(write(one, "1", 1), 1);
  CHECK_EQ(write(two, "2", 1), 1);
}

TEST(control_errors) {
  int s[2], path = CHECK_OK(open("/", O_PATH)), flags, fd, many[254];
  make_pair(SOCK_STREAM, s);
  CHECK_ERRNO(send_control(s[0], SOL_SOCKET, 99, &path, sizeof path), EINVAL);
  CHECK_EQ(send_control(s[0], 41, 99, &path, sizeof path), 1);  // other levels are ignored
  CHECK_ERRNO(send_control(s[0], SOL_SOCKET, SCM_CREDENTIALS, &path, sizeof path), EINVAL);
  for (int i = 0; i < 254; i++) many[i] = path;
  CHECK_ERRNO(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, many, sizeof many), EINVAL);
  // Bad control data comes before a broken pipe, and that before nothing.
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, many, 253 * sizeof(int)), 1);
  // O_PATH descriptors can be sent.
  int t[2];
  make_pair(SOCK_STREAM, t);
  CHECK_EQ(send_control(t[0], SOL_SOCKET, SCM_RIGHTS, &path, sizeof path), 1);
  union {
    char room[64];
    struct cmsghdr header;
  } u;
  CHECK_EQ(receive_control(t[1], u.room, 64, 0, &flags), CMSG_SPACE(sizeof(int)));
  memcpy(&fd, CMSG_DATA(&u.header), sizeof fd);
  struct stat st;
  CHECK_EQ(fstatat(fd, "dev", &st, 0), 0);
  CHECK_EQ(close(t[1]), 0);
  fd = 0x7000;
  CHECK_ERRNO(send_control(t[0], SOL_SOCKET, SCM_RIGHTS, &fd, sizeof fd), EBADF);
  CHECK_ERRNO(send_control(t[0], SOL_SOCKET, SCM_RIGHTS, &path, sizeof path), EPIPE);
}

TEST(claimed_credentials) {
  int s[2], on = 1, flags;
  make_pair(SOCK_STREAM, s);
  CHECK_EQ(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  struct ucred c = {getpid(), getuid(), getgid()}, got;
  union {
    char room[64];
    struct cmsghdr header;
  } u;
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_CREDENTIALS, &c, sizeof c), 1);
  CHECK_EQ(receive_control(s[1], u.room, 64, 0, &flags), CMSG_SPACE(sizeof c));
  memcpy(&got, CMSG_DATA(&u.header), sizeof got);
  CHECK_EQ(memcmp(&got, &c, sizeof c), 0);
  // Cut off by a small buffer.
  CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_CREDENTIALS, &c, sizeof c), 1);
  CHECK_EQ(receive_control(s[1], u.room, CMSG_LEN(4), 0, &flags), CMSG_LEN(4));
  CHECK_EQ(flags, MSG_CTRUNC);
  CHECK_EQ(u.header.cmsg_len, CMSG_LEN(4));
  if (geteuid() != 0) return;
  // Data of two writers stays apart.
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(setresgid(55, 55, 55), 0);
    CHECK_EQ(setresuid(44, 44, 44), 0);
    struct ucred lie = {1, 0, 0};
    CHECK_ERRNO(send_control(s[0], SOL_SOCKET, SCM_CREDENTIALS, &lie, sizeof lie), EPERM);
    CHECK_EQ(send(s[0], "child", 5, 0), 5);
    _exit(0);
  }
  CHECK_CHILD_OK(pid);
  CHECK_EQ(send(s[0], "parent", 6, 0), 6);
  char b[32];
  struct iovec v = {b, sizeof b};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = u.room, .msg_controllen = 64};
  CHECK_EQ(recvmsg(s[1], &m, 0), 5);
  memcpy(&got, CMSG_DATA(&u.header), sizeof got);
  CHECK_EQ(got.pid, pid);
  CHECK_EQ(got.uid, 44);
  CHECK_EQ(got.gid, 55);
  CHECK_EQ(recv(s[1], b, sizeof b, 0), 6);
}

TEST(a_socket_sent_through_itself_is_collected) {
  int s[2];
  for (int i = 0; i < 300; i++) {
    make_pair(SOCK_STREAM, s);
    CHECK_EQ(send_control(s[0], SOL_SOCKET, SCM_RIGHTS, s, sizeof s), 1);
    CHECK_EQ(send_control(s[1], SOL_SOCKET, SCM_RIGHTS, s, sizeof s), 1);
    CHECK_EQ(close(s[0]), 0);
    CHECK_EQ(close(s[1]), 0);
  }
}

// --- Batches ---

TEST(batches_end_early) {
  int s[2];
  make_pair(SOCK_DGRAM, s);
  struct iovec v[3] = {{"a", 1}, {kBad, 2}, {"c", 1}};
  struct mmsghdr out[3] = {0}, in[4] = {0};
  for (int i = 0; i < 3; i++) out[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
  CHECK_ERRNO(sendmmsg(0x7000, out, 3, 0), EBADF);
  CHECK_EQ(sendmmsg(s[0], out, 3, 0), 1);
  CHECK_ERRNO(sendmmsg(s[0], out + 1, 2, 0), EFAULT);
  CHECK_EQ(sendmmsg(s[0], kBad, 0, 0), 0);
  CHECK_ERRNO(sendmmsg(s[0], kBad, 1, 0), EFAULT);
  CHECK_EQ(sendmmsg(s[0], out + 2, 1, 0), 1);
  char b[4][8];
  struct iovec w[4];
  for (int i = 0; i < 4; i++) {
    w[i] = (struct iovec){b[i], 8};
    in[i].msg_hdr = (struct msghdr){.msg_iov = &w[i], .msg_iovlen = 1};
  }
  struct timespec bad_time = {0, 2000000000}, t = {0, 1000000};
  CHECK_ERRNO(recvmmsg(s[1], in, 4, 0, &bad_time), EINVAL);
  CHECK_ERRNO(recvmmsg(s[1], in, 4, 0, kBad), EFAULT);
  CHECK_EQ(recvmmsg(s[1], in, 4, MSG_WAITFORONE, NULL), 2);
  CHECK_ERRNO(recvmmsg(s[1], in, 4, MSG_DONTWAIT, NULL), EAGAIN);
  // The time-out counts from message to message: two come, the second after it has passed.
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    CHECK_EQ(send(s[0], "1", 1, 0), 1);
    sleep_ms(20);
    CHECK_EQ(send(s[0], "2", 1, 0), 1);
    _exit(0);
  }
  t.tv_nsec = 5000000;
  int n = recvmmsg(s[1], in, 4, 0, &t);
  CHECK(n == 1 || n == 2);
  CHECK(n == 1 || (t.tv_sec == 0 && t.tv_nsec == 0));
  CHECK_CHILD_OK(pid);
}

TEST(an_error_in_a_batch_is_kept) {
  int s[2], v;
  socklen_t n = sizeof v;
  make_pair(SOCK_DGRAM, s);
  CHECK_EQ(send(s[0], "1", 1, 0), 1);
  CHECK_EQ(send(s[0], "2", 1, 0), 1);
  char b[8];
  struct iovec w[2] = {{b, 8}, {kBad, 8}};
  struct mmsghdr in[2] = {{.msg_hdr = {.msg_iov = &w[0], .msg_iovlen = 1}},
                          {.msg_hdr = {.msg_iov = &w[1], .msg_iovlen = 1}}};
  CHECK_EQ(recvmmsg(s[1], in, 2, 0, NULL), 1);
  CHECK_EQ(getsockopt(s[1], SOL_SOCKET, SO_ERROR, &v, &n), 0);
  CHECK_EQ(v, EFAULT);
}

// --- Options ---

TEST(option_errors) {
  int s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0)), v = 1;
  socklen_t n = sizeof v;
  CHECK_ERRNO(setsockopt(0x7000, SOL_SOCKET, SO_PASSCRED, &v, sizeof v), EBADF);
  CHECK_ERRNO(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &v, (socklen_t)-1), EINVAL);
  CHECK_ERRNO(setsockopt(s, SOL_SOCKET, SO_PASSCRED, kBad, 3), EINVAL);
  CHECK_ERRNO(setsockopt(s, SOL_SOCKET, SO_PASSCRED, kBad, 4), EFAULT);
  CHECK_ERRNO(setsockopt(s, 6, 1, &v, sizeof v), EOPNOTSUPP);
  CHECK_ERRNO(getsockopt(s, 6, 1, &v, &n), EOPNOTSUPP);
  CHECK_ERRNO(setsockopt(s, SOL_SOCKET, SO_ERROR, &v, sizeof v), ENOPROTOOPT);
  CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, sizeof v), 0);
  n = 2;
  v = -1;
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, &n), 0);
  CHECK_EQ(n, 2);
  CHECK_EQ(v, (int)0xffff0001);
  n = 1000;
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, &n), 0);
  CHECK_EQ(n, 4);
  n = (socklen_t)-1;
  CHECK_ERRNO(getsockopt(s, SOL_SOCKET, SO_REUSEADDR, &v, &n), EINVAL);
  struct ucred u;
  n = sizeof u;
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &u, &n), 0);
  CHECK_EQ(u.pid, 0);
  CHECK_EQ(u.uid, (uid_t)-1);
  v = 10000;
  CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_SNDBUF, &v, sizeof v), 0);
  n = sizeof v;
  CHECK_EQ(getsockopt(s, SOL_SOCKET, SO_SNDBUF, &v, &n), 0);
  CHECK_EQ(v, 20000);
}

TEST(peer_name_and_groups) {
  int s[2];
  make_pair(SOCK_STREAM, s);
  struct sockaddr_un a;
  socklen_t n = 2;
  CHECK_EQ(getsockopt(s[0], SOL_SOCKET, SO_PEERNAME, &a, &n), 0);
  CHECK_EQ(a.sun_family, AF_UNIX);
  n = 100;
  CHECK_ERRNO(getsockopt(s[0], SOL_SOCKET, SO_PEERNAME, &a, &n), EINVAL);
  gid_t groups[64], peers[64];
  int count = CHECK_OK(getgroups(64, groups));
  n = sizeof peers;
  CHECK_EQ(getsockopt(s[0], SOL_SOCKET, SO_PEERGROUPS, peers, &n), 0);
  CHECK_EQ(n, (size_t)count * sizeof(gid_t));
  CHECK_EQ(memcmp(groups, peers, n), 0);
  int lone = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  n = sizeof peers;
  CHECK_ERRNO(getsockopt(lone, SOL_SOCKET, SO_PEERGROUPS, peers, &n), ENODATA);
  CHECK_ERRNO(getsockopt(lone, SOL_SOCKET, SO_PEERNAME, &a, &n), ENOTCONN);
}

// --- Elsewhere ---

TEST(file_calls_on_sockets) {
  int s[2], n = -1;
  char path[64], name[64] = {0}, want[64], b[8];
  make_pair(SOCK_STREAM, s);
  struct stat st;
  CHECK_EQ(fstat(s[0], &st), 0);
  snprintf(path, sizeof path, "/proc/self/fd/%d", s[0]);
  snprintf(want, sizeof want, "socket:[%lu]", (unsigned long)st.st_ino);
  CHECK(readlink(path, name, sizeof name - 1) > 0);
  CHECK_STR(name, want);
  CHECK_ERRNO(open(path, O_RDWR), ENXIO);
  CHECK_ERRNO(pread(s[0], b, 1, 0), ESPIPE);
  CHECK_ERRNO(pwrite(s[0], b, 1, 0), ESPIPE);
  CHECK_ERRNO(ftruncate(s[0], 0), EINVAL);
  CHECK_ERRNO(fsync(s[0]), EINVAL);
  CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, s[0], 0) == MAP_FAILED && errno == ENODEV);
  CHECK_ERRNO(ioctl(s[0], TIOCGWINSZ, b), ENOTTY);
  CHECK(!isatty(s[0]));
  CHECK_EQ(read(s[0], b, 0), 0);  // does not wait
  CHECK_EQ(write(s[1], "abc", 3), 3);
  CHECK_EQ(ioctl(s[0], FIONREAD, &n), 0);
  CHECK_EQ(n, 3);
  n = 1;
  CHECK_EQ(ioctl(s[0], FIONBIO, &n), 0);
  CHECK_EQ(read(s[0], b, 8), 3);
  CHECK_ERRNO(read(s[0], b, 8), EAGAIN);
  // In and out of pipes and files.
  int p[2];
  CHECK_EQ(pipe(p), 0);
  CHECK_EQ(write(p[1], "through", 7), 7);
  CHECK_EQ(splice(p[0], NULL, s[0], NULL, 100, 0), 7);
  CHECK_EQ(splice(s[1], NULL, p[1], NULL, 4, 0), 4);
  CHECK_EQ(read(p[0], b, 8), 4);
  CHECK_EQ(memcmp(b, "thro", 4), 0);
  int exe = CHECK_OK(open("/proc/self/exe", O_RDONLY));
  off_t at = 1;
  CHECK_EQ(sendfile(s[0], exe, &at, 3), 3);
  CHECK_EQ(read(s[1], b, 8), 6);
  CHECK_EQ(memcmp(b, "ughELF", 6), 0);
}

// The line of /proc/net/unix that ends in " INODE" and what follows; 0 if there is none.
static int find_in_proc(const char* tail, char* line, size_t size) {
  FILE* f = fopen("/proc/net/unix", "r");
  CHECK(f != NULL);
  int found = 0;
  while (!found && fgets(line, (int)size, f)) {
    line[strcspn(line, "\n")] = 0;
    found = strlen(line) > strlen(tail) && strcmp(line + strlen(line) - strlen(tail), tail) == 0;
  }
  fclose(f);
  return found;
}

TEST(listed_in_proc) {
  struct sockaddr_un a;
  socklen_t len;
  int listener = make_listener(&a, "listed", SOCK_SEQPACKET, 4, &len), s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  char line[256], tail[128];
  struct stat st;
  CHECK_EQ(fstat(listener, &st), 0);
  snprintf(tail, sizeof tail, " %lu @%s", (unsigned long)st.st_ino, a.sun_path + 1);
  CHECK(find_in_proc(tail, line, sizeof line));
  CHECK(strstr(line, " 00000000 00010000 0005 01 ") != NULL);
  CHECK_EQ(fstat(s, &st), 0);
  snprintf(tail, sizeof tail, " %lu", (unsigned long)st.st_ino);
  CHECK(find_in_proc(tail, line, sizeof line));
  CHECK(strstr(line, ": 00000002 00000000 00000000 0001 01 ") != NULL);
  CHECK_EQ(close(s), 0);
  CHECK(!find_in_proc(tail, line, sizeof line));
}

TEST(poll_bits) {
  struct sockaddr_un a;
  socklen_t len;
  int listener = make_listener(&a, "poll", SOCK_STREAM, 4, &len), s[2],
      lone = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  const short all = POLLIN | POLLOUT | POLLRDHUP | POLLPRI;
  struct pollfd f = {listener, all, 0};
  CHECK_EQ(poll(&f, 1, 0), 0);
  f.fd = lone;
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(f.revents, POLLOUT | POLLHUP);
  make_pair(SOCK_STREAM, s);
  f.fd = s[0];
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(f.revents, POLLOUT);
  CHECK_EQ(write(s[1], "x", 1), 1);
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(f.revents, POLLIN | POLLOUT);
  CHECK_EQ(shutdown(s[1], SHUT_WR), 0);
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(f.revents, POLLIN | POLLOUT | POLLRDHUP);
  CHECK_EQ(close(s[1]), 0);
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(f.revents, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
  make_pair(SOCK_STREAM, s);
  CHECK_EQ(write(s[0], "x", 1), 1);
  CHECK_EQ(close(s[1]), 0);  // unread: a reset
  f.fd = s[0];
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK_EQ(f.revents, POLLIN | POLLOUT | POLLRDHUP | POLLHUP | POLLERR);
}

TEST(epoll_edges) {
  int s[2], e = CHECK_OK(epoll_create1(0));
  make_pair(SOCK_STREAM, s);
  struct epoll_event ev = {.events = EPOLLIN | EPOLLET | EPOLLRDHUP, .data = {.u64 = 7}}, got;
  CHECK_EQ(epoll_ctl(e, EPOLL_CTL_ADD, s[0], &ev), 0);
  CHECK_EQ(epoll_wait(e, &got, 1, 0), 0);
  CHECK_EQ(write(s[1], "a", 1), 1);
  CHECK_EQ(epoll_wait(e, &got, 1, 1000), 1);
  CHECK_EQ(epoll_wait(e, &got, 1, 0), 0);
  CHECK_EQ(write(s[1], "b", 1), 1);
  CHECK_EQ(epoll_wait(e, &got, 1, 1000), 1);
  CHECK_EQ(close(s[1]), 0);
  CHECK_EQ(epoll_wait(e, &got, 1, 1000), 1);
  CHECK_EQ(got.events & (EPOLLIN | EPOLLRDHUP), EPOLLIN | EPOLLRDHUP);
}

// --- Threads ---

enum { kWriters = 4, kRounds = 300 };
static int shared_pair[2];
static void* write_records(void* arg) {
  int record[4] = {(int)(intptr_t)arg, 0, 0, 0};
  for (int i = 0; i < kRounds; i++) {
    record[1] = i;
    record[2] = record[0] * 1000 + i;
    CHECK_EQ(send(shared_pair[0], record, sizeof record, 0), sizeof record);
  }
  return NULL;
}

TEST(many_writers_one_reader) {
  int types[] = {SOCK_SEQPACKET, SOCK_DGRAM, SOCK_STREAM};
  for (int i = 0; i < 3; i++) {
    make_pair(types[i], shared_pair);
    pthread_t t[kWriters];
    int next[kWriters] = {0}, record[4];
    for (intptr_t w = 0; w < kWriters; w++) CHECK_EQ(pthread_create(&t[w], NULL, write_records, (void*)w), 0);
    for (int n = 0; n < kWriters * kRounds; n++) {
      CHECK_EQ(recv(shared_pair[1], record, sizeof record, MSG_WAITALL), sizeof record);
      CHECK(record[0] >= 0 && record[0] < kWriters);
      CHECK_EQ(record[1], next[record[0]]++);
      CHECK_EQ(record[2], record[0] * 1000 + record[1]);
    }
    for (int w = 0; w < kWriters; w++) CHECK_EQ(pthread_join(t[w], NULL), 0);
  }
}

static void* accept_one(void* arg) { return (void*)(intptr_t)accept((int)(intptr_t)arg, NULL, NULL); }

TEST(a_descriptor_being_made_is_closed_to_others) {
  // accept() holds a number while it waits: nobody else gets it, and dup2() to it is EBUSY.
  struct sockaddr_un a;
  socklen_t len;
  int listener = make_listener(&a, "reserve", SOCK_STREAM, 4, &len);
  pthread_t t;
  CHECK_EQ(pthread_create(&t, NULL, accept_one, (void*)(intptr_t)listener), 0);
  sleep_ms(30);
  CHECK_EQ(dup(listener), listener + 2);
  CHECK_ERRNO(fcntl(listener + 1, F_GETFD), EBADF);
  CHECK_ERRNO(close(listener + 1), EBADF);
  CHECK_ERRNO(dup2(listener, listener + 1), EBUSY);
  int s = CHECK_OK(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(s, listener + 3);
  CHECK_EQ(connect(s, (void*)&a, len), 0);
  void* got;
  CHECK_EQ(pthread_join(t, &got), 0);
  CHECK_EQ((intptr_t)got, listener + 1);
}
