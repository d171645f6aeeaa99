#include "trap/control.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "core/check.h"

namespace rf::trap {

Result<u32> Control::Numbers::take() {
  SpinGuard guard(lock_);
  if (!free_.empty()) {
    std::ranges::pop_heap(free_, std::greater{});
    const u32 n = free_.back();
    free_.pop_back();
    return n;
  }
  if (next_ == limit_) return err(EAGAIN);
  return next_++;
}

void Control::Numbers::give_back(u32 n) {
  SpinGuard guard(lock_);
  free_.push_back(n);
  std::ranges::push_heap(free_, std::greater{});
}

Setup<std::unique_ptr<Control>> Control::create() {
  std::unique_ptr<Control> c(new Control);
  c->fd_ = hostio::HostFd(::memfd_create("ringfence-stubs", MFD_CLOEXEC));
  if (!c->fd_.valid() || ::ftruncate(c->fd_.get(), kSize) != 0)
    return setup_error(fmt::format("memfd_create for the stub processes' memory: {}", errno_text(errno)));
  void* p = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, c->fd_.get(), 0);
  if (p == MAP_FAILED)
    return setup_error(
        fmt::format("cannot map the stub processes' memory: {}; is there a limit on address space "
                    "(ulimit -v)?",
                    errno_text(errno)));
  ::madvise(p, kSize, MADV_DONTDUMP);
  c->base_ = static_cast<std::byte*>(p);
  return c;
}

Control::~Control() {
  if (base_) ::munmap(base_, kSize);
}

void Control::give_back_stub(u32 stub) {
  command_page(stub) = {};
  stubs_.give_back(stub);
}

void Control::give_back_threads(const std::vector<u32>& threads) {
  for (u32 t : threads) {
    const int r = ::fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(offset_of(area_address(t))), kAreaSize);
    RF_CHECK(r == 0, "punching a hole in the control file failed");
    threads_.give_back(t);
  }
}

}  // namespace rf::trap
