#include "task/pidfd.h"

#include <fmt/format.h>

#include "fs/special_files.h"

namespace rf::task {
namespace {

class PidfdFile final : public fs::File {
 public:
  PidfdFile(Ref<ThreadGroup> group, int flags)
      : File(fs::make_anon_path("anon_inode:[pidfd]"), O_RDWR | flags), group(std::move(group)) {}

  Result<size_t> read(const fs::Context&, mm::IoBuffer&) override { return err(EINVAL); }
  Result<size_t> write(const fs::Context&, mm::IoBuffer&) override { return err(EINVAL); }
  bool seekable() const override { return false; }
  EventMask poll() override {
    SpinGuard guard(group->signal_lock);
    return group->zombie ? POLLIN | POLLRDNORM : 0;
  }
  void poll_register(Waiter& w) override { group->exit_events.add(w); }
  void poll_unregister(Waiter& w) override { group->exit_events.remove(w); }
  std::string fdinfo() override {
    SpinGuard guard(group->signal_lock);
    const Pid pid = group->leader ? group->pid : -1;
    return fmt::format("Pid:\t{}\nNSpid:\t{}\n", pid, pid);
  }

  const Ref<ThreadGroup> group;
};

}  // namespace

Ref<fs::File> make_pidfd(Ref<ThreadGroup> group, int flags) { return make_ref<PidfdFile>(std::move(group), flags); }

Ref<ThreadGroup> pidfd_group(fs::File& file) {
  auto* f = dynamic_cast<PidfdFile*>(&file);
  return f ? f->group : Ref<ThreadGroup>();
}

}  // namespace rf::task
