// Intrusive reference counts.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

#include "core/check.h"
#include "core/types.h"

namespace rf {

// Base of objects shared by count. Born with one reference, which make_ref() hands out.
class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;

  void ref() const { count_.fetch_add(1, std::memory_order_relaxed); }
  void unref() const {
    if (count_.fetch_sub(1, std::memory_order_release) == 1) {
      // The load orders this thread after every other unref; TSan does not model fences.
      count_.load(std::memory_order_acquire);
      const_cast<RefCounted*>(this)->last_unref();
    }
  }
  // Drops a reference without running last_unref(): true if it was the last, and then the caller destroys the object.
  // For chains too long to be taken down by recursion.
  [[nodiscard]] bool unref_to_zero() const {
    if (count_.fetch_sub(1, std::memory_order_release) != 1) return false;
    count_.load(std::memory_order_acquire);
    return true;
  }
  // Takes a reference unless the last one is already gone: for look-ups in weak tables.
  bool try_ref() const {
    u32 n = count_.load(std::memory_order_relaxed);
    while (n != 0)
      if (count_.compare_exchange_weak(n, n + 1, std::memory_order_acquire)) return true;
    return false;
  }
  u32 ref_count() const { return count_.load(std::memory_order_relaxed); }

 protected:
  virtual ~RefCounted() = default;
  // Runs when the last reference goes. May suspend when the object's own documentation says so.
  virtual void last_unref() { delete this; }

 private:
  mutable std::atomic<u32> count_{1};
};

template <class T>
class Ref {
 public:
  constexpr Ref() = default;
  constexpr Ref(std::nullptr_t) {}
  // Shares `p` (takes a reference).
  explicit Ref(T* p) : p_(p) {
    if (p_) p_->ref();
  }
  // Takes over a reference the caller holds.
  static Ref adopt(T* p) {
    Ref r;
    r.p_ = p;
    return r;
  }
  Ref(const Ref& o) : Ref(o.p_) {}
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  template <class U>
  Ref(const Ref<U>& o) : Ref(static_cast<T*>(o.get())) {}
  template <class U>
  Ref(Ref<U>&& o) noexcept : p_(o.release()) {}
  ~Ref() {
    if (p_) p_->unref();
  }
  Ref& operator=(Ref o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }

  T* get() const { return p_; }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_ != nullptr; }
  bool operator==(const Ref& o) const { return p_ == o.p_; }
  bool operator==(const T* o) const { return p_ == o; }
  // Gives the reference to the caller.
  [[nodiscard]] T* release() { return std::exchange(p_, nullptr); }
  void reset() { *this = Ref(); }

 private:
  T* p_ = nullptr;
};

template <class T, class... Args>
Ref<T> make_ref(Args&&... args) {
  return Ref<T>::adopt(new T(std::forward<Args>(args)...));
}

// The reference as a derived type, or null when it is not one.
template <class T, class U>
Ref<T> ref_cast(const Ref<U>& r) {
  return Ref<T>(dynamic_cast<T*>(r.get()));
}

}  // namespace rf
