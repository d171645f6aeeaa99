#include "mm/mapped_reads.h"

#include <sys/stat.h>

#include <algorithm>

#include "mm/safe_copy.h"

namespace rf::mm {

size_t MappedReads::read(int fd, std::span<const iovec> into, u64 offset) {
  u64 wanted = 0;
  for (const iovec& v : into) wanted += v.iov_len;
  {
    SpinGuard guard(lock_);
    if (offset >= size_ || wanted > size_ - offset) return 0;
  }
  size_t done = 0;
  for (const iovec& v : into) {
    auto* to = static_cast<std::byte*>(v.iov_base);
    for (size_t left = v.iov_len; left != 0;) {
      const u64 n = std::min<u64>(left, kChunk - (offset + done) % kChunk);
      const size_t copied = copy(fd, to, offset + done, n);
      done += copied;
      if (copied < n) return done;
      to += n;
      left -= n;
    }
  }
  return done;
}

// Within one chunk.
size_t MappedReads::copy(int fd, std::byte* to, u64 offset, u64 len) {
  const u64 from = page_down(offset), to_end = page_up(offset + len);
  {
    SpinGuard guard(lock_);
    const auto times = times_.find(offset / kChunk);
    if (times == times_.end()) return 0;
    const auto pages = std::span(times->second).subspan(from % kChunk / kPageSize, (to_end - from) / kPageSize);
    if (std::ranges::any_of(pages, [](u8 n) { return n < kMapAfter; })) return 0;
  }
  auto run = frames_.window_cache().get(chunks_, fd, false, from, to_end - from);
  if (!run) return 0;
  const size_t left = safe_copy(to, frames_.host_ptr(run->phys) + (offset - from), len);
  frames_.unref(run->phys, run->len >> kPageShift);
  if (left != 0) forget();  // the file is shorter now
  return len - left;
}

void MappedReads::forget() {
  SpinGuard guard(lock_);
  times_.clear();
  size_ = 0;
}

void MappedReads::note(int fd, u64 offset, u64 len) {
  bool worth_mapping = false;
  {
    SpinGuard guard(lock_);
    for (u64 at = page_down(offset); at < offset + len; at += kPageSize) {
      const u64 index = at / kChunk;
      if (times_.size() == kMostChunks && !times_.contains(index)) break;
      u8& times = times_[index][at % kChunk / kPageSize];
      if (times == kMapAfter)
        worth_mapping |= at + kPageSize > size_;  // the file has grown, perhaps
      else
        worth_mapping |= ++times == kMapAfter;
    }
  }
  struct stat st;
  if (!worth_mapping || fstat(fd, &st) != 0) return;
  SpinGuard guard(lock_);
  size_ = static_cast<u64>(st.st_size);
}

}  // namespace rf::mm
