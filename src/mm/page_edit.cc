// Changes to the page table, with the references of the pages in it.
#include <algorithm>

#include "mm/memory_manager_impl.h"

namespace rf::mm {
namespace {

using platform::Invalidation;
using platform::Phys;
using platform::Prot;

// Large ranges are taken down piece by piece, so that neither the list of what to free nor the time that copies
// wait for the lock grows without bound.
constexpr u64 kZapPiece = u64{1} << 30;
constexpr size_t kZapRuns = 65536;

void append(std::vector<PageEntry>& out, UserAddr va, PhysRun run, Prot prot) {
  if (!out.empty()) {
    auto& last = out.back();
    if (last.va + last.run.len == va && last.run.phys + last.run.len == run.phys && last.prot == prot &&
        GuestMemory::in_window(last.run.phys) == GuestMemory::in_window(run.phys) &&
        // References of window pages are counted by chunk.
        (!GuestMemory::in_window(run.phys) || run.phys % GuestMemory::kWindowChunk != 0)) {
      last.run.len += run.len;
      return;
    }
  }
  out.push_back({va, run, prot});
}

}  // namespace

std::vector<PageEntry> MemoryManager::Impl::present(UserAddr start, UserAddr end) const {
  std::vector<PageEntry> out;
  space.for_each(start, end - start, [&](u64 va, Phys phys, u64 len, Prot prot) {
    append(out, va, {phys, len}, prot);
  });
  return out;
}

std::vector<PageEntry> MemoryManager::Impl::list_hidden(UserAddr start, UserAddr end) const {
  std::vector<PageEntry> out;
  auto it = hidden.upper_bound(start);
  if (it != hidden.begin()) --it;
  for (; it != hidden.end() && it->first < end; ++it) {
    UserAddr low = std::max(start, it->first), high = std::min(end, it->first + it->second.len);
    if (low < high) out.push_back({low, {it->second.phys + (low - it->first), high - low}, {}});
  }
  return out;
}

std::vector<PageEntry> MemoryManager::Impl::take_hidden(UserAddr start, UserAddr end) {
  std::vector<PageEntry> out = list_hidden(start, end);
  for (const PageEntry& e : out) {
    auto it = std::prev(hidden.upper_bound(e.va));
    UserAddr first = it->first;
    PhysRun whole = it->second;
    hidden.erase(it);
    UserAddr e_end = e.va + e.run.len, whole_end = first + whole.len;
    if (first < e.va) hidden.emplace(first, PhysRun{whole.phys, e.va - first});
    if (e_end < whole_end) hidden.emplace(e_end, PhysRun{whole.phys + (e_end - first), whole_end - e_end});
  }
  return out;
}

void MemoryManager::Impl::hide(const PageEntry& e) { hidden.emplace(e.va, e.run); }

Result<void> MemoryManager::Impl::map_whole(UserAddr va, const PhysRun& run, Prot prot) {
  Result<void> r = space.map(va, run.phys, run.len, prot);
  if (r) return r;
  Invalidation inval;
  space.unmap(va, run.len, inval);
  space.commit(inval);
  return r;
}

void MemoryManager::Impl::count_pages(const PhysRun& run, bool add) {
  u64 pages = run.len >> kPageShift;
  bool window = GuestMemory::in_window(run.phys);
  u64 file = 0;
  for (u64 i = 0; i < pages && !window; i++) file += frames.is_file(run.phys + pages_to_bytes(i));
  auto change = [&](std::atomic<u64>& counter, u64 n) {
    if (n == 0) return;
    if (add)
      counter.fetch_add(n, std::memory_order_relaxed);
    else
      counter.fetch_sub(n, std::memory_order_relaxed);
  };
  change(rss_file, window ? pages : 0);
  change(rss_shmem, file);
  change(rss_anon, window ? 0 : pages - file);
  if (!add) return;
  u64 rss = rss_anon.load(std::memory_order_relaxed) + rss_file.load(std::memory_order_relaxed) +
            rss_shmem.load(std::memory_order_relaxed);
  // Only changed under page_lock held exclusively.
  if (rss > peak_rss.load(std::memory_order_relaxed)) peak_rss.store(rss, std::memory_order_relaxed);
}

Result<void> MemoryManager::Impl::map_new(UserAddr va, PhysRun run, Prot prot) {
  std::vector<PhysRun> lost;
  Result<void> result;
  {
    std::lock_guard guard(page_lock);
    auto phys_of = [&](UserAddr a) { return run.phys + (a - va); };
    auto map_gap = [&](UserAddr from, UserAddr to) {
      if (from >= to) return;
      PhysRun part{phys_of(from), to - from};
      if (result) result = map_whole(from, part, prot);
      if (result)
        count_pages(part, true);
      else
        lost.push_back(part);
    };
    UserAddr at = va;
    for (const PageEntry& e : present(va, va + run.len)) {
      map_gap(at, e.va);
      lost.push_back({phys_of(e.va), e.run.len});
      at = e.va + e.run.len;
    }
    map_gap(at, va + run.len);
  }
  release(lost);
  return result;
}

void MemoryManager::Impl::release(const std::vector<PhysRun>& runs) {
  for (const PhysRun& r : runs) frames.unref(r.phys, r.len >> kPageShift);
}

void MemoryManager::Impl::zap(UserAddr start, UserAddr end) {
  std::vector<PhysRun> runs;
  for (UserAddr at = start; at < end;) {
    UserAddr stop = std::min(at + kZapPiece, end);
    runs.clear();
    {
      std::lock_guard guard(page_lock);
      for (const PageEntry& e : present(at, stop)) runs.push_back(e.run);
      if (!runs.empty()) {
        Invalidation inval;
        space.unmap(at, stop - at, inval);
        space.commit(inval);
      }
      for (const PageEntry& e : take_hidden(at, stop)) runs.push_back(e.run);
      for (const PhysRun& r : runs) count_pages(r, false);
    }
    release(runs);
    at = stop;
  }
}

void MemoryManager::Impl::zap_all() {
  // One invalidation for as much as possible: each has its fixed cost.
  std::vector<PhysRun> runs;
  for (Vma* v = vmas.first(); v;) {
    {
      std::lock_guard guard(page_lock);
      Invalidation inval;
      for (; v && runs.size() < kZapRuns; v = vmas.next(*v)) {
        size_t before = runs.size();
        for (const PageEntry& e : present(v->start, v->end)) runs.push_back(e.run);
        if (runs.size() != before) space.unmap(v->start, v->length(), inval);
        for (const PageEntry& e : take_hidden(v->start, v->end)) runs.push_back(e.run);
      }
      space.commit(inval);
      for (const PhysRun& r : runs) count_pages(r, false);
    }
    release(runs);
    runs.clear();
  }
}

void MemoryManager::Impl::zap_file_pages(UserAddr start, UserAddr end) {
  std::vector<PhysRun> runs;
  {
    std::lock_guard guard(page_lock);
    std::vector<PageEntry> files;
    for (const PageEntry& e : present(start, end))
      for (u64 i = 0; i < e.run.len; i += kPageSize)
        if (frames.is_file(e.run.phys + i)) append(files, e.va + i, {e.run.phys + i, kPageSize}, e.prot);
    Invalidation inval;
    for (const PageEntry& e : files) {
      space.unmap(e.va, e.run.len, inval);
      runs.push_back(e.run);
    }
    space.commit(inval);
    for (const PageEntry& e : take_hidden(start, end)) {
      if (frames.is_file(e.run.phys))
        runs.push_back(e.run);
      else
        hide(e);
    }
    for (const PhysRun& r : runs) count_pages(r, false);
  }
  release(runs);
}

// Hidden runs are wholly file pages or wholly not.
void MemoryManager::Impl::hide_pages(UserAddr start, UserAddr end) {
  for (const PageEntry& e : present(start, end)) {
    for (u64 i = 0; i < e.run.len;) {
      u64 j = i + kPageSize;
      while (j < e.run.len && frames.is_file(e.run.phys + j) == frames.is_file(e.run.phys + i)) j += kPageSize;
      hide({e.va + i, {e.run.phys + i, j - i}, {}});
      i = j;
    }
  }
  Invalidation inval;
  space.unmap(start, end - start, inval);
  space.commit(inval);
}

Result<void> MemoryManager::Impl::update_rights(const Vma& v) {
  Result<void> result;
  std::vector<PhysRun> lost;
  {
    std::lock_guard guard(page_lock);
    if (v.prot == PROT_NONE) {
      hide_pages(v.start, v.end);
      return {};
    }
    Invalidation inval;
    if ((v.prot & PROT_WRITE) == 0 || v.shared()) {
      space.protect(v.start, v.length(), v.rights(), inval);
    } else {
      // Pages that are this mapping's alone become writable at once: to leave that to faults would cost one for each.
      std::vector<PageEntry> parts;
      for (const PageEntry& e : present(v.start, v.end))
        for (u64 i = 0; i < e.run.len; i += kPageSize)
          append(parts, e.va + i, {e.run.phys + i, kPageSize},
                 writable_now(v, e.run.phys + i) ? v.rights() : v.read_only_rights());
      for (const PageEntry& p : parts) space.protect(p.va, p.run.len, p.prot, inval);
    }
    space.commit(inval);
    for (const PageEntry& e : take_hidden(v.start, v.end)) {
      std::vector<PageEntry> parts;
      for (u64 i = 0; i < e.run.len; i += kPageSize)
        append(parts, e.va + i, {e.run.phys + i, kPageSize},
               writable_now(v, e.run.phys + i) ? v.rights() : v.read_only_rights());
      for (const PageEntry& p : parts) {
        if (result) result = map_whole(p.va, p.run, p.prot);
        if (result) continue;
        count_pages(p.run, false);
        lost.push_back(p.run);
      }
    }
  }
  release(lost);
  return result;
}

Result<void> MemoryManager::Impl::move_pages(UserAddr from, UserAddr to, u64 len) {
  std::vector<PhysRun> lost;
  Result<void> result;
  for (u64 done = 0; done < len; done += std::min(kZapPiece, len - done)) {
    UserAddr start = from + done, end = start + std::min(kZapPiece, len - done);
    std::lock_guard guard(page_lock);
    std::vector<PageEntry> found = present(start, end);
    if (!found.empty()) {
      Invalidation inval;
      space.unmap(start, end - start, inval);
      space.commit(inval);
    }
    for (const PageEntry& e : found) {
      if (result) result = map_whole(e.va - from + to, e.run, e.prot);
      if (result) continue;
      count_pages(e.run, false);
      lost.push_back(e.run);
    }
    for (const PageEntry& e : take_hidden(start, end)) hide({e.va - from + to, e.run, {}});
  }
  release(lost);
  return result;
}

MemoryManager::Impl::Hole MemoryManager::Impl::hole_around(UserAddr va, UserAddr low, UserAddr high) {
  std::shared_lock guard(page_lock);
  Hole hole{low, high};
  bool mapped = false;
  space.for_each(low, high - low, [&](u64 v, Phys, u64 len, Prot) {
    if (v + len <= va)
      hole.start = std::max(hole.start, v + len);
    else if (v > va)
      hole.end = std::min(hole.end, v);
    else
      mapped = true;
  });
  if (mapped) hole.end = hole.start = va;
  return hole;
}

}  // namespace rf::mm
