#include "mm/page_store.h"

#include <algorithm>
#include <map>
#include <shared_mutex>

#include "core/check.h"
#include "mm/chunk_map.h"
#include "mm/safe_copy.h"

namespace rf::mm {
namespace {

// A fault in a hole makes this many pages at most.
constexpr u64 kPinAllocates = 16;

}  // namespace

// Pages are kept as runs, contiguous in the file and in memory. An entry never covers bytes past the end of the file
// except in the last page. Copies hold the lock shared, so that pages stay; concurrent copies may tear, as
// concurrent reads and writes of a file's mapping do.
struct PageStore::Impl {
  explicit Impl(Frames& f) : frames(f) {}

  using Runs = std::map<u64, PhysRun>;  // by file offset

  Frames& frames;
  mutable SpinRwLock lock;
  Runs runs;
  u64 size = 0;
  u64 allocated = 0;  // bytes

  // The run that contains offset, or end().
  Runs::const_iterator find(u64 offset) const {
    auto it = runs.upper_bound(offset);
    if (it == runs.begin()) return runs.end();
    --it;
    return offset < it->first + it->second.len ? it : runs.end();
  }
  // Where the hole at offset ends, at most `limit`.
  u64 hole_end(u64 offset, u64 limit) const {
    auto it = runs.lower_bound(offset);
    return it == runs.end() ? limit : std::min(limit, it->first);
  }

  void insert(u64 offset, PhysRun run);
  bool add_if_hole(u64 offset, PhysRun run, u64 grow_to, bool past_end);
  void remove(u64 start, u64 end, std::vector<PhysRun>& removed);
  void zero_within(u64 start, u64 end);
  void drop(const std::vector<PhysRun>& list) {
    for (const PhysRun& r : list) frames.unref(r.phys, r.len >> kPageShift);
  }
};

void PageStore::Impl::insert(u64 offset, PhysRun run) {
  allocated += run.len;
  auto next = runs.upper_bound(offset);
  if (next != runs.begin()) {
    auto prev = std::prev(next);
    if (prev->first + prev->second.len == offset && prev->second.phys + prev->second.len == run.phys) {
      prev->second.len += run.len;
      return;
    }
  }
  runs.emplace(offset, run);
}

// Adds the pages if [offset, offset + run.len) is still a hole; the file becomes at least `grow_to` large. Pages past
// its end are refused unless `past_end`.
bool PageStore::Impl::add_if_hole(u64 offset, PhysRun run, u64 grow_to, bool past_end) {
  frames.mark_file(run.phys, run.len >> kPageShift);
  {
    std::lock_guard guard(lock);
    u64 end = offset + run.len;
    bool inside = past_end || end <= page_up(size);
    if (inside && find(offset) == runs.end() && hole_end(offset, end) == end) {
      insert(offset, run);
      size = std::max(size, grow_to);
      return true;
    }
  }
  frames.unref(run.phys, run.len >> kPageShift);
  return false;
}

void PageStore::Impl::remove(u64 start, u64 end, std::vector<PhysRun>& removed) {
  auto it = runs.upper_bound(start);
  if (it != runs.begin()) --it;
  while (it != runs.end() && it->first < end) {
    u64 first = it->first;
    PhysRun run = it->second;
    u64 low = std::max(start, first), high = std::min(end, first + run.len);
    if (low >= high) {
      ++it;
      continue;
    }
    it = runs.erase(it);
    if (first < low) runs.emplace(first, PhysRun{run.phys, low - first});
    if (high < first + run.len)
      it = runs.emplace(high, PhysRun{run.phys + (high - first), first + run.len - high}).first;
    removed.push_back({run.phys + (low - first), high - low});
    allocated -= high - low;
  }
}

// Clears the bytes of [start, end), which lies within one page.
void PageStore::Impl::zero_within(u64 start, u64 end) {
  auto it = find(start);
  if (it == runs.end() || start >= end) return;
  safe_zero(frames.host_ptr(it->second.phys) + (start - it->first), end - start);
}

PageStore::PageStore(Frames& frames) : impl_(std::make_unique<Impl>(frames)) {}

PageStore::~PageStore() {
  for (auto& [offset, run] : impl_->runs) impl_->frames.unref(run.phys, run.len >> kPageShift);
}

u64 PageStore::size() const {
  std::shared_lock guard(impl_->lock);
  return impl_->size;
}

u64 PageStore::allocated_bytes() const {
  std::shared_lock guard(impl_->lock);
  return impl_->allocated;
}

void PageStore::resize(u64 size) {
  std::vector<PhysRun> removed;
  u64 old;
  {
    std::lock_guard guard(impl_->lock);
    old = std::exchange(impl_->size, size);
    if (size < old) {
      // page_up() would wrap for sizes at the top; no file is that large.
      impl_->remove(page_up(size), ~u64{0}, removed);
      impl_->zero_within(size, page_up(size));
    }
  }
  if (size < old) unmap_mappings(page_up(size), ~u64{0}, true);
  impl_->drop(removed);
}

void PageStore::punch(u64 offset, u64 len) {
  u64 end = len > ~u64{0} - offset ? ~u64{0} : offset + len;
  std::vector<PhysRun> removed;
  u64 first = page_up(offset), last = page_down(end);
  {
    std::lock_guard guard(impl_->lock);
    if (page_down(offset) == page_down(end)) {
      impl_->zero_within(offset, end);
    } else {
      impl_->zero_within(offset, first);
      impl_->zero_within(last, end);
      if (first < last) impl_->remove(first, last, removed);
    }
  }
  if (first < last) unmap_mappings(first, last - first, false);
  impl_->drop(removed);
}

// Who fills the disk is to get ENOSPC for it before others run out of memory and are killed: files leave a part of the
// limit to programs.
static Result<PhysRun> allocate_for_file(Frames& frames, u64 bytes, Fill fill) {
  const u64 limit = frames.limit() - frames.limit() / 16, used = frames.used();
  if (used >= limit) return err(ENOMEM);
  return frames.allocate(std::max(std::min(bytes, limit - used) >> kPageShift, u64{1}), fill);
}

Result<void> PageStore::allocate(u64 offset, u64 len) {
  u64 end = page_up(offset + len);
  for (u64 at = page_down(offset); at < end;) {
    u64 hole;
    {
      std::shared_lock guard(impl_->lock);
      auto it = impl_->find(at);
      if (it != impl_->runs.end()) {
        at = it->first + it->second.len;
        continue;
      }
      hole = impl_->hole_end(at, end) - at;
    }
    auto run = allocate_for_file(impl_->frames, hole, Fill::kZero);
    if (!run) return err(ENOSPC);
    // Beyond the end of the file too: FALLOC_FL_KEEP_SIZE.
    impl_->add_if_hole(at, *run, 0, true);
  }
  return {};
}

Result<u64> PageStore::seek_data(u64 offset) const {
  std::shared_lock guard(impl_->lock);
  if (offset >= impl_->size) return err(ENXIO);
  if (impl_->find(offset) != impl_->runs.end()) return offset;
  auto it = impl_->runs.lower_bound(offset);
  if (it == impl_->runs.end() || it->first >= impl_->size) return err(ENXIO);
  return it->first;
}

Result<u64> PageStore::seek_hole(u64 offset) const {
  std::shared_lock guard(impl_->lock);
  if (offset >= impl_->size) return err(ENXIO);
  for (auto it = impl_->find(offset); it != impl_->runs.end() && offset < impl_->size; ++it) {
    if (it->first > offset) break;
    offset = it->first + it->second.len;
  }
  return std::min(offset, impl_->size);
}

Result<size_t> PageStore::read(u64 offset, std::span<std::byte> out) const {
  std::shared_lock guard(impl_->lock);
  if (offset >= impl_->size) return size_t{0};
  u64 end = offset + std::min<u64>(out.size(), impl_->size - offset);
  for (u64 at = offset; at < end;) {
    std::byte* to = out.data() + (at - offset);
    auto it = impl_->find(at);
    if (it == impl_->runs.end()) {
      u64 stop = impl_->hole_end(at, end);
      std::fill_n(to, stop - at, std::byte{0});
      at = stop;
      continue;
    }
    u64 stop = std::min(end, it->first + it->second.len);
    safe_copy(to, impl_->frames.host_ptr(it->second.phys) + (at - it->first), stop - at);
    at = stop;
  }
  return static_cast<size_t>(end - offset);
}

Result<size_t> PageStore::write(u64 offset, std::span<const std::byte> in) {
  if (in.empty()) return size_t{0};
  if (offset > (u64{1} << 62) || in.size() > (u64{1} << 62)) return err(EFBIG);
  Frames& frames = impl_->frames;
  u64 end = offset + in.size(), at = offset;
  while (at < end) {
    const std::byte* from = in.data() + (at - offset);
    u64 hole;
    {
      std::lock_guard guard(impl_->lock);
      auto it = impl_->find(at);
      if (it != impl_->runs.end()) {
        u64 stop = std::min(end, it->first + it->second.len);
        safe_copy(frames.host_ptr(it->second.phys) + (at - it->first), from, stop - at);
        impl_->size = std::max(impl_->size, stop);
        at = stop;
        continue;
      }
      hole = impl_->hole_end(page_down(at), page_up(end)) - page_down(at);
    }
    // Filled before it can be seen, so it need not be cleared first.
    auto run = allocate_for_file(frames, hole, Fill::kUninitialised);
    if (!run) break;
    u64 base = page_down(at), stop = std::min(end, base + run->len);
    std::byte* p = frames.host_ptr(run->phys);
    safe_zero(p, at - base);
    safe_copy(p + (at - base), from, stop - at);
    safe_zero(p + (stop - base), base + run->len - stop);
    if (impl_->add_if_hole(base, *run, stop, true)) at = stop;
  }
  if (at == offset) return err(ENOSPC);
  return static_cast<size_t>(at - offset);
}

Result<PhysRun> PageStore::pin(u64 offset, u64 len, bool) {
  Frames& frames = impl_->frames;
  for (;;) {
    u64 hole;
    {
      std::shared_lock guard(impl_->lock);
      u64 file_end = page_up(impl_->size);
      if (offset >= file_end) return err(ENXIO);
      u64 end = offset + std::min(len, file_end - offset);
      auto it = impl_->find(offset);
      if (it != impl_->runs.end()) {
        PhysRun run{it->second.phys + (offset - it->first), std::min(end, it->first + it->second.len) - offset};
        frames.ref(run.phys, run.len >> kPageShift);
        return run;
      }
      hole = impl_->hole_end(offset, end) - offset;
    }
    // Linux makes pages for reads of a shared mapping's holes too.
    PhysRun run = TRY(frames.allocate(std::min(hole >> kPageShift, kPinAllocates), Fill::kZero));
    impl_->add_if_hole(offset, run, 0, false);
  }
}

namespace {

class SharedAnonymous final : public MapObject {
 public:
  SharedAnonymous(Frames& frames, u64 size) : pages_(frames) {
    static std::atomic<u64> next_inode{1};
    inode_ = next_inode.fetch_add(1, std::memory_order_relaxed);
    pages_.resize(size);
  }
  Mappable& mappable() override { return pages_; }
  Identity identity() const override { return {0, 1, inode_, "/dev/zero (deleted)"}; }

 private:
  PageStore pages_;
  u64 inode_;
};

}  // namespace

Ref<MapObject> make_shared_anonymous(Frames& frames, u64 size) { return make_ref<SharedAnonymous>(frames, size); }

}  // namespace rf::mm
