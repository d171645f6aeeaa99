// A guest address space as Linux knows it (mm_struct): VMAs, their pages, faults, and the calls that change them.
//
// Locks, in order: map_lock_ (fiber rw-mutex: the VMA tree; may be held while suspending), then page_lock_ (spin
// rw-lock: the platform's page table and the references of the pages in it; never while suspending). Copies to
// and from guest memory hold page_lock_ shared, so a page cannot be freed under them.
#pragma once

#include <linux/mman.h>
#include <sys/mman.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/mutex.h"
#include "core/result.h"
#include "mm/mappable.h"
#include "platform/platform.h"

namespace rf::mm {

using platform::Access;
using platform::Prot;
using UserAddr = u64;

inline constexpr u64 kMmapMinAddr = 0x10000;

class VdsoClock;

// What every MemoryManager of a sandbox shares.
struct MemoryEnv {
  platform::Platform& platform;
  Frames& frames;
  VdsoClock& vdso;
};

struct MmapArgs {
  UserAddr addr = 0;
  u64 len = 0;
  int prot = 0;   // PROT_*
  int flags = 0;  // MAP_*, as the guest gave them; MAP_ANONYMOUS if object is null
  Ref<MapObject> object;
  u64 offset = 0;         // bytes, page-aligned
  bool may_write = true;  // a shared mapping may be made writable (file open for writing)
  bool may_exec = true;   // false on noexec mounts
  std::string name;       // for VMAs of ours: "[stack]", "[vdso]"
};

// A range of VMAs as /proc/PID/maps and smaps show it.
struct VmaInfo {
  UserAddr start, end;
  int prot;
  bool shared;
  bool grows_down;
  bool locked;
  u64 offset;
  MapObject* object;  // null for anonymous; valid during the callback
  const std::string* name;
  u64 rss, private_dirty, anonymous;  // bytes; filled only when asked for
};

// Outcome of a fault that could not be resolved.
struct FaultFailure {
  enum class Kind { kMapErr, kAccErr, kBusAdrErr, kOutOfMemory, kInterrupted } kind;
};

// rlimits that mm enforces, in bytes; set by the task room.
struct Limits {
  u64 stack = 8 << 20;
  u64 data = ~u64{0};
  u64 as = ~u64{0};
  u64 memlock = 8 << 20;
};

// Where exec put things: for brk and /proc/PID/{stat,cmdline,environ,auxv}.
struct Layout {
  UserAddr start_code = 0, end_code = 0, start_data = 0, end_data = 0;
  UserAddr start_brk = 0, brk = 0;
  UserAddr start_stack = 0;
  UserAddr arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
  UserAddr vdso = 0;
  UserAddr mmap_base = 0;
  std::vector<u64> auxv;
};

// Bytes.
struct MemoryUsage {
  u64 virtual_size = 0, peak_virtual = 0, rss_anon = 0, rss_file = 0, rss_shmem = 0, peak_rss = 0;
  u64 locked = 0, data = 0, stack = 0, exec = 0, lib = 0, page_tables = 0;
};

class MemoryManager final : public RefCounted {
 public:
  static Result<Ref<MemoryManager>> create(MemoryEnv env);
  // fork(2): shares private pages copy-on-write. Suspends.
  Result<Ref<MemoryManager>> fork();

  platform::AddressSpace& address_space() { return *space_; }
  const MemoryEnv& env() const { return env_; }

  // --- The calls of the manual pages; arguments are the guest's and are checked here. All may suspend. ---
  Result<UserAddr> mmap(const MmapArgs& args);
  Result<void> munmap(UserAddr addr, u64 len);
  Result<void> mprotect(UserAddr addr, u64 len, int prot);
  Result<UserAddr> mremap(UserAddr old_addr, u64 old_len, u64 new_len, int flags, UserAddr new_addr);
  Result<void> madvise(UserAddr addr, u64 len, int advice);
  UserAddr brk(UserAddr addr);  // the new break, or the old one when it cannot be moved
  Result<void> msync(UserAddr addr, u64 len, int flags);
  // Calls put(index, resident) for each page.
  Result<void> mincore(UserAddr addr, u64 len, const std::function<Result<void>(u64, bool)>& put);
  Result<void> mlock(UserAddr addr, u64 len, bool on_fault);
  Result<void> munlock(UserAddr addr, u64 len);
  Result<void> mlockall(int flags);
  Result<void> munlockall();

  // --- Faults ---
  // Resolves a fault of guest code or of a copy: maps the page (and its neighbours: fault-around), copies on
  // write, grows stacks. Suspends (file I/O, locks).
  std::expected<void, FaultFailure> handle_fault(UserAddr addr, Access access);

  // --- Guest memory for the sentry (mm/user_access.h is the usual way in) ---
  // Copy as much as can be reached, faulting pages in; return the bytes copied (less than asked: EFAULT there).
  // Never past kGuestAddressLimit. Suspend on faults.
  size_t copy_in(void* dst, UserAddr src, size_t len);
  size_t copy_out(UserAddr dst, const void* src, size_t len);
  size_t zero_out(UserAddr dst, size_t len);
  // Length of the NUL-terminated string at src, copied with its NUL to dst; ENAMETOOLONG if none in `max` bytes.
  Result<size_t> copy_in_string(char* dst, UserAddr src, size_t max);
  // Like copy_out, but ignores page protections as ptrace's POKE does (breaks COW, never writes shared file pages).
  size_t poke(UserAddr dst, const void* src, size_t len);
  // Atomics on aligned 32-bit words of guest memory, for futexes. EFAULT, EINVAL (alignment).
  Result<u32> load_u32(UserAddr addr);
  Result<bool> compare_exchange_u32(UserAddr addr, u32& expected, u32 desired);
  // The same without faulting and without suspending: EFAULT also when the page is only not mapped now.
  Result<u32> try_load_u32(UserAddr addr);
  Result<bool> try_compare_exchange_u32(UserAddr addr, u32& expected, u32 desired);
  // What identifies a futex word across processes; the object is kept alive by the caller's copy.
  struct FutexKey {
    const void* object = nullptr;  // the MemoryManager, or the Mappable of a shared mapping
    u64 offset = 0;
    Ref<MapObject> hold;
    bool operator==(const FutexKey& o) const { return object == o.object && offset == o.offset; }
  };
  Result<FutexKey> futex_key(UserAddr addr, bool shared);

  // Pages of [addr, addr+len) for host I/O straight into guest memory: appends runs whose references the caller
  // drops with Frames::unpin (the first run contains page_down(addr)). Returns the bytes of the range covered: stops
  // early at the first page that cannot be reached; EFAULT if that is the first. Suspends on faults.
  Result<u64> pin_pages(UserAddr addr, u64 len, Access access, std::vector<PhysRun>& runs);

  // --- For exec and /proc ---
  Layout& layout() { return layout_; }
  void set_limits(const Limits& limits);
  // The executable, for /proc/PID/exe. Null before exec.
  Ref<RefCounted> executable() const;
  void set_executable(Ref<RefCounted> file);
  void for_each_vma(bool with_usage, const std::function<void(const VmaInfo&)>& f);
  MemoryUsage usage();
  // Frees every mapping now (the last user of the address space is gone, or was OOM-killed). May suspend.
  void release_all();

 private:
  friend class Mappable;
  MemoryManager(MemoryEnv env, std::unique_ptr<platform::AddressSpace> space);
  ~MemoryManager() override;
  struct Impl;
  MemoryEnv env_;
  std::unique_ptr<platform::AddressSpace> space_;
  Layout layout_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rf::mm
