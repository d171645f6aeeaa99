#include "fs/mem_data.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

namespace rf::fs {
namespace {

constexpr u64 kMaxSize = ~u64{0} >> 1;  // MAX_LFS_FILESIZE
constexpr u64 kBounce = 64 << 10;
constexpr u64 kSmallBounce = 2 << 10;  // on the stack of a fiber

}  // namespace

MemSpace::MemSpace(mm::Frames& frames, u64 limit)
    : frames_(frames),
      limit_(limit),
      max_inodes_(std::max<u64>(frames.limit() / kPageSize / 2, 4096)),
      max_metadata_(std::max<u64>(frames.limit() / 8, 1 << 20)) {}

u64 MemSpace::available() const {
  u64 global = frames_.limit() - std::min(frames_.used(), frames_.limit());
  if (limit_ == 0) return global;
  return std::min(global, limit_ - std::min(used(), limit_));
}

void MemData::settle() {
  if (space_.limit() == 0) return;
  // When two settle at once the later exchange may be with the older number; the next one mends that.
  u64 now = pages_.allocated_bytes();
  space_.add_used(now - charged_.exchange(now, std::memory_order_relaxed));
}

u64 MemData::missing(u64 offset, u64 len) const {
  u64 end = page_up(offset + len), bytes = 0;
  // Pages past the end of the file count as missing, though fallocate may have made some: rarely wrong, and then only
  // near the limit.
  for (u64 at = page_down(offset); at < end;) {
    u64 data = std::clamp(pages_.seek_data(at).value_or(end), at, end);
    bytes += page_down(data) - at;
    if (data >= end) break;
    at = std::max(page_up(pages_.seek_hole(data).value_or(end)), data + 1);
    at = page_up(at);
  }
  return bytes;
}

u64 MemData::allowed(u64 offset, u64 len) const {
  if (space_.limit() == 0) return len;
  u64 room = space_.limit() - std::min(space_.used(), space_.limit());
  if (page_up(offset + len) - page_down(offset) <= room) return len;
  if (missing(offset, len) <= room) return len;
  // Near the limit: page by page.
  u64 end = page_down(offset);
  while (end < offset + len) {
    u64 need = missing(end, 1);
    if (need > room) break;
    room -= need;
    end += kPageSize;
  }
  return end <= offset ? 0 : std::min(len, end - offset);
}

Result<size_t> MemData::read(mm::IoBuffer& dst, u64 offset) {
  size_t done = 0;
  while (dst.remaining() != 0) {
    u64 size = pages_.size(), at = offset + done;
    if (at >= size) break;
    u64 want = std::min(size - at, dst.remaining());
    // A hole is not worth a page.
    u64 data = pages_.seek_data(at).value_or(size);
    Result<size_t> moved = 0;
    u64 chunk;
    if (data > at) {
      chunk = std::min(want, data - at);
      moved = dst.put_zeros(chunk);
    } else {
      u64 in_page = at & kPageMask;
      auto run = pages_.pin(page_down(at), page_up(in_page + want), false);
      if (!run) {
        if (run.error() == Errno{ENXIO}) break;  // truncated meanwhile
        if (done != 0) break;
        return err(run.error());
      }
      chunk = std::min(want, run->len - in_page);
      moved = dst.put(std::span(space_.frames().host_ptr(run->phys) + in_page, chunk));
      space_.frames().unref(run->phys, run->len >> kPageShift);
    }
    if (!moved) {
      if (done != 0) break;
      return moved;
    }
    done += *moved;
    if (*moved < chunk) break;
  }
  return done;
}

Result<size_t> MemData::write_some(mm::IoBuffer& src, u64 offset, u64 len) {
  // In place where pages are, else by way of a buffer: a page is seen by others once it is filled.
  u64 size = pages_.size();
  if (offset < size && pages_.seek_data(offset).value_or(size) == offset) {
    u64 in_page = offset & kPageMask;
    u64 want = std::min(len, size - offset);
    if (auto run = pages_.pin(page_down(offset), page_up(in_page + want), true)) {
      want = std::min(want, run->len - in_page);
      auto moved = src.get(std::span(space_.frames().host_ptr(run->phys) + in_page, want));
      space_.frames().unref(run->phys, run->len >> kPageShift);
      return moved;
    }
  }
  std::byte small[kSmallBounce];
  std::unique_ptr<std::byte[]> large;
  std::span<std::byte> buffer(small);
  if (len > kSmallBounce) {
    // Up to a page boundary, so that the next piece begins with a fresh page.
    len = std::min(len, kBounce - (offset & kPageMask));
    large.reset(new std::byte[len]);
    buffer = std::span(large.get(), len);
  }
  size_t got = TRY(src.get(buffer.first(len)));
  return pages_.write(offset, buffer.first(got));
}

Result<size_t> MemData::write(mm::IoBuffer& src, u64 offset) {
  size_t done = 0;
  Errno error{};
  while (src.remaining() != 0) {
    u64 at = offset + done;
    u64 want = at < kMaxSize ? std::min(src.remaining(), kMaxSize - at) : 0;
    if (want == 0) {
      error = Errno{EFBIG};
      break;
    }
    want = allowed(at, std::min<u64>(want, u64{1} << 20));
    if (want == 0) {
      error = Errno{ENOSPC};
      break;
    }
    u64 before = src.remaining();
    auto moved = write_some(src, at, want);
    settle();
    if (!moved || *moved == 0) {
      error = moved ? Errno{EFAULT} : moved.error();
      break;
    }
    done += *moved;
    // Collected more than there was memory for, or met the end of what can be reached.
    if (before - src.remaining() != *moved) {
      error = Errno{ENOSPC};
      break;
    }
  }
  if (done == 0 && error != Errno{}) return err(error);
  return done;
}

Result<void> MemData::truncate(u64 size) {
  if (size > kMaxSize) return err(EFBIG);
  u64 old = pages_.size();
  pages_.resize(size);
  if (size < old) mapped_as_.unmap_mappings(page_up(size), ~u64{0}, true);
  settle();
  return {};
}

void MemData::punch(u64 offset, u64 len) {
  pages_.punch(offset, len);
  u64 first = page_up(offset), last = page_down(offset + len);
  if (first < last) mapped_as_.unmap_mappings(first, last - first, false);
  settle();
}

Result<void> MemData::allocate(u64 offset, u64 len) {
  if (allowed(offset, len) < len) return err(ENOSPC);
  // Refused at once rather than after gigabytes of pages: the sandbox's limit.
  if (missing(offset, len) > space_.available()) return err(ENOSPC);
  auto done = pages_.allocate(offset, len);
  settle();
  return done;
}

Result<void> MemData::fallocate(int mode, u64 offset, u64 len, u64 max_size) {
  constexpr int kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  if (mode & ~kKnown) return err(EOPNOTSUPP);
  const bool keep = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  if (offset > kMaxSize || len > kMaxSize - offset) return err(EFBIG);
  const u64 end = offset + len;
  if (mode & FALLOC_FL_PUNCH_HOLE) {
    if (!keep || (mode & FALLOC_FL_ZERO_RANGE)) return err(EOPNOTSUPP);
    u64 size = pages_.size();
    // Whole pages up to the end, also where the last one reaches past it.
    if (offset < size) punch(offset, std::min(len, page_up(size) - offset));
    return {};
  }
  const u64 old = pages_.size();
  if (!keep && end > old && end > max_size) return err(EFBIG);
  if ((mode & FALLOC_FL_ZERO_RANGE) && offset < old) punch(offset, std::min(len, page_up(old) - offset));
  TRY(allocate(offset, len));
  if (!keep && end > pages_.size()) pages_.resize(end);
  return {};
}

Result<void> MemData::load(u64 offset, u64 len, const Reader& read) {
  constexpr u64 kPiece = u64{1} << 20;
  for (u64 end = offset + len; offset < end;) {
    u64 piece = std::min(end - offset, kPiece - (offset & kPageMask));
    TRY(allocate(offset, piece));
    u64 in_page = offset & kPageMask;
    mm::PhysRun run = TRY(pages_.pin(page_down(offset), page_up(in_page + piece), true));
    piece = std::min(piece, run.len - in_page);
    auto got = read(std::span(space_.frames().host_ptr(run.phys) + in_page, piece), offset);
    space_.frames().unref(run.phys, run.len >> kPageShift);
    if (!got) return err(got.error());
    if (*got < piece) return {};
    offset += piece;
  }
  return {};
}

Result<u64> MemData::seek(u64 offset, int whence) const {
  return whence == SEEK_DATA ? pages_.seek_data(offset) : pages_.seek_hole(offset);
}

Result<mm::PhysRun> MemData::pin(u64 offset, u64 len, bool write) {
  if (space_.limit() != 0) {
    len = allowed(offset, len);
    if (len == 0) return err(ENOSPC);
  }
  auto run = pages_.pin(offset, len, write);
  settle();
  return run;
}

}  // namespace rf::fs
