// A large array of plain or atomic elements in memory of its own, all zero, of which the host backs only what is
// touched.
#pragma once

#include <sys/mman.h>

#include <cstddef>

#include "core/check.h"

namespace rf::mm {

template <class T>
class LazyArray {
 public:
  explicit LazyArray(size_t count) : count_(count) {
    void* p = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    RF_CHECK(p != MAP_FAILED, "no address space for the sandbox's memory tables");
    // Sparse use must not be rounded up to host huge pages.
    madvise(p, bytes(), MADV_NOHUGEPAGE);
    madvise(p, bytes(), MADV_DONTDUMP);
    data_ = static_cast<T*>(p);
  }
  ~LazyArray() { munmap(data_, bytes()); }
  LazyArray(const LazyArray&) = delete;
  LazyArray& operator=(const LazyArray&) = delete;

  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  size_t bytes() const { return count_ * sizeof(T); }
  size_t count_;
  T* data_ = nullptr;
};

}  // namespace rf::mm
