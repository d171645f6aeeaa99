// Pseudo-terminals: opening, the line discipline, signals from keys, job control, window size.
#include "check.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static int g_master, g_slave;
static char g_slave_name[64];

static void open_pty(void) {
  g_master = CHECK_OK(open("/dev/ptmx", O_RDWR | O_NOCTTY));
  int number = -1, zero = 0;
  CHECK_EQ(ioctl(g_master, TIOCGPTN, &number), 0);
  CHECK_EQ(ioctl(g_master, TIOCSPTLCK, &zero), 0);
  snprintf(g_slave_name, sizeof g_slave_name, "/dev/pts/%d", number);
  g_slave = CHECK_OK(open(g_slave_name, O_RDWR | O_NOCTTY));
}

static const char* read_text(int fd) {
  static char b[256];
  ssize_t n = CHECK_OK(read(fd, b, sizeof b - 1));
  b[n] = 0;
  return b;
}
static void put(int fd, const char* text) { CHECK_EQ(write(fd, text, strlen(text)), strlen(text)); }

static int nothing_to_read(int fd) {
  struct pollfd f = {fd, POLLIN, 0};
  return poll(&f, 1, 50) == 0;
}

static void set_flags(tcflag_t clear_local, tcflag_t set_local) {
  struct termios t;
  CHECK_EQ(tcgetattr(g_slave, &t), 0);
  t.c_lflag = (t.c_lflag & ~clear_local) | set_local;
  CHECK_EQ(tcsetattr(g_slave, TCSANOW, &t), 0);
}

TEST(open_and_names) {
  open_pty();
  CHECK(isatty(g_slave));
  CHECK(isatty(g_master));
  struct stat st;
  CHECK_EQ(fstat(g_slave, &st), 0);
  CHECK(S_ISCHR(st.st_mode));
  char name[64];
  CHECK_EQ(ttyname_r(g_slave, name, sizeof name), 0);
  CHECK_STR(name, g_slave_name);
  int null = CHECK_OK(open("/dev/null", O_RDWR));
  CHECK(!isatty(null));
  struct termios t;
  CHECK_ERRNO(tcgetattr(null, &t), ENOTTY);
}

TEST(library_functions) {
  int m = CHECK_OK(posix_openpt(O_RDWR | O_NOCTTY));
  CHECK_EQ(grantpt(m), 0);
  CHECK_EQ(unlockpt(m), 0);
  char name[64];
  CHECK_EQ(ptsname_r(m, name, sizeof name), 0);
  CHECK_OK(open(name, O_RDWR | O_NOCTTY));
}

TEST(defaults) {
  open_pty();
  struct termios t;
  CHECK_EQ(tcgetattr(g_slave, &t), 0);
  CHECK(t.c_lflag & ICANON);
  CHECK(t.c_lflag & ECHO);
  CHECK(t.c_lflag & ISIG);
  CHECK(t.c_iflag & ICRNL);
  CHECK(t.c_oflag & OPOST);
  CHECK(t.c_oflag & ONLCR);
  CHECK_EQ(t.c_cc[VINTR], 3);
  CHECK_EQ(t.c_cc[VEOF], 4);
  CHECK_EQ(t.c_cc[VERASE], 127);
}

TEST(canonical_lines) {
  open_pty();
  set_flags(ECHO, 0);
  put(g_master, "hel");
  CHECK(nothing_to_read(g_slave));
  put(g_master, "lo\nnext\n");
  CHECK_STR(read_text(g_slave), "hello\n");  // one line a read
  CHECK_STR(read_text(g_slave), "next\n");
  put(g_master, "cr\r");
  CHECK_STR(read_text(g_slave), "cr\n");
  char two[3] = {0};
  put(g_master, "long line\n");
  CHECK_EQ(read(g_slave, two, 2), 2);
  CHECK_STR(two, "lo");
  CHECK_STR(read_text(g_slave), "ng line\n");
}

TEST(line_editing) {
  open_pty();
  set_flags(ECHO, 0);
  put(g_master, "abx\177c\n");
  CHECK_STR(read_text(g_slave), "abc\n");
  put(g_master, "all gone\025kept\n");  // ^U
  CHECK_STR(read_text(g_slave), "kept\n");
  put(g_master, "one two\027three\n");  // ^W
  CHECK_STR(read_text(g_slave), "one three\n");
  put(g_master, "a\026\003b\n");  // ^V quotes ^C
  CHECK_STR(read_text(g_slave), "a\003b\n");
}

TEST(end_of_file_key) {
  open_pty();
  set_flags(ECHO, 0);
  char b[8];
  put(g_master, "\004");
  CHECK_EQ(read(g_slave, b, 8), 0);
  put(g_master, "abc\004");
  CHECK_EQ(read(g_slave, b, 8), 3);
}

TEST(echo) {
  open_pty();
  put(g_master, "hi\n");
  CHECK_STR(read_text(g_master), "hi\r\n");
  CHECK_STR(read_text(g_slave), "hi\n");
  put(g_master, "x\177");
  CHECK_STR(read_text(g_master), "x\b \b");
}

TEST(output_processing) {
  open_pty();
  put(g_slave, "a\nb\n");
  CHECK_STR(read_text(g_master), "a\r\nb\r\n");
  struct termios t;
  CHECK_EQ(tcgetattr(g_slave, &t), 0);
  t.c_oflag &= ~(tcflag_t)OPOST;
  CHECK_EQ(tcsetattr(g_slave, TCSADRAIN, &t), 0);
  put(g_slave, "a\n");
  CHECK_STR(read_text(g_master), "a\n");
}

TEST(raw_mode) {
  open_pty();
  struct termios t;
  CHECK_EQ(tcgetattr(g_slave, &t), 0);
  cfmakeraw(&t);
  CHECK_EQ(tcsetattr(g_slave, TCSANOW, &t), 0);
  put(g_master, "x\r\003");
  CHECK_STR(read_text(g_slave), "x\r\003");
  CHECK(nothing_to_read(g_master));
  // VMIN 0 and VTIME: a read that times out.
  t.c_cc[VMIN] = 0;
  t.c_cc[VTIME] = 1;
  CHECK_EQ(tcsetattr(g_slave, TCSANOW, &t), 0);
  char c;
  int64_t start = now_ns();
  CHECK_EQ(read(g_slave, &c, 1), 0);
  CHECK(now_ns() - start >= 80000000);
  // VMIN 3: waits for three.
  t.c_cc[VMIN] = 3;
  t.c_cc[VTIME] = 0;
  CHECK_EQ(tcsetattr(g_slave, TCSANOW, &t), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    for (int i = 0; i < 3; i++) {
      sleep_ms(20);
      put(g_master, "z");
    }
    _exit(0);
  }
  char b[8];
  CHECK_EQ(read(g_slave, b, 8), 3);
  CHECK_CHILD_OK(pid);
}

TEST(flush_and_queue_length) {
  open_pty();
  set_flags(ECHO, 0);
  put(g_master, "line\n");
  int n = 0;
  CHECK(!nothing_to_read(g_slave));
  CHECK_EQ(ioctl(g_slave, FIONREAD, &n), 0);
  CHECK_EQ(n, 5);
  CHECK_EQ(tcflush(g_slave, TCIFLUSH), 0);
  CHECK(nothing_to_read(g_slave));
}

TEST(window_size) {
  open_pty();
  struct winsize w = {24, 80, 0, 0}, got;
  CHECK_EQ(ioctl(g_master, TIOCSWINSZ, &w), 0);
  CHECK_EQ(ioctl(g_slave, TIOCGWINSZ, &got), 0);
  CHECK_EQ(got.ws_row, 24);
  CHECK_EQ(got.ws_col, 80);
}

TEST(hangup_when_master_closes) {
  open_pty();
  CHECK_EQ(close(g_master), 0);
  char c;
  CHECK_EQ(read(g_slave, &c, 1), 0);
  CHECK_ERRNO(write(g_slave, "x", 1), EIO);
  struct pollfd f = {g_slave, POLLIN, 0};
  CHECK_EQ(poll(&f, 1, 0), 1);
  CHECK(f.revents & POLLHUP);
}

TEST(master_sees_closed_slaves) {
  open_pty();
  put(g_slave, "last words");
  CHECK_EQ(close(g_slave), 0);
  CHECK_STR(read_text(g_master), "last words");
  char c;
  CHECK_ERRNO(read(g_master, &c, 1), EIO);
}

static volatile sig_atomic_t g_signal;
static void note_signal(int signo) { g_signal = signo; }

static void become_session(void) {
  CHECK_OK(setsid());
  CHECK_EQ(ioctl(g_slave, TIOCSCTTY, 0), 0);
  CHECK_EQ(tcgetpgrp(g_slave), getpid());
  CHECK_EQ(tcgetsid(g_slave), getpid());
}

TEST(keys_send_signals) {
  open_pty();
  IN_CHILD({
    become_session();
    const struct {
      const char* key;
      int signo;
    } keys[] = {{"\003", SIGINT}, {"\034", SIGQUIT}};
    for (int i = 0; i < 2; i++) {
      struct sigaction act = {.sa_handler = note_signal};
      CHECK_EQ(sigaction(keys[i].signo, &act, NULL), 0);
      g_signal = 0;
      put(g_master, keys[i].key);
      for (int j = 0; j < 100 && !g_signal; j++) sleep_ms(10);
      CHECK_EQ(g_signal, keys[i].signo);
    }
    int fd = CHECK_OK(open("/dev/tty", O_RDWR));
    put(fd, "via /dev/tty");
  });
}

TEST(window_change_signals_the_foreground) {
  open_pty();
  IN_CHILD({
    become_session();
    struct sigaction act = {.sa_handler = note_signal};
    CHECK_EQ(sigaction(SIGWINCH, &act, NULL), 0);
    struct winsize w = {10, 20, 0, 0};
    CHECK_EQ(ioctl(g_master, TIOCSWINSZ, &w), 0);
    for (int j = 0; j < 100 && !g_signal; j++) sleep_ms(10);
    CHECK_EQ(g_signal, SIGWINCH);
  });
}

TEST(background_reads_stop) {
  open_pty();
  IN_CHILD({
    become_session();
    pid_t pid = CHECK_OK(fork());
    if (pid == 0) {
      CHECK_EQ(setpgid(0, 0), 0);
      char c;
      (void)!read(g_slave, &c, 1);
      _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status));
    CHECK_EQ(WSTOPSIG(status), SIGTTIN);
    // In the foreground it goes on.
    signal(SIGTTOU, SIG_IGN);
    CHECK_EQ(tcsetpgrp(g_slave, pid), 0);
    put(g_master, "\n");
    CHECK_EQ(kill(pid, SIGCONT), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
  });
}

TEST(suspend_key_stops_the_foreground) {
  open_pty();
  IN_CHILD({
    become_session();
    signal(SIGTTOU, SIG_IGN);
    pid_t pid = CHECK_OK(fork());
    if (pid == 0) {
      for (;;) pause();
    }
    CHECK_EQ(setpgid(pid, pid), 0);
    CHECK_EQ(tcsetpgrp(g_slave, pid), 0);
    put(g_master, "\032");
    int status;
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status));
    CHECK_EQ(WSTOPSIG(status), SIGTSTP);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
  });
}

TEST(leader_exit_hangs_up_the_session) {
  open_pty();
  int p[2];
  CHECK_EQ(pipe(p), 0);
  pid_t pid = CHECK_OK(fork());
  if (pid == 0) {
    become_session();
    if (fork() == 0) {
      struct sigaction act = {.sa_handler = note_signal};
      sigaction(SIGHUP, &act, NULL);
      CHECK_EQ(write(p[1], "r", 1), 1);
      for (int j = 0; j < 200 && !g_signal; j++) sleep_ms(10);
      char c = (char)g_signal;
      (void)!write(p[1], &c, 1);
      _exit(0);
    }
    char c;
    CHECK_EQ(read(p[0], &c, 1), 1);
    _exit(0);
  }
  CHECK_CHILD_OK(pid);
  char c = 0;
  CHECK_EQ(read(p[0], &c, 1), 1);
  CHECK_EQ(c, SIGHUP);
}

TEST(no_controlling_terminal) {
  IN_CHILD({
    CHECK_OK(setsid());
    CHECK_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
  });
}
