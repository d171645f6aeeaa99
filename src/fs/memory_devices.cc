// null, zero, full, random and urandom: null(4), full(4), random(4).

#include <algorithm>
#include <array>

#include "fs/devices.h"
#include "fs/file.h"
#include "hostio/random.h"

namespace rf::fs {
namespace {

constexpr u32 kNull = 3, kZero = 5, kFull = 7, kRandom = 8, kUrandom = 9;
constexpr u64 kZeroObjectSize = u64{1} << 46;  // more than a guest can map

// A position that does not matter: seeks succeed, as Linux's null_lseek has it.
class MemoryDevice : public File {
 public:
  using File::File;
  Result<u64> seek(const Context&, s64, int) override { return 0; }
  Result<size_t> write(const Context&, mm::IoBuffer& src) override { return swallow(src); }
  Result<size_t> pwrite(const Context&, mm::IoBuffer& src, u64) override { return swallow(src); }
  Result<size_t> pread(const Context& ctx, mm::IoBuffer& dst, u64) override { return read(ctx, dst); }
  Result<void> truncate(const Context&, u64) override { return err(EINVAL); }
  Result<void> fallocate(const Context&, int, u64, u64) override { return err(ENODEV); }
  Result<void> fsync(bool) override { return err(EINVAL); }

 private:
  virtual Result<size_t> swallow(mm::IoBuffer& src) {
    const u64 n = src.remaining();
    src.advance(n);
    return n;
  }
};

class NullDevice final : public MemoryDevice {
 public:
  using MemoryDevice::MemoryDevice;
  Result<size_t> read(const Context&, mm::IoBuffer&) override { return 0; }
};

// What a shared mapping of /dev/zero is: memory of its own.
class ZeroObject final : public mm::MapObject {
 public:
  explicit ZeroObject(mm::Frames& frames) : pages_(frames) { pages_.resize(kZeroObjectSize); }
  mm::Mappable& mappable() override { return pages_; }
  Identity identity() const override { return {0, 1, 0, "/dev/zero (deleted)"}; }

 private:
  mm::PageStore pages_;
};

class ZeroDevice : public MemoryDevice {
 public:
  ZeroDevice(Path path, int flags, mm::Frames* frames) : MemoryDevice(std::move(path), flags), frames_(frames) {}
  Result<Ref<mm::MapObject>> map_object() override {
    if (frames_ == nullptr) return err(ENODEV);
    return make_ref<ZeroObject>(*frames_);
  }
  Result<size_t> read(const Context&, mm::IoBuffer& dst) override { return dst.put_zeros(dst.remaining()); }

 private:
  mm::Frames* const frames_;
};

class FullDevice final : public ZeroDevice {
 public:
  FullDevice(Path path, int flags) : ZeroDevice(std::move(path), flags, nullptr) {}

 private:
  Result<size_t> swallow(mm::IoBuffer&) override { return err(ENOSPC); }
};

class RandomDevice final : public MemoryDevice {
 public:
  using MemoryDevice::MemoryDevice;
  Result<size_t> read(const Context&, mm::IoBuffer& dst) override {
    constexpr u64 kChunk = 64 << 10;
    constexpr u64 kSmall = 256;
    if (dst.remaining() <= kSmall) {
      std::array<std::byte, kSmall> bytes;
      const auto some = std::span(bytes).first(dst.remaining());
      hostio::random_bytes(some);
      return dst.put(some);
    }
    size_t done = 0;
    while (dst.remaining() > 0) {
      auto pinned = dst.pin(std::min(dst.remaining(), kChunk), mm::Access::kWrite);
      if (!pinned && done > 0) break;
      if (!pinned) return err(pinned.error());
      for (const iovec& v : pinned->iov()) hostio::random_bytes({static_cast<std::byte*>(v.iov_base), v.iov_len});
      done += pinned->bytes();
      dst.advance(pinned->bytes());
      if (Fiber::current().interrupted()) break;
    }
    return done;
  }
};

}  // namespace

Result<Ref<File>> open_memory_device(const Path& path, u32 minor, int flags, mm::Frames* frames) {
  switch (minor) {
    case kNull:
      return make_ref<NullDevice>(path, flags);
    case kZero:
      return make_ref<ZeroDevice>(path, flags, frames);
    case kFull:
      return make_ref<FullDevice>(path, flags);
    case kRandom:
    case kUrandom:
      return make_ref<RandomDevice>(path, flags);
    default:
      return err(ENXIO);
  }
}

}  // namespace rf::fs
