// The host's statx(2) as the VFS's attributes.
#pragma once

#include <linux/stat.h>

#include "fs/inode.h"

namespace rf::fs {

inline Timestamp timestamp_from(const struct ::statx_timestamp& t) { return {t.tv_sec, t.tv_nsec}; }

// Expects STATX_BASIC_STATS. The inode number is the host's.
inline Attributes attributes_from(const struct ::statx& stx) {
  Attributes a;
  a.ino = stx.stx_ino;
  a.mode = stx.stx_mode;
  a.nlink = stx.stx_nlink;
  a.uid = stx.stx_uid;
  a.gid = stx.stx_gid;
  a.size = stx.stx_size;
  a.blocks = stx.stx_blocks;
  a.block_size = stx.stx_blksize;
  a.rdev_major = stx.stx_rdev_major;
  a.rdev_minor = stx.stx_rdev_minor;
  a.atime = timestamp_from(stx.stx_atime);
  a.mtime = timestamp_from(stx.stx_mtime);
  a.ctime = timestamp_from(stx.stx_ctime);
  a.has_btime = (stx.stx_mask & STATX_BTIME) != 0;
  if (a.has_btime) a.btime = timestamp_from(stx.stx_btime);
  return a;
}

}  // namespace rf::fs
