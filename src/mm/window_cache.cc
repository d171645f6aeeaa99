#include "mm/window_cache.h"

#include "core/check.h"

namespace rf::mm {
namespace {

constexpr u64 kChunk = GuestMemory::kWindowChunk;
constexpr u64 kChunkPageCount = kChunk >> kPageShift;
constexpr size_t kKeepChunks = 768;
constexpr size_t kTries = 32;

}  // namespace

WindowCache::~WindowCache() { RF_CHECK(recent_.empty(), "host files outlive their window"); }

size_t WindowCache::size() const {
  SpinGuard guard(lock_);
  return count_;
}

Result<PhysRun> WindowCache::get(WindowChunks& chunks, int fd, bool writable, u64 offset, u64 len) {
  u64 index = offset / kChunk, at = offset % kChunk;
  RF_CHECK(at + len <= kChunk, "a request across chunks of the file window");
  for (bool first = true;; first = false) {
    {
      SpinGuard guard(lock_);
      auto it = chunks.find(index);
      if (it != chunks.end()) {
        WindowChunk& c = *it->second;
        c.unlink();
        recent_.push_front(c);
        PhysRun run{c.phys + at, len};
        frames_.ref(run.phys, len >> kPageShift);
        return run;
      }
    }
    if (first) evict(kKeepChunks, kTries);
    Phys phys = TRY(map(fd, writable, index));
    auto c = std::make_unique<WindowChunk>();
    c->home = &chunks;
    c->index = index;
    c->phys = phys;
    {
      SpinGuard guard(lock_);
      if (!chunks.contains(index)) {
        recent_.push_front(*c);
        chunks.emplace(index, std::move(c));
        count_++;
        continue;
      }
    }
    frames_.unref(phys, kChunkPageCount);  // another thread was faster
  }
}

Result<Phys> WindowCache::map(int fd, bool writable, u64 index) {
  GuestMemory& memory = frames_.memory();
  Result<Phys> phys = memory.map_window(fd, index * kChunk, kChunk, writable);
  if (!phys && (errno_value(phys.error()) == ENOMEM || errno_value(phys.error()) == EMFILE)) {
    evict(0, ~size_t{0});
    phys = memory.map_window(fd, index * kChunk, kChunk, writable);
    if (!phys) return err(ENOMEM);
  }
  if (phys) frames_.adopt_window(*phys, kChunk);
  return phys;
}

void WindowCache::evict(size_t keep, size_t tries) {
  std::vector<std::unique_ptr<WindowChunk>> dead;
  {
    SpinGuard guard(lock_);
    while (count_ > keep && tries != 0 && !recent_.empty()) {
      tries = std::min(tries, count_);
      tries--;
      WindowChunk& c = recent_.back();
      c.unlink();
      if (!frames_.window_idle(c.phys)) {
        recent_.push_front(c);
        continue;
      }
      auto it = c.home->find(c.index);
      dead.push_back(std::move(it->second));
      c.home->erase(it);
      count_--;
    }
  }
  for (auto& c : dead) frames_.unref(c->phys, kChunkPageCount);
}

void WindowCache::drop_all(WindowChunks& chunks) {
  WindowChunks dead;
  {
    SpinGuard guard(lock_);
    dead.swap(chunks);
    for (auto& [index, c] : dead) c->unlink();
    count_ -= dead.size();
  }
  for (auto& [index, c] : dead) frames_.unref(c->phys, kChunkPageCount);
}

}  // namespace rf::mm
