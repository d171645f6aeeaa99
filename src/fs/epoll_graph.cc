// Epoll instances that watch epoll instances: no loops, at most kMaxDepth levels, and a bound on the number of ways an
// event can take up through them (Linux's ELOOP and reverse path check).
#include <algorithm>

#include "fs/epoll.h"

namespace rf::fs {

namespace {

constexpr u32 kMaxDepth = 4;  // instances above or below one another, beyond the first
constexpr u32 kMaxPaths = 500;
constexpr u32 kMaxInner = 4096;  // instances that one watches, and steps a check may take

FiberMutex g_graph;

}  // namespace

// How many levels there are below `set`; false when that is more than `limit`, `forbidden` is among them or the
// steps are used up.
bool EpollSet::depth_below(EpollSet& set, const EpollSet& forbidden, u32 limit, u32& depth, u32& steps) {
  if (&set == &forbidden || steps == 0) return false;
  steps--;
  depth = 0;
  for (EpollSet* inner : set.inner_) {
    u32 below = 0;
    if (limit == 0 || !depth_below(*inner, forbidden, limit - 1, below, steps)) return false;
    depth = std::max(depth, below + 1);
  }
  return true;
}

u32 EpollSet::depth_above(const EpollSet& set, u32 limit) {
  u32 depth = 0;
  if (limit == 0) return 0;
  for (const EpollSet* outer : set.outer_) depth = std::max(depth, 1 + depth_above(*outer, limit - 1));
  return depth;
}

// The ways up from `set`, counted no further than just past `limit`.
u32 EpollSet::paths_up(const EpollSet& set, u32 limit) {
  u32 paths = 0;
  for (const EpollSet* outer : set.outer_) {
    if (paths > limit) break;
    paths += 1 + paths_up(*outer, limit - std::min(paths, limit));
  }
  return paths;
}

// Whether `set` or one below it would have too many ways up with `extra` more of them. After depth_below(), which
// bounds the steps.
bool EpollSet::too_many_paths(EpollSet& set, u32 extra) {
  if (paths_up(set, kMaxPaths) + extra > kMaxPaths) return true;
  return std::ranges::any_of(set.inner_, [extra](EpollSet* inner) { return too_many_paths(*inner, extra); });
}

Result<void> EpollSet::link(EpollSet& outer, EpollSet& inner) {
  FiberGuard guard(g_graph);
  if (outer.inner_.size() >= kMaxInner) return err(ENOSPC);
  u32 below = 0, steps = kMaxInner;
  if (!depth_below(inner, outer, kMaxDepth, below, steps)) return err(ELOOP);
  if (depth_above(outer, kMaxDepth) + 1 + below > kMaxDepth) return err(ELOOP);
  if (too_many_paths(inner, 1 + paths_up(outer, kMaxPaths))) return err(EINVAL);
  outer.inner_.push_back(&inner);
  inner.outer_.push_back(&outer);
  return {};
}

void EpollSet::unlink(EpollSet& outer, EpollSet& inner) {
  FiberGuard guard(g_graph);
  outer.inner_.erase(std::ranges::find(outer.inner_, &inner));
  inner.outer_.erase(std::ranges::find(inner.outer_, &outer));
}

}  // namespace rf::fs
