#include "mm/memory_manager.h"

#include <algorithm>

#include "mm/memory_manager_impl.h"
#include "mm/safe_copy.h"

namespace rf::mm {

MemoryManager::MemoryManager(MemoryEnv env, std::unique_ptr<platform::AddressSpace> space)
    : env_(env), space_(std::move(space)), impl_(std::make_unique<Impl>(*this)) {
  space_->set_vacancy_test([impl = impl_.get()](UserAddr va, u64 len) {
    if (!impl->map_lock.try_lock_shared()) return false;
    const bool free = impl->vmas.is_free(va, len);
    impl->map_lock.unlock_shared();
    return free;
  });
}

MemoryManager::~MemoryManager() {
  space_->retire();
  release_all();
}

Result<Ref<MemoryManager>> MemoryManager::create(MemoryEnv env) {
  install_copy_fixup();
  std::unique_ptr<platform::AddressSpace> space = TRY(env.platform.create_address_space());
  return Ref<MemoryManager>::adopt(new MemoryManager(env, std::move(space)));
}

void MemoryManager::release_all() {
  Impl::MapEdit edit(*impl_);
  impl_->zap_all();
  while (Vma* v = impl_->vmas.last()) impl_->remove_vma(*v, edit);
}

void MemoryManager::set_limits(const Limits& limits) {
  std::lock_guard lock(impl_->map_lock);
  impl_->limits = limits;
}

Ref<RefCounted> MemoryManager::executable() const {
  SpinGuard guard(impl_->executable_lock);
  return impl_->executable;
}

void MemoryManager::set_executable(Ref<RefCounted> file) {
  SpinGuard guard(impl_->executable_lock);
  std::swap(impl_->executable, file);
  // The old one goes after the lock: `file` outlives the guard.
}

void MemoryManager::for_each_vma(bool with_usage, const std::function<void(const VmaInfo&)>& f) {
  static const std::string kHeap = "[heap]", kStack = "[stack]", kNone;
  std::shared_lock lock(impl_->map_lock);
  for (Vma* v = impl_->vmas.first(); v; v = impl_->vmas.next(*v)) {
    const std::string* name = v->name.empty() ? &kNone : &v->name;
    if (v->anonymous() && v->name.empty()) {
      // As Linux names them.
      if (layout_.brk > layout_.start_brk && v->start < layout_.brk && v->end > layout_.start_brk) name = &kHeap;
      if (v->contains(layout_.start_stack)) name = &kStack;
    }
    VmaInfo info{v->start,
                 v->end,
                 v->prot,
                 v->shared(),
                 v->has(kVmaGrowsDown),
                 v->has(kVmaLocked),
                 v->offset,
                 v->object.get(),
                 name,
                 0,
                 0,
                 0};
    if (with_usage) {
      std::shared_lock guard(impl_->page_lock);
      auto count = [&](const PageEntry& e) {
        info.rss += e.run.len;
        for (u64 i = 0; i < e.run.len; i += kPageSize) {
          if (impl_->frames.is_file(e.run.phys + i)) continue;
          info.anonymous += kPageSize;
          if (impl_->frames.owners(e.run.phys + i) == 1) info.private_dirty += kPageSize;
        }
      };
      for (const PageEntry& e : impl_->present(v->start, v->end)) count(e);
      for (const PageEntry& e : impl_->list_hidden(v->start, v->end)) count(e);
    }
    f(info);
  }
}

MemoryUsage MemoryManager::usage() {
  std::shared_lock lock(impl_->map_lock);
  MemoryUsage u;
  const auto& t = impl_->totals;
  u.virtual_size = pages_to_bytes(t.all);
  u.peak_virtual = pages_to_bytes(t.peak);
  u.data = pages_to_bytes(t.data);
  u.stack = pages_to_bytes(t.stack);
  u.exec = pages_to_bytes(t.exec);
  u.locked = pages_to_bytes(t.locked);
  u.rss_anon = pages_to_bytes(impl_->rss_anon.load(std::memory_order_relaxed));
  u.rss_file = pages_to_bytes(impl_->rss_file.load(std::memory_order_relaxed));
  u.rss_shmem = pages_to_bytes(impl_->rss_shmem.load(std::memory_order_relaxed));
  u.peak_rss = pages_to_bytes(impl_->peak_rss.load(std::memory_order_relaxed));
  // Linux: VmExe is the executable's text, VmLib the rest of what is executable.
  u64 text = page_up(layout_.end_code) - page_down(layout_.start_code);
  u.lib = u.exec > text ? u.exec - text : 0;
  u.exec = std::min(u.exec, text);
  u64 rss = u.rss_anon + u.rss_file + u.rss_shmem;
  u.page_tables = page_up(rss / 512) + 3 * kPageSize;  // one entry of 8 bytes a page, and the levels above
  return u;
}

}  // namespace rf::mm
