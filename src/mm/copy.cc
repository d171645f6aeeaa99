// The sentry's access to guest memory.
//
// A look-up and the copy that uses it happen under page_lock held shared, so the page cannot be freed or replaced in
// between. A miss is resolved like a guest's fault, without the lock.
#include <limits.h>

#include <algorithm>
#include <cstring>

#include "mm/memory_manager_impl.h"
#include "mm/safe_copy.h"
#include "mm/user_access.h"

namespace rf::mm {
namespace {

using platform::Phys;

// How long one hold of page_lock may copy.
constexpr u64 kCopyPiece = 256 << 10;

bool clamp_range(UserAddr addr, size_t& len) {
  if (addr >= kGuestAddressLimit) return false;
  len = std::min<u64>(len, kGuestAddressLimit - addr);
  return len != 0;
}

}  // namespace

// Calls f(host pointer, bytes) for page after page of [addr, addr+len), faulting in what is missing; f returns how many
// bytes of the piece it did not do, which ends the walk. Returns the bytes done.
template <class F>
size_t MemoryManager::Impl::walk(UserAddr addr, size_t len, Access access, F&& f) {
  if (!clamp_range(addr, len)) return 0;
  size_t done = 0;
  while (done < len) {
    {
      std::shared_lock guard(page_lock);
      size_t stop = std::min<u64>(len, done + kCopyPiece);
      while (done < stop) {
        UserAddr at = addr + done;
        auto m = space.lookup(at);
        if (!m.present() || (access == Access::kWrite && !m.prot.write) || !m.prot.read) break;
        size_t n = std::min<u64>(len - done, kPageSize - (at & kPageMask));
        size_t left = f(frames.host_ptr(m.phys), n, done);
        done += n - left;
        if (left != 0) return done;
      }
      if (done >= stop) continue;
    }
    if (!mm.handle_fault(addr + done, access)) return done;
  }
  return done;
}

size_t MemoryManager::copy_in(void* dst, UserAddr src, size_t len) {
  auto* out = static_cast<std::byte*>(dst);
  return impl_->walk(src, len, Access::kRead,
                     [&](const std::byte* p, size_t n, size_t done) { return safe_copy(out + done, p, n); });
}

size_t MemoryManager::copy_out(UserAddr dst, const void* src, size_t len) {
  auto* in = static_cast<const std::byte*>(src);
  return impl_->walk(dst, len, Access::kWrite,
                     [&](std::byte* p, size_t n, size_t done) { return safe_copy(p, in + done, n); });
}

size_t MemoryManager::zero_out(UserAddr dst, size_t len) {
  return impl_->walk(dst, len, Access::kWrite, [&](std::byte* p, size_t n, size_t) { return safe_zero(p, n); });
}

Result<size_t> MemoryManager::copy_in_string(char* dst, UserAddr src, size_t max) {
  // The copy is searched, not the guest's memory, which may change. Strings are short: go by small pieces.
  constexpr size_t kPiece = 64;
  size_t done = 0, length = 0;
  bool found = false;
  impl_->walk(src, max, Access::kRead, [&](const std::byte* p, size_t n, size_t) {
    for (size_t i = 0; i < n;) {
      size_t piece = std::min(kPiece, n - i);
      size_t left = safe_copy(dst + done, p + i, piece);
      if (const void* nul = std::memchr(dst + done, 0, piece - left)) {
        length = static_cast<size_t>(static_cast<const char*>(nul) - dst);
        found = true;
        return n - i;  // ends the walk
      }
      done += piece - left;
      i += piece - left;
      if (left != 0) return n - i;
    }
    return size_t{0};
  });
  if (found) return length;
  return done == max ? err(ENAMETOOLONG) : err(EFAULT);
}

size_t MemoryManager::poke(UserAddr dst, const void* src, size_t len) {
  auto* in = static_cast<const std::byte*>(src);
  size_t done = copy_out(dst, src, len);
  while (done < len && dst + done < kGuestAddressLimit) {
    UserAddr at = dst + done;
    size_t n = std::min<u64>(len - done, kPageSize - (at & kPageMask));
    if (!impl_->poke_page(at, in + done, n)) break;
    done += n;
  }
  return done;
}

// Writes to a page of a private mapping that may not be written, giving it a copy of its own first.
bool MemoryManager::Impl::poke_page(UserAddr at, const std::byte* in, size_t len) {
  MapEdit edit(*this);
  Vma* v = vmas.find(at);
  if (!v || v->shared() || !v->has(kVmaMayWrite)) return false;
  UserAddr page = page_down(at);
  if (v->prot == PROT_NONE) {
    std::lock_guard guard(page_lock);
    for (const PageEntry& e : list_hidden(page, page + kPageSize))
      if (!frames.is_file(e.run.phys) && frames.owners(e.run.phys) == 1)
        return safe_copy(frames.host_ptr(e.run.phys) + (at - page), in, len) == 0;
    return false;
  }
  // For the time of the write the mapping has the right to it; no other fault can see that.
  int prot = v->prot;
  v->prot |= PROT_WRITE;
  bool ok = fault_in(*v, page, Access::kWrite, 1).has_value();
  if (ok) {
    std::lock_guard guard(page_lock);
    auto m = space.lookup(page);
    ok = m.present() && m.prot.write && safe_copy(frames.host_ptr(m.phys) + (at - page), in, len) == 0;
  }
  v->prot = prot;
  (void)update_rights(*v);
  return ok;
}

Result<u32> MemoryManager::load_u32(UserAddr addr) {
  if (addr % sizeof(u32) != 0) return err(EINVAL);
  u32 value = 0;
  size_t n = impl_->walk(addr, sizeof value, Access::kRead, [&](const std::byte* p, size_t len, size_t) {
    return rf_mm_safe_load_u32(p, &value) == 0 ? size_t{0} : len;
  });
  return n == sizeof value ? Result<u32>(value) : err(EFAULT);
}

Result<bool> MemoryManager::compare_exchange_u32(UserAddr addr, u32& expected, u32 desired) {
  if (addr % sizeof(u32) != 0) return err(EINVAL);
  u32 swapped = 0;
  size_t n = impl_->walk(addr, sizeof desired, Access::kWrite, [&](std::byte* p, size_t len, size_t) {
    return rf_mm_safe_compare_exchange_u32(p, &expected, desired, &swapped) == 0 ? size_t{0} : len;
  });
  return n == sizeof desired ? Result<bool>(swapped != 0) : err(EFAULT);
}

Result<u32> MemoryManager::try_load_u32(UserAddr addr) {
  if (addr % sizeof(u32) != 0) return err(EINVAL);
  if (addr >= kGuestAddressLimit) return err(EFAULT);
  std::shared_lock guard(impl_->page_lock);
  const auto m = impl_->space.lookup(addr);
  u32 value = 0;
  if (!m.present() || !m.prot.read || rf_mm_safe_load_u32(impl_->frames.host_ptr(m.phys), &value) != 0)
    return err(EFAULT);
  return value;
}

Result<bool> MemoryManager::try_compare_exchange_u32(UserAddr addr, u32& expected, u32 desired) {
  if (addr % sizeof(u32) != 0) return err(EINVAL);
  if (addr >= kGuestAddressLimit) return err(EFAULT);
  std::shared_lock guard(impl_->page_lock);
  const auto m = impl_->space.lookup(addr);
  u32 swapped = 0;
  if (!m.present() || !m.prot.read || !m.prot.write ||
      rf_mm_safe_compare_exchange_u32(impl_->frames.host_ptr(m.phys), &expected, desired, &swapped) != 0)
    return err(EFAULT);
  return swapped != 0;
}

Result<MemoryManager::FutexKey> MemoryManager::futex_key(UserAddr addr, bool shared) {
  if (addr % sizeof(u32) != 0) return err(EINVAL);
  if (addr >= kGuestAddressLimit) return err(EFAULT);
  if (!shared) return FutexKey{this, addr, {}};
  std::shared_lock lock(impl_->map_lock);
  Vma* v = impl_->vmas.find(addr);
  if (!v || v->prot == PROT_NONE) return err(EFAULT);
  if (!v->shared()) return FutexKey{this, addr, {}};
  return FutexKey{&v->object->mappable(), v->object_offset(addr), v->object};
}

Result<u64> MemoryManager::pin_pages(UserAddr addr, u64 len, Access access, std::vector<PhysRun>& runs) {
  Frames& frames = impl_->frames;
  size_t first_run = runs.size();
  u64 covered = 0;
  impl_->walk(addr, len, access, [&](const std::byte*, size_t n, size_t) {
    // walk() looks each page up; its frame is found again from there.
    Phys phys = page_down(impl_->space.lookup(addr + covered).phys);
    frames.pin(phys);
    bool joins = runs.size() > first_run && runs.back().phys + runs.back().len == phys &&
                 (!GuestMemory::in_window(phys) || phys % GuestMemory::kWindowChunk != 0);
    if (joins)
      runs.back().len += kPageSize;
    else
      runs.push_back({phys, kPageSize});
    covered += n;
    return size_t{0};
  });
  return covered != 0 || len == 0 ? Result<u64>(covered) : err(EFAULT);
}

Result<std::string> read_string(MemoryManager& mm, UserAddr addr, size_t max) {
  // Most are short: a buffer on the stack first.
  char small[256];
  size_t first = std::min(max, sizeof small);
  auto n = mm.copy_in_string(small, addr, first);
  if (n) return std::string(small, *n);
  if (errno_value(n.error()) != ENAMETOOLONG || first == max) return std::unexpected(n.error());
  std::string s(max, '\0');
  size_t length = TRY(mm.copy_in_string(s.data(), addr, max));
  s.resize(length);
  return s;
}

Result<std::string> read_path(MemoryManager& mm, UserAddr addr) { return read_string(mm, addr, PATH_MAX); }

}  // namespace rf::mm
