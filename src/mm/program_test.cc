// Programs of this host, loaded and run on the real platform with just enough of a kernel to start and print.
#include <asm/prctl.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/test_scheduler.h"
#include "mm/elf.h"
#include "mm/mm_fixture.h"
#include "mm/test_objects.h"
#include "mm/user_access.h"

namespace rf::mm {
namespace {

using platform::Registers;

class ProgramTest : public testing::Test {
 protected:
  void SetUp() override {
    memory_ = std::move(*platform::GuestMemory::create());
    auto platform = platform::create({.kind = platform::Kind::kAuto, .vcpus = 1}, *memory_);
    if (!platform) GTEST_SKIP() << "no platform here: " << platform.error().message;
    platform_ = std::move(*platform);
    frames_ = Frames::create(*memory_, u64{1} << 30);
    clock_ = std::move(*VdsoClock::create(*frames_));
  }
  void TearDown() override {
    clock_.reset();
    if (frames_) {
      EXPECT_EQ(frames_->used(), 0u);
    }
  }

  // Runs a program; returns its exit status, or -1. What it printed is in output_.
  int run(const std::vector<std::string>& argv) {
    int status = -1;
    run_fibers(1, [&] { status = run_on_fiber(argv); });
    return status;
  }

  int run_on_fiber(const std::vector<std::string>& argv) {
    auto mm = *MemoryManager::create({*platform_, *frames_, *clock_});
    auto file = HostFileObject::open(*frames_, argv[0]);
    if (!file) return -1;
    LoadRequest request{.file = file->exec_file(), .filename = argv[0], .argv = argv, .envp = {"LC_ALL=C"}};
    request.open_interpreter = [&](const std::string& path) -> Result<ExecFile> {
      auto f = HostFileObject::open(*frames_, path);
      if (!f) return err(ENOENT);
      return f->exec_file();
    };
    auto image = load_elf(*mm, request);
    EXPECT_TRUE(image.has_value());
    if (!image) return -1;
    auto context = *platform_->create_context();
    Registers r{};
    r.rip = image->entry;
    r.rsp = image->stack;
    r.eflags = 2;
    for (;;) {
      platform::Exit e = context->run(mm->address_space(), r);
      if (e.kind == platform::Exit::Kind::kInterrupted) {
        yield();
      } else if (e.kind == platform::Exit::Kind::kPageFault) {
        faults_++;
        auto ok = mm->handle_fault(e.address, e.access);
        if (!ok) {
          ADD_FAILURE() << "fault at " << std::hex << e.address << " rip " << r.rip;
          return -1;
        }
      } else if (e.kind == platform::Exit::Kind::kSyscall) {
        if (r.orig_rax == SYS_exit_group) return static_cast<int>(r.rdi);
        r.rax = static_cast<unsigned long long>(syscall(*mm, r));
      } else {
        ADD_FAILURE() << "signal " << e.signo << " at " << std::hex << r.rip;
        return -1;
      }
    }
  }

  template <class T>
  static long value(const Result<T>& r) {
    if (!r) return -errno_value(r.error());
    if constexpr (std::is_void_v<T>)
      return 0;
    else
      return static_cast<long>(*r);
  }

  long syscall(MemoryManager& mm, Registers& r) {
    switch (r.orig_rax) {
      case SYS_brk:
        return static_cast<long>(mm.brk(r.rdi));
      case SYS_munmap:
        return value(mm.munmap(r.rdi, r.rsi));
      case SYS_mprotect:
        return value(mm.mprotect(r.rdi, r.rsi, static_cast<int>(r.rdx)));
      case SYS_mremap:
        return value(mm.mremap(r.rdi, r.rsi, r.rdx, static_cast<int>(r.r10), r.r8));
      case SYS_mmap:
        return sys_mmap(mm, r);
      case SYS_arch_prctl:
        if (r.rdi != ARCH_SET_FS) return -EINVAL;
        r.fs_base = r.rsi;
        return 0;
      case SYS_write: {
        std::string s(std::min<u64>(r.rdx, 4096), '\0');
        s.resize(mm.copy_in(s.data(), r.rsi, s.size()));
        output_ += s;
        return static_cast<long>(s.size());
      }
      case SYS_writev: {
        auto v = *IoVec::read(mm, r.rsi, r.rdx);
        long n = 0;
        for (auto& e : v) {
          std::string s(e.iov_len, '\0');
          mm.copy_in(s.data(), reinterpret_cast<u64>(e.iov_base), s.size());
          output_ += s;
          n += static_cast<long>(s.size());
        }
        return n;
      }
      case SYS_openat: {
        auto path = read_path(mm, r.rsi);
        return path ? host(::open(path->c_str(), O_RDONLY)) : -EFAULT;
      }
      case SYS_close:
        return r.rdi > 2 ? host(close(static_cast<int>(r.rdi))) : 0;
      case SYS_read:
      case SYS_pread64: {
        std::vector<std::byte> b(std::min<u64>(r.rdx, 1 << 20));
        long n = r.orig_rax == SYS_read ? ::read(static_cast<int>(r.rdi), b.data(), b.size())
                                        : pread(static_cast<int>(r.rdi), b.data(), b.size(), static_cast<long>(r.r10));
        if (n > 0) mm.copy_out(r.rsi, b.data(), static_cast<size_t>(n));
        return host(n);
      }
      case SYS_newfstatat: {
        struct stat st;
        auto path = read_path(mm, r.rsi);
        long n = fstatat(static_cast<int>(r.rdi), path ? path->c_str() : "", &st, static_cast<int>(r.r10));
        if (n == 0) mm.copy_out(r.rdx, &st, sizeof st);
        return host(n);
      }
      case SYS_getuid:
      case SYS_getgid:
      case SYS_geteuid:
      case SYS_getegid:
        return 0;
      case SYS_set_tid_address:
      case SYS_getpid:
        return 1;
      case SYS_set_robust_list:
        return 0;
      default:
        return -ENOSYS;
    }
  }

  struct IoVec {
    static Result<std::vector<iovec>> read(MemoryManager& mm, UserAddr a, u64 n) {
      std::vector<iovec> v(n);
      TRY(UserPtr<iovec>(a).read_array(mm, v));
      return v;
    }
  };

  static long host(long n) { return n < 0 ? -errno : n; }

  long sys_mmap(MemoryManager& mm, const Registers& r) {
    MmapArgs args{
        .addr = r.rdi, .len = r.rsi, .prot = static_cast<int>(r.rdx), .flags = static_cast<int>(r.r10), .offset = r.r9};
    if ((args.flags & MAP_ANONYMOUS) == 0)
      args.object = make_ref<HostFileObject>(*frames_, hostio::HostFd(dup(static_cast<int>(r.r8))), false, "file");
    return value(mm.mmap(args));
  }

  std::unique_ptr<platform::GuestMemory> memory_;
  std::unique_ptr<platform::Platform> platform_;
  std::unique_ptr<Frames> frames_;
  std::unique_ptr<VdsoClock> clock_;
  std::string output_;
  u64 faults_ = 0;
};

TEST_F(ProgramTest, StaticProgramRuns) {
  if (access("/bin/busybox", X_OK) != 0) GTEST_SKIP() << "no busybox here";
  EXPECT_EQ(run({"/bin/busybox", "echo", "hello", "world"}), 0);
  EXPECT_EQ(output_, "hello world\n");
  RecordProperty("page_faults", static_cast<int>(faults_));
}

TEST_F(ProgramTest, DynamicProgramRuns) {
  EXPECT_EQ(run({"/usr/bin/expr", "20", "+", "22"}), 0);
  EXPECT_EQ(output_, "42\n");
  RecordProperty("page_faults", static_cast<int>(faults_));
}

}  // namespace
}  // namespace rf::mm
