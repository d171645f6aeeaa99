#include "hostio/ring_setup.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <vector>

#include "hostio/fd.h"
#include "hostio/ring_reactor.h"

namespace rf::hostio {
namespace {

constexpr const char* kDisabledPath = "/proc/sys/kernel/io_uring_disabled";

// The kernel.io_uring_disabled sysctl; '0' when there is none.
char read_disabled_sysctl() {
  HostFd fd(open(kDisabledPath, O_RDONLY | O_CLOEXEC));
  char c = '0';
  if (fd.valid() && ::read(fd.get(), &c, 1) != 1) c = '0';
  return c;
}

struct Needed {
  int op;
  const char* name;
};
// Those that hostio/ring.cc makes; the ring can do no others.
constexpr Needed kNeededOps[] = {
    {IORING_OP_READ, "READ"},         {IORING_OP_WRITE, "WRITE"},
    {IORING_OP_READV, "READV"},       {IORING_OP_WRITEV, "WRITEV"},
    {IORING_OP_OPENAT2, "OPENAT2"},   {IORING_OP_STATX, "STATX"},
    {IORING_OP_FSYNC, "FSYNC"},       {IORING_OP_FALLOCATE, "FALLOCATE"},
    {IORING_OP_POLL_ADD, "POLL_ADD"}, {IORING_OP_ASYNC_CANCEL, "ASYNC_CANCEL"},
    {IORING_OP_MSG_RING, "MSG_RING"},
};

}  // namespace

std::string describe_ring_failure(int e) {
  std::string why = "io_uring is not usable: " + errno_text(e);
  switch (e) {
    case ENOSYS:
      return why + "; this kernel is older than 6.0 or built without CONFIG_IO_URING, or a seccomp filter hides it";
    case EPERM:
    case EACCES:
      switch (read_disabled_sysctl()) {
        case '1':
          return why +
                 "; kernel.io_uring_disabled is 1: join the group of kernel.io_uring_group, or run "
                 "'sysctl kernel.io_uring_disabled=0'";
        case '2':
          return why + "; kernel.io_uring_disabled is 2: run 'sysctl kernel.io_uring_disabled=0'";
        default:
          return why +
                 "; a seccomp filter or security module forbids it (container runtimes do by default): allow "
                 "io_uring_setup, io_uring_enter and io_uring_register";
      }
    case EINVAL:
      return why + "; it lacks a feature that Ringfence uses: Linux 6.0 or later is needed";
    case ENOMEM:
      return why + "; raise the locked-memory limit (ulimit -l) or free memory";
    case EMFILE:
    case ENFILE:
      return why + "; raise the limit on open files (ulimit -n)";
    default:
      return why;
  }
}

Setup<void> check_ring_features(io_uring& ring) {
  constexpr unsigned kFeatures = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE |
                                 IORING_FEAT_RW_CUR_POS | IORING_FEAT_FAST_POLL | IORING_FEAT_CQE_SKIP;
  if ((ring.features & kFeatures) != kFeatures)
    return setup_error("io_uring of this kernel lacks features; Linux 6.0 or later is needed");
  std::unique_ptr<io_uring_probe, void (*)(io_uring_probe*)> probe(io_uring_get_probe_ring(&ring), io_uring_free_probe);
  if (!probe) return setup_error("io_uring cannot be probed; Linux 6.0 or later is needed");
  for (auto& op : kNeededOps)
    if (!io_uring_opcode_supported(probe.get(), op.op))
      return setup_error(std::string("io_uring of this kernel lacks IORING_OP_") + op.name +
                         "; Linux 6.0 or later is needed");
  return {};
}

Setup<void> restrict_ring(io_uring& ring) {
  std::vector<io_uring_restriction> list;
  for (auto& op : kNeededOps) {
    io_uring_restriction r{};
    r.opcode = IORING_RESTRICTION_SQE_OP;
    r.sqe_op = static_cast<u8>(op.op);
    list.push_back(r);
  }
  io_uring_restriction flags{};
  flags.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
  flags.sqe_flags = IOSQE_CQE_SKIP_SUCCESS;
  list.push_back(flags);
  io_uring_restriction cancel{};
  cancel.opcode = IORING_RESTRICTION_REGISTER_OP;
  cancel.register_op = IORING_REGISTER_SYNC_CANCEL;
  list.push_back(cancel);
  // By number: the shared liburing 2.3 does not export its functions for these two.
  if (syscall(SYS_io_uring_register, ring.ring_fd, IORING_REGISTER_RESTRICTIONS, list.data(), list.size()) != 0)
    return setup_error("io_uring refuses to be restricted to the operations in use: " + errno_text(errno));
  if (syscall(SYS_io_uring_register, ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0)
    return setup_error("io_uring cannot be enabled: " + errno_text(errno));
  return {};
}

void set_announcing(io_uring& ring, bool on) {
  std::atomic_ref flags(*ring.cq.kflags);
  if (on)
    flags.fetch_and(~u32{IORING_CQ_EVENTFD_DISABLED}, std::memory_order_seq_cst);
  else
    flags.fetch_or(IORING_CQ_EVENTFD_DISABLED, std::memory_order_seq_cst);
}

void cancel_and_close(io_uring& ring) {
  io_uring_sync_cancel_reg all{};
  all.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
  all.timeout = {1, 0};
  io_uring_register_sync_cancel(&ring, &all);
  io_uring_queue_exit(&ring);
}

Setup<std::unique_ptr<Reactor>> make_ring_reactor(u32) { return TRY(RingReactor::create()); }
std::function<Setup<std::unique_ptr<Reactor>>(u32)> ring_reactor_maker(RingOptions options) {
  return [options](u32) -> Setup<std::unique_ptr<Reactor>> { return TRY(RingReactor::create(options)); };
}

bool ring_available() {
  Worker* worker = Worker::current();
  return worker && Fiber::current_or_null() && dynamic_cast<RingReactor*>(&worker->reactor());
}

Setup<void> start_submission_threads() {
  Scheduler& scheduler = *Scheduler::current();
  Setup<void> result;
  RingReactor* first = nullptr;
  scheduler.on_each_worker([&] {
    auto& ring = static_cast<RingReactor&>(Worker::current()->reactor());
    if (result) result = ring.start_submission_thread(first);
    if (!first) first = &ring;
  });
  return result;
}

RingStats ring_stats(Worker& worker) { return static_cast<RingReactor&>(worker.reactor()).stats(); }

Setup<void> probe_io_uring() {
  TRY(RingReactor::create());
  return {};
}

}  // namespace rf::hostio
