#include "core/scheduler.h"

#include <pthread.h>
#include <sched.h>

#include <bit>
#include <thread>

#include "core/check.h"
#include "core/fault.h"
#include "core/worker_impl.h"

namespace rf {
namespace {

constexpr u32 kMaxWorkers = 64;  // bits of the idle mask

// Pins the calling thread for the life of the object.
class ScopedPin {
 public:
  ScopedPin(bool wanted, u32 worker, u32 workers) {
    if (!wanted || sched_getaffinity(0, sizeof previous_, &previous_) != 0) return;
    if (static_cast<u32>(CPU_COUNT(&previous_)) < workers) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
      if (!CPU_ISSET(cpu, &previous_) || worker-- != 0) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      pinned_ = sched_setaffinity(0, sizeof one, &one) == 0;
      return;
    }
  }
  ~ScopedPin() {
    if (pinned_) sched_setaffinity(0, sizeof previous_, &previous_);
  }
  ScopedPin(const ScopedPin&) = delete;
  ScopedPin& operator=(const ScopedPin&) = delete;

 private:
  cpu_set_t previous_;
  bool pinned_ = false;
};

}  // namespace

// --- Scheduler::Impl ------------------------------------------------------------------------------

void Scheduler::Impl::make_runnable(Fiber& f, bool woken) {
  auto push = [&](RunQueue& q) { return woken ? q.push_woken(f) : q.push_ready(f, monotonic_now()); };
  Worker* here = Worker::current();
  if (here && &here->impl_->scheduler == this) {
    Worker::Impl& w = *here->impl_;
    // One fiber in the queue runs as soon as this one suspends; more are worth another core.
    if (push(w.queue) > 1) wake_idle(w.bit);
    if (w.state.load(std::memory_order_relaxed) == Worker::Impl::kGuest) here->kick();
    return;
  }
  Worker& target = choose_worker(f);
  u32 queued = push(target.impl_->queue);
  target.prod();
  if (queued > 1) wake_idle(target.impl_->bit);
}

void Scheduler::Impl::requeue(Fiber& f, Worker::Impl& here) {
  Worker::Impl* target = &here;
  // In a crowd only the ready count: those who were woken are served beside, and soon done.
  const auto load = [crowded = here.self.crowded()](const RunQueue& q) { return crowded ? q.ready() : q.size(); };
  // A difference of one would come back as the opposite difference.
  u32 least = load(here.queue);
  if (least >= 2) {
    least--;
    for (auto& w : workers)
      if (const u32 n = load(w->impl_->queue); n < least) target = &*w->impl_, least = n;
  }
  target->queue.push_ready(f, monotonic_now());
  if (target != &here) target->self.prod();
}

Worker& Scheduler::Impl::choose_worker(const Fiber& f) {
  u64 idle = idle_mask.load(std::memory_order_seq_cst);
  u32 last = f.impl_->last_worker;
  if (idle >> last & 1) return *workers[last];
  if (idle != 0) return *workers[static_cast<size_t>(std::countr_zero(idle))];
  Worker* best = workers[last].get();
  u32 best_load = best->impl_->queue.size();
  for (auto& w : workers)
    if (u32 load = w->impl_->queue.size(); load < best_load) best = w.get(), best_load = load;
  return *best;
}

// At most one worker searches at a time: it wakes the next when it finds more than it can run. Whoever finds a search
// under way may rely on it, because the searcher looks at all queues again after it has cleared `searching`.
void Scheduler::Impl::wake_idle(u64 except) {
  for (;;) {
    u64 idle = idle_mask.load(std::memory_order_seq_cst) & ~except;
    if (idle == 0) return;
    u32 none = 0;
    if (!searching.compare_exchange_strong(none, 1, std::memory_order_seq_cst)) return;
    u64 bit = idle & -idle;
    if (idle_mask.fetch_and(~bit, std::memory_order_seq_cst) & bit) {
      workers[static_cast<size_t>(std::countr_zero(bit))]->impl_->reactor->wake();
      return;
    }
    // It woke up by itself. Others may have become idle, and somebody may have relied on this search: once more.
    searching.store(0, std::memory_order_seq_cst);
  }
}

bool Scheduler::Impl::any_queued() const {
  for (auto& w : workers)
    if (w->impl_->queue.size() != 0) return true;
  return false;
}

void Scheduler::Impl::fiber_ended(Fiber& f) {
  Fiber::Impl& i = *f.impl_;
  {
    SpinGuard guard(fibers_lock);
    i.unlink();
  }
  i.context.retire();
  stacks.release(i.stack);
  i.stack = {};
  f.state_.store(kFiberDone, std::memory_order_release);
  f.unref();
}

Setup<void> Scheduler::Impl::worker_thread(u32 index, std::latch& started, std::latch& ended,
                                           std::atomic<bool>& failed) {
  ScopedPin pin(options.pin, index, static_cast<u32>(workers.size()));
  FaultStack fault_stack;
  Worker::Impl& w = *workers[index]->impl_;
  Setup<void> result = w.start();
  if (!result) failed.store(true);
  started.arrive_and_wait();
  if (!failed.load()) {
    if (options.run_loop)
      options.run_loop(index, [&w] { w.loop(); });
    else
      w.loop();
  }
  ended.arrive_and_wait();
  w.finish();
  return result;
}

// --- Scheduler ------------------------------------------------------------------------------------

Setup<std::unique_ptr<Scheduler>> Scheduler::create(SchedulerOptions options) {
  if (options.workers < 1 || options.workers > kMaxWorkers)
    return setup_error("the number of workers (vCPUs) must be from 1 to " + std::to_string(kMaxWorkers));
  RF_CHECK(options.make_reactor, "a scheduler without reactors");
  return std::unique_ptr<Scheduler>(new Scheduler(std::move(options)));
}

Scheduler::Scheduler(SchedulerOptions options) : impl_(new Impl(*this, std::move(options))) {
  for (u32 i = 0; i < impl_->options.workers; i++) {
    auto w = std::make_unique<Worker>();
    w->index_ = i;
    w->impl_ = new Worker::Impl(*w, *impl_, i);
    impl_->workers.push_back(std::move(w));
  }
}

Scheduler::~Scheduler() {
  // Requests in flight may use the stacks, so the reactors go first.
  for (auto& w : impl_->workers) {
    w->impl_->reactor.reset();
    while (w->impl_->queue.pop()) {
    }
  }
  while (Fiber::Impl* f = impl_->fibers.pop_front()) {
    f->context.retire();
    impl_->stacks.release(f->stack);
    f->stack = {};
    f->fiber.state_.store(kFiberDone, std::memory_order_release);
    f->fiber.unref();
  }
  for (auto& w : impl_->workers) delete w->impl_;
}

Scheduler* Scheduler::current() {
  Worker* w = Worker::current();
  return w ? w->impl_->scheduler.self : nullptr;
}

Result<Ref<Fiber>> Scheduler::spawn(std::string name, std::function<void()> body) {
  Stack stack = TRY(impl_->stacks.allocate());
  auto fiber = Ref<Fiber>::adopt(new Fiber(std::move(name)));  // the reference it keeps itself alive by
  fiber->impl_ = new Fiber::Impl(*fiber, std::move(body), *this, stack);
  Fiber::Impl& i = *fiber->impl_;
  i.context.prepare(
      stack, [](void* impl) { static_cast<Fiber::Impl*>(impl)->main(); }, &i);
  {
    SpinGuard guard(impl_->fibers_lock);
    impl_->fibers.push_back(i);
  }
  Ref<Fiber> result = fiber;
  impl_->make_runnable(*fiber.release(), false);
  return result;
}

Setup<void> Scheduler::run() {
  RF_CHECK(!impl_->ran, "a scheduler runs once");
  impl_->ran = true;
  install_fault_handlers();
  u32 n = worker_count();
  std::latch started(n), ended(n);
  std::atomic<bool> failed{false};
  std::vector<Setup<void>> results(n);
  std::vector<std::thread> threads;
  for (u32 i = 1; i < n; i++)
    threads.emplace_back([&, i] {
      pthread_setname_np(pthread_self(), ("rf-worker-" + std::to_string(i)).c_str());
      results[i] = impl_->worker_thread(i, started, ended, failed);
    });
  results[0] = impl_->worker_thread(0, started, ended, failed);
  for (auto& t : threads) t.join();
  for (auto& r : results)
    if (!r) return r;
  return {};
}

void Scheduler::stop() {
  impl_->stopping.store(true, std::memory_order_seq_cst);
  for (auto& w : impl_->workers) w->prod();
}

void Scheduler::on_each_worker(const std::function<void()>& f) {
  for (auto& w : impl_->workers) {
    Worker::Impl::Errand errand{f, Ref<Fiber>(&Fiber::current())};
    w->impl_->errand.store(&errand, std::memory_order_seq_cst);
    w->prod();
    while (!errand.done.load(std::memory_order_acquire)) park(Interruptible::kNo);
  }
}

u32 Scheduler::worker_count() const { return static_cast<u32>(impl_->workers.size()); }

Worker& Scheduler::worker(u32 i) {
  RF_CHECK(i < worker_count());
  return *impl_->workers[i];
}

void Scheduler::for_each_fiber(const std::function<void(Fiber&)>& f) {
  SpinGuard guard(impl_->fibers_lock);
  for (Fiber::Impl& i : impl_->fibers) f(i.fiber);
}

}  // namespace rf
