#include <sys/signalfd.h>

#include <deque>

#include "fs/test_files.h"

namespace rf::fs {
namespace {

class FakeSource final : public SignalSource {
 public:
  bool take(const Context&, u64 mask, siginfo_t& info) override {
    SpinGuard guard(lock_);
    for (auto it = signals_.begin(); it != signals_.end(); ++it)
      if (mask >> (it->si_signo - 1) & 1) {
        info = *it;
        signals_.erase(it);
        return true;
      }
    return false;
  }
  bool pending(void*, u64 mask) override {
    SpinGuard guard(lock_);
    for (auto& s : signals_)
      if (mask >> (s.si_signo - 1) & 1) return true;
    return false;
  }
  WaitQueue& queue() override { return queue_; }

  void send(int signal, int code, int pid) {
    siginfo_t info{};
    info.si_signo = signal;
    info.si_code = code;
    info.si_pid = pid;
    {
      SpinGuard guard(lock_);
      signals_.push_back(info);
    }
    queue_.notify();
  }

 private:
  SpinLock lock_;
  std::deque<siginfo_t> signals_;
  WaitQueue queue_;
};

constexpr u64 bit(int signal) { return u64{1} << (signal - 1); }

Result<std::vector<signalfd_siginfo>> read_signals(File& f, size_t max) {
  std::vector<signalfd_siginfo> out(max);
  mm::IoBuffer dst(std::as_writable_bytes(std::span(out)));
  out.resize(TRY(f.read(test_context(), dst)) / sizeof(signalfd_siginfo));
  return out;
}

TEST(SignalFdTest, ReadsSignalsOfItsMask) {
  run_fibers(1, [] {
    auto source = make_ref<FakeSource>();
    Ref<File> f = *make_signalfd(source, bit(SIGUSR1) | bit(SIGCHLD), SFD_NONBLOCK);
    EXPECT_EQ(error_of(read_signals(*f, 1)), EAGAIN);
    source->send(SIGUSR2, SI_USER, 1);
    EXPECT_EQ(f->poll(), 0u);
    source->send(SIGUSR1, SI_USER, 7);
    source->send(SIGCHLD, CLD_EXITED, 8);
    EXPECT_EQ(f->poll(), EventMask{POLLIN});
    auto s = *read_signals(*f, 5);
    ASSERT_EQ(s.size(), 2u);
    EXPECT_EQ(s[0].ssi_signo, u32{SIGUSR1});
    EXPECT_EQ(s[0].ssi_pid, 7u);
    EXPECT_EQ(s[1].ssi_code, CLD_EXITED);
    ASSERT_TRUE(signalfd_set_mask(*f, ~u64{0}));
    EXPECT_EQ(read_signals(*f, 5)->at(0).ssi_signo, u32{SIGUSR2});
    EXPECT_EQ(error_of(read_string(*f, 127)), EINVAL);
    EXPECT_EQ(error_of(signalfd_set_mask(**make_eventfd(0, 0), 1)), EINVAL);
  });
}

TEST(SignalFdTest, BlocksUntilASignalComes) {
  run_fibers(2, [] {
    auto source = make_ref<FakeSource>();
    Ref<File> f = *make_signalfd(source, bit(SIGUSR1), 0);
    Countdown done(1);
    spawn("reader", [&] {
      EXPECT_EQ(read_signals(*f, 1)->size(), 1u);
      done.done();
    });
    pause_briefly();
    source->send(SIGUSR1, SI_USER, 7);
    done.wait();
    EXPECT_EQ(error_of(interrupted_result([&] { return read_signals(*f, 1); })), kERESTARTSYS);
    EXPECT_EQ(error_of(preinterrupted_result([&] { return read_signals(*f, 1); })), kERESTARTSYS);
  });
}

}  // namespace
}  // namespace rf::fs
