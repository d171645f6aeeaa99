// Typed access to guest memory. A UserPtr cannot be dereferenced; it can be read once and written. Memory the
// guest can write is read once: copy the struct in, check the copy, use the copy.
#pragma once

#include <span>
#include <string>
#include <type_traits>

#include "mm/memory_manager.h"

namespace rf::mm {

template <class T>
class UserPtr {
 public:
  constexpr UserPtr() = default;
  constexpr explicit UserPtr(UserAddr addr) : addr_(addr) {}
  UserAddr addr() const { return addr_; }
  explicit operator bool() const { return addr_ != 0; }
  UserPtr operator+(size_t n) const { return UserPtr(addr_ + n * sizeof(T)); }
  template <class U>
  UserPtr<U> cast() const {
    return UserPtr<U>(addr_);
  }

  // EFAULT unless all of it can be read or written. Suspend on faults.
  Result<std::remove_const_t<T>> read(MemoryManager& mm) const requires std::is_trivially_copyable_v<T> {
    std::remove_const_t<T> v;
    if (mm.copy_in(&v, addr_, sizeof v) != sizeof v) return err(EFAULT);
    return v;
  }
  Result<void> write(MemoryManager& mm, const T& v) const requires std::is_trivially_copyable_v<T> {
    if (mm.copy_out(addr_, &v, sizeof v) != sizeof v) return err(EFAULT);
    return {};
  }
  Result<void> read_array(MemoryManager& mm, std::span<std::remove_const_t<T>> out) const {
    if (mm.copy_in(out.data(), addr_, out.size_bytes()) != out.size_bytes()) return err(EFAULT);
    return {};
  }
  Result<void> write_array(MemoryManager& mm, std::span<const T> in) const {
    if (mm.copy_out(addr_, in.data(), in.size_bytes()) != in.size_bytes()) return err(EFAULT);
    return {};
  }

 private:
  UserAddr addr_ = 0;
};

// A path argument: at most PATH_MAX with its NUL. ENAMETOOLONG, EFAULT.
Result<std::string> read_path(MemoryManager& mm, UserAddr addr);
// Any other string of at most `max` bytes with its NUL. ENAMETOOLONG, EFAULT.
Result<std::string> read_string(MemoryManager& mm, UserAddr addr, size_t max);

}  // namespace rf::mm
