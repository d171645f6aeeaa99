#include <cpuid.h>
#include <elf.h>
#include <sys/auxv.h>
#include <sys/random.h>

#include <algorithm>
#include <cstring>

#include "mm/elf_stack.h"

namespace rf::mm {
namespace {

// Linux's limits: MAX_ARG_STRLEN; a quarter of the stack limit, of which at least ARG_MAX and at most three quarters of
// _STK_LIM may be used.
constexpr u64 kMaxString = 32 * kPageSize;
constexpr u64 kArgMax = 131072;
constexpr u64 kMostStrings = u64{6} << 20;
constexpr u64 kMaxAuxv = 32;
constexpr u64 kRandomBytes = 16;
constexpr char kPlatform[] = "x86_64";

u64 string_bytes(const LoadRequest& r) {
  u64 n = r.filename.size() + 1;
  for (const auto& s : r.argv) n += s.size() + 1;
  for (const auto& s : r.envp) n += s.size() + 1;
  return n;
}

u64 pointer_words(const LoadRequest& r) { return r.argv.size() + r.envp.size() + 3; }

// Builds the image of the top of the stack in the sentry's memory, growing down, and copies it out at once.
class Image {
 public:
  Image(UserAddr top, u64 size) : top_(top), at_(top), bytes_(size) {}

  UserAddr push(const void* data, u64 len) {
    at_ -= len;
    std::memcpy(host(at_), data, len);
    return at_;
  }
  UserAddr push_string(const std::string& s) { return push(s.c_str(), s.size() + 1); }
  void align(u64 to) { at_ &= ~(to - 1); }
  UserAddr at() const { return at_; }
  Result<UserAddr> copy_out(MemoryManager& mm) {
    u64 len = top_ - at_;
    if (mm.copy_out(at_, host(at_), len) != len) return err(EFAULT);
    return at_;
  }

 private:
  std::byte* host(UserAddr a) { return bytes_.data() + (bytes_.size() - (top_ - a)); }
  UserAddr top_, at_;
  std::vector<std::byte> bytes_;
};

u64 cpu_capabilities() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) ? d : 0;
}

std::vector<u64> make_auxv(MemoryManager& mm, const LoadRequest& r, const StackPlan& plan, UserAddr random,
                           UserAddr platform_name, UserAddr filename) {
  std::vector<u64> v;
  auto add = [&](u64 type, u64 value) { v.insert(v.end(), {type, value}); };
  const auto& caps = mm.env().platform.capabilities();
  if (mm.layout().vdso != 0) add(AT_SYSINFO_EHDR, mm.layout().vdso);
  // Linux: the signal frame without the vector state, and that.
  add(AT_MINSIGSTKSZ, caps.fp_size + 1024);
  add(AT_HWCAP, cpu_capabilities());
  add(AT_PAGESZ, kPageSize);
  add(AT_CLKTCK, 100);
  add(AT_PHDR, plan.program_headers);
  add(AT_PHENT, sizeof(Elf64_Phdr));
  add(AT_PHNUM, plan.header_count);
  add(AT_BASE, plan.interpreter_base);
  add(AT_FLAGS, 0);
  add(AT_ENTRY, plan.entry);
  add(AT_UID, r.uid);
  add(AT_EUID, r.euid);
  add(AT_GID, r.gid);
  add(AT_EGID, r.egid);
  add(AT_SECURE, r.secure);
  add(AT_RANDOM, random);
  add(AT_HWCAP2, caps.fsgsbase ? 2 : 0);
  add(AT_EXECFN, filename);
  add(AT_PLATFORM, platform_name);
  add(AT_NULL, 0);
  return v;
}

}  // namespace

Result<void> check_strings(const LoadRequest& r) {
  if (r.filename.size() >= kMaxString) return err(E2BIG);
  for (const auto* list : {&r.argv, &r.envp})
    for (const auto& s : *list)
      if (s.size() >= kMaxString) return err(E2BIG);
  u64 limit = std::max(std::min(r.stack_limit / 4, kMostStrings), kArgMax);
  u64 bytes = string_bytes(r) + pointer_words(r) * sizeof(u64);
  return bytes > limit ? Result<void>(err(E2BIG)) : Result<void>();
}

u64 stack_bytes(const LoadRequest& r) {
  // Strings, the vectors, the rest, what alignment and randomisation take.
  return string_bytes(r) + (pointer_words(r) + 2 * kMaxAuxv) * sizeof(u64) + kRandomBytes + 8192 + kPageSize;
}

Result<UserAddr> build_stack(MemoryManager& mm, const LoadRequest& r, const StackPlan& plan) {
  Layout& l = mm.layout();
  Image image(plan.top, stack_bytes(r));
  std::byte random[kRandomBytes + sizeof(u64)];
  if (getrandom(random, sizeof random, 0) != sizeof random) return err(EIO);

  // From the top: a null word, the file name, environment, arguments (in memory order, as ps expects them).
  u64 zero = 0;
  image.push(&zero, sizeof zero);
  UserAddr filename = image.push_string(r.filename);
  std::vector<u64> pointers(r.envp.size() + r.argv.size());
  l.env_end = image.at();
  for (size_t i = r.envp.size(); i-- > 0;) pointers[r.argv.size() + i] = image.push_string(r.envp[i]);
  l.env_start = l.arg_end = image.at();
  for (size_t i = r.argv.size(); i-- > 0;) pointers[i] = image.push_string(r.argv[i]);
  l.arg_start = image.at();

  // Linux's arch_align_stack: threads of one program should not share cache sets.
  if (r.randomize) {
    u64 skip = 0;
    std::memcpy(&skip, random + kRandomBytes, sizeof skip);
    std::vector<std::byte> gap(skip % 8192);
    image.push(gap.data(), gap.size());
  }
  image.align(16);
  UserAddr platform_name = image.push(kPlatform, sizeof kPlatform);
  image.align(16);
  UserAddr random_at = image.push(random, kRandomBytes);

  l.auxv = make_auxv(mm, r, plan, random_at, platform_name, filename);
  std::vector<u64> words{r.argv.size()};
  words.insert(words.end(), pointers.begin(), pointers.begin() + static_cast<std::ptrdiff_t>(r.argv.size()));
  words.push_back(0);
  words.insert(words.end(), pointers.begin() + static_cast<std::ptrdiff_t>(r.argv.size()), pointers.end());
  words.push_back(0);
  words.insert(words.end(), l.auxv.begin(), l.auxv.end());
  image.align(16);
  if (words.size() % 2 != 0) image.push(&zero, sizeof zero);
  image.push(words.data(), words.size() * sizeof(u64));
  l.start_stack = image.at();
  return image.copy_out(mm);
}

}  // namespace rf::mm
