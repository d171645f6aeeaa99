// For tests: objects to map.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "hostio/fd.h"
#include "mm/elf.h"
#include "mm/mappable.h"

namespace rf::mm {

// A host file.
class HostFileObject final : public MapObject {
 public:
  HostFileObject(Frames& frames, hostio::HostFd fd, bool writable, std::string path)
      : fd_(std::move(fd)), pages_(frames, fd_.get(), writable), path_(std::move(path)) {}
  static Ref<HostFileObject> open(Frames& frames, const std::string& path, bool writable = false) {
    hostio::HostFd fd(::open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (!fd.valid()) return {};
    return make_ref<HostFileObject>(frames, std::move(fd), writable, path);
  }
  Mappable& mappable() override { return pages_; }
  Identity identity() const override { return {8, 1, 1, path_}; }
  int fd() const { return fd_.get(); }

  ExecFile exec_file() {
    struct stat st {};
    fstat(fd(), &st);
    int fd = fd_.get();
    return {Ref<MapObject>(this), static_cast<u64>(st.st_size),
            [fd](std::span<std::byte> to, u64 offset) -> Result<size_t> {
              ssize_t n = pread(fd, to.data(), to.size(), static_cast<off_t>(offset));
              if (n < 0) return err(errno);
              return static_cast<size_t>(n);
            }};
  }

 private:
  hostio::HostFd fd_;
  HostFilePages pages_;
  std::string path_;
};

// A page store, as a tmpfs file would be.
class StoreObject final : public MapObject {
 public:
  explicit StoreObject(Frames& frames) : pages(frames) {}
  Mappable& mappable() override { return pages; }
  Identity identity() const override { return {0, 30, 2, "/tmp/store"}; }
  PageStore pages;
};

}  // namespace rf::mm
