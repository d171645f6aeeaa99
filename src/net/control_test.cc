#include "net/unix_fixture.h"

namespace rf::net {
namespace {

class ControlTest : public UnixTest {
 protected:
  void add(int type, const void* data, size_t len, int level = SOL_SOCKET) {
    size_t at = buffer_.size();
    buffer_.resize(at + CMSG_SPACE(len));
    cmsghdr h{CMSG_LEN(len), level, type};
    memcpy(buffer_.data() + at, &h, sizeof h);
    memcpy(buffer_.data() + at + CMSG_LEN(0), data, len);
  }
  Result<Control> parse() { return parse_control(context(), *fds_, buffer_); }

  Ref<fs::FdTable> fds_ = make_ref<fs::FdTable>();
  std::vector<std::byte> buffer_;
};

TEST_F(ControlTest, ParsesRightsAndCredentials) {
  run([&] {
    int fd = *fds_->install(*fs::make_eventfd(0, 0), false, 0, 100);
    int two[] = {fd, fd};
    add(SCM_RIGHTS, two, sizeof two);
    ucred c{pid_, 0, 0};
    add(SCM_CREDENTIALS, &c, sizeof c);
    add(SCM_RIGHTS, two, sizeof fd);
    auto control = *parse();
    EXPECT_EQ(control.files.size(), 3u);
    EXPECT_EQ(control.credentials->pid, pid_);
    fds_->remove_all();
  });
}

TEST_F(ControlTest, RefusesWhatIsMalformed) {
  run([&] {
    int bad = 99;
    add(SCM_RIGHTS, &bad, sizeof bad);
    EXPECT_EQ(error_of(parse()), EBADF);
    buffer_.clear();
    add(SCM_CREDENTIALS, &bad, sizeof bad);
    EXPECT_EQ(error_of(parse()), EINVAL);
    buffer_.clear();
    add(77, &bad, sizeof bad);
    EXPECT_EQ(error_of(parse()), EINVAL);
    buffer_.clear();
    add(77, &bad, sizeof bad, 41);  // another level: ignored
    EXPECT_TRUE(parse());
    cmsghdr h{1000, SOL_SOCKET, SCM_RIGHTS};
    memcpy(buffer_.data(), &h, sizeof h);
    EXPECT_EQ(error_of(parse()), EINVAL);
    h.cmsg_len = 3;
    memcpy(buffer_.data(), &h, sizeof h);
    EXPECT_EQ(error_of(parse()), EINVAL);
    buffer_.resize(7);
    EXPECT_TRUE(parse());
    buffer_.clear();
    std::vector<int> many(254, *fds_->install(*fs::make_eventfd(0, 0), false, 0, 100));
    add(SCM_RIGHTS, many.data(), many.size() * sizeof(int));
    EXPECT_EQ(error_of(parse()), EINVAL);
    buffer_.clear();
    become(5, 5);
    ucred c{pid_ + 1, 5, 5};
    add(SCM_CREDENTIALS, &c, sizeof c);
    EXPECT_EQ(error_of(parse()), EPERM);
    fds_->remove_all();
  });
}

TEST_F(ControlTest, FormatsWhatFits) {
  run([&] {
    auto format = [&](size_t room, u64 limit, int& flags) {
      Control c;
      for (int i = 0; i < 3; i++) c.files.push_back(*fs::make_eventfd(0, 0));
      c.credentials = ucred{1, 2, 3};
      flags = 0;
      FormattedControl out = format_control(std::move(c), *fds_, limit, room, flags);
      EXPECT_TRUE(fds_->descriptors().empty()) << "not before the guest has their numbers";
      out.open(true);
      return out.bytes;
    };
    int flags;
    auto out = format(1000, 100, flags);
    EXPECT_EQ(out.size(), CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(3 * sizeof(int)));
    EXPECT_EQ(flags, 0);
    EXPECT_EQ(fds_->descriptors(), (std::vector<int>{0, 1, 2}));
    EXPECT_TRUE(fds_->close_on_exec(1));
    int numbers[3];
    memcpy(numbers, out.data() + CMSG_SPACE(sizeof(ucred)) + CMSG_LEN(0), sizeof numbers);
    EXPECT_EQ(numbers[2], 2);
    fds_->remove_all();
    out = format(CMSG_SPACE(sizeof(ucred)) + CMSG_LEN(2 * sizeof(int)), 100, flags);
    EXPECT_EQ(flags, MSG_CTRUNC);
    EXPECT_EQ(fds_->descriptors().size(), 2u);
    fds_->remove_all();
    out = format(1000, 1, flags);
    EXPECT_EQ(flags, MSG_CTRUNC);
    EXPECT_EQ(fds_->descriptors().size(), 1u);
    fds_->remove_all();
    EXPECT_TRUE(format(0, 100, flags).empty());
    EXPECT_EQ(flags, MSG_CTRUNC);
    EXPECT_TRUE(fds_->descriptors().empty());
  });
}

}  // namespace
}  // namespace rf::net
