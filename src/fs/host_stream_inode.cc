#include <sys/sysmacros.h>

#include "fs/host_attributes.h"
#include "fs/host_news.h"
#include "fs/host_stream_internal.h"

namespace rf::fs {

HostStreamInode::HostStreamInode(FileSystem& fs, Ref<HostEnd> end, Ref<HostTerminal> terminal, u16 type,
                                 mm::Frames* frames)
    : Inode(fs),
      end_(std::move(end)),
      terminal_(std::move(terminal)),
      type_(type),
      pages_(frames && end_->regular() && end_->allows(O_RDONLY)
                 ? std::make_unique<mm::HostFilePages>(*frames, end_->fd(), end_->allows(O_WRONLY))
                 : nullptr) {}

HostStreamInode::~HostStreamInode() = default;

Result<Attributes> HostStreamInode::getattr(const Context&) {
  struct ::statx stx {};
  TRY(hostio::statx_now(end_->fd(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &stx));
  return attributes_from(stx);
}

// The host's objects are lent: a guest may cut and fill a file it was given to write, but not take it over.
Result<void> HostStreamInode::setattr(const Context&, const AttributeChange& change) {
  if ((change.mask & (AttributeChange::kMode | AttributeChange::kUid | AttributeChange::kGid)) != 0) return err(EPERM);
  if ((change.mask & AttributeChange::kSize) != 0) {
    if (!end_->allows(O_WRONLY)) return err(EACCES);
    if (!end_->regular()) return {};
    TRY(hostio::host_call(SYS_ftruncate, end_->fd(), change.size));
    HostNews::arrived();
    if (pages_) pages_->unmap_mappings(page_up(change.size), ~u64{0}, true);
  }
  return {};
}

// Whoever the guest's user is, the stream was given to the sandbox: its access mode is the permission.
Result<void> HostStreamInode::permission(const Context&, int mask) {
  if ((mask & X_OK) != 0) return err(EACCES);
  if ((mask & R_OK) != 0 && !end_->allows(O_RDONLY)) return err(EACCES);
  if ((mask & W_OK) != 0 && !end_->allows(O_WRONLY)) return err(EACCES);
  return {};
}

// /dev/stdin, /proc/self/fd/0: another description over the same object.
Result<Ref<File>> HostStreamInode::open(const Context& ctx, const Path& path, const OpenArgs& args) {
  if (type_ == S_IFSOCK) return err(ENXIO);
  if (!end_->allows(args.flags)) return err(EACCES);
  if (terminal_) terminal_->acquire_on_open(ctx, args.flags);
  return make_ref<HostStream>(path, args.flags, end_, terminal_, end_->regular());
}

}  // namespace rf::fs
