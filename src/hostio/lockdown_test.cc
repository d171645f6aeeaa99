// Each test locks a child process down, since there is no way back.
#include "hostio/lockdown.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/landlock.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/fault.h"
#include "core/test_scheduler.h"
#include "hostio/calls.h"
#include "hostio/ring_reactor.h"

namespace rf::hostio {
namespace {

using testing::HasSubstr;

struct Outcome {
  int status = -1;     // exit status
  std::string errors;  // what it wrote to stderr
};

// Runs `body` in a child, on a fiber of a scheduler with rings, after lock_down(). The child's status is what `body`
// returns. `meanwhile` runs here when the child has written a byte to descriptor 1.
Outcome locked_down(const LockdownOptions& options, const std::function<int()>& body,
                    const std::function<void(pid_t)>& meanwhile = {}) {
  int errors[2], ready[2];
  RF_CHECK(pipe2(errors, O_CLOEXEC) == 0 && pipe2(ready, O_CLOEXEC) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(errors[1], STDERR_FILENO);
    dup2(ready[1], STDOUT_FILENO);
    SchedulerOptions scheduler = test_options(3);
    scheduler.make_reactor = make_ring_reactor;
    run_fibers(scheduler, [&] {
      if (auto r = lock_down(options); !r) {
        fprintf(stderr, "%s\n", r.error().message.c_str());
        _exit(99);
      }
      _exit(body());
    });
    _exit(98);
  }
  close(errors[1]);
  close(ready[1]);
  char byte;
  if (meanwhile && ::read(ready[0], &byte, 1) == 1) {
    meanwhile(child);
    kill(child, SIGKILL);
  }
  Outcome o;
  char text[4096];
  for (ssize_t n; (n = ::read(errors[0], text, sizeof text)) > 0;) o.errors.append(text, static_cast<size_t>(n));
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) o.status = WEXITSTATUS(status);
  close(errors[0]);
  close(ready[0]);
  return o;
}

class LockdownTest : public testing::Test {
 protected:
  void SetUp() override {
    if (RF_ASAN || RF_TSAN) GTEST_SKIP() << "sanitizers' run-time makes host calls of its own";
  }
};

TEST_F(LockdownTest, AForbiddenCallEndsTheProcessAndIsNamed) {
  const Outcome o = locked_down({}, [] { return ::socket(AF_INET, SOCK_STREAM, 0); });
  EXPECT_EQ(o.status, kInternalErrorStatus);
  EXPECT_THAT(o.errors, HasSubstr("host call that is not allowed: number 41 (socket 0x2 0x1 0x0"));
}

TEST_F(LockdownTest, ForbiddenCallsAreStopped) {
  const std::pair<const char*, std::function<void()>> calls[] = {
      {"execve", [] { execl("/bin/true", "true", nullptr); }},
      {"clone", [] { syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); }},
      {"openat", [] { ::open("/etc/passwd", O_RDONLY); }},
      {"mmap", [] { ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }},
      {"mprotect", [] { ::mprotect(reinterpret_cast<void*>(0x10000), 4096, PROT_EXEC); }},
      {"ioctl", [] { ::ioctl(0, TIOCSTI, "x"); }},
      {"fcntl", [] { ::fcntl(0, F_SETFL, 0); }},
      {"tgkill", [] { syscall(SYS_tgkill, getppid(), getppid(), 0); }},
      {"kill", [] { ::kill(1, 0); }},
      {"io_uring_setup", [] { syscall(SYS_io_uring_setup, 1, nullptr); }},
      {"io_uring_register", [] { syscall(SYS_io_uring_register, 3, IORING_REGISTER_FILES, nullptr, 0); }},
      {"ptrace", [] { syscall(SYS_ptrace, 0, 0, 0, 0); }},
      {"unlinkat",
       [] {
         ::unlink("/tmp/no such file");
         ::unlinkat(AT_FDCWD, "/tmp/no such file", 0);
       }},
  };
  for (auto& [name, call] : calls) {
    const Outcome o = locked_down({}, [&] {
      call();
      return 0;
    });
    EXPECT_EQ(o.status, kInternalErrorStatus) << name;
  }
}

TEST_F(LockdownTest, WhatTheSentryUsesIsAllowed) {
  const Outcome o = locked_down({}, [] {
    char byte;
    auto p = ::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 1;
    const open_how how{.flags = O_RDONLY | O_CLOEXEC, .mode = 0, .resolve = 0};
    auto zero = openat2(AT_FDCWD, "/dev/zero", how);
    if (zero && !read(zero->get(), std::as_writable_bytes(std::span(&byte, 1)), 0)) return 2;
    sleep_until(monotonic_now() + kMillisecond, Interruptible::kNo);
    for (u32 i = 0; i < 3; i++) Scheduler::current()->worker(i).prod();
    return 42;
  });
  EXPECT_EQ(o.status, 42) << o.errors;
}

// Lines of /proc/PID/task/TID/status.
std::string status_field(const std::filesystem::path& task, const std::string& name) {
  std::ifstream in(task / "status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + ":\t")) return line.substr(name.size() + 2);
  return "";
}

TEST_F(LockdownTest, EveryThreadIsConfined) {
  size_t threads = 0;
  locked_down(
      {},
      []() -> int {
        (void)!::write(STDOUT_FILENO, "x", 1);
        for (;;) park(Interruptible::kNo);
      },
      [&](pid_t pid) {
        constexpr u64 kReadSearch = 1 << 2;
        for (auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
          ++threads;
          EXPECT_EQ(status_field(task, "Seccomp"), "2");
          EXPECT_EQ(status_field(task, "NoNewPrivs"), "1");
          EXPECT_EQ(std::stoull(status_field(task, "CapEff"), nullptr, 16) & ~kReadSearch, 0u);
          EXPECT_EQ(std::stoull(status_field(task, "CapPrm"), nullptr, 16) & ~kReadSearch, 0u);
        }
      });
  EXPECT_GE(threads, 3u);
}

TEST_F(LockdownTest, RingsMakeNoOtherRequests) {
  struct Made final : Request {
    void complete(s32 r, u32) override { result = r; }
    s32 result = 1;
  };
  const Outcome o = locked_down({}, [] {
    RingReactor& ring = RingReactor::current();
    Made made;
    ring.queue(made, [](io_uring_sqe* sqe) { io_uring_prep_socket(sqe, AF_INET, SOCK_STREAM, 0, 0); });
    for (int i = 0; i < 1000 && made.result > 0; i++) ring.poll();
    if (made.result != -EACCES) return 1;
    Made renamed;
    ring.queue(renamed, [](io_uring_sqe* sqe) { io_uring_prep_unlink(sqe, "/tmp/x", 0); });
    for (int i = 0; i < 1000 && renamed.result > 0; i++) ring.poll();
    return renamed.result == -EACCES ? 0 : 2;
  });
  EXPECT_EQ(o.status, 0) << o.errors;
}

class LandlockTest : public LockdownTest {
 protected:
  void SetUp() override {
    LockdownTest::SetUp();
    if (syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) < 2)
      GTEST_SKIP() << "no Landlock on this host";
    char name[] = "/tmp/lockdown_test.XXXXXX";
    RF_CHECK(::mkdtemp(name) != nullptr);
    directory_ = name;
    for (const char* d : {"/read", "/write", "/write/a", "/write/b", "/other"})
      std::filesystem::create_directory(directory_ + d);
    for (const char* f : {"/read/f", "/write/a/f", "/other/f"}) std::ofstream(directory_ + f) << "text";
    options_.trees = {{.path = directory_ + "/read"}, {.path = directory_ + "/write", .writable = true}};
  }
  void TearDown() override {
    if (!directory_.empty()) std::filesystem::remove_all(directory_);
  }
  // An errno, or 0.
  int open(const std::string& name, u64 flags) const {
    const open_how how{.flags = flags | O_CLOEXEC, .mode = (flags & O_CREAT) != 0 ? u64{0600} : 0, .resolve = 0};
    auto direct = openat2_now(AT_FDCWD, (directory_ + name).c_str(), how);
    auto ring = openat2(AT_FDCWD, (directory_ + name).c_str(), how);
    if (direct.has_value() != ring.has_value()) return -1;
    return direct ? 0 : errno_value(direct.error());
  }
  std::string directory_;
  LockdownOptions options_;
};

TEST_F(LandlockTest, FilesOutsideTheTreesCannotBeOpened) {
  const Outcome o = locked_down(options_, [&] {
    if (open("/read/f", O_RDONLY) != 0 || open("/read", O_RDONLY | O_DIRECTORY) != 0) return 1;
    if (open("/read/f", O_RDWR) != EACCES || open("/read/new", O_WRONLY | O_CREAT) != EACCES) return 2;
    if (open("/other/f", O_RDONLY) != EACCES || open("/other", O_RDONLY | O_DIRECTORY) != EACCES) return 3;
    if (open("/write/a/f", O_RDWR) != 0 || open("/write/new", O_RDWR | O_CREAT) != 0) return 4;
    const std::string from = directory_ + "/write/a/f", to = directory_ + "/write/b/f";
    if (!host_call(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), 0)) return 5;
    if (!host_call(SYS_unlinkat, AT_FDCWD, to.c_str(), 0)) return 6;
    const std::string other = directory_ + "/other/f";
    if (host_call(SYS_unlinkat, AT_FDCWD, other.c_str(), 0)) return 7;
    return 0;
  });
  EXPECT_EQ(o.status, 0) << o.errors;
}

// It opens files without the process's filter, with credentials that it was made with.
TEST_F(LandlockTest, TheSubmissionThreadOpensNothingElse) {
  options_.before_filter = start_submission_threads;
  const Outcome o = locked_down(options_, [&] {
    Worker& here = *Worker::current();
    // O_CREAT: through the ring. Until the thread has been asked for each.
    const auto opens = [&](const char* name) {
      const open_how how{.flags = O_RDWR | O_CREAT | O_CLOEXEC, .mode = 0600, .resolve = 0};
      for (const u64 before = ring_stats(here).handed_over;;) {
        auto fd = openat2(AT_FDCWD, (directory_ + name).c_str(), how);
        if (ring_stats(here).handed_over > before) return fd ? 0 : errno_value(fd.error());
      }
    };
    if (opens("/write/new") != 0) return 1;
    if (opens("/read/new") != EACCES) return 2;
    if (opens("/other/f") != EACCES) return 3;
    return 0;
  });
  EXPECT_EQ(o.status, 0) << o.errors;
}

}  // namespace
}  // namespace rf::hostio
