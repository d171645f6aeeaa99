// Memory: mmap(2) and its relatives. The work is mm's; here the descriptor behind a mapping is found and checked.
#include <asm/unistd_64.h>
#include <sys/mount.h>

#include "fs/dentry.h"
#include "fs/file.h"
#include "task/syscalls/families.h"
#include "task/task.h"

namespace rf::task {
namespace {

SysResult sys_mmap(Task& t, const SyscallArgs& a) {
  mm::MmapArgs m{.addr = a.addr(0), .len = a.u(1), .prot = a.i(2), .flags = a.i(3), .offset = a.u(5)};
  if (!page_aligned(m.offset)) return err(EINVAL);
  if ((m.flags & MAP_ANONYMOUS) == 0) {
    Ref<fs::File> file = TRY(t.file(a.fd(4)));
    if ((file->flags() & O_PATH) != 0) return err(EBADF);
    const int type = m.flags & MAP_TYPE;
    if (!file->readable()) return err(EACCES);
    m.may_write = type == MAP_PRIVATE || file->writable();
    if ((m.prot & PROT_WRITE) != 0 && !m.may_write) return err(EACCES);
    m.may_exec = !file->path().mount || (file->path().mount->flags & MS_NOEXEC) == 0;
    if ((m.prot & PROT_EXEC) != 0 && !m.may_exec) return err(EPERM);
    const bool shared = type != MAP_PRIVATE;
    fs::File::MapUse use{shared, (m.prot & PROT_WRITE) != 0, shared && m.may_write};
    m.object = TRY(file->map_object_for(use));
    if (shared) m.may_write = use.may_write;
  }
  return t.mm->mmap(m);
}

SysResult sys_munmap(Task& t, const SyscallArgs& a) { return t.mm->munmap(a.addr(0), a.u(1)); }
SysResult sys_mprotect(Task& t, const SyscallArgs& a) { return t.mm->mprotect(a.addr(0), a.u(1), a.i(2)); }
SysResult sys_brk(Task& t, const SyscallArgs& a) { return t.mm->brk(a.addr(0)); }
SysResult sys_mremap(Task& t, const SyscallArgs& a) {
  return t.mm->mremap(a.addr(0), a.u(1), a.u(2), a.i(3), a.addr(4));
}
SysResult sys_madvise(Task& t, const SyscallArgs& a) { return t.mm->madvise(a.addr(0), a.u(1), a.i(2)); }
SysResult sys_msync(Task& t, const SyscallArgs& a) { return t.mm->msync(a.addr(0), a.u(1), a.i(2)); }
SysResult sys_mlock(Task& t, const SyscallArgs& a) { return t.mm->mlock(a.addr(0), a.u(1), false); }
SysResult sys_mlock2(Task& t, const SyscallArgs& a) {
  if ((a.i(2) & ~MLOCK_ONFAULT) != 0) return err(EINVAL);
  return t.mm->mlock(a.addr(0), a.u(1), (a.i(2) & MLOCK_ONFAULT) != 0);
}
SysResult sys_munlock(Task& t, const SyscallArgs& a) { return t.mm->munlock(a.addr(0), a.u(1)); }
SysResult sys_mlockall(Task& t, const SyscallArgs& a) { return t.mm->mlockall(a.i(0)); }
SysResult sys_munlockall(Task& t, const SyscallArgs&) { return t.mm->munlockall(); }

SysResult sys_mincore(Task& t, const SyscallArgs& a) {
  const mm::UserAddr vec = a.addr(2);
  return t.mm->mincore(a.addr(0), a.u(1), [&](u64 index, bool resident) -> Result<void> {
    return mm::UserPtr<u8>(vec + index).write(*t.mm, resident ? 1 : 0);
  });
}

// remap_file_pages(2) is emulated by Linux too; nothing current uses it.
constexpr SyscallEntry kEntries[] = {
    {__NR_mmap,
     "mmap",
     sys_mmap,
     Support::kPartial,
     "no MAP_HUGETLB",
     {Arg::kAddr, Arg::kSize, Arg::kProt, Arg::kMmapFlags, Arg::kFd, Arg::kHex},
     true},
    {__NR_munmap, "munmap", sys_munmap, Support::kFull, "", {Arg::kAddr, Arg::kSize}},
    {__NR_mprotect, "mprotect", sys_mprotect, Support::kFull, "", {Arg::kAddr, Arg::kSize, Arg::kProt}},
    {__NR_brk, "brk", sys_brk, Support::kFull, "", {Arg::kAddr}, true},
    {__NR_mremap,
     "mremap",
     sys_mremap,
     Support::kFull,
     "",
     {Arg::kAddr, Arg::kSize, Arg::kSize, Arg::kHex, Arg::kAddr},
     true},
    {__NR_madvise,
     "madvise",
     sys_madvise,
     Support::kPartial,
     "no MADV_HWPOISON, no KSM",
     {Arg::kAddr, Arg::kSize, Arg::kMadvise}},
    {__NR_msync, "msync", sys_msync, Support::kFull, "", {Arg::kAddr, Arg::kSize, Arg::kHex}},
    {__NR_mincore, "mincore", sys_mincore, Support::kFull, "", {Arg::kAddr, Arg::kSize, Arg::kAddr}},
    {__NR_mlock, "mlock", sys_mlock, Support::kFull, "", {Arg::kAddr, Arg::kSize}},
    {__NR_mlock2, "mlock2", sys_mlock2, Support::kFull, "", {Arg::kAddr, Arg::kSize, Arg::kHex}},
    {__NR_munlock, "munlock", sys_munlock, Support::kFull, "", {Arg::kAddr, Arg::kSize}},
    {__NR_mlockall, "mlockall", sys_mlockall, Support::kFull, "", {Arg::kHex}},
    {__NR_munlockall, "munlockall", sys_munlockall, Support::kFull, "", {}},
};

}  // namespace

Family mm_family() { return kEntries; }

}  // namespace rf::task
