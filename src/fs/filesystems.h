// Constructors of the file system types that the runtime mounts.
#pragma once

#include <memory>
#include <string>

#include "fs/inode.h"
#include "mm/frames.h"

namespace rf::fs {

struct HostFsOptions {
  std::string path;  // host directory (or file, for a volume of one)
  bool read_only = true;
  bool mapped_reads = false;  // of a read-only tree: file data that is read again is mapped, see mm/mapped_reads.h
  bool exclusive = false;     // nobody else changes it: dentries and attributes are kept without checking
};
// A host tree. Opens beneath `path` only (openat2, RESOLVE_BENEATH|NO_MAGICLINKS), never through host symlinks out of
// it; device nodes, sockets and FIFOs are shown but not opened on the host. Errors say which path and why.
Setup<Ref<FileSystem>> make_hostfs(mm::Frames& frames, const HostFsOptions& options);

// `size_limit` in bytes (0: the memory limit only), `mode` of its root.
Ref<FileSystem> make_tmpfs(mm::Frames& frames, u64 size_limit, u16 mode);

// `lower` (not changed) with every write kept in `upper`, a tmpfs: whiteouts, opaque directories, copy-up of data,
// attributes and xattrs on first change. Inode numbers stay the same over a copy-up.
Ref<FileSystem> make_overlay(Ref<FileSystem> lower, const Ref<FileSystem>& upper);

// /dev without the ptys: null, zero, full, random, urandom, tty, console, ptmx (a link to pts/ptmx), fd, stdin,
// stdout, stderr links and the directories pts, shm, mqueue to be mounted over.
Ref<FileSystem> make_devfs(mm::Frames& frames);
// /dev/pts.
Ref<FileSystem> make_devpts(mm::Frames& frames);

// What a read of /proc/sys or /sys needs: small fixed trees.
Ref<FileSystem> make_sysfs(mm::Frames& frames, u32 cpus);

}  // namespace rf::fs
