// Ancillary data, cmsg(3), between the guest's bytes and Control.
#include <cstring>

#include "net/socket.h"

namespace rf::net {

namespace {

constexpr size_t kMaxFiles = 253;  // SCM_MAX_FD

// scm_check_creds().
bool may_claim(const fs::Context& ctx, const ucred& c) {
  const fs::Credentials& own = ctx.creds;
  bool pid = c.pid == ctx.pid || own.capable(CAP_SYS_ADMIN);
  bool uid = c.uid == own.uid || c.uid == own.euid || c.uid == own.suid || own.capable(CAP_SETUID);
  bool gid = c.gid == own.gid || c.gid == own.egid || c.gid == own.sgid || own.capable(CAP_SETGID);
  return pid && uid && gid;
}

Result<void> add_files(Control& control, const fs::FdTable& fds, std::span<const std::byte> data) {
  size_t count = data.size() / sizeof(int);
  if (control.files.size() + count > kMaxFiles) return err(EINVAL);
  for (size_t i = 0; i < count; i++) {
    int fd;
    memcpy(&fd, data.data() + i * sizeof fd, sizeof fd);
    control.files.push_back(TRY(fds.get(fd)));  // O_PATH ones too
  }
  return {};
}

// Appends a header and `data`; false with what does not fit left out and MSG_CTRUNC, as put_cmsg() does.
void append(std::vector<std::byte>& out, size_t room, int type, std::span<const std::byte> data, int& msg_flags) {
  size_t at = out.size();
  if (room - at < sizeof(cmsghdr)) {
    msg_flags |= MSG_CTRUNC;
    return;
  }
  size_t len = CMSG_LEN(data.size());
  if (room - at < len) {
    msg_flags |= MSG_CTRUNC;
    len = room - at;
  }
  cmsghdr header{len, SOL_SOCKET, type};
  out.resize(std::min(room, at + CMSG_SPACE(len - CMSG_LEN(0))));
  memcpy(out.data() + at, &header, sizeof header);
  memcpy(out.data() + at + CMSG_LEN(0), data.data(), len - CMSG_LEN(0));
}

}  // namespace

Result<Control> parse_control(const fs::Context& ctx, const fs::FdTable& fds, std::span<const std::byte> buffer) {
  Control control;
  while (buffer.size() >= sizeof(cmsghdr)) {
    cmsghdr header;
    memcpy(&header, buffer.data(), sizeof header);
    if (header.cmsg_len < sizeof header || header.cmsg_len > buffer.size()) return err(EINVAL);
    auto data = buffer.subspan(CMSG_LEN(0), header.cmsg_len - CMSG_LEN(0));
    if (header.cmsg_level == SOL_SOCKET) {
      switch (header.cmsg_type) {
        case SCM_RIGHTS:
          TRY(add_files(control, fds, data));
          break;
        case SCM_CREDENTIALS: {
          ucred c;
          if (data.size() != sizeof c) return err(EINVAL);
          memcpy(&c, data.data(), sizeof c);
          if (!may_claim(ctx, c)) return err(EPERM);
          control.credentials = c;
          break;
        }
        default:
          return err(EINVAL);
      }
    }
    buffer = buffer.subspan(std::min(buffer.size(), CMSG_ALIGN(header.cmsg_len)));
  }
  return control;
}

void FormattedControl::open(bool cloexec) {
  for (auto& [fd, file] : files) fd.fill(std::move(file), cloexec);
  files.clear();
}

FormattedControl format_control(Control&& control, fs::FdTable& fds, u64 fd_limit, size_t room, int& msg_flags) {
  FormattedControl out;
  if (control.credentials)
    append(out.bytes, room, SCM_CREDENTIALS, std::as_bytes(std::span(&*control.credentials, 1)), msg_flags);
  if (control.files.empty()) return out;
  // As many descriptors as there is room for (scm_detach_fds).
  size_t left = room - out.bytes.size();
  size_t fit = left < CMSG_LEN(sizeof(int)) ? 0 : (left - CMSG_LEN(0)) / sizeof(int);
  std::vector<int> numbers;
  for (Ref<fs::File>& file : control.files) {
    if (numbers.size() >= fit) break;
    auto fd = fs::ReservedFd::make(fds, fd_limit);
    if (!fd) break;
    numbers.push_back(fd->number());
    out.files.emplace_back(std::move(*fd), std::move(file));
  }
  if (numbers.size() < control.files.size()) msg_flags |= MSG_CTRUNC;
  if (!numbers.empty()) append(out.bytes, room, SCM_RIGHTS, std::as_bytes(std::span(numbers)), msg_flags);
  return out;
}

}  // namespace rf::net
