// mmap(2), munmap(2), brk(2), and where mappings go.
#include <sys/mman.h>

#include <algorithm>

#include "mm/memory_manager_impl.h"
#include "mm/page_store.h"

namespace rf::mm {
namespace {

constexpr int kProtBits = PROT_READ | PROT_WRITE | PROT_EXEC;
// What MAP_SHARED_VALIDATE knows; MAP_SYNC is for persistent memory.
constexpr int kKnownFlags = MAP_TYPE | MAP_FIXED | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_DENYWRITE | MAP_EXECUTABLE |
                            MAP_LOCKED | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK | MAP_HUGETLB |
                            MAP_32BIT | MAP_UNINITIALIZED | (MAP_HUGE_MASK << MAP_HUGE_SHIFT) | MAP_FIXED_NOREPLACE;

constexpr UserAddr k32BitLow = 0x4000'0000, k32BitHigh = 0x8000'0000;

bool fixed(int flags) { return (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0; }

}  // namespace

Result<UserAddr> MemoryManager::Impl::find_unmapped(UserAddr hint, u64 len, int flags) {
  if (len > kGuestAddressLimit) return err(ENOMEM);
  if (hint != 0 && hint <= kGuestAddressLimit - len) {
    UserAddr at = std::max(page_up(hint), kMmapMinAddr);
    if (at <= kGuestAddressLimit - len && vmas.is_free(at, len) && !((flags & MAP_32BIT) && at + len > k32BitHigh))
      return at;
  }
  if ((flags & MAP_32BIT) != 0) {
    UserAddr at = vmas.gap_bottom_up(len, k32BitLow, k32BitHigh);
    return at != 0 ? Result<UserAddr>(at) : err(ENOMEM);
  }
  UserAddr base = mm.layout_.mmap_base != 0 ? mm.layout_.mmap_base : kGuestAddressLimit;
  UserAddr at = vmas.gap_top_down(len, kMmapMinAddr, base);
  // As Linux: when the area below the stack is full, the rest of the address space.
  if (at == 0) at = vmas.gap_bottom_up(len, base, kGuestAddressLimit);
  return at != 0 ? Result<UserAddr>(at) : err(ENOMEM);
}

Result<UserAddr> MemoryManager::Impl::place(const MmapArgs& args, u64 len) {
  if (!fixed(args.flags)) return find_unmapped(args.addr, len, args.flags);
  if (len > kGuestAddressLimit || args.addr > kGuestAddressLimit - len) return err(ENOMEM);
  if (!page_aligned(args.addr)) return err(EINVAL);
  if (args.addr < kMmapMinAddr) return err(EPERM);
  if ((args.flags & MAP_FIXED_NOREPLACE) != 0 && vmas.overlaps(args.addr, args.addr + len)) return err(EEXIST);
  return args.addr;
}

// The VMA that the arguments ask for, not placed yet.
Result<std::unique_ptr<Vma>> MemoryManager::Impl::make_vma(const MmapArgs& args, u64 len) {
  int type = args.flags & MAP_TYPE;
  bool shared = type == MAP_SHARED || type == MAP_SHARED_VALIDATE;
  if (!shared && type != MAP_PRIVATE) return err(EINVAL);
  if (type == MAP_SHARED_VALIDATE) {
    if (!args.object) return err(EINVAL);
    if ((args.flags & ~kKnownFlags) != 0) return err(EOPNOTSUPP);
  }
  if ((args.flags & MAP_HUGETLB) != 0) return args.object ? err(EINVAL) : err(ENOMEM);  // no huge page pool
  bool grows_down = (args.flags & MAP_GROWSDOWN) != 0;
  if (grows_down && (shared || args.object)) return err(EINVAL);
  if (args.object) {
    if (shared && (args.prot & PROT_WRITE) != 0 && !args.may_write) return err(EACCES);
    if ((args.prot & PROT_EXEC) != 0 && !args.may_exec) return err(EPERM);
    if (args.offset + len < args.offset || args.offset + len > u64{1} << 63) return err(EOVERFLOW);
  }
  auto v = std::make_unique<Vma>();
  v->prot = args.prot & kProtBits;
  v->object = args.object;
  v->offset = args.object ? args.offset : 0;
  v->name = args.name;
  v->flags = lock_future;
  if (shared) v->flags |= kVmaShared;
  if (!shared || !args.object || args.may_write) v->flags |= kVmaMayWrite;
  if (!args.object || args.may_exec) v->flags |= kVmaMayExec;
  if (grows_down) v->flags |= kVmaGrowsDown;
  if ((args.flags & MAP_NORESERVE) != 0) v->flags |= kVmaNoReserve;
  if ((args.flags & MAP_LOCKED) != 0) v->flags |= kVmaLocked;
  if (!args.name.empty() && !grows_down) v->flags |= kVmaSpecial;
  if (shared && !args.object) v->object = make_shared_anonymous(frames, len);
  return v;
}

Result<UserAddr> MemoryManager::mmap(const MmapArgs& args) {
  if (args.len == 0) return err(EINVAL);
  u64 len = page_up(args.len);
  if (len == 0) return err(ENOMEM);
  if (!page_aligned(args.offset)) return err(EINVAL);
  UserAddr at;
  bool populate;
  {
    Impl::MapEdit edit(*impl_);
    if (impl_->vmas.size() >= kMaxVmas) return err(ENOMEM);
    // Linux places first and looks at the rest after.
    at = TRY(impl_->place(args, len));
    std::unique_ptr<Vma> v = TRY(impl_->make_vma(args, len));
    if (v->has(kVmaLocked)) {
      if (impl_->limits.memlock == 0) return err(EPERM);
      if (!impl_->may_lock(len)) return err(EAGAIN);
    }
    v->start = at;
    v->end = at + len;
    // What a fixed mapping replaces does not count.
    u64 replaced = 0;
    for (Vma* o = impl_->first_in(at, at + len); o; o = impl_->next_in(*o, at + len))
      replaced += std::min(o->end, at + len) - std::max(o->start, at);
    if (!impl_->may_expand(len - replaced, v->counts_as_data())) return err(ENOMEM);
    populate = (v->has(kVmaLocked) && !v->has(kVmaLockOnFault)) ||
               (args.flags & (MAP_POPULATE | MAP_NONBLOCK)) == MAP_POPULATE;
    TRY(impl_->unmap_range(at, at + len, edit));
    impl_->insert_vma(std::move(v));
    impl_->merge_range(at, at + len, edit);
  }
  if (populate) impl_->populate(at, at + len);
  return at;
}

Result<void> MemoryManager::munmap(UserAddr addr, u64 len) {
  if (!page_aligned(addr) || addr > kGuestAddressLimit || len > kGuestAddressLimit - addr) return err(EINVAL);
  len = page_up(len);
  if (len == 0) return err(EINVAL);
  Impl::MapEdit edit(*impl_);
  return impl_->unmap_range(addr, addr + len, edit);
}

UserAddr MemoryManager::brk(UserAddr addr) {
  UserAddr populate_from = 0, populate_to = 0;
  {
    Impl::MapEdit edit(*impl_);
    const UserAddr old = layout_.brk;
    if (addr < layout_.start_brk || addr > kGuestAddressLimit - kPageSize) return old;
    u64 data = layout_.end_data - layout_.start_data;
    const Limits& limits = impl_->limits;
    if (limits.data != ~u64{0} && (addr - layout_.start_brk) + data > limits.data) return old;
    UserAddr old_end = page_up(old), new_end = page_up(addr);
    if (new_end < old_end) {
      if (!impl_->unmap_range(new_end, old_end, edit)) return old;
    } else if (new_end > old_end) {
      u64 more = new_end - old_end;
      Vma* above = impl_->vmas.find_ending_after(old_end);
      if (above && above->start < new_end + kPageSize) return old;
      if (!impl_->vmas.is_free(old_end, more + kPageSize) || !impl_->may_expand(more, true)) return old;
      if (impl_->vmas.size() >= kMaxVmas) return old;
      if ((impl_->lock_future & kVmaLocked) != 0 && !impl_->may_lock(more)) return old;
      auto v = std::make_unique<Vma>();
      v->start = old_end;
      v->end = new_end;
      v->prot = PROT_READ | PROT_WRITE;
      v->flags = kVmaMayWrite | kVmaMayExec | impl_->lock_future;
      impl_->insert_vma(std::move(v));
      impl_->merge_range(old_end, new_end, edit);
      if (impl_->lock_future == kVmaLocked) {
        populate_from = old_end;
        populate_to = new_end;
      }
    }
    layout_.brk = addr;
  }
  if (populate_from != 0) impl_->populate(populate_from, populate_to);
  return addr;
}

Result<void> MemoryManager::mprotect(UserAddr addr, u64 len, int prot) {
  bool grows_down = (prot & PROT_GROWSDOWN) != 0, grows_up = (prot & PROT_GROWSUP) != 0;
  if (grows_down && grows_up) return err(EINVAL);
  prot &= ~(PROT_GROWSDOWN | PROT_GROWSUP);
  if (!page_aligned(addr)) return err(EINVAL);
  if (len == 0) return {};
  len = page_up(len);
  if (len == 0 || addr > kGuestAddressLimit || len > kGuestAddressLimit - addr) return err(ENOMEM);
  if ((prot & ~(kProtBits | PROT_SEM)) != 0) return err(EINVAL);
  if (grows_up) return err(EINVAL);
  prot &= kProtBits;
  UserAddr start = addr, end = addr + len;
  Impl::MapEdit edit(*impl_);
  Vma* v = impl_->first_in(start, end);
  if (!v) return err(ENOMEM);
  if (grows_down) {
    if (!v->has(kVmaGrowsDown)) return err(EINVAL);
    start = v->start;
  } else if (v->start > start) {
    return err(ENOMEM);
  }
  TRY(impl_->split_at(start, end));
  // What comes before a failure stays changed, as on Linux.
  UserAddr at = start;
  Result<void> result;
  for (v = impl_->first_in(start, end); v && result; v = impl_->next_in(*v, end)) {
    if (v->start != at) {
      result = err(ENOMEM);
    } else if (((prot & PROT_WRITE) != 0 && !v->has(kVmaMayWrite)) ||
               ((prot & PROT_EXEC) != 0 && !v->has(kVmaMayExec))) {
      result = err(EACCES);
    } else if (prot != v->prot) {
      bool more_data = !v->counts_as_data() && !v->shared() && (prot & PROT_WRITE) != 0 && !v->has(kVmaGrowsDown);
      if (more_data && impl_->limits.data != ~u64{0} &&
          pages_to_bytes(impl_->totals.data) + v->length() > impl_->limits.data) {
        result = err(ENOMEM);
        break;
      }
      impl_->set_attributes(*v, prot, v->flags);
      result = impl_->update_rights(*v);
    }
    at = v->end;
  }
  if (result && at < end) result = err(ENOMEM);
  impl_->merge_range(start, end, edit);
  return result;
}

}  // namespace rf::mm
