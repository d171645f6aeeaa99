// Data through descriptors: read(2), write(2) and their vector, positioned and in-kernel forms.
#include <asm/unistd_64.h>
#include <linux/fs.h>

#include "fs/special_files.h"
#include "task/call_helpers.h"
#include "task/syscalls/families.h"

namespace rf::task {
namespace {

Result<Ref<fs::File>> readable_file(Task& t, int fd) {
  Ref<fs::File> f = TRY(t.file(fd));
  if (!f->readable()) return err(EBADF);
  return f;
}

Result<Ref<fs::File>> writable_file(Task& t, int fd) {
  Ref<fs::File> f = TRY(t.file(fd));
  if (!f->writable()) return err(EBADF);
  return f;
}

SysResult sys_read(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(readable_file(t, a.fd(0)));
  mm::IoBuffer dst = TRY(user_buffer(t, a.addr(1), a.u(2)));
  return f->read(t.fs_context(), dst);
}

SysResult sys_write(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(writable_file(t, a.fd(0)));
  mm::IoBuffer src = TRY(user_buffer(t, a.addr(1), a.u(2)));
  return finish_write(t, *f, f->write(t.fs_context(), src));
}

SysResult sys_pread64(Task& t, const SyscallArgs& a) {
  if (a.s(3) < 0) return err(EINVAL);
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if (!f->seekable()) return err(ESPIPE);
  if (!f->readable()) return err(EBADF);
  mm::IoBuffer dst = TRY(user_buffer(t, a.addr(1), a.u(2)));
  return f->pread(t.fs_context(), dst, a.u(3));
}

SysResult sys_pwrite64(Task& t, const SyscallArgs& a) {
  if (a.s(3) < 0) return err(EINVAL);
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if (!f->seekable()) return err(ESPIPE);
  if (!f->writable()) return err(EBADF);
  mm::IoBuffer src = TRY(user_buffer(t, a.addr(1), a.u(2)));
  u64 offset = a.u(3);
  return finish_write(t, *f, f->write_at(t.fs_context(), src, offset));
}

SysResult sys_readv(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(readable_file(t, a.fd(0)));
  mm::IoBuffer dst = TRY(mm::IoBuffer::from_iovec(*t.mm, a.addr(1), a.u(2)));
  return f->read(t.fs_context(), dst);
}

SysResult sys_writev(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(writable_file(t, a.fd(0)));
  mm::IoBuffer src = TRY(mm::IoBuffer::from_iovec(*t.mm, a.addr(1), a.u(2)));
  return finish_write(t, *f, f->write(t.fs_context(), src));
}

// preadv2(2): `position_flag` -1 means the file's own position. RWF_HIPRI, DSYNC and SYNC are met by what we do anyway;
// NOWAIT and APPEND are not offered.
SysResult vector_at(Task& t, const SyscallArgs& a, bool write, bool v2) {
  const s64 offset = a.s(3);
  const int flags = v2 ? a.i(5) : 0;
  if ((flags & ~(RWF_HIPRI | RWF_DSYNC | RWF_SYNC)) != 0) return err(EOPNOTSUPP);
  const bool own_position = v2 && offset == -1;
  if (offset < 0 && !own_position) return err(EINVAL);
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if (!own_position && !f->seekable()) return err(ESPIPE);
  if (write ? !f->writable() : !f->readable()) return err(EBADF);
  mm::IoBuffer io = TRY(mm::IoBuffer::from_iovec(*t.mm, a.addr(1), a.u(2)));
  const fs::Context ctx = t.fs_context();
  if (!write) return own_position ? f->read(ctx, io) : f->pread(ctx, io, offset);
  u64 at = static_cast<u64>(offset);
  Result<size_t> n = own_position ? f->write(ctx, io) : f->write_at(ctx, io, at);
  if (n && (flags & (RWF_DSYNC | RWF_SYNC)) != 0) TRY(f->fsync((flags & RWF_SYNC) == 0));
  return finish_write(t, *f, n);
}

SysResult sys_preadv(Task& t, const SyscallArgs& a) { return vector_at(t, a, false, false); }
SysResult sys_pwritev(Task& t, const SyscallArgs& a) { return vector_at(t, a, true, false); }
SysResult sys_preadv2(Task& t, const SyscallArgs& a) { return vector_at(t, a, false, true); }
SysResult sys_pwritev2(Task& t, const SyscallArgs& a) { return vector_at(t, a, true, true); }

SysResult sys_lseek(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  if (!f->seekable()) return err(ESPIPE);
  return f->seek(t.fs_context(), a.s(1), a.i(2));
}

SysResult sys_ftruncate(Task& t, const SyscallArgs& a) {
  if (a.s(1) < 0) return err(EINVAL);
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  if (!f->writable() || !f->inode().is_regular()) return err(EINVAL);
  const fs::Context ctx = t.fs_context();
  if (a.u(1) > ctx.file_size_limit) return file_too_big(t);
  return f->truncate(ctx, a.u(1));
}

SysResult sys_fallocate(Task& t, const SyscallArgs& a) {
  const s64 offset = a.s(2), len = a.s(3);
  if (offset < 0 || len <= 0) return err(EINVAL);
  Ref<fs::File> f = TRY(writable_file(t, a.fd(0)));
  if (f->inode().type() == S_IFIFO) return err(ESPIPE);
  if (f->inode().is_dir()) return err(EISDIR);
  if (!f->inode().is_regular()) return err(ENODEV);
  s64 end;
  if (__builtin_add_overflow(offset, len, &end)) return err(EFBIG);
  return f->fallocate(t.fs_context(), a.i(1), offset, len);
}

SysResult sys_fsync(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  return f->fsync(false);
}

SysResult sys_fdatasync(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  return f->fsync(true);
}

SysResult sys_sync(Task& t, const SyscallArgs&) {
  for (const Ref<fs::Mount>& m : t.kernel.vfs->mounts()) (void)m->fs->sync();  // sync(2) cannot fail
  return 0;
}

SysResult sys_syncfs(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if ((f->flags() & O_PATH) != 0) return err(EBADF);
  return f->inode().fs().sync();
}

SysResult sys_sync_file_range(Task& t, const SyscallArgs& a) {
  if (a.s(1) < 0 || a.s(2) < 0) return err(EINVAL);
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if (!f->inode().is_regular()) return err(ESPIPE);
  return f->fsync(true);
}

SysResult sys_fadvise64(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if (f->inode().type() == S_IFIFO) return err(ESPIPE);
  if (a.s(2) < 0 || a.i(3) < POSIX_FADV_NORMAL || a.i(3) > POSIX_FADV_NOREUSE) return err(EINVAL);
  return 0;  // advice: nothing here would act on it
}

SysResult sys_readahead(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(readable_file(t, a.fd(0)));
  if (!f->inode().is_regular()) return err(EINVAL);
  return 0;
}

// Moves up to `count` bytes through a buffer of ours; a null offset means the file's own position.
Result<size_t> copy_between(Task& t, fs::File& in, u64* in_offset, fs::File& out, u64* out_offset, u64 count) {
  constexpr u64 kChunk = 64 << 10;
  std::vector<std::byte> buffer(std::min(count, kChunk));
  const fs::Context ctx = t.fs_context();
  u64 total = 0;
  while (total < count) {
    std::span<std::byte> chunk(buffer.data(), std::min<u64>(buffer.size(), count - total));
    mm::IoBuffer dst(chunk);
    Result<size_t> got = in_offset ? in.pread(ctx, dst, *in_offset) : in.read(ctx, dst);
    if (!got) return total ? Result<size_t>(total) : got;
    if (*got == 0) break;
    mm::IoBuffer src = mm::IoBuffer::from_const(chunk.first(*got));
    Result<size_t> put = out_offset ? out.pwrite(ctx, src, *out_offset) : out.write(ctx, src);
    const size_t moved = put ? *put : 0;
    // What was read from the file's own position but not written goes back.
    if (moved < *got && !in_offset) (void)in.seek(ctx, -static_cast<s64>(*got - moved), SEEK_CUR);
    if (in_offset) *in_offset += moved;
    if (out_offset) *out_offset += moved;
    total += moved;
    if (!put) return total ? Result<size_t>(total) : put;
    if (moved < *got) break;
  }
  return total;
}

SysResult sys_sendfile(Task& t, const SyscallArgs& a) {
  Ref<fs::File> out = TRY(writable_file(t, a.fd(0)));
  Ref<fs::File> in = TRY(readable_file(t, a.fd(1)));
  if ((out->flags() & O_APPEND) != 0 || in->inode().is_dir()) return err(EINVAL);
  if (!in->seekable() || in->inode().type() == S_IFSOCK) return err(a.addr(2) ? ESPIPE : EINVAL);
  const u64 count = std::min(a.u(3), kMaxRwCount);
  if (!a.ptr<s64>(2)) return finish_write(t, *out, copy_between(t, *in, nullptr, *out, nullptr, count));
  u64 offset = static_cast<u64>(TRY(a.ptr<s64>(2).read(*t.mm)));
  if (static_cast<s64>(offset) < 0) return err(EINVAL);
  Result<size_t> n = copy_between(t, *in, &offset, *out, nullptr, count);
  TRY(a.ptr<s64>(2).write(*t.mm, static_cast<s64>(offset)));
  return finish_write(t, *out, n);
}

SysResult sys_copy_file_range(Task& t, const SyscallArgs& a) {
  if (a.u32_(5) != 0) return err(EINVAL);
  Ref<fs::File> in = TRY(readable_file(t, a.fd(0)));
  Ref<fs::File> out = TRY(writable_file(t, a.fd(2)));
  if (in->inode().is_dir() || out->inode().is_dir()) return err(EISDIR);
  if (!in->inode().is_regular() || !out->inode().is_regular()) return err(EINVAL);
  if ((out->flags() & O_APPEND) != 0) return err(EBADF);
  u64 in_offset = a.ptr<s64>(1) ? static_cast<u64>(TRY(a.ptr<s64>(1).read(*t.mm))) : in->position();
  u64 out_offset = a.ptr<s64>(3) ? static_cast<u64>(TRY(a.ptr<s64>(3).read(*t.mm))) : out->position();
  const u64 count = std::min(a.u(4), kMaxRwCount);
  u64 end;
  if (static_cast<s64>(in_offset) < 0 || static_cast<s64>(out_offset) < 0) return err(EINVAL);
  if (__builtin_add_overflow(std::max(in_offset, out_offset), count, &end) || static_cast<s64>(end) < 0)
    return err(EOVERFLOW);
  if (&in->inode() == &out->inode() && in_offset < out_offset + count && out_offset < in_offset + count)
    return err(EINVAL);
  const Result<size_t> n = copy_between(t, *in, &in_offset, *out, &out_offset, count);
  const fs::Context ctx = t.fs_context();
  if (a.ptr<s64>(1))
    TRY(a.ptr<s64>(1).write(*t.mm, static_cast<s64>(in_offset)));
  else
    TRY(in->seek(ctx, static_cast<s64>(in_offset), SEEK_SET));
  if (a.ptr<s64>(3))
    TRY(a.ptr<s64>(3).write(*t.mm, static_cast<s64>(out_offset)));
  else
    TRY(out->seek(ctx, static_cast<s64>(out_offset), SEEK_SET));
  return finish_write(t, *out, n);
}

SysResult sys_splice(Task& t, const SyscallArgs& a) {
  if ((a.u32_(5) & ~15u) != 0) return err(EINVAL);
  if (a.u(4) == 0) return 0;
  Ref<fs::File> in = TRY(readable_file(t, a.fd(0)));
  Ref<fs::File> out = TRY(writable_file(t, a.fd(2)));
  s64 in_offset = 0, out_offset = 0;
  if (a.ptr<s64>(1)) {
    if (fs::is_pipe(*in)) return err(ESPIPE);
    in_offset = TRY(a.ptr<s64>(1).read(*t.mm));
  }
  if (a.ptr<s64>(3)) {
    if (fs::is_pipe(*out)) return err(ESPIPE);
    out_offset = TRY(a.ptr<s64>(3).read(*t.mm));
  }
  if (in_offset < 0 || out_offset < 0) return err(EINVAL);
  const Result<size_t> n = fs::splice(t.fs_context(), *in, a.addr(1) ? &in_offset : nullptr, *out,
                                      a.addr(3) ? &out_offset : nullptr, std::min(a.u(4), kMaxRwCount), a.u32_(5));
  if (a.ptr<s64>(1)) TRY(a.ptr<s64>(1).write(*t.mm, in_offset));
  if (a.ptr<s64>(3)) TRY(a.ptr<s64>(3).write(*t.mm, out_offset));
  return finish_write(t, *out, n);
}

SysResult sys_tee(Task& t, const SyscallArgs& a) {
  if ((a.u32_(3) & ~15u) != 0) return err(EINVAL);
  Ref<fs::File> in = TRY(readable_file(t, a.fd(0)));
  Ref<fs::File> out = TRY(writable_file(t, a.fd(1)));
  return finish_write(t, *out, fs::tee(t.fs_context(), *in, *out, std::min(a.u(2), kMaxRwCount), a.u32_(3)));
}

// vmsplice(2) as a copy: gifted pages are not taken over, which no reader can tell.
SysResult sys_vmsplice(Task& t, const SyscallArgs& a) {
  Ref<fs::File> f = TRY(t.file(a.fd(0)));
  if (!fs::is_pipe(*f)) return err(EBADF);
  mm::IoBuffer io = TRY(mm::IoBuffer::from_iovec(*t.mm, a.addr(1), a.u(2)));
  if (f->writable()) return finish_write(t, *f, f->write(t.fs_context(), io));
  return f->read(t.fs_context(), io);
}

constexpr SyscallEntry kEntries[] = {
    {__NR_read, "read", sys_read, Support::kFull, "", {Arg::kFd, Arg::kBufOut, Arg::kSize}},
    {__NR_write, "write", sys_write, Support::kFull, "", {Arg::kFd, Arg::kBufIn, Arg::kSize}},
    {__NR_pread64, "pread64", sys_pread64, Support::kFull, "", {Arg::kFd, Arg::kBufOut, Arg::kSize, Arg::kOffset}},
    {__NR_pwrite64, "pwrite64", sys_pwrite64, Support::kFull, "", {Arg::kFd, Arg::kBufIn, Arg::kSize, Arg::kOffset}},
    {__NR_readv, "readv", sys_readv, Support::kFull, "", {Arg::kFd, Arg::kIovecOut, Arg::kUint}},
    {__NR_writev, "writev", sys_writev, Support::kFull, "", {Arg::kFd, Arg::kIovecIn, Arg::kUint}},
    {__NR_preadv, "preadv", sys_preadv, Support::kFull, "", {Arg::kFd, Arg::kIovecOut, Arg::kUint, Arg::kOffset}},
    {__NR_pwritev, "pwritev", sys_pwritev, Support::kFull, "", {Arg::kFd, Arg::kIovecIn, Arg::kUint, Arg::kOffset}},
    {__NR_preadv2,
     "preadv2",
     sys_preadv2,
     Support::kPartial,
     "no RWF_NOWAIT",
     {Arg::kFd, Arg::kIovecOut, Arg::kUint, Arg::kOffset, Arg::kUnused, Arg::kHex}},
    {__NR_pwritev2,
     "pwritev2",
     sys_pwritev2,
     Support::kPartial,
     "no RWF_NOWAIT, RWF_APPEND",
     {Arg::kFd, Arg::kIovecIn, Arg::kUint, Arg::kOffset, Arg::kUnused, Arg::kHex}},
    {__NR_lseek, "lseek", sys_lseek, Support::kFull, "", {Arg::kFd, Arg::kOffset, Arg::kWhence}},
    {__NR_ftruncate, "ftruncate", sys_ftruncate, Support::kFull, "", {Arg::kFd, Arg::kOffset}},
    {__NR_fallocate,
     "fallocate",
     sys_fallocate,
     Support::kPartial,
     "as the file system offers",
     {Arg::kFd, Arg::kHex, Arg::kOffset, Arg::kOffset}},
    {__NR_fsync, "fsync", sys_fsync, Support::kFull, "", {Arg::kFd}},
    {__NR_fdatasync, "fdatasync", sys_fdatasync, Support::kFull, "", {Arg::kFd}},
    {__NR_sync, "sync", sys_sync, Support::kFull, "", {}},
    {__NR_syncfs, "syncfs", sys_syncfs, Support::kFull, "", {Arg::kFd}},
    {__NR_sync_file_range,
     "sync_file_range",
     sys_sync_file_range,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kOffset, Arg::kOffset, Arg::kHex}},
    {__NR_fadvise64, "fadvise64", sys_fadvise64, Support::kFull, "", {Arg::kFd, Arg::kOffset, Arg::kOffset, Arg::kInt}},
    {__NR_readahead, "readahead", sys_readahead, Support::kFull, "", {Arg::kFd, Arg::kOffset, Arg::kSize}},
    {__NR_sendfile, "sendfile", sys_sendfile, Support::kFull, "", {Arg::kFd, Arg::kFd, Arg::kAddr, Arg::kSize}},
    {__NR_copy_file_range,
     "copy_file_range",
     sys_copy_file_range,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kAddr, Arg::kFd, Arg::kAddr, Arg::kSize, Arg::kHex}},
    {__NR_splice,
     "splice",
     sys_splice,
     Support::kFull,
     "",
     {Arg::kFd, Arg::kAddr, Arg::kFd, Arg::kAddr, Arg::kSize, Arg::kHex}},
    {__NR_tee, "tee", sys_tee, Support::kFull, "", {Arg::kFd, Arg::kFd, Arg::kSize, Arg::kHex}},
    {__NR_vmsplice, "vmsplice", sys_vmsplice, Support::kFull, "", {Arg::kFd, Arg::kIovecIn, Arg::kUint, Arg::kHex}},
};

}  // namespace

Family file_family() { return kEntries; }

}  // namespace rf::task
