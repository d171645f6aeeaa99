#include "kvm/kvm_stats.h"

#include <sys/ioctl.h>

#include <cstring>
#include <vector>

#include "hostio/calls.h"
#include "kvm/kvm_api.h"

namespace rf::kvm {

namespace {

bool read_at(int fd, u64 offset, void* out, size_t size) {
  const iovec iov{out, size};
  const auto n = hostio::preadv2_now(fd, {&iov, 1}, static_cast<s64>(offset), 0);
  return n && *n == size;
}

}  // namespace

hostio::HostFd open_stats(int vcpu_fd) { return hostio::HostFd(ioctl(vcpu_fd, KVM_GET_STATS_FD, nullptr)); }

void add_stats(int stats_fd, std::map<std::string, u64>& sum) {
  // The layout is that of the kernel's Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD.
  kvm_stats_header header{};
  if (!read_at(stats_fd, 0, &header, sizeof header) || header.name_size > 256 || header.num_desc > 4096) return;
  const size_t stride = sizeof(kvm_stats_desc) + header.name_size;
  std::vector<std::byte> list(stride * header.num_desc);
  if (!read_at(stats_fd, header.desc_offset, list.data(), list.size())) return;
  for (u32 i = 0; i < header.num_desc; ++i) {
    kvm_stats_desc d;
    std::memcpy(&d, &list[i * stride], sizeof d);
    const char* name = reinterpret_cast<const char*>(&list[i * stride + sizeof d]);
    u64 value = 0;
    const bool cumulative = (d.flags & KVM_STATS_TYPE_MASK) == KVM_STATS_TYPE_CUMULATIVE;
    if (!cumulative || d.size != 1 || !read_at(stats_fd, header.data_offset + d.offset, &value, sizeof value)) continue;
    if (value != 0) sum[std::string(name, strnlen(name, header.name_size))] += value;
  }
}

}  // namespace rf::kvm
