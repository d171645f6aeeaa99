// The descriptors are slots in chunks that never move: chunk 0 holds the first kFirst of them and each further one as
// many as all before it. A look-up locks one bit of its slot while it takes its reference, so that look-ups of
// different descriptors share nothing. Everything else happens under one lock for the table.
//
// Lock order: Impl::lock > a slot's bit. Neither is held when a description is dropped.
#include "fs/fd_table.h"

#include <immintrin.h>

#include <array>
#include <bit>

namespace rf::fs {
namespace {

constexpr u32 kFirst = 64;
constexpr u32 kMaxDescriptors = 1 << 20;  // fs.nr_open
constexpr u32 kChunks = 15;               // kFirst << (kChunks - 1) == kMaxDescriptors

// A description's address; the low bit is a lock.
class Slot {
 public:
  Ref<File> get() {
    if ((word_.load(std::memory_order_relaxed) & ~kLocked) == 0) return nullptr;
    uintptr_t w = lock();
    Ref<File> file(reinterpret_cast<File*>(w));
    unlock(w);
    return file;
  }
  // Puts `file` in, or nothing, and returns what was there.
  Ref<File> exchange(Ref<File> file) {
    uintptr_t w = lock();
    unlock(reinterpret_cast<uintptr_t>(file.release()));
    return Ref<File>::adopt(reinterpret_cast<File*>(w));
  }

 private:
  static constexpr uintptr_t kLocked = 1;
  uintptr_t lock() {
    for (;;) {
      uintptr_t w = word_.load(std::memory_order_relaxed);
      // Held for the few instructions of a reference count.
      if (!(w & kLocked) && word_.compare_exchange_weak(w, w | kLocked, std::memory_order_acquire)) return w;
      _mm_pause();
    }
  }
  void unlock(uintptr_t w) { word_.store(w, std::memory_order_release); }
  std::atomic<uintptr_t> word_{0};
};

// One bit per descriptor, as long as it has to be.
class Bitmap {
 public:
  bool test(u32 i) const { return i / 64 < words_.size() && (words_[i / 64] >> i % 64 & 1) != 0; }
  void set(u32 i) {
    if (i / 64 >= words_.size()) words_.resize(std::max<size_t>(i / 64 + 1, words_.size() * 2));
    words_[i / 64] |= u64{1} << i % 64;
  }
  void clear(u32 i) {
    if (i / 64 < words_.size()) words_[i / 64] &= ~(u64{1} << i % 64);
  }
  void assign(u32 i, bool on) { on ? set(i) : clear(i); }
  u32 first_clear(u32 from) const {
    u32 w = from / 64;
    if (w >= words_.size()) return from;
    u64 bits = ~words_[w] & ~u64{0} << from % 64;
    while (bits == 0) {
      if (++w == words_.size()) return w * 64;
      bits = ~words_[w];
    }
    return w * 64 + static_cast<u32>(std::countr_zero(bits));
  }
  // The first bit set in [from, end), or end.
  u32 first_set(u32 from, u32 end) const {
    u32 w = from / 64;
    if (w >= words_.size()) return end;
    u64 bits = words_[w] & ~u64{0} << from % 64;
    while (bits == 0) {
      if (++w == words_.size()) return end;
      bits = words_[w];
    }
    return std::min(end, w * 64 + static_cast<u32>(std::countr_zero(bits)));
  }

 private:
  std::vector<u64> words_;
};

}  // namespace

struct FdTable::Impl {
  mutable SpinLock lock;
  Bitmap open, cloexec;
  Bitmap used;   // open or reserved
  u32 next = 0;  // no descriptor below it is free
  std::array<std::atomic<Slot*>, kChunks> chunks{};

  ~Impl() {
    for (auto& c : chunks) delete[] c.load(std::memory_order_relaxed);
  }
  static u32 chunk_of(u32 fd) { return fd < kFirst ? 0 : static_cast<u32>(std::bit_width(fd / kFirst)); }
  static u32 chunk_base(u32 chunk) { return chunk == 0 ? 0 : kFirst << (chunk - 1); }
  static u32 chunk_size(u32 chunk) { return chunk == 0 ? kFirst : kFirst << (chunk - 1); }

  // Null when there was never a descriptor near it.
  Slot* slot(int fd) const {
    if (fd < 0 || static_cast<u32>(fd) >= kMaxDescriptors) return nullptr;
    u32 c = chunk_of(static_cast<u32>(fd));
    Slot* base = chunks[c].load(std::memory_order_acquire);
    return base ? base + (static_cast<u32>(fd) - chunk_base(c)) : nullptr;
  }
  // With the lock held.
  Slot& make_slot(u32 fd) {
    u32 c = chunk_of(fd);
    Slot* base = chunks[c].load(std::memory_order_relaxed);
    if (!base) chunks[c].store(base = new Slot[chunk_size(c)], std::memory_order_release);
    return base[fd - chunk_base(c)];
  }
  Result<u32> lowest_free(u32 min, u64 limit) {
    const u32 from = std::max(min, next);
    const u32 fd = used.first_clear(from);
    if (fd >= std::min<u64>(limit, kMaxDescriptors)) return err(EMFILE);
    if (from == next) next = fd + 1;
    return fd;
  }
  Ref<File> put(u32 fd, Ref<File> file, bool close_on_exec) {
    open.set(fd);
    used.set(fd);
    cloexec.assign(fd, close_on_exec);
    return make_slot(fd).exchange(std::move(file));
  }
  void free(u32 fd) {
    used.clear(fd);
    next = std::min(next, fd);
  }
  Ref<File> take(u32 fd) {
    open.clear(fd);
    cloexec.clear(fd);
    free(fd);
    return slot(static_cast<int>(fd))->exchange(nullptr);
  }
  std::vector<Ref<File>> take_all(const Bitmap& which, u32 first, u32 end) {
    std::vector<Ref<File>> taken;
    for (u32 fd = which.first_set(first, end); fd < end; fd = which.first_set(fd + 1, end)) taken.push_back(take(fd));
    return taken;
  }
};

FdTable::FdTable() : impl_(std::make_unique<Impl>()) {}
FdTable::~FdTable() { remove_all(); }

Ref<FdTable> FdTable::fork() {
  auto copy = make_ref<FdTable>();
  Impl& to = *copy->impl_;
  SpinGuard guard(impl_->lock);
  for (u32 fd = impl_->open.first_set(0, kMaxDescriptors); fd < kMaxDescriptors;
       fd = impl_->open.first_set(fd + 1, kMaxDescriptors))
    to.make_slot(fd).exchange(impl_->slot(static_cast<int>(fd))->get());
  to.open = impl_->open;
  to.used = impl_->open;  // what is reserved here is not there: the calls under way fill this table
  to.cloexec = impl_->cloexec;
  to.next = std::min(impl_->next, to.used.first_clear(0));
  return copy;
}

Result<Ref<File>> FdTable::get(int fd) const {
  Slot* slot = impl_->slot(fd);
  if (!slot) return err(EBADF);
  Ref<File> file = slot->get();
  if (!file) return err(EBADF);
  return file;
}

bool FdTable::close_on_exec(int fd) const {
  SpinGuard guard(impl_->lock);
  return fd >= 0 && impl_->cloexec.test(static_cast<u32>(fd));
}

Result<void> FdTable::set_close_on_exec(int fd, bool on) {
  SpinGuard guard(impl_->lock);
  if (fd < 0 || !impl_->open.test(static_cast<u32>(fd))) return err(EBADF);
  impl_->cloexec.assign(static_cast<u32>(fd), on);
  return {};
}

Result<int> FdTable::install(Ref<File> file, bool cloexec, int min, u64 limit) {
  SpinGuard guard(impl_->lock);
  const u32 fd = TRY(impl_->lowest_free(static_cast<u32>(min), limit));
  // The slot is empty: nothing is dropped here.
  impl_->put(fd, std::move(file), cloexec);
  return static_cast<int>(fd);
}

Result<Ref<File>> FdTable::replace(int fd, Ref<File> file, bool cloexec, u64 limit) {
  if (fd < 0 || static_cast<u64>(fd) >= std::min<u64>(limit, kMaxDescriptors)) return err(EBADF);
  const u32 number = static_cast<u32>(fd);
  SpinGuard guard(impl_->lock);
  if (impl_->used.test(number) && !impl_->open.test(number)) return err(EBUSY);
  return impl_->put(number, std::move(file), cloexec);
}

Result<ReservedFd> ReservedFd::make(FdTable& table, u64 limit) {
  FdTable::Impl& impl = *table.impl_;
  SpinGuard guard(impl.lock);
  const u32 fd = TRY(impl.lowest_free(0, limit));
  impl.used.set(fd);
  return ReservedFd(table, static_cast<int>(fd));
}

void ReservedFd::fill(Ref<File> file, bool cloexec) {
  FdTable::Impl& impl = *std::exchange(table_, nullptr)->impl_;
  SpinGuard guard(impl.lock);
  impl.put(static_cast<u32>(number_), std::move(file), cloexec);  // the slot is empty: nothing is dropped here
}

ReservedFd::~ReservedFd() {
  if (!table_) return;
  SpinGuard guard(table_->impl_->lock);
  table_->impl_->free(static_cast<u32>(number_));
}

Result<Ref<File>> FdTable::remove(int fd) {
  SpinGuard guard(impl_->lock);
  if (fd < 0 || !impl_->open.test(static_cast<u32>(fd))) return err(EBADF);
  return impl_->take(static_cast<u32>(fd));
}

std::vector<Ref<File>> FdTable::remove_range(u32 first, u32 last) {
  if (first >= kMaxDescriptors) return {};
  SpinGuard guard(impl_->lock);
  return impl_->take_all(impl_->open, first, std::min(last, kMaxDescriptors - 1) + 1);
}

void FdTable::set_close_on_exec_range(u32 first, u32 last) {
  if (first >= kMaxDescriptors) return;
  u32 end = std::min(last, kMaxDescriptors - 1) + 1;
  SpinGuard guard(impl_->lock);
  for (u32 fd = impl_->open.first_set(first, end); fd < end; fd = impl_->open.first_set(fd + 1, end))
    impl_->cloexec.set(fd);
}

std::vector<Ref<File>> FdTable::remove_close_on_exec() {
  SpinGuard guard(impl_->lock);
  return impl_->take_all(impl_->cloexec, 0, kMaxDescriptors);
}

std::vector<Ref<File>> FdTable::remove_all() { return remove_range(0, ~0u); }

std::vector<int> FdTable::descriptors() const {
  std::vector<int> fds;
  SpinGuard guard(impl_->lock);
  for (u32 fd = impl_->open.first_set(0, kMaxDescriptors); fd < kMaxDescriptors;
       fd = impl_->open.first_set(fd + 1, kMaxDescriptors))
    fds.push_back(static_cast<int>(fd));
  return fds;
}

}  // namespace rf::fs
