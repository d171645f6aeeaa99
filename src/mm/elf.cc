// Loading ELF programs; every field of the file is hostile.
#include "mm/elf.h"

#include <elf.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <algorithm>
#include <cstring>

#include "mm/elf_stack.h"
#include "mm/user_access.h"
#include "mm/vdso.h"
#include "mm/vma.h"

namespace rf::mm {
namespace {

using platform::kGuestAddressLimit;

// Linux: the program headers must fit in 64 KiB.
constexpr u64 kMaxHeaderBytes = 65536;
constexpr u64 kMaxInterpreterPath = 4096;
// Where Linux puts position-independent programs that have an interpreter.
constexpr UserAddr kDynBase = 0x5555'5555'4000;
constexpr u64 kMmapRandomPages = u64{1} << 28;
constexpr u64 kStackRandomPages = u64{1} << 22;
constexpr u64 kBrkRandom = u64{32} << 20;
constexpr u64 kMinStackGap = u64{128} << 20;

struct Headers {
  Elf64_Ehdr eh;
  std::vector<Elf64_Phdr> ph;
};

// Where an image was mapped.
struct Mapped {
  u64 bias = 0;
  UserAddr entry = 0;
  UserAddr headers = 0;  // AT_PHDR
  UserAddr start_code = ~u64{0}, end_code = 0, start_data = 0, end_data = 0;
  UserAddr low = ~u64{0}, end = 0;  // end: of the highest segment, bss included
};

u64 random_below(bool randomize, u64 limit) {
  if (!randomize) return 0;
  u64 r = 0;
  if (getrandom(&r, sizeof r, 0) != sizeof r) return 0;
  return r % limit;
}

Result<void> read_exact(const ExecFile& file, void* to, size_t len, u64 offset) {
  auto* p = static_cast<std::byte*>(to);
  for (size_t done = 0; done < len;) {
    size_t n = TRY(file.read({p + done, len - done}, offset + done));
    if (n == 0) return err(ENOEXEC);
    done += n;
  }
  return {};
}

Result<Headers> read_headers(const ExecFile& file) {
  Headers h;
  TRY(read_exact(file, &h.eh, sizeof h.eh, 0));
  const Elf64_Ehdr& e = h.eh;
  if (std::memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_ident[EI_CLASS] != ELFCLASS64) return err(ENOEXEC);
  if ((e.e_type != ET_EXEC && e.e_type != ET_DYN) || e.e_machine != EM_X86_64) return err(ENOEXEC);
  if (e.e_phentsize != sizeof(Elf64_Phdr)) return err(ENOEXEC);
  u64 bytes = u64{e.e_phnum} * sizeof(Elf64_Phdr);
  if (bytes == 0 || bytes > kMaxHeaderBytes || e.e_phoff > u64{1} << 62) return err(ENOEXEC);
  h.ph.resize(e.e_phnum);
  TRY(read_exact(file, h.ph.data(), bytes, e.e_phoff));
  return h;
}

int segment_prot(const Elf64_Phdr& p) {
  return ((p.p_flags & PF_R) ? PROT_READ : 0) | ((p.p_flags & PF_W) ? PROT_WRITE : 0) |
         ((p.p_flags & PF_X) ? PROT_EXEC : 0);
}

// A PT_LOAD that can be mapped at all.
Result<void> check_segment(const Elf64_Phdr& p) {
  if (p.p_filesz > p.p_memsz) return err(EINVAL);
  if (p.p_memsz > kGuestAddressLimit || p.p_vaddr > kGuestAddressLimit - p.p_memsz) return err(EINVAL);
  if ((p.p_vaddr & kPageMask) != (p.p_offset & kPageMask)) return err(EINVAL);
  if (p.p_offset > u64{1} << 62 || p.p_filesz > u64{1} << 62) return err(EINVAL);
  return {};
}

// The span of all segments, as [low, high) page addresses before the bias.
Result<std::pair<u64, u64>> span_of(const Headers& h) {
  u64 low = ~u64{0}, high = 0;
  for (const Elf64_Phdr& p : h.ph) {
    if (p.p_type != PT_LOAD) continue;
    TRY(check_segment(p));
    low = std::min(low, page_down(p.p_vaddr));
    high = std::max(high, page_up(p.p_vaddr + p.p_memsz));
  }
  if (low >= high) return err(EINVAL);
  return std::pair{low, high};
}

u64 max_alignment(const Headers& h) {
  u64 align = kPageSize;
  for (const Elf64_Phdr& p : h.ph)
    if (p.p_type == PT_LOAD && (p.p_align & (p.p_align - 1)) == 0 && p.p_align < kGuestAddressLimit)
      align = std::max(align, p.p_align);
  return align;
}

class Loader {
 public:
  Loader(MemoryManager& mm, const LoadRequest& request) : mm_(mm), request_(request) {}

  Result<LoadedImage> load();

 private:
  enum class Place { kProgram, kProgramAlone, kInterpreter };
  Result<u64> choose_bias(const Headers& h, Place place);
  Result<Mapped> map_image(const ExecFile& file, const Headers& h, Place place);
  Result<void> map_segment(const ExecFile& file, const Elf64_Phdr& p, u64 bias, bool replace);
  Result<std::string> interpreter_path(const Headers& h);
  void choose_layout();
  Result<void> map_stack();
  void place_brk(const Headers& h, const Mapped& program, bool alone);
  Result<void> map_vdso();

  MemoryManager& mm_;
  const LoadRequest& request_;
  bool exec_stack_ = false;
  UserAddr stack_top_ = 0;
};

void Loader::choose_layout() {
  Layout& l = mm_.layout();
  l = Layout{};
  bool r = request_.randomize;
  stack_top_ = kGuestAddressLimit - kPageSize - (random_below(r, kStackRandomPages) << kPageShift);
  // Linux's mmap_base(): room for the stack to grow to its limit, and for its own randomisation.
  u64 gap = std::clamp(request_.stack_limit, kMinStackGap, kGuestAddressLimit / 6 * 5);
  gap += (kStackRandomPages << kPageShift) + kStackGuardGap;
  gap = std::min(gap, kGuestAddressLimit / 6 * 5);
  l.mmap_base = page_down(kGuestAddressLimit - gap - (random_below(r, kMmapRandomPages) << kPageShift));
}

Result<std::string> Loader::interpreter_path(const Headers& h) {
  for (const Elf64_Phdr& p : h.ph) {
    if (p.p_type != PT_INTERP) continue;
    if (p.p_filesz > kMaxInterpreterPath || p.p_filesz < 2) return err(ENOEXEC);
    std::string path(p.p_filesz, '\0');
    TRY(read_exact(request_.file, path.data(), path.size(), p.p_offset));
    if (path.back() != '\0') return err(ENOEXEC);
    path.resize(std::strlen(path.c_str()));
    return path;
  }
  return std::string();
}

Result<u64> Loader::choose_bias(const Headers& h, Place place) {
  if (h.eh.e_type == ET_EXEC) return u64{0};
  auto [low, high] = TRY(span_of(h));
  u64 align = max_alignment(h), size = high - low;
  if (place == Place::kProgram) {
    u64 base = kDynBase + (random_below(request_.randomize, kMmapRandomPages) << kPageShift);
    base &= ~(align - 1);
    if (size > kGuestAddressLimit - base) return err(ENOMEM);
    return base - low;
  }
  // As any mapping: room is looked for, with enough to align.
  if (size > kGuestAddressLimit - align) return err(ENOMEM);
  u64 room = align > kPageSize ? size + align : size;
  UserAddr at = TRY(mm_.mmap({.len = room, .prot = PROT_NONE, .flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE}));
  TRY(mm_.munmap(at, room));
  return ((at + align - 1) & ~(align - 1)) - low;
}

// Maps one PT_LOAD: the file's part, then what of the memory's part goes beyond it.
Result<void> Loader::map_segment(const ExecFile& file, const Elf64_Phdr& p, u64 bias, bool replace) {
  const int prot = segment_prot(p);
  const int fixed = replace ? MAP_FIXED : MAP_FIXED_NOREPLACE;
  UserAddr start = p.p_vaddr + bias;
  UserAddr file_end = start + p.p_filesz, mem_end = start + p.p_memsz;
  UserAddr mapped_end = page_down(start);
  auto map = [&](const MmapArgs& args) -> Result<void> {
    auto r = mm_.mmap(args);
    if (!r && errno_value(r.error()) == EEXIST) return err(EINVAL);  // segments overlap
    if (!r) return std::unexpected(r.error());
    return {};
  };
  if (p.p_filesz != 0) {
    TRY(map({.addr = page_down(start),
             .len = page_up(file_end) - page_down(start),
             .prot = prot,
             .flags = MAP_PRIVATE | fixed,
             .object = file.object,
             .offset = page_down(p.p_offset)}));
    mapped_end = page_up(file_end);
  }
  if (mem_end <= file_end) return {};
  // The rest of the last page. Linux leaves it alone when the segment is not writable.
  if (p.p_filesz != 0 && (p.p_flags & PF_W) != 0) {
    size_t tail = mapped_end - file_end;
    if (mm_.zero_out(file_end, tail) != tail) return err(EFAULT);
  }
  if (page_up(mem_end) > mapped_end) {
    TRY(map({.addr = mapped_end,
             .len = page_up(mem_end) - mapped_end,
             .prot = prot,
             .flags = MAP_PRIVATE | MAP_ANONYMOUS | fixed}));
  }
  return {};
}

Result<Mapped> Loader::map_image(const ExecFile& file, const Headers& h, Place place) {
  TRY(span_of(h));  // every segment is sound
  Mapped m;
  m.bias = TRY(choose_bias(h, place));
  // Segments in the order of the file; Linux lets later ones replace earlier ones where their pages meet.
  bool first = true;
  for (const Elf64_Phdr& p : h.ph) {
    if (p.p_type != PT_LOAD || p.p_memsz == 0) continue;
    UserAddr start = p.p_vaddr + m.bias;
    if (start >= kGuestAddressLimit || p.p_memsz > kGuestAddressLimit - start) return err(ENOMEM);
    TRY(map_segment(file, p, m.bias, !first));
    first = false;
    m.low = std::min(m.low, page_down(start));
    m.end = std::max(m.end, start + p.p_memsz);
    if (h.eh.e_phoff >= p.p_offset && h.eh.e_phoff - p.p_offset < p.p_filesz)
      m.headers = h.eh.e_phoff - p.p_offset + start;
    if ((p.p_flags & PF_X) != 0) {
      m.start_code = std::min(m.start_code, start);
      m.end_code = std::max(m.end_code, start + p.p_filesz);
    }
    m.start_data = std::max(m.start_data, start);
    m.end_data = std::max(m.end_data, start + p.p_filesz);
  }
  if (first) return err(ENOEXEC);
  m.entry = h.eh.e_entry + m.bias;
  if (m.entry >= kGuestAddressLimit) return err(place == Place::kInterpreter ? EINVAL : ENOEXEC);
  return m;
}

Result<void> Loader::map_stack() {
  // Linux leaves room beyond what the strings take, to be usable without a fault.
  u64 need = page_up(stack_bytes(request_)) + (u64{128} << 10);
  u64 size = std::max(need, u64{132} << 10);
  size = std::min(size, std::max(page_down(request_.stack_limit), page_up(stack_bytes(request_)) + kPageSize));
  int prot = PROT_READ | PROT_WRITE | (exec_stack_ ? PROT_EXEC : 0);
  TRY(mm_.mmap({.addr = stack_top_ - size,
                .len = size,
                .prot = prot,
                .flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_GROWSDOWN | MAP_STACK}));
  return {};
}

void Loader::place_brk(const Headers& h, const Mapped& program, bool alone) {
  Layout& l = mm_.layout();
  UserAddr brk = page_up(program.end);
  // A static position-independent program lies among the mappings, without room to grow: Linux moves its heap away.
  if (alone && h.eh.e_type == ET_DYN) brk = kDynBase;
  brk += random_below(request_.randomize, kBrkRandom >> kPageShift) << kPageShift;
  l.start_brk = l.brk = brk;
}

Result<void> Loader::map_vdso() {
  VdsoClock& clock = mm_.env().vdso;
  clock.use_platform(mm_.env().platform.capabilities());
  u64 data = clock.elf_offset(), size = clock.image_size();
  UserAddr at = TRY(mm_.mmap({.len = size, .prot = PROT_NONE, .flags = MAP_PRIVATE | MAP_ANONYMOUS}));
  TRY(mm_.mmap({.addr = at,
                .len = data,
                .prot = PROT_READ,
                .flags = MAP_PRIVATE | MAP_FIXED,
                .object = clock.image(),
                .may_write = false,
                .may_exec = false,
                .name = "[vvar]"}));
  TRY(mm_.mmap({.addr = at + data,
                .len = size - data,
                .prot = PROT_READ | PROT_EXEC,
                .flags = MAP_PRIVATE | MAP_FIXED,
                .object = clock.image(),
                .offset = data,
                .name = "[vdso]"}));
  mm_.layout().vdso = at + data;
  return {};
}

Result<LoadedImage> Loader::load() {
  Headers h = TRY(read_headers(request_.file));
  std::string interp = TRY(interpreter_path(h));
  ExecFile interp_file;
  Headers interp_headers;
  if (!interp.empty()) {
    interp_file = TRY(request_.open_interpreter(interp));
    auto ih = read_headers(interp_file);
    if (!ih) return err(errno_value(ih.error()) == ENOEXEC ? ELIBBAD : errno_value(ih.error()));
    interp_headers = std::move(*ih);
  }
  // Without PT_GNU_STACK the stack is not executable either, on x86-64.
  for (const Elf64_Phdr& p : h.ph)
    if (p.p_type == PT_GNU_STACK) exec_stack_ = (p.p_flags & PF_X) != 0;

  choose_layout();
  TRY(map_stack());
  const bool alone = interp.empty();
  Mapped program = TRY(map_image(request_.file, h, alone ? Place::kProgramAlone : Place::kProgram));
  Mapped interpreter;
  if (!alone) interpreter = TRY(map_image(interp_file, interp_headers, Place::kInterpreter));
  place_brk(h, program, alone);
  TRY(map_vdso());

  Layout& l = mm_.layout();
  l.start_code = program.end_code == 0 ? program.low : program.start_code;
  l.end_code = program.end_code;
  l.start_data = program.start_data;
  l.end_data = program.end_data;
  LoadedImage image;
  image.entry = alone ? program.entry : interpreter.entry;
  image.stack = TRY(build_stack(mm_, request_,
                                {.top = stack_top_,
                                 .program_headers = program.headers,
                                 .header_count = h.eh.e_phnum,
                                 .interpreter_base = alone ? 0 : interpreter.bias,
                                 .entry = program.entry}));
  return image;
}

}  // namespace

Result<LoadedImage> load_elf(MemoryManager& mm, const LoadRequest& request) {
  TRY(check_strings(request));
  return Loader(mm, request).load();
}

}  // namespace rf::mm
