// The sandbox's own out-of-memory killer.
#include <algorithm>
#include <mutex>

#include "core/log.h"
#include "task/kernel.h"
#include "task/signal_send.h"

namespace rf::task {
namespace {

// A victim has this long to give its memory back before another is chosen.
constexpr Nanos kPatience = 200'000'000;
constexpr Nanos kPollInterval = 1'000'000;
constexpr s64 kNeverKill = -1000;  // OOM_SCORE_ADJ_MIN

struct Candidate {
  Ref<ThreadGroup> group;
  Ref<mm::MemoryManager> mm;
};

// Linux's badness: pages in use, moved by oom_score_adj in thousandths of the limit.
s64 badness(const Candidate& c, u64 limit) {
  const mm::MemoryUsage usage = c.mm->usage();
  const s64 bytes = static_cast<s64>(usage.rss_anon + usage.rss_shmem);
  return bytes + c.group->oom_score_adj * static_cast<s64>(limit / 1000);
}

}  // namespace

void Kernel::out_of_memory(Task& task) {
  const u64 before = frames.used();
  std::vector<Candidate> candidates;
  bool dying = false;
  {
    std::shared_lock guard(tree_lock);
    for (const auto& [pid, group] : groups_) {
      SpinGuard signal_guard(group->signal_lock);
      if (group->live_threads == 0) continue;
      dying = dying || group->exiting;
      if (group->exiting || group->oom_score_adj == kNeverKill) continue;
      for (Task* t : group->tasks)
        if (t->mm) {
          candidates.push_back({group, t->mm});
          break;
        }
    }
  }
  // Somebody is on the way out already: his memory may do.
  if (!dying) {
    auto worst =
        std::ranges::max_element(candidates, {}, [&](const Candidate& c) { return badness(c, frames.limit()); });
    if (worst == candidates.end()) worst = candidates.insert(worst, Candidate{task.group, task.mm});
    RF_WARN("out of memory: killing pid {} ({} of {} bytes in use)", worst->group->pid, before, frames.limit());
    send_to_group(*worst->group, kernel_siginfo(SIGKILL));
  }
  candidates.clear();
  const Nanos deadline = monotonic_now() + kPatience;
  while (!task.killed && frames.used() >= before && monotonic_now() < deadline)
    (void)sleep_until(monotonic_now() + kPollInterval, Interruptible::kYes);
}

}  // namespace rf::task
