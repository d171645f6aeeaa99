// For tests of terminals: a guest's memory for ioctl arguments, and sessions and groups in a table.
#pragma once

#include <signal.h>

#include <map>
#include <utility>
#include <vector>

#include "fs/hostfs_fixture.h"
#include "fs/job_control.h"
#include "fs/tty.h"
#include "mm/fake_platform.h"
#include "mm/memory_manager.h"
#include "mm/vdso.h"

namespace rf::fs {

// One caller at a time, which a test sets.
class FakeJobControl final : public JobControl {
 public:
  FakeJobControl() { set_job_control(this); }
  ~FakeJobControl() { set_job_control(nullptr); }

  Caller caller(const Context&) override { return current; }
  Ref<Tty> controlling_tty(const Context&) override { return ttys[current.session]; }
  void set_controlling_tty(const Context&, Ref<Tty> tty) override { ttys[current.session] = std::move(tty); }
  void clear_controlling_tty(s32 session) override { ttys[session] = nullptr; }
  Result<s32> session_of_group(s32 group) override {
    auto found = groups.find(group);
    if (found == groups.end()) return err(ESRCH);
    return found->second;
  }
  bool orphaned(s32 group) override { return group == orphan; }
  bool ignores(const Context&, int signal) override { return signal == ignored; }
  void signal_group(s32 group, int signal) override { sent.emplace_back(group, signal); }
  void signal_session_leader(s32 session, int signal) override { sent.emplace_back(-session, signal); }

  using Signals = std::vector<std::pair<s32, int>>;  // group, or minus the session whose leader it was
  Signals take_sent() { return std::exchange(sent, {}); }

  Caller current{10, 10, true};
  std::map<s32, s32> groups{{10, 10}, {11, 10}, {20, 20}};
  std::map<s32, Ref<Tty>> ttys;
  s32 orphan = 0;
  int ignored = 0;
  Signals sent;
};

class TtyTest : public HostFsTest {
 protected:
  TtyTest() {
    clock_ = std::move(*mm::VdsoClock::create(*frames_));
    auto made = mm::MemoryManager::create({platform_, *frames_, *clock_});
    RF_CHECK(made.has_value());
    mm_ = *made;
  }
  ~TtyTest() override {
    mm_.reset();
    clock_.reset();
  }

  Ref<FileSystem> make_root_fs() override { return make_devpts(*frames_); }

  // As run() of HostFsTest, with a page of guest memory.
  void run(const std::function<void()>& body) {
    HostFsTest::run([&] {
      auto page = mm_->mmap({.len = kPageSize, .prot = PROT_READ | PROT_WRITE, .flags = MAP_PRIVATE | MAP_ANONYMOUS});
      ASSERT_EQ(error_of(page), 0);
      page_ = *page;
      body();
      control_.ttys.clear();
      mm_->release_all();
    });
  }
  // A task's context: it takes part in job control.
  Context task_ctx() {
    Context c = ctx();
    c.mm = mm_.get();
    c.task = this;
    return c;
  }

  int ioctl(File& f, u32 request, u64 arg = 0) { return error_of(f.ioctl(task_ctx(), request, arg)); }
  template <class T>
  int ioctl_in(File& f, u32 request, const T& value) {
    EXPECT_EQ(mm_->copy_out(page_, &value, sizeof value), sizeof value);
    return ioctl(f, request, page_);
  }
  template <class T>
  T ioctl_out(File& f, u32 request) {
    T value{};
    EXPECT_EQ(ioctl(f, request, page_), 0) << std::hex << request;
    EXPECT_EQ(mm_->copy_in(&value, page_, sizeof value), sizeof value);
    return value;
  }

  // A read's text, or "errno N".
  std::string take(File& f, size_t max = 4096) {
    std::string text(max, 0);
    mm::IoBuffer buffer(std::as_writable_bytes(std::span(text)));
    auto n = f.read(task_ctx(), buffer);
    if (!n) return "errno " + std::to_string(error_of(n));
    text.resize(*n);
    return text;
  }
  int send(File& f, std::string_view text) {
    auto buffer = mm::IoBuffer::from_const(std::as_bytes(std::span(text)));
    return error_of(f.write(task_ctx(), buffer));
  }

  mm::FakePlatform platform_;
  std::unique_ptr<mm::VdsoClock> clock_;
  Ref<mm::MemoryManager> mm_;
  mm::UserAddr page_ = 0;
  FakeJobControl control_;
};

}  // namespace rf::fs
