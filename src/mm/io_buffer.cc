#include "mm/io_buffer.h"

#include <limits.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "mm/user_access.h"

namespace rf::mm {
namespace {

// Linux's MAX_RW_COUNT.
constexpr u64 kMaxRwCount = INT_MAX & ~kPageMask;
// A pin holds at most this much of guest memory at a time: the host's IOV_MAX of single pages.
constexpr size_t kMaxPinnedRanges = 1024;

iovec range_of(u64 addr, u64 len) { return {reinterpret_cast<void*>(addr), len}; }
u64 address(const iovec& v) { return reinterpret_cast<u64>(v.iov_base); }

}  // namespace

IoBuffer::IoBuffer(MemoryManager& mm, UserAddr addr, u64 len)
    : mm_(&mm), first_(range_of(addr, len)), remaining_(len) {}

IoBuffer::IoBuffer(std::span<std::byte> buffer) : first_{buffer.data(), buffer.size()}, remaining_(buffer.size()) {}

IoBuffer IoBuffer::from_const(std::span<const std::byte> buffer) {
  return IoBuffer(std::span(const_cast<std::byte*>(buffer.data()), buffer.size()));
}

Result<IoBuffer> IoBuffer::from_iovec(MemoryManager& mm, UserAddr iov, u64 count) {
  if (count > IOV_MAX) return err(EINVAL);
  IoBuffer b;
  b.mm_ = &mm;
  if (count == 0) return b;
  std::vector<iovec> v(count);
  TRY(UserPtr<iovec>(iov).read_array(mm, v));
  for (iovec& e : v) {
    if (static_cast<ssize_t>(e.iov_len) < 0) return err(EINVAL);
    // Linux's access_ok: the range must lie in the user half, even where it will not be reached.
    if (address(e) >= platform::kGuestAddressLimit || e.iov_len > platform::kGuestAddressLimit - address(e)) {
      if (e.iov_len != 0) return err(EFAULT);
    }
    e.iov_len = std::min<u64>(e.iov_len, kMaxRwCount - b.remaining_);
    b.remaining_ += e.iov_len;
  }
  b.first_ = v.front();
  v.erase(v.begin());
  b.rest_ = std::move(v);
  return b;
}

const iovec& IoBuffer::range(size_t i) const { return i == 0 ? first_ : rest_[i - 1]; }

void IoBuffer::advance(u64 n) {
  RF_CHECK(n <= remaining_, "advance past the end of a buffer");
  remaining_ -= n;
  while (n != 0) {
    u64 step = std::min<u64>(n, range(index_).iov_len - done_);
    done_ += step;
    n -= step;
    if (done_ == range(index_).iov_len) {
      index_++;
      done_ = 0;
    }
  }
}

// Calls f(address of the piece, bytes, offset in the transfer) until `len` bytes are done or f did less than it was
// asked.
template <class F>
Result<size_t> IoBuffer::transfer(u64 len, F&& f) {
  len = std::min(len, remaining_);
  u64 done = 0;
  while (done < len) {
    const iovec& r = range(index_);
    u64 n = std::min<u64>(len - done, r.iov_len - done_);
    if (n == 0) {  // an empty iovec
      index_++;
      done_ = 0;
      continue;
    }
    u64 did = f(address(r) + done_, n, done);
    advance(did);
    done += did;
    if (did < n) return done != 0 ? Result<size_t>(done) : err(EFAULT);
  }
  return static_cast<size_t>(done);
}

Result<size_t> IoBuffer::put(std::span<const std::byte> data) {
  return transfer(data.size(), [&](u64 at, u64 n, u64 done) -> u64 {
    if (mm_) return mm_->copy_out(at, data.data() + done, n);
    std::memcpy(reinterpret_cast<void*>(at), data.data() + done, n);
    return n;
  });
}

Result<size_t> IoBuffer::get(std::span<std::byte> data) {
  return transfer(data.size(), [&](u64 at, u64 n, u64 done) -> u64 {
    if (mm_) return mm_->copy_in(data.data() + done, at, n);
    std::memcpy(data.data() + done, reinterpret_cast<const void*>(at), n);
    return n;
  });
}

Result<size_t> IoBuffer::put_zeros(u64 len) {
  return transfer(len, [&](u64 at, u64 n, u64) -> u64 {
    if (mm_) return mm_->zero_out(at, n);
    std::memset(reinterpret_cast<void*>(at), 0, n);
    return n;
  });
}

Result<IoBuffer::Pinned> IoBuffer::pin(u64 max, Access access) {
  Pinned out;
  u64 want = std::min(max, remaining_), at = done_;
  for (size_t i = index_; want != 0 && out.iov_.size() < kMaxPinnedRanges; i++, at = 0) {
    const iovec& r = range(i);
    u64 n = std::min<u64>(want, r.iov_len - at);
    if (n == 0) continue;
    if (!mm_) {
      out.iov_.push_back({static_cast<std::byte*>(r.iov_base) + at, n});
      out.bytes_ += n;
      want -= n;
      continue;
    }
    out.frames_ = &mm_->env().frames;
    size_t first = out.runs_.size();
    auto got = mm_->pin_pages(address(r) + at, n, access, out.runs_);
    if (!got) {
      if (out.bytes_ == 0) return std::unexpected(got.error());
      break;
    }
    u64 left = *got, skip = (address(r) + at) & kPageMask;
    for (size_t k = first; k < out.runs_.size() && left != 0; k++, skip = 0) {
      const PhysRun& run = out.runs_[k];
      u64 part = std::min(left, run.len - skip);
      if (out.iov_.size() == kMaxPinnedRanges) break;
      out.iov_.push_back({out.frames_->host_ptr(run.phys) + skip, part});
      out.bytes_ += part;
      left -= part;
    }
    want -= *got;
    if (*got < n || left != 0) break;
  }
  return out;
}

IoBuffer IoBuffer::prefix(u64 n) const {
  IoBuffer b = *this;
  b.remaining_ = std::min(n, remaining_);
  return b;
}

IoBuffer::Pinned::Pinned(Pinned&& o) noexcept
    : frames_(o.frames_),
      runs_(std::exchange(o.runs_, {})),
      iov_(std::exchange(o.iov_, {})),
      bytes_(std::exchange(o.bytes_, 0)) {}

IoBuffer::Pinned& IoBuffer::Pinned::operator=(Pinned&& o) noexcept {
  std::swap(frames_, o.frames_);
  std::swap(runs_, o.runs_);
  std::swap(iov_, o.iov_);
  std::swap(bytes_, o.bytes_);
  return *this;
}

IoBuffer::Pinned::~Pinned() {
  for (const PhysRun& r : runs_) frames_->unpin(r.phys, r.len >> kPageShift);
}

}  // namespace rf::mm
