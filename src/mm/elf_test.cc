// Hostile and odd ELF files.
#include "mm/elf.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "mm/mm_fixture.h"
#include "mm/test_objects.h"

namespace rf::mm {
namespace {

constexpr u64 P = kPageSize;
constexpr UserAddr kBase = 0x400000;

class ElfTest : public MmTest {
 protected:
  void SetUp() override {
    header_ = {};
    std::memcpy(header_.e_ident, ELFMAG, SELFMAG);
    header_.e_ident[EI_CLASS] = ELFCLASS64;
    header_.e_ident[EI_DATA] = ELFDATA2LSB;
    header_.e_type = ET_EXEC;
    header_.e_machine = EM_X86_64;
    header_.e_phoff = sizeof(Elf64_Ehdr);
    header_.e_phentsize = sizeof(Elf64_Phdr);
    header_.e_entry = kBase + 0x800;
    segments_ = {segment(PF_R | PF_X, 0, kBase, P, P), segment(PF_R | PF_W, P, kBase + P, 0x100, 3 * P)};
  }
  static Elf64_Phdr segment(u32 flags, u64 offset, u64 vaddr, u64 filesz, u64 memsz) {
    Elf64_Phdr p{};
    p.p_type = PT_LOAD;
    p.p_flags = flags;
    p.p_offset = offset;
    p.p_vaddr = p.p_paddr = vaddr;
    p.p_filesz = filesz;
    p.p_memsz = memsz;
    p.p_align = P;
    return p;
  }
  ExecFile file() {
    header_.e_phnum = static_cast<u16>(segments_.size());
    auto object = make_ref<StoreObject>(*frames_);
    std::string bytes(3 * P, 'z');
    std::memcpy(bytes.data(), &header_, sizeof header_);
    std::memcpy(bytes.data() + sizeof header_, segments_.data(), segments_.size() * sizeof(Elf64_Phdr));
    if (!interpreter_.empty()) std::memcpy(bytes.data() + 0x700, interpreter_.c_str(), interpreter_.size() + 1);
    EXPECT_TRUE(object->pages.write(0, std::as_bytes(std::span(bytes))));
    StoreObject* raw = object.get();
    return {object, bytes.size(), [raw](std::span<std::byte> to, u64 at) { return raw->pages.read(at, to); }};
  }
  Result<LoadedImage> load() {
    mm_ = fresh();
    LoadRequest r{.file = file(), .filename = "/bin/test", .argv = {"test", "one"}, .envp = {"A=1"}};
    r.open_interpreter = [&](const std::string& path) -> Result<ExecFile> {
      asked_ = path;
      if (broken_interpreter_) return err(ENOENT);
      header_.e_type = ET_DYN;
      auto saved = segments_;
      segments_ = {segment(PF_R | PF_X, 0, 0, P, P)};
      header_.e_entry = 0x123;
      ExecFile f = file();
      segments_ = saved;
      return f;
    };
    r.stack_limit = stack_limit_;
    r.argv.insert(r.argv.end(), more_arguments_.begin(), more_arguments_.end());
    return load_elf(*mm_, r);
  }
  int load_error() { return error_of(load()); }

  Elf64_Ehdr header_{};
  std::vector<Elf64_Phdr> segments_;
  std::string interpreter_, asked_;
  std::vector<std::string> more_arguments_;
  bool broken_interpreter_ = false;
  u64 stack_limit_ = 8 << 20;
};

TEST_F(ElfTest, StaticProgramIsMappedWhereItAsks) {
  auto image = load();
  ASSERT_TRUE(image);
  EXPECT_EQ(image->entry, kBase + 0x800);
  EXPECT_EQ(peek(kBase + P) & 0xff, u64{'z'});
  EXPECT_EQ(peek(kBase + P + 0x100), 0u) << "bss";
  EXPECT_EQ(peek(kBase + 3 * P), 0u);
  EXPECT_EQ(fault_kind(kBase, Access::kWrite), FaultFailure::Kind::kAccErr);
  const Layout& l = mm_->layout();
  EXPECT_EQ(l.start_code, kBase);
  EXPECT_EQ(l.end_code, kBase + P);
  EXPECT_EQ(l.end_data, kBase + P + 0x100);
  EXPECT_GE(l.start_brk, kBase + 4 * P);
  std::vector<std::string> names;
  mm_->for_each_vma(false, [&](const VmaInfo& v) { names.push_back(*v.name); });
  EXPECT_EQ(std::ranges::count(names, "[stack]"), 1);
  EXPECT_EQ(std::ranges::count(names, "[vdso]"), 1);
  EXPECT_EQ(std::ranges::count(names, "[vvar]"), 1);
}

TEST_F(ElfTest, StackHoldsArgumentsAndAuxv) {
  auto image = load();
  ASSERT_TRUE(image);
  EXPECT_EQ(image->stack % 16, 0u);
  UserAddr at = image->stack;
  EXPECT_EQ(peek(at), 2u);
  auto string_at = [&](UserAddr pointer) {
    char b[100];
    EXPECT_TRUE(mm_->copy_in_string(b, peek(pointer), sizeof b));
    return std::string(b);
  };
  EXPECT_EQ(string_at(at + 8), "test");
  EXPECT_EQ(string_at(at + 16), "one");
  EXPECT_EQ(peek(at + 24), 0u);
  EXPECT_EQ(string_at(at + 32), "A=1");
  EXPECT_EQ(peek(at + 40), 0u);
  std::map<u64, u64> auxv;
  for (at += 48; peek(at) != AT_NULL; at += 16) auxv[peek(at)] = peek(at + 8);
  EXPECT_EQ(auxv[AT_PAGESZ], P);
  EXPECT_EQ(auxv[AT_ENTRY], kBase + 0x800);
  EXPECT_EQ(auxv[AT_PHDR], kBase + sizeof(Elf64_Ehdr));
  EXPECT_EQ(auxv[AT_PHNUM], 2u);
  EXPECT_EQ(auxv[AT_BASE], 0u);
  EXPECT_EQ(auxv[AT_HWCAP2], 2u);
  EXPECT_EQ(peek(auxv[AT_SYSINFO_EHDR]) & 0xffffffff, 0x464c457fu);
  char text[20];
  mm_->copy_in_string(text, auxv[AT_EXECFN], sizeof text);
  EXPECT_STREQ(text, "/bin/test");
  mm_->copy_in_string(text, auxv[AT_PLATFORM], sizeof text);
  EXPECT_STREQ(text, "x86_64");
  EXPECT_NE(peek(auxv[AT_RANDOM]), 0u);
  const Layout& l = mm_->layout();
  EXPECT_EQ(l.arg_end - l.arg_start, 9u);
  EXPECT_EQ(l.env_end - l.env_start, 4u);
  EXPECT_EQ(l.auxv.size() % 2, 0u);
}

TEST_F(ElfTest, HeadersThatAreNoProgramAreEnoexec) {
  auto broken = [&](auto change) {
    SetUp();
    change();
    return load_error();
  };
  EXPECT_EQ(broken([&] { header_.e_ident[0] = 'x'; }), ENOEXEC);
  EXPECT_EQ(broken([&] { header_.e_ident[EI_CLASS] = ELFCLASS32; }), ENOEXEC);
  EXPECT_EQ(broken([&] { header_.e_machine = EM_AARCH64; }), ENOEXEC);
  EXPECT_EQ(broken([&] { header_.e_type = ET_REL; }), ENOEXEC);
  EXPECT_EQ(broken([&] { header_.e_phentsize = 32; }), ENOEXEC);
  EXPECT_EQ(broken([&] { header_.e_phoff = ~u64{0}; }), ENOEXEC);
  EXPECT_EQ(broken([&] { header_.e_phoff = 3 * P; }), ENOEXEC);
  EXPECT_EQ(broken([&] { segments_.clear(); }), ENOEXEC);
  EXPECT_EQ(broken([&] { header_.e_entry = ~u64{0}; }), ENOEXEC);
}

TEST_F(ElfTest, WildSegmentsAreRefused) {
  auto broken = [&](auto change) {
    SetUp();
    change(segments_[1]);
    return load_error();
  };
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_filesz = p.p_memsz + 1; }), EINVAL);
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_memsz = ~u64{0}; }), EINVAL);
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_vaddr = ~u64{0} - P + 1; }), EINVAL);
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_vaddr += 8; }), EINVAL);
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_vaddr = platform::kGuestAddressLimit - P, p.p_memsz = 2 * P; }), EINVAL);
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_vaddr = 0; }), EPERM) << "below mmap_min_addr";
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_offset = (u64{1} << 62) + P; }), EINVAL);
  // bss as large as all of memory is only a mapping.
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_memsz = u64{1} << 40; }), 0);
  // A part that the file does not have is a SIGBUS later; only where it must be cleared it fails now.
  EXPECT_EQ(broken([](Elf64_Phdr& p) { p.p_offset = 8 * P; }), EFAULT);
}

TEST_F(ElfTest, PositionIndependentProgramsMoveAndKeepAlignment) {
  header_.e_type = ET_DYN;
  header_.e_entry = 0x800;
  segments_ = {segment(PF_R | PF_X, 0, 0, P, P), segment(PF_R | PF_W, P, u64{2} << 20 | P, 0x100, P)};
  segments_[0].p_align = kHugePageSize;
  auto image = load();
  ASSERT_TRUE(image);
  EXPECT_EQ((image->entry - 0x800) % kHugePageSize, 0u);
  UserAddr first = image->entry;
  EXPECT_NE(load()->entry, first) << "randomised";
}

TEST_F(ElfTest, InterpreterStartsFirst) {
  header_.e_type = ET_DYN;
  interpreter_ = "/lib/ld.so";
  Elf64_Phdr p{};
  p.p_type = PT_INTERP;
  p.p_offset = 0x700;
  p.p_filesz = interpreter_.size() + 1;
  segments_ = {p, segment(PF_R | PF_X, 0, 0, P, P)};
  auto image = load();
  ASSERT_TRUE(image);
  EXPECT_EQ(asked_, "/lib/ld.so");
  EXPECT_EQ(image->entry % P, 0x123u);
  EXPECT_GE(mm_->layout().start_code, 0x5555'0000'0000u);
  EXPECT_LT(mm_->layout().start_code, 0x5700'0000'0000u);
  broken_interpreter_ = true;
  EXPECT_EQ(load_error(), ENOENT);
  broken_interpreter_ = false;
  segments_[0].p_filesz--;
  EXPECT_EQ(load_error(), ENOEXEC) << "no NUL at its end";
  segments_[0].p_filesz = 1 << 20;
  EXPECT_EQ(load_error(), ENOEXEC);
}

TEST_F(ElfTest, ArgumentsAreLimited) {
  more_arguments_ = {std::string(131072, 'a')};
  EXPECT_EQ(load_error(), E2BIG);
  more_arguments_ = {std::string(131071, 'a')};
  EXPECT_EQ(load_error(), 0);
  more_arguments_.assign(17, std::string(131071, 'a'));
  EXPECT_EQ(load_error(), E2BIG) << "more than a quarter of the stack";
  more_arguments_.assign(1, std::string(100'000, 'a'));
  stack_limit_ = 64 << 10;
  EXPECT_EQ(load_error(), 0) << "128 KiB are always allowed";
}

TEST_F(ElfTest, ManyHeaders) {
  Elf64_Phdr note{};
  note.p_type = PT_NOTE;
  segments_.insert(segments_.end(), 20, note);
  EXPECT_EQ(load_error(), 0);
}

}  // namespace
}  // namespace rf::mm
